import { ApiError } from "../graphql/errors.ts";
import { elementsOf, findFlaw, type Parsed, parseJson, TOO_DEEP } from "./text.ts";

export const MAX_EVENTS = 5_000;

/** An event that PostgreSQL never sees, because JSON or jsonb cannot hold it. */
export type Refused = { index: number; reason: string; pointer: string; detail: string };
/** `positions[i]` is the place in the body of the event `events[i]`; `isSingle`: the body is the event itself. */
export type Batch = {
  size: number;
  events: unknown[];
  positions: number[];
  refused: Refused[];
  isSingle: boolean;
};

/** One event, or an array of them. Throws INVALID_INPUT when it is not JSON. */
export function readJson(text: string): Batch {
  let parsed: Parsed;
  try {
    parsed = parseJson(text);
  } catch (error) {
    const where = error instanceof Error ? error.message : String(error);
    throw new ApiError("INVALID_INPUT", `The body is not JSON: ${where}.`, { reason: "not_json" });
  }
  const { value, isPlain, isLossy } = parsed;
  const items: unknown[] = Array.isArray(value) ? value : [value];
  assertNotTooMany(items.length);
  const batch = makeBatch(!Array.isArray(value));
  // What is too deep spoils no other event's numbers.
  if (isLossy && Array.isArray(value)) for (const element of elementsOf(text)) add(batch, parseJson(element));
  else for (const item of items) add(batch, { value: item, isPlain, isLossy });
  return batch;
}

/** An event to a line; empty lines count for nothing. A line that is no JSON is refused alone. */
export function readNdjson(text: string): Batch {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  assertNotTooMany(lines.length);
  const batch = makeBatch();
  for (const line of lines) {
    try {
      add(batch, parseJson(line));
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
  for (const value of items) add(batch, { value, isPlain: false, isLossy: false }, true);
  return batch;
}

const makeBatch = (isSingle = false): Batch => ({
  size: 0,
  events: [],
  positions: [],
  refused: [],
  isSingle,
});

function add(batch: Batch, { value, isPlain, isLossy }: Parsed, isParsed = false) {
  const flaw =
    findFlaw(value, { isPlain, isParsed }) ??
    (isLossy ? { reason: "too_deep", pointer: "", detail: TOO_DEEP } : undefined);
  if (flaw) return refuse(batch, flaw);
  batch.events.push(value);
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
