import { stringify } from "csv-stringify/sync";

export type Format = "csv" | "ndjson";
export const mediaTypes = {
  csv: "text/csv; charset=utf-8; header=present",
  ndjson: "application/x-ndjson; charset=utf-8",
} as const satisfies Record<Format, string>;

/** json: a cell is JSON already, written by PostgreSQL, which keeps every digit of it. */
export type Column = { name: string; kind: "text" | "number" | "json" };
export type Cell = string | boolean | null;
export type Row = readonly Cell[];

/** A spreadsheet takes what begins so for a formula, and runs it. */
const FORMULA = /^[=+\-@\t\r\n＝＋－＠]/;
const asText = (text: string) => (FORMULA.test(text) ? `'${text}` : text);

// What is empty is quoted, what is null is not: as COPY tells them apart.
const csv = (rows: Row[]) => stringify(rows, { record_delimiter: "\r\n", quoted_match: /^$/ });

/** What comes before the first row. */
export const head = (columns: readonly Column[], format: Format): string =>
  format === "csv" ? csv([columns.map(({ name }) => asText(name))]) : "";

const printed = (cell: Cell, kind: Column["kind"] | undefined) =>
  cell === null ? null : kind === "text" ? asText(String(cell)) : String(cell);

export function body(columns: readonly Column[], rows: readonly Row[], format: Format): string {
  if (rows.length === 0) return "";
  if (format === "csv")
    return csv(rows.map((row) => row.map((cell, index) => printed(cell, columns[index]?.kind))));
  const keys = columns.map(({ name }, index) => `${index === 0 ? "{" : ","}${JSON.stringify(name)}:`);
  let lines = "";
  for (const row of rows) {
    for (const [index, { kind }] of columns.entries()) {
      const cell = row[index] ?? null;
      lines += `${keys[index]}${kind === "json" && cell !== null ? cell : JSON.stringify(cell)}`;
    }
    lines += "}\n";
  }
  return lines;
}
