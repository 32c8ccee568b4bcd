import type { Refused } from "../batch.ts";

/** One record of a file, as it was read. Offsets are in bytes, lines count from 1. */
export type FileRecord = {
  line: number;
  /** Where the next record begins. */
  end: { offset: number; line: number };
  text: string;
} & ({ event: unknown } | { problem: Omit<Refused, "index"> });
/** Where reading begins, or goes on. */
export type Place = { offset: number; line: number };

/** More would be a file of another kind, or an unclosed quote that swallows it. */
export const MAX_RECORD_BYTES = 1024 * 1024;
