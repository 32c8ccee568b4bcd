import { z } from "zod";
import { type Page, ProviderError } from "../connector.ts";
import type { SquareConfig, SquareRequest } from "./settings.ts";

// Square's answers are eventually consistent for seconds, and its clock is not ours.
const overlapMs = 10 * 60_000;

/**
 * A run reads one window of `updated_at`, page by page. A cursor is good only for the very query that gave it, so
 * everything that the query is made of stays in the window, whatever happens to the settings meanwhile.
 */
const window = z.object({
  start: z.iso.datetime(),
  end: z.iso.datetime(),
  locationIds: z.array(z.string()),
  limit: z.int(),
});
type Window = z.output<typeof window>;

export const squareCheckpoint = z.object({
  /** Everything updated until then has been saved, for `locationIds`. */
  highWater: z.iso.datetime().nullable(),
  locationIds: z.array(z.string()),
  /** Null between runs; so are the three below. */
  window: window.nullable(),
  cursor: z.string().nullable(),
  /** Where the cursor's query starts: the window's start, or later if an old cursor had to be given up. */
  from: z.iso.datetime().nullable(),
  /** The newest `updated_at` that this query has given so far. */
  reached: z.iso.datetime().nullable(),
  /** For endpoints that take one location at a time. */
  locationIndex: z.int().min(0),
});
export type SquareCheckpoint = z.output<typeof squareCheckpoint>;

export type Query = {
  from: string;
  end: string;
  locationIds: string[];
  limit: number;
  cursor: string | null;
};
export type Answer = Pick<Page<never>, "events" | "unparsable"> & {
  cursor: string | undefined;
  reached: string | undefined;
};

/** Fetches the next page of the open window, or the first of a new one. `oneByOne`: one location per query. */
export async function fetchWindowPage(
  request: SquareRequest<SquareCheckpoint>,
  options: { maxLimit: number; oneByOne: boolean },
  ask: (query: Query) => Promise<Answer>,
): Promise<Page<SquareCheckpoint>> {
  const resumed = request.checkpoint?.window ? request.checkpoint : undefined;
  const open =
    resumed?.window ?? openWindow(request.config, request.now, request.checkpoint, options.maxLimit);
  const locationIndex = resumed?.locationIndex ?? 0;
  const query = {
    ...open,
    from: resumed?.from ?? open.start,
    cursor: resumed?.cursor ?? null,
    locationIds: options.oneByOne
      ? open.locationIds.slice(locationIndex, locationIndex + 1)
      : open.locationIds,
  };
  const { answer, from } = await askAgainIfStale(query, resumed?.reached ?? query.from, ask);

  const page = { events: answer.events, unparsable: answer.unparsable };
  const before = {
    highWater: request.checkpoint?.highWater ?? null,
    locationIds: request.checkpoint?.locationIds ?? [],
  };
  if (answer.cursor !== undefined) {
    const reached = answer.reached ?? resumed?.reached ?? null;
    const position = { window: open, cursor: answer.cursor, from, reached, locationIndex };
    return { ...page, checkpoint: { ...before, ...position }, done: false };
  }
  const start = { cursor: null, from: null, reached: null };
  if (options.oneByOne && locationIndex + 1 < open.locationIds.length) {
    const position = { ...start, window: open, locationIndex: locationIndex + 1 };
    return { ...page, checkpoint: { ...before, ...position }, done: false };
  }
  // Promoted last: only now has everything up to the window's end been read.
  const finished = { highWater: open.end, locationIds: open.locationIds, window: null, locationIndex: 0 };
  return { ...page, checkpoint: { ...start, ...finished }, done: true };
}

function openWindow(
  config: SquareConfig,
  now: Date,
  previous: SquareCheckpoint | undefined,
  maxLimit: number,
): Window {
  const covered = new Set(previous?.locationIds);
  // A location added since has a past that the high-water mark knows nothing of: read everything again.
  const start =
    previous?.highWater && config.locationIds.every((id) => covered.has(id))
      ? Date.parse(previous.highWater) - overlapMs
      : now.getTime() - config.backfillDays * 86_400_000;
  return {
    start: new Date(start).toISOString(),
    end: now.toISOString(),
    locationIds: config.locationIds,
    limit: Math.min(config.pageSize, maxLimit),
  };
}

/** A cursor that has lain too long is refused. Pages come in order of `updated_at`, so go on from where it had come. */
async function askAgainIfStale(query: Query, reached: string, ask: (query: Query) => Promise<Answer>) {
  try {
    return { answer: await ask(query), from: query.from };
  } catch (error) {
    const stale = query.cursor !== null && error instanceof ProviderError && error.code === "INVALID_CURSOR";
    if (!stale) throw error;
    return { answer: await ask({ ...query, from: reached, cursor: null }), from: reached };
  }
}
