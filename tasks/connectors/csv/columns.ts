import { distance } from "fastest-levenshtein";
import type { CsvConfig } from "./settings.ts";

/** What is wrong between a mapping and a header; `pointer` (RFC 6901) is into the config. */
export type ColumnProblem = { pointer: string; column: string; detail: string };

/** Every column that a mapping names, with where it does. */
function* namedColumns(config: CsvConfig): Generator<{ pointer: string; column: string }> {
  for (const field of [
    "eventType",
    "eventName",
    "timestamp",
    "value",
    "currency",
    "sourceVersion",
  ] as const) {
    const from = config[field];
    if (from && "column" in from) yield { pointer: `/${field}/column`, column: from.column };
  }
  for (const [index, column] of (config.sourceId?.columns ?? []).entries())
    yield { pointer: `/sourceId/columns/${index}`, column };
  for (const [name, { column }] of Object.entries(config.properties))
    yield { pointer: `/properties/${name.replaceAll("~", "~0").replaceAll("/", "~1")}/column`, column };
}

/** What the first row says; without a header, the columns' numbers. */
export const headerOf = (cells: readonly string[], hasHeader: boolean): string[] =>
  cells.map((cell, index) => (hasHeader ? cell.trim() : String(index + 1)));

/** Columns that are named but are not there, or are there twice. Columns that nobody names may be called as they like. */
export function problemsOfColumns(config: CsvConfig, header: readonly string[]): ColumnProblem[] {
  const problems: ColumnProblem[] = [];
  for (const { pointer, column } of namedColumns(config)) {
    const count = header.filter((name) => name === column).length;
    if (count === 1) continue;
    const detail =
      count > 1
        ? `The file has the column "${column}" ${count} times: give each a name of its own.`
        : `The file has no column "${column}".${suggestion(column, header)}`;
    problems.push({ pointer, column, detail });
  }
  return problems;
}

function suggestion(column: string, header: readonly string[]): string {
  const near = header
    .map((name) => ({ name, away: distance(name.slice(0, 200).toLowerCase(), column.toLowerCase()) }))
    .sort((one, other) => one.away - other.away)[0];
  if (near && near.name !== "" && near.away <= Math.max(2, column.length / 3))
    return ` Did you mean "${near.name}"?`;
  const shown = header.slice(0, 20).map((name) => `"${name.slice(0, 60)}"`);
  return ` It has ${shown.join(", ")}${header.length > 20 ? " and others" : ""}.`;
}
