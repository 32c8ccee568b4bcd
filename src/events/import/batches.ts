import { findFlaw } from "../text.ts";
import type { ImportFile } from "./file.ts";
import { readLines } from "./lines.ts";
import {
  type FileRecord,
  headOf,
  MAX_EVENT_BYTES,
  type Place,
  type Problem,
  type RecordReader,
} from "./records.ts";

/** A record as it is sent: as JSON, which takes far less memory than what was parsed. */
export type Prepared = { line: number; text: string } & (
  | { json: string; month: string | undefined }
  | { problem: Problem }
);
/** `end`: what was read before. */
export type Batch = { records: Prepared[]; end: Place };

const MAX_RECORDS = 1_000;
/** Two batches are in memory, each as text, as JSON and as what is sent. */
const MAX_CHARACTERS = 2 * 1024 * 1024;

/** The last batch ends where the file does; it may be without records. */
export async function* readBatches(
  file: ImportFile,
  reader: RecordReader,
  { from, defaults }: { from: Place; defaults: Record<string, string> },
): AsyncGenerator<Batch, undefined> {
  let records: Prepared[] = [];
  let characters = 0;
  let last = from;
  for await (const lines of readLines(file, from))
    for (const line of lines) {
      last = line.end;
      for (const record of reader.add(line)) {
        const prepared = prepare(record, defaults);
        records.push(prepared);
        characters += prepared.text.length + ("json" in prepared ? prepared.json.length : 0);
        if (records.length < MAX_RECORDS && characters < MAX_CHARACTERS) continue;
        yield { records, end: record.end };
        records = [];
        characters = 0;
      }
    }
  for (const record of reader.finish()) records.push(prepare(record, defaults));
  yield { records, end: last };
  return undefined;
}

function prepare(record: FileRecord, defaults: Record<string, string>): Prepared {
  const { line } = record;
  const text = headOf(record.text);
  if ("problem" in record) return { line, text, problem: record.problem };
  const flaw = findFlaw(record.event);
  if (flaw) return { line, text, problem: flaw };
  const event = isObject(record.event) ? { ...defaults, ...record.event } : record.event;
  const json = JSON.stringify(event);
  if (json.length > MAX_EVENT_BYTES || Buffer.byteLength(json) > MAX_EVENT_BYTES)
    return { line, text, problem: TOO_LARGE };
  return { line, text, json, month: monthOf(event) };
}

const TOO_LARGE: Problem = {
  reason: "too_large",
  pointer: "",
  detail: `An event has at most ${MAX_EVENT_BYTES.toLocaleString("en")} bytes, as JSON.`,
};

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !JSON.isRawJSON(value);

function monthOf(event: unknown): string | undefined {
  if (!isObject(event) || typeof event.timestamp !== "string") return undefined;
  return /^\d{4}-(?:0[1-9]|1[0-2])/.exec(event.timestamp)?.[0];
}
