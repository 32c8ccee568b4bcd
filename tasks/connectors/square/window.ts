import { z } from "zod";
import { type Page, ProviderError } from "../connector.ts";
import type { SquareConfig, SquareRequest } from "./settings.ts";

// Square's answers are eventually consistent for seconds, and its clock is not ours.
const overlapMs = 10 * 60_000;

/**
 * A run reads one window of `updated_at`, page by page. A cursor is good only for the very query that gave it, so
 * everything that the query is made of stays in the window, whatever happens to the configuration meanwhile.
 */
const window = z.object({
  start: z.iso.datetime(),
  end: z.iso.datetime(),
  locationIds: z.array(z.string()),
  limit: z.int(),
});
export type Window = z.output<typeof window>;

export const squareCheckpoint = z.object({
  /** Everything updated until then has been saved, for `locationIds`. */
  highWater: z.iso.datetime().nullable(),
  locationIds: z.array(z.string()),
  window: window.nullable(),
  cursor: z.string().nullable(),
  /** For the endpoints that take one location at a time. */
  locationIndex: z.int().min(0),
  /** The last `updated_at` seen at this location in this window. */
  reached: z.iso.datetime().nullable(),
});
export type SquareCheckpoint = z.output<typeof squareCheckpoint>;

export type Answer = Pick<Page<never>, "events" | "unparsable"> & {
  cursor: string | undefined;
  reached: string | undefined;
};
/** Asks Square for one page; `start` is where this location's records begin. */
export type Ask = (window: Window, location: number, cursor: string | null) => Promise<Answer>;

/** Fetches the next page of the current window, or opens a window. `oneByOne`: the endpoint takes one location. */
export async function fetchWindowPage(
  request: SquareRequest<SquareCheckpoint>,
  options: { maxLimit: number; oneByOne: boolean },
  ask: Ask,
): Promise<Page<SquareCheckpoint>> {
  const checkpoint = request.checkpoint;
  const open = checkpoint?.window ?? openWindow(request.config, request.now, checkpoint, options.maxLimit);
  const position = {
    highWater: checkpoint?.highWater ?? null,
    locationIds: checkpoint?.locationIds ?? [],
    window: open,
    cursor: checkpoint?.window ? checkpoint.cursor : null,
    locationIndex: checkpoint?.window ? checkpoint.locationIndex : 0,
    reached: checkpoint?.window ? checkpoint.reached : null,
  };

  const answer = await askOrRestart(position, ask);
  const { events, unparsable } = answer;
  if (answer.cursor !== undefined) {
    const reached = answer.reached ?? position.reached;
    return { events, unparsable, checkpoint: { ...position, cursor: answer.cursor, reached }, done: false };
  }
  const locationIndex = position.locationIndex + 1;
  if (options.oneByOne && locationIndex < open.locationIds.length) {
    const next = { ...position, cursor: null, reached: null, locationIndex };
    return { events, unparsable, checkpoint: next, done: false };
  }
  // Promoted last: only now has everything up to the window's end been read.
  const finished = { highWater: open.end, locationIds: open.locationIds, window: null };
  return {
    events,
    unparsable,
    checkpoint: { ...finished, cursor: null, locationIndex: 0, reached: null },
    done: true,
  };
}

function openWindow(config: SquareConfig, now: Date, previous: SquareCheckpoint | undefined, maxLimit: number) {
  const known = new Set(previous?.locationIds);
  // A location added since then has a past that the high-water mark knows nothing of.
  const coversAll = config.locationIds.every((id) => known.has(id));
  const start =
    previous?.highWater && coversAll
      ? Date.parse(previous.highWater) - overlapMs
      : now.getTime() - config.backfillDays * 86_400_000;
  return {
    start: new Date(start).toISOString(),
    end: now.toISOString(),
    locationIds: config.locationIds,
    limit: Math.min(config.pageSize, maxLimit),
  };
}

/** A cursor that lay too long is refused. Pages are sorted by `updated_at`, so reading resumes where it had come to. */
async function askOrRestart(position: SquareCheckpoint & { window: Window }, ask: Ask): Promise<Answer> {
  const { window: open, locationIndex, cursor, reached } = position;
  try {
    return await ask(open, locationIndex, cursor);
  } catch (error) {
    const refused = cursor !== null && error instanceof ProviderError && error.code === "INVALID_CURSOR";
    if (!refused) throw error;
    if (reached !== null && locationIndex === 0 && open.locationIds.length === 1) open.start = reached;
    return await ask(open, locationIndex, null);
  }
}
