import { UserError } from "../../config.ts";
import { parseJson } from "../text.ts";
import type { ImportFile } from "./file.ts";
import { type ByteSource, readLines } from "./lines.ts";
import type { FileRecord, Place, Problem, RecordReader } from "./records.ts";
import { type Row, Rows } from "./rows.ts";

const FIELDS = new Set([
  ...["eventType", "eventName", "timestamp", "value", "currency", "properties"],
  ...["source", "sourceId", "id", "sourceVersion", "deleted"],
]);

/** The first record of a file, and where the second begins. */
export async function readHeader(
  file: ImportFile,
  delimiter: string,
): Promise<{ columns: string[]; start: Place }> {
  const row = await firstRow(file, delimiter);
  if (!row) throw new UserError("The file is empty: its first line must name the columns.");
  if ("problem" in row) throw new UserError(`The header cannot be read. ${row.problem.detail}`);
  const columns = row.cells.map((name) => name.trim());
  if (columns.some((name) => name.includes("\r")))
    throw new UserError("The lines of this file end in CR alone; they must end in LF or CRLF.");
  const twice = columns.find((name, index) => name !== "" && columns.indexOf(name) !== index);
  if (twice) throw new UserError(`The header names "${twice}" twice.`);
  if (columns.includes("")) throw new UserError("The header has a column without a name.");
  return { columns, start: row.end };
}

/** The first row of a file. */
export async function firstRow(
  file: Pick<ImportFile, "size" | "encoding" | "start"> & { handle: ByteSource },
  delimiter: string,
): Promise<Row | undefined> {
  const rows = new Rows(delimiter);
  for await (const lines of readLines(file, file.start))
    for (const line of lines) for (const row of rows.add(line)) return row;
  for (const row of rows.finish()) return row;
  return undefined;
}

/**
 * Columns that are named as an event's fields are those; `properties` is JSON, `deleted` true or false; every other column is a property, as text.
 * An empty cell is left out.
 */
export function csvReader(columns: string[], delimiter: string): RecordReader {
  const rows = new Rows(delimiter, columns.length);
  function* records(found: Iterable<Row>): Generator<FileRecord> {
    for (const row of found) {
      if ("problem" in row) yield row;
      else {
        const { cells, ...place } = row;
        yield { ...place, ...eventOf(columns, cells) };
      }
    }
  }
  return { add: (line) => records(rows.add(line)), finish: () => records(rows.finish()) };
}

function eventOf(columns: string[], cells: string[]): { event: unknown } | { problem: Problem } {
  const event: Record<string, unknown> = {};
  // Without a prototype, `__proto__` is a name as any other.
  const properties: Record<string, unknown> = Object.create(null);
  for (const [index, name] of columns.entries()) {
    const cell = cells[index] ?? "";
    if (cell === "") continue;
    if (!FIELDS.has(name)) properties[name] = cell;
    else if (name === "deleted")
      event[name] = /^(true|false)$/i.test(cell) ? cell.toLowerCase() === "true" : cell;
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
