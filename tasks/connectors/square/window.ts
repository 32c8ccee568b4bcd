import { z } from "zod";
import { type Page, ProviderError } from "../connector.ts";
import type { SquareRequest } from "./settings.ts";

// Square's answers are eventually consistent for seconds, and its clock is not ours.
const overlapMs = 10 * 60_000;
const dayMs = 86_400_000;

/**
 * A run reads one window of time, page by page. A cursor is good only for the very query that gave it, so
 * everything that the query is made of stays in the window, whatever happens to the settings meanwhile.
 */
const window = z.object({
  /**
   * The first window and a backfill ask for what was created, which never changes: a record that is updated
   * meanwhile stays in its place. Later windows ask for what was updated.
   */
  field: z.enum(["updated_at", "created_at"]).default("updated_at"),
  start: z.iso.datetime(),
  end: z.iso.datetime(),
  locationIds: z.array(z.string()),
  limit: z.int(),
});
type Window = z.output<typeof window>;
export type TimeField = Window["field"];

export const squareCheckpoint = z.object({
  /** Everything updated until then has been saved, for `locationIds`. */
  highWater: z.iso.datetime().nullable(),
  locationIds: z.array(z.string()),
  /** Null between runs; so are the three below. */
  window: window.nullable(),
  cursor: z.string().nullable(),
  /** Where the cursor's query starts: the window's start, or later if an old cursor had to be given up. */
  from: z.iso.datetime().nullable(),
  /** The newest time that this query has given so far. */
  reached: z.iso.datetime().nullable(),
  /** Which of the window's locations the query begins with. */
  locationIndex: z.int().min(0),
});
export type SquareCheckpoint = z.output<typeof squareCheckpoint>;

export type Query = {
  field: TimeField;
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
/** What an endpoint gives, and takes at once. */
export type Endpoint = { kind: "order" | "payment" | "refund"; maxLimit: number; maxLocations: number };

/** Fetches the next page of the open window, or the first of a new one. */
export async function fetchWindowPage(
  request: SquareRequest<SquareCheckpoint>,
  endpoint: Endpoint,
  ask: (query: Query) => Promise<Answer>,
): Promise<Page<SquareCheckpoint>> {
  const resumed = request.checkpoint?.window ? request.checkpoint : undefined;
  const open = resumed?.window ?? openWindow(request, endpoint.maxLimit);
  const locationIndex = resumed?.locationIndex ?? 0;
  const nextIndex = locationIndex + endpoint.maxLocations;
  const query = {
    ...open,
    from: resumed?.from ?? open.start,
    cursor: resumed?.cursor ?? null,
    locationIds: open.locationIds.slice(locationIndex, nextIndex),
  };
  const { answer, from } = await askAgainIfStale(query, resumed?.reached ?? query.from, ask);
  const reached = answer.reached ?? resumed?.reached ?? null;
  const page = { events: answer.events, unparsable: answer.unparsable };
  const before = {
    highWater: request.checkpoint?.highWater ?? null,
    locationIds: request.checkpoint?.locationIds ?? [],
  };
  if (answer.cursor !== undefined) {
    if (answer.cursor === query.cursor)
      throw new ProviderError("transient", "Square gave the cursor that it was asked with: no way on.");
    const position = { window: open, cursor: answer.cursor, from, reached, locationIndex };
    const progress = progressOf(open, locationIndex, endpoint.maxLocations, reached);
    return { ...page, checkpoint: { ...before, ...position }, done: false, progress };
  }
  const start = { cursor: null, from: null, reached: null };
  if (nextIndex < open.locationIds.length) {
    const position = { ...start, window: open, locationIndex: nextIndex };
    const progress = progressOf(open, nextIndex, endpoint.maxLocations, null);
    return { ...page, checkpoint: { ...before, ...position }, done: false, progress };
  }
  const closed = { ...start, window: null, locationIndex: 0 };
  if (request.range) return { ...page, checkpoint: { ...before, ...closed }, done: true, progress: 1 };
  // A webhook may have told of what lists do not show yet.
  const settled = new Date(Date.parse(open.end) - overlapMs).toISOString();
  return {
    ...page,
    // Promoted last: only now has everything up to the window's end been read.
    checkpoint: { ...closed, highWater: open.end, locationIds: open.locationIds },
    done: true,
    highWater: settled,
    ...(open.field === "created_at"
      ? { complete: { sourceIdPrefix: `${endpoint.kind}:`, since: open.start, until: settled } }
      : {}),
    progress: 1,
  };
}

function openWindow(
  { config, now, range, checkpoint: previous }: SquareRequest<SquareCheckpoint>,
  maxLimit: number,
): Window {
  const asked = { locationIds: config.locationIds, limit: Math.min(config.pageSize, maxLimit) };
  if (range) {
    const [start, end] = [range.since.toISOString(), range.until.toISOString()];
    return { ...asked, field: "created_at", start, end };
  }
  const covered = new Set(previous?.locationIds);
  const [back, end] = [(ms: number) => new Date(ms).toISOString(), now.toISOString()];
  // A location added since has a past that the high-water mark knows nothing of: read everything again.
  if (!previous?.highWater || !config.locationIds.every((id) => covered.has(id)))
    return { ...asked, field: "created_at", start: back(now.getTime() - config.backfillDays * dayMs), end };
  return { ...asked, field: "updated_at", start: back(Date.parse(previous.highWater) - overlapMs), end };
}

/** A cursor that has lain too long is refused. Pages come in order of time, so go on from where it had come. */
async function askAgainIfStale(query: Query, reached: string, ask: (query: Query) => Promise<Answer>) {
  try {
    return { answer: await ask(query), from: query.from };
  } catch (error) {
    const stale = query.cursor !== null && error instanceof ProviderError && error.code === "INVALID_CURSOR";
    if (!stale) throw error;
    return { answer: await ask({ ...query, from: reached, cursor: null }), from: reached };
  }
}

/** Each query of some locations is an equal part, and as far as the time that it has reached. */
function progressOf(open: Window, locationIndex: number, maxLocations: number, reached: string | null) {
  const [start, end] = [Date.parse(open.start), Date.parse(open.end)];
  const within = reached === null ? 0 : (Date.parse(reached) - start) / Math.max(end - start, 1);
  const parts = Math.ceil(open.locationIds.length / maxLocations);
  const progress = (locationIndex / maxLocations + Math.min(Math.max(within, 0), 1)) / parts;
  // Done is said by the last page alone.
  return Math.min(progress, 0.99);
}
