import { isUtf8 } from "node:buffer";
import { byteOrderMark } from "../../../src/events/import/file.ts";
import type { Encoding } from "../../../src/events/import/records.ts";
import { Rows } from "../../../src/events/import/rows.ts";
import { makeFormat } from "./formats.ts";
import { readDecimal } from "./numbers.ts";

export type ColumnKind = "empty" | "integer" | "decimal" | "time" | "currency" | "boolean" | "text";
export type GuessedColumn = {
  name: string;
  kind: ColumnKind;
  /** Of a time. */
  format?: string;
  isUnique: boolean;
  examples: string[];
};
export type Delimiter = "," | ";" | "\t" | "|";

const FORMATS = [
  "iso",
  ...["dd.MM.yyyy HH:mm:ss", "dd.MM.yyyy HH:mm", "dd.MM.yyyy", "d.M.yyyy", "dd.MM.yy"],
  ...["dd/MM/yyyy HH:mm:ss", "dd/MM/yyyy HH:mm", "dd/MM/yyyy", "MM/dd/yyyy HH:mm:ss", "MM/dd/yyyy HH:mm"],
  ...["MM/dd/yyyy", "d/M/yyyy", "M/d/yyyy", "M/d/yyyy H:mm", "M/d/yyyy h:mm a", "MM/dd/yyyy hh:mm a"],
  ...["yyyy/MM/dd HH:mm:ss", "yyyy/MM/dd", "dd-MM-yyyy HH:mm", "dd-MM-yyyy", "yyyy-MM-dd HH:mm:ss X"],
];

/** By the byte order mark; else UTF-8 where it is that, and what Windows writes where it is not. */
export function guessEncoding(head: Buffer): Encoding {
  const mark = byteOrderMark(head);
  if (mark) return mark.encoding;
  // The last character may be cut.
  const lines = head.subarray(0, head.lastIndexOf(0x0a) + 1);
  return isUtf8(lines.length > 0 ? lines : head) ? "utf8" : "latin1";
}

/** The one by which most rows have the same number of cells, more than one. */
export function guessDelimiter(lines: readonly string[]): Delimiter {
  const candidates = ([",", ";", "\t", "|"] as const).map((delimiter) => {
    const widths = rowsOf(lines, delimiter).map((cells) => cells.length);
    const [first = 1] = widths;
    const alike = widths.filter((width) => width === first).length;
    return { delimiter, score: first > 1 ? alike / widths.length : 0, first };
  });
  candidates.sort((one, other) => other.score - one.score || other.first - one.first);
  return candidates[0]?.delimiter ?? ",";
}

export function rowsOf(lines: readonly string[], delimiter: string): string[][] {
  const rows = new Rows(delimiter);
  const found: string[][] = [];
  let offset = 0;
  for (const [index, text] of lines.entries()) {
    offset += text.length + 1;
    for (const row of rows.add({ line: index + 1, end: { offset, line: index + 2 }, text }))
      if ("cells" in row) found.push(row.cells);
  }
  for (const row of rows.finish()) if ("cells" in row) found.push(row.cells);
  return found;
}

/** A header is text; where a cell of the first row is a number or a time, it is a row as any other. */
export const guessHeader = ([first = []]: readonly string[][]): boolean =>
  first.every((cell) => {
    const text = cell.trim();
    return text !== "" && readDecimal(text, ".") === undefined && guessFormat([text]) === undefined;
  });

/** The separator by which more of what looks like an amount is a number. */
export function guessDecimalSeparator(rows: readonly string[][]): "." | "," {
  const amounts = rows
    .flat()
    .filter((cell) => cell.length <= 40 && /^[^\p{L}]*\d[.,]\d{1,2}[^\p{L}\d]*$/u.test(cell.trim()));
  const count = (separator: "." | ",") =>
    amounts.filter((cell) => readDecimal(cell, separator) !== undefined).length;
  return count(",") > count(".") ? "," : ".";
}

export function guessColumn(
  name: string,
  cells: readonly string[],
  { decimalSeparator, currencies }: { decimalSeparator: "." | ","; currencies: ReadonlySet<string> },
): GuessedColumn {
  const filled = cells.map((cell) => cell.trim()).filter((cell) => cell !== "");
  const distinct = new Set(filled);
  const facts = {
    name,
    isUnique: filled.length > 0 && filled.length === cells.length && distinct.size === filled.length,
    examples: [...distinct].slice(0, 3).map((cell) => cell.slice(0, 100)),
  };
  const all = (test: (cell: string) => boolean) => filled.every(test);
  if (filled.length === 0) return { ...facts, kind: "empty" };
  const format = guessFormat(filled);
  if (format !== undefined) return { ...facts, kind: "time", format };
  // A number with a leading zero is a name: of a place, an article, an account.
  if (all((cell) => /^-?(?:0|[1-9]\d*)$/.test(cell))) return { ...facts, kind: "integer" };
  if (all((cell) => !/^0\d/.test(cell) && readDecimal(cell, decimalSeparator) !== undefined))
    return { ...facts, kind: "decimal" };
  if (all((cell) => currencies.has(cell))) return { ...facts, kind: "currency" };
  if (all((cell) => /^(true|false|yes|no)$/i.test(cell))) return { ...facts, kind: "boolean" };
  return { ...facts, kind: "text" };
}

/** Day before month where both fit: the person who maps sees it. */
function guessFormat(cells: readonly string[]): string | undefined {
  const looksLikeTime = cells.every(
    (cell) => /\d[-./]\d/.test(cell) && cell.length >= 6 && cell.length <= 40,
  );
  if (!looksLikeTime) return undefined;
  return FORMATS.find((format) => {
    const read = makeFormat(format);
    return cells.every((cell) => read(cell) !== undefined);
  });
}
