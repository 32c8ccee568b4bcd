import type { z } from "zod";
import type { Encoding } from "../../../src/events/import/records.ts";
import type { ColumnKind, Delimiter, GuessedColumn } from "./guess.ts";
import type { csvConfig } from "./settings.ts";

export type ProposedConfig = z.input<typeof csvConfig>;

const TIME = /time|date|created|placed|when|datum|zeit|fecha|data\b/i;
const VALUE = /total|amount|value|revenue|price|sum|betrag|umsatz|brutto|importe|montant/i;
const ID = /\bid\b|_id|Id$|number|\bno\b|\bnr\b|nummer|receipt|invoice|order|beleg/i;
const kinds: Partial<Record<ColumnKind, "integer" | "decimal" | "boolean">> = {
  integer: "integer",
  decimal: "decimal",
  boolean: "boolean",
};

/**
 * A mapping to begin with, for a person to mend: orders, at the first time there is, with the likeliest amount and id.
 * Undefined without a column of times: every event has one.
 */
export function proposeConfig(
  columns: readonly GuessedColumn[],
  how: { encoding: Encoding; delimiter: Delimiter; hasHeader: boolean; decimalSeparator: "." | "," },
  { timeZone, currency }: { timeZone: string | undefined; currency: string | undefined },
): ProposedConfig | undefined {
  const usable = columns.filter(
    ({ name }) => name !== "" && columns.filter((one) => one.name === name).length === 1,
  );
  const best = (fits: (column: GuessedColumn) => boolean, named: RegExp) => {
    const fitting = usable.filter(fits);
    return fitting.find(({ name }) => named.test(name)) ?? fitting[0];
  };
  const time = best(({ kind }) => kind === "time", TIME);
  if (!time) return undefined;
  const value =
    best(({ kind }) => kind === "decimal", VALUE) ??
    best(({ kind, name }) => kind === "integer" && VALUE.test(name), VALUE);
  const code = usable.find(({ kind }) => kind === "currency");
  const id = best(
    (column) => column !== value && column !== time && column.isUnique && ID.test(column.name),
    ID,
  );
  const rest = usable.filter(
    (column) => ![time, value, code, id].includes(column) && column.kind !== "empty",
  );
  return {
    ...how,
    eventType: { constant: "order" },
    eventName: { constant: "order_completed" },
    timestamp: { column: time.name, format: time.format ?? "iso", timeZone: timeZone ?? "UTC" },
    ...(value ? { value: { column: value.name } } : {}),
    ...(code
      ? { currency: { column: code.name } }
      : currency && value
        ? { currency: { constant: currency } }
        : {}),
    ...(id ? { sourceId: { columns: [id.name] } } : {}),
    properties: Object.fromEntries(
      rest.map((column) => [propertyName(column.name), propertyOf(column, timeZone)]),
    ),
  };
}

function propertyOf({ name, kind, format }: GuessedColumn, timeZone = "UTC") {
  if (kind === "time" && format !== undefined)
    return /[Hh]/.test(format) || format === "iso"
      ? { column: name, kind: "timestamp" as const, format, timeZone }
      : { column: name, kind: "date" as const, format };
  return { column: name, kind: kinds[kind] ?? ("text" as const) };
}

/** "Store no." becomes storeNo, as properties are written in docs/events.md. */
function propertyName(column: string): string {
  const words = column.match(/[\p{L}\p{M}\p{N}]+/gu);
  if (!words) return column.slice(0, 100);
  const [first = "", ...others] = words.map((word) => (/^[A-Z0-9]+$/.test(word) ? word.toLowerCase() : word));
  const capital = (word: string) => `${word[0]?.toUpperCase()}${word.slice(1)}`;
  return `${first[0]?.toLowerCase()}${first.slice(1)}${others.map(capital).join("")}`.slice(0, 100);
}
