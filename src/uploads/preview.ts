import type { EventInput } from "../../tasks/connectors/connector.ts";
import type { ColumnProblem } from "../../tasks/connectors/csv/columns.ts";
import { headerOf } from "../../tasks/connectors/csv/columns.ts";
import {
  type GuessedColumn,
  guessColumn,
  guessDecimalSeparator,
  guessDelimiter,
  guessEncoding,
  guessHeader,
  rowsOf,
} from "../../tasks/connectors/csv/guess.ts";
import { makeMapper, type RowProblem, sentenceOf } from "../../tasks/connectors/csv/map.ts";
import { type ProposedConfig, proposeConfig } from "../../tasks/connectors/csv/propose.ts";
import { detailOf, MAX_COLUMNS, openCsv, readColumns, readRows } from "../../tasks/connectors/csv/rows.ts";
import { type CsvConfig, csvConfig } from "../../tasks/connectors/csv/settings.ts";
import { readLines } from "../events/import/lines.ts";
import { headOf, type Place } from "../events/import/records.ts";
import type { Row } from "../events/import/rows.ts";

/** The beginning of a file, or all of it. */
export type Head = { bytes: Buffer; isWhole: boolean };
export type Hints = {
  timeZone: string | undefined;
  currency: string | undefined;
  currencies: ReadonlySet<string>;
};
export type PreviewRow = { line: number } & (
  | { event: EventInput }
  | { problem: RowProblem & { sentence: string }; text: string }
);
export type Preview = {
  columns: GuessedColumn[];
  /** The mapping that was given, or one that is proposed; null where there is no column of times. */
  config: CsvConfig | ProposedConfig | null;
  isProposed: boolean;
  /** Columns that the mapping names, and the file does not have. */
  problems: ColumnProblem[];
  rows: PreviewRow[];
};

const SAMPLE_LINES = 200;

/** What a file would become, by a mapping, or by a guess at one. Throws Unreadable where no mapping could help. */
export async function previewFile(
  head: Head,
  given: CsvConfig | undefined,
  hints: Hints,
  count: number,
): Promise<Preview> {
  const bytes = head.isWhole ? head.bytes : wholeLines(head.bytes);
  const source = sourceOf(bytes);
  const guessed = await guess(bytes, given, hints);
  const { columns } = guessed;
  const config = given ?? csvConfig.optional().parse(guessed.proposed);
  if (!config) return { columns, config: null, isProposed: true, problems: [], rows: [] };
  const isProposed = given === undefined;
  const file = await openCsv(source, config.encoding);
  const { header, start, problems } = await readColumns(file, config);
  if (problems.length > 0) return { columns, config, isProposed, problems, rows: [] };
  const map = makeMapper(config, header, hints);
  const rows = await firstRows(readRows(file, config.delimiter, header.length, start), count);
  return {
    columns,
    config,
    isProposed,
    problems,
    rows: rows.map((row): PreviewRow => {
      const mapped =
        "problem" in row ? { problem: { detail: detailOf(row.problem, config.encoding) } } : map(row.cells);
      const { line } = row;
      if ("event" in mapped) return { line, event: mapped.event };
      const problem = { ...mapped.problem, sentence: sentenceOf(line, mapped.problem) };
      return { line, problem, text: headOf(row.text) };
    }),
  };
}

async function firstRows(reads: AsyncGenerator<Iterable<Row>>, count: number): Promise<Row[]> {
  const found: Row[] = [];
  for await (const rows of reads)
    for (const row of rows) {
      found.push(row);
      if (found.length >= count) return found;
    }
  return found;
}

async function guess(bytes: Buffer, given: CsvConfig | undefined, hints: Hints) {
  const source = sourceOf(bytes);
  const encoding = given?.encoding ?? guessEncoding(bytes);
  const file = await openCsv(source, encoding);
  const lines = await firstLines(file);
  const delimiter = given?.delimiter ?? guessDelimiter(lines);
  const rows = rowsOf(lines, delimiter);
  const hasHeader = given?.hasHeader ?? guessHeader(rows);
  // More than a file may have is told by whoever reads its columns.
  const header = headerOf(rows[0] ?? [], hasHeader).slice(0, MAX_COLUMNS);
  const body = (hasHeader ? rows.slice(1) : rows).filter((cells) => cells.length === rows[0]?.length);
  const decimalSeparator = given?.decimalSeparator ?? guessDecimalSeparator(body);
  const columns = header.map((name, index) =>
    guessColumn(
      name,
      body.map((cells) => cells[index] ?? ""),
      { decimalSeparator, currencies: hints.currencies },
    ),
  );
  const proposed = given
    ? undefined
    : proposeConfig(columns, { encoding, delimiter, hasHeader, decimalSeparator }, hints);
  return { columns, proposed };
}

async function firstLines(file: Parameters<typeof readLines>[0] & { start: Place }): Promise<string[]> {
  const texts: string[] = [];
  for await (const lines of readLines(file, file.start))
    for (const line of lines) {
      if (!line.problem) texts.push(line.text);
      if (texts.length >= SAMPLE_LINES) return texts;
    }
  return texts;
}

const sourceOf = (bytes: Buffer) => ({
  size: bytes.length,
  handle: {
    async read(buffer: Buffer, offset: number, length: number, position: number) {
      return {
        bytesRead: position >= bytes.length ? 0 : bytes.copy(buffer, offset, position, position + length),
      };
    },
  },
});

/** Without the line that was cut; of UTF-16, a newline has two bytes. */
function wholeLines(bytes: Buffer): Buffer {
  const isWide = bytes[0] === 0xff && bytes[1] === 0xfe;
  const last = isWide ? bytes.lastIndexOf("\n", undefined, "utf16le") + 1 : bytes.lastIndexOf(0x0a);
  return last > 0 ? bytes.subarray(0, last + 1) : bytes;
}

/** Throws Unreadable where the mapping does not fit the file's first row. Returns its columns. */
export async function checkHead(bytes: Buffer, config: CsvConfig) {
  const file = await openCsv(sourceOf(bytes), config.encoding);
  return readColumns(file, config);
}
