import { createHash } from "node:crypto";
import type { EventInput } from "../connector.ts";
import { readDecimal } from "./numbers.ts";
import type { CsvConfig, CsvProperty, CsvText } from "./settings.ts";
import { makeDateReader, makeTimeReader, quoted } from "./times.ts";

/** What is wrong with a row; `column` where it is about one. */
export type RowProblem = { column?: string; detail: string };
export type Mapped = { event: EventInput } | { problem: RowProblem };
/** What the database takes, so that what it would refuse is told with its line. */
export type Bounds = { earliest?: Date; latest?: Date; currencies?: ReadonlySet<string> };

class Misfit extends Error {
  readonly column: string | undefined;
  constructor(detail: string, column?: string) {
    super(detail);
    this.column = column;
  }
}

type Cells = readonly string[];
type Reader<Value> = (cells: Cells) => Value;

/** Makes events of rows. The header must have every column of the mapping: problemsOfColumns says so. */
export function makeMapper(
  config: CsvConfig,
  header: readonly string[],
  bounds: Bounds = {},
): (cells: Cells) => Mapped {
  const at = (column: string): Reader<string> => {
    const index = header.indexOf(column);
    return (cells) => cells[index]?.trim() ?? "";
  };
  const required = (column: string): Reader<string> => {
    const read = at(column);
    return (cells) => {
      const text = read(cells);
      if (text === "") throw new Misfit("It is empty.", column);
      return text;
    };
  };

  function text(from: CsvText, longest: number): Reader<string> {
    if ("constant" in from) return () => from.constant;
    const { column, values } = from;
    const read = required(column);
    // Without a prototype's names.
    const known = values && new Map(Object.entries(values));
    return (cells) => {
      const cell = read(cells);
      const meant = known ? known.get(cell) : cell;
      if (meant === undefined) throw new Misfit(`The mapping's values do not have ${quoted(cell)}.`, column);
      if (meant.length > longest) throw new Misfit(`It has more than ${longest} characters.`, column);
      return meant;
    };
  }

  function decimal(column: string): Reader<string | undefined> {
    const read = at(column);
    return (cells) => {
      const cell = read(cells);
      if (cell === "") return undefined;
      const number = readDecimal(cell, config.decimalSeparator);
      if (number === undefined)
        throw new Misfit(
          `${quoted(cell)} is no number with the decimal separator "${config.decimalSeparator}".`,
          column,
        );
      if (!/^-?\d{1,29}(\.\d{1,30})?$/.test(number))
        throw new Misfit("A number has at most 29 digits before the point, and 30 after it.", column);
      return number;
    };
  }

  function timestamp(from: {
    column: string;
    format: string;
    timeZone?: string | undefined;
  }): Reader<string | undefined> {
    const read = at(from.column);
    const toTime = makeTimeReader(from.format, from.timeZone);
    return (cells) => {
      const cell = read(cells);
      if (cell === "") return undefined;
      const found = toTime(cell);
      if ("problem" in found) throw new Misfit(found.problem, from.column);
      return found.time;
    };
  }

  function property({ column, kind, format = "iso", timeZone, eventType }: CsvProperty): Reader<unknown> {
    const read = at(column);
    if (kind === "decimal") return decimal(column);
    if (kind === "timestamp") return timestamp({ column, format, timeZone });
    const toDate = makeDateReader(format);
    const readers = {
      text: (cell: string) => cell,
      reference: (cell: string) => `${eventType}:${cell}`,
      date: toDate,
      boolean: (cell: string) => booleans.get(cell.toLowerCase()),
      integer(cell: string) {
        const whole = Number(readDecimal(cell, config.decimalSeparator) ?? Number.NaN);
        return Number.isSafeInteger(whole) ? whole : undefined;
      },
    };
    return (cells) => {
      const cell = read(cells);
      if (cell === "") return undefined;
      const value = readers[kind](cell);
      if (value === undefined)
        throw new Misfit(
          `${quoted(cell)} is no ${kind}${kind === "date" ? ` of the format ${format}` : ""}.`,
          column,
        );
      return value;
    };
  }

  function sourceId(): (cells: Cells, eventType: string) => string {
    const columns = config.sourceId?.columns;
    // Cells, not the text: other quotes make no other record.
    if (!columns)
      return (cells, eventType) =>
        `${eventType}:row-${createHash("sha256").update(JSON.stringify(cells)).digest("base64url").slice(0, 22)}`;
    const [only, ...others] = columns.map(required);
    const [column] = columns;
    return (cells, eventType) => {
      // What joins two ids must not be taken for a part of one.
      const ids =
        others.length === 0
          ? [only?.(cells)]
          : [only, ...others].map((one) => one?.(cells).replaceAll(/[\\:]/g, "\\$&"));
      const id = `${eventType}:${ids.join(":")}`;
      if (id.length > 500)
        throw new Misfit("An id has at most 500 characters, with the event's type.", column);
      return id;
    };
  }

  const readers = {
    eventType: text(config.eventType, 100),
    eventName: text(config.eventName, 200),
    timestamp: timestamp(config.timestamp),
    value: config.value && decimal(config.value.column),
    currency: config.currency && text(config.currency, 3),
    version: config.sourceVersion && required(config.sourceVersion.column),
    sourceId: sourceId(),
    properties: Object.entries(config.properties).map(([name, how]) => [name, property(how)] as const),
  };

  const amounts = Object.keys(config.properties).filter(
    (name) => config.properties[name]?.kind === "decimal",
  );

  function read(cells: Cells): EventInput {
    const eventType = readers.eventType(cells);
    const eventName = readers.eventName(cells);
    const when = readers.timestamp(cells);
    if (when === undefined) throw new Misfit("It is empty.", config.timestamp.column);
    assertWithin(when, bounds, config.timestamp.column);
    const number = readers.value?.(cells);
    const value = number !== undefined && config.value?.isNegated ? negated(number) : number;
    const version = readers.version?.(cells);
    if (version !== undefined && !/^\d{1,18}$/.test(version))
      throw new Misfit(
        `${quoted(version)} is no whole number of at most 18 digits.`,
        config.sourceVersion?.column,
      );
    const properties: Record<string, unknown> = Object.create(null);
    for (const [name, readProperty] of readers.properties) {
      const found = readProperty(cells);
      if (found !== undefined) properties[name] = found;
    }
    const hasAmount = value !== undefined || amounts.some((name) => name in properties);
    const currency = hasAmount ? readers.currency?.(cells) : undefined;
    if (currency !== undefined && !(bounds.currencies?.has(currency) ?? /^[A-Z]{3}$/.test(currency)))
      throw new Misfit(`${quoted(currency)} is no ISO 4217 code, such as EUR.`, columnOf(config.currency));
    return {
      eventType,
      eventName,
      timestamp: when,
      // A corrected file may have lost what an earlier one had.
      value: value ?? null,
      currency: currency ?? null,
      sourceId: readers.sourceId(cells, eventType),
      ...(version === undefined ? {} : { sourceVersion: version }),
      properties,
    };
  }

  return (cells) => {
    try {
      return { event: read(cells) };
    } catch (error) {
      if (!(error instanceof Misfit)) throw error;
      return {
        problem: { detail: error.message, ...(error.column === undefined ? {} : { column: error.column }) },
      };
    }
  };
}

const negated = (number: string) =>
  number.startsWith("-") ? number.slice(1) : /^[0.]*$/.test(number) ? number : `-${number}`;
const columnOf = (from: CsvText | undefined) => (from && "column" in from ? from.column : undefined);

function assertWithin(time: string, { earliest, latest }: Bounds, column: string): void {
  const at = Date.parse(time);
  if (earliest && at < earliest.getTime())
    throw new Misfit(`${time} is too long ago: events since ${earliest.toISOString()} are kept.`, column);
  if (latest && at > latest.getTime()) throw new Misfit(`${time} is in the future.`, column);
}

const booleans = new Map<string, boolean>(
  Object.entries({ true: true, yes: true, y: true, 1: true, false: false, no: false, n: false, 0: false }),
);

/** In one sentence: where in a file, and what. */
export const sentenceOf = (line: number, { column, detail }: RowProblem): string =>
  column === undefined ? `Line ${line}: ${detail}` : `Line ${line}, column "${column}": ${detail}`;
