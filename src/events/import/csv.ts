import { createReadStream } from "node:fs";
import { type CsvError, type Info, parse } from "csv-parse";
import { z } from "zod";
import { UserError } from "../../config.ts";
import { parseJson } from "../text.ts";
import { type FileRecord, MAX_RECORD_BYTES, type Place } from "./records.ts";

const FIELDS = new Set([
  ...["eventType", "eventName", "timestamp", "value", "currency", "properties"],
  ...["source", "sourceId", "id", "sourceVersion"],
]);

/** The first record of a file, and where the second begins. */
export async function readHeader(
  path: string,
  delimiter: string,
): Promise<{ columns: string[]; start: Place }> {
  const reader = createReadStream(path).pipe(parse({ ...options(delimiter), bom: true, to: 1 }));
  for await (const { record, info } of reader as AsyncIterable<Row>) {
    const columns = record.map((name) => name.trim());
    const twice = columns.find((name, index) => name !== "" && columns.indexOf(name) !== index);
    if (twice) throw new UserError(`The header names "${twice}" twice.`);
    if (columns.includes("")) throw new UserError("The header has a column without a name.");
    return { columns, start: { offset: info.bytes, line: info.lines + 1 } };
  }
  throw new UserError("The file is empty: its first line must name the columns.");
}

/**
 * Columns that are named as an event's fields are those; `properties` is JSON; every other column is a property, as text.
 * An empty cell is left out.
 */
export async function* readCsvFile(
  path: string,
  { columns, delimiter, from, size }: { columns: string[]; delimiter: string; from: Place; size: number },
): AsyncGenerator<FileRecord> {
  const skipped: FileRecord[] = [];
  let last = from;
  const reader = createReadStream(path, { start: from.offset, highWaterMark: 256 * 1024 }).pipe(
    parse({
      ...options(delimiter),
      skip_records_with_error: true,
      on_skip(error: CsvError | undefined) {
        const { code, bytes, lines } = position.parse(error);
        // A quote that nobody closes has swallowed the rest.
        const offset = code === "CSV_QUOTE_NOT_CLOSED" ? size : from.offset + bytes;
        const end = { offset, line: from.line + lines };
        const detail = error?.message ?? "This is not CSV.";
        skipped.push({ line: last.line, end, text: "", problem: { reason: "not_csv", pointer: "", detail } });
        return undefined;
      },
    }),
  );
  for await (const { record, info } of reader as AsyncIterable<Row>) {
    yield* skipped.splice(0);
    const end = { offset: from.offset + info.bytes, line: from.line + info.lines };
    const place = { line: last.line, end, text: lineOf(record, delimiter) };
    last = end;
    if (record.length !== columns.length)
      yield {
        ...place,
        problem: {
          reason: "not_csv",
          pointer: "",
          detail: `This line has ${record.length} cells, and the header ${columns.length}.`,
        },
      };
    else yield { ...place, ...eventOf(columns, record) };
  }
  yield* skipped;
}

/** As it may have stood in the file. */
const lineOf = (cells: string[], delimiter: string) =>
  cells
    .map((cell) =>
      cell.includes(delimiter) || /["\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell,
    )
    .join(delimiter);

const position = z.object({ code: z.string(), bytes: z.number(), lines: z.number() });

type Row = { record: string[]; info: Info };
const options = (delimiter: string) => ({
  delimiter,
  info: true,
  relax_column_count: true,
  // A quote within a cell is one; a reader that gives up there loses the next lines, too.
  relax_quotes: true,
  skip_empty_lines: true,
  max_record_size: MAX_RECORD_BYTES,
});

function eventOf(
  columns: string[],
  cells: string[],
): { event: unknown } | { problem: { reason: string; pointer: string; detail: string } } {
  const event: Record<string, unknown> = {};
  const properties: Record<string, unknown> = {};
  for (const [index, name] of columns.entries()) {
    const cell = cells[index] ?? "";
    if (cell === "") continue;
    if (!FIELDS.has(name)) properties[name] = cell;
    else if (name !== "properties") event[name] = cell;
    else
      try {
        const { value } = parseJson(cell);
        if (typeof value !== "object" || value === null || Array.isArray(value))
          throw new SyntaxError("no object");
        Object.assign(properties, value);
      } catch {
        const detail = 'The column "properties" must hold a JSON object.';
        return { problem: { reason: "not_json", pointer: "/properties", detail } };
      }
  }
  if (Object.keys(properties).length > 0) event.properties = properties;
  return { event };
}
