import { firstRow } from "../../../src/events/import/csv.ts";
import { byteOrderMark } from "../../../src/events/import/file.ts";
import { type ByteSource, readLines } from "../../../src/events/import/lines.ts";
import type { Encoding, Line, Place, Problem } from "../../../src/events/import/records.ts";
import { type Row, Rows } from "../../../src/events/import/rows.ts";
import { type ColumnProblem, headerOf, problemsOfColumns } from "./columns.ts";
import type { CsvConfig } from "./settings.ts";

export const MAX_COLUMNS = 1_000;

export type CsvFile = { handle: ByteSource; size: number; encoding: Encoding; start: Place };

/** What makes a whole file unreadable, in a sentence; `columns` where the mapping does not fit it. */
export class Unreadable extends Error {
  readonly columns: ColumnProblem[];
  constructor(message: string, columns: ColumnProblem[] = []) {
    super(message);
    this.columns = columns;
  }
}

/** Looks at the first bytes: a file that says it is something else is not read. */
export async function openCsv(
  { handle, size }: { handle: ByteSource; size: number },
  encoding: Encoding,
): Promise<CsvFile> {
  const head = Buffer.alloc(16);
  const { bytesRead } = await handle.read(head, 0, head.length, 0);
  const start = head.subarray(0, bytesRead);
  if (bytesRead === 0) throw new Unreadable("The file is empty.");
  assertText(start);
  const mark = byteOrderMark(start);
  if (mark && mark.encoding !== encoding)
    throw new Unreadable(
      `The file says that it is ${mark.encoding}, by its byte order mark; the mapping says ${encoding}.`,
    );
  const offset = mark?.length ?? 0;
  // What Excel writes before the header, for itself.
  const [hint = ""] = /^sep=[^\r\n]\r?\n/i.exec(start.subarray(offset).toString("latin1")) ?? [];
  const place = hint === "" ? { offset, line: 1 } : { offset: offset + hint.length, line: 2 };
  return { handle, size, encoding, start: place };
}

function assertText(head: Buffer): void {
  const begins = (...bytes: number[]) => head.subarray(0, bytes.length).equals(Buffer.from(bytes));
  if (begins(0x50, 0x4b, 0x03, 0x04) || begins(0xd0, 0xcf, 0x11, 0xe0))
    throw new Unreadable("This is a workbook or another archive, not CSV. Save the sheet as CSV first.");
  if (begins(0x1f, 0x8b))
    throw new Unreadable(
      "This is packed with gzip: say so with Content-Type: application/gzip, or Content-Encoding: gzip.",
    );
}

/** The columns of a file, and where its rows begin. Throws Unreadable where the mapping names others. */
export async function readColumns(
  file: CsvFile,
  config: CsvConfig,
): Promise<{ header: string[]; start: Place; problems: ColumnProblem[] }> {
  const row = await firstRow(file, config.delimiter);
  if (!row) throw new Unreadable("The file has no rows.");
  if ("problem" in row)
    throw new Unreadable(`The first row cannot be read. ${detailOf(row.problem, config.encoding)}`);
  if (row.cells.some((cell) => cell.includes("\r")))
    throw new Unreadable("The lines of this file end in CR alone; they must end in LF or CRLF.");
  if (row.cells.length > MAX_COLUMNS)
    throw new Unreadable(`The file has ${row.cells.length} columns; it may have ${MAX_COLUMNS}.`);
  const header = headerOf(row.cells, config.hasHeader);
  const problems = problemsOfColumns(config, header);
  return { header, start: config.hasHeader ? row.end : file.start, problems };
}

/** The rows from a place on, as many at a time as a read brings. Each of these iterables must be emptied before the next. */
export async function* readRows(
  file: CsvFile,
  delimiter: string,
  width: number,
  from: Place,
): AsyncGenerator<Iterable<Row>> {
  const rows = new Rows(delimiter, width);
  for await (const lines of readLines(file, from)) yield rowsOfLines(rows, lines);
  yield rows.finish();
}
function* rowsOfLines(rows: Rows, lines: Iterable<Line>): Generator<Row> {
  for (const line of lines) yield* rows.add(line);
}

export const detailOf = ({ reason, detail }: Problem, encoding: Encoding): string =>
  reason === `not_${encoding}` ? `It is not in the encoding ${encoding}, which the mapping says.` : detail;
