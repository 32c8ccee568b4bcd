import { ApiError } from "../graphql/errors.ts";
import { findFlaw, parseJson } from "./text.ts";

export const MAX_EVENTS = 5_000;

/** An event that PostgreSQL never sees, because JSON or jsonb cannot hold it. */
export type Refused = { index: number; reason: string; pointer: string; detail: string };
/** `positions[i]` is the place in the body of the event `events[i]`. */
export type Batch = { size: number; events: unknown[]; positions: number[]; refused: Refused[] };

/** One event, or an array of them. Throws INVALID_INPUT when it is not JSON. */
export function readJson(text: string): Batch {
  let parsed: ReturnType<typeof parseJson>;
  try {
    parsed = parseJson(text);
  } catch (error) {
    const where = error instanceof Error ? error.message : String(error);
    throw new ApiError("INVALID_INPUT", `The body is not JSON: ${where}.`, { reason: "not_json" });
  }
  const items = Array.isArray(parsed.value) ? parsed.value : [parsed.value];
  assertNotTooMany(items.length);
  const batch = makeBatch();
  for (const item of items) add(batch, item, parsed.isPlain);
  return batch;
}

/** An event to a line; empty lines count for nothing. A line that is no JSON is refused alone. */
export function readNdjson(text: string): Batch {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  assertNotTooMany(lines.length);
  const batch = makeBatch();
  for (const line of lines) {
    try {
      const { value, isPlain } = parseJson(line);
      add(batch, value, isPlain);
    } catch (error) {
      const where = error instanceof Error ? error.message : String(error);
      refuse(batch, { reason: "not_json", pointer: "", detail: `This line is not JSON: ${where}.` });
    }
  }
  return batch;
}

/** Events that were parsed already. */
export function readValues(items: readonly unknown[]): Batch {
  assertNotTooMany(items.length);
  const batch = makeBatch();
  for (const item of items) add(batch, item, false);
  return batch;
}

const makeBatch = (): Batch => ({ size: 0, events: [], positions: [], refused: [] });

function add(batch: Batch, item: unknown, isPlain: boolean) {
  const flaw = findFlaw(item, isPlain);
  if (flaw) return refuse(batch, flaw);
  batch.events.push(item);
  batch.positions.push(batch.size++);
}

function refuse(batch: Batch, problem: Omit<Refused, "index">) {
  batch.refused.push({ index: batch.size++, ...problem });
}

function assertNotTooMany(count: number) {
  if (count > MAX_EVENTS)
    throw new ApiError(
      "INVALID_INPUT",
      `A request carries at most ${MAX_EVENTS.toLocaleString("en")} events; this one has ${count.toLocaleString("en")}.`,
      { reason: "too_many_events" },
    );
}
