import type { Refused } from "../batch.ts";

/** Where reading begins, or goes on: bytes count from 0, lines from 1. */
export type Place = { offset: number; line: number };
export type Problem = Omit<Refused, "index">;
export const ENCODINGS = ["utf8", "latin1", "utf16le"] as const;
export type Encoding = (typeof ENCODINGS)[number];

/** `end` is where the next one begins. */
export type Line = { line: number; end: Place; text: string; problem?: Problem };
/** One record of a file, as it was read. */
export type FileRecord = { line: number; end: Place; text: string } & (
  | { event: unknown }
  | { problem: Problem }
);
/** Makes records of lines. */
export type RecordReader = { add(line: Line): Iterable<FileRecord>; finish(): Iterable<FileRecord> };

/** As it is sent. PostgreSQL takes less; what is far beyond that need not go there. */
export const MAX_EVENT_BYTES = 64 * 1024;
/** The same event takes three times as much where every letter is escaped. */
export const MAX_LINE_BYTES = 256 * 1024;
/** Of a rejected record, the report shows this much. */
const MAX_TEXT = 2_000;

/** A slice would keep all of the text in memory. */
export const headOf = (text: string) =>
  text.length <= MAX_TEXT ? text : `${Buffer.from(text.slice(0, MAX_TEXT).toWellFormed()).toString()}…`;
