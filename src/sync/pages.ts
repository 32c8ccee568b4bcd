import { isDeepStrictEqual } from "node:util";
import { type Call, type Page, ProviderError, type Stream } from "../../tasks/connectors/connector.ts";
import { storablePage } from "../../tasks/connectors/storable.ts";
import { misfit, SyncError } from "./failures.ts";
import type { Gate } from "./gate.ts";
import type { Begun } from "./run.ts";
import type { Work } from "./slice.ts";

/** Then the rest becomes a job of its own, and others get their turn. */
const SLICE_MS = { soonOver: 3 * 60_000, bulk: 30_000 };
/** A page that takes longer than what is left until then has failed. */
const END_MS = 285_000;

/** Fetches and saves page by page; false when the slice is over before the stream. */
export async function pullPages(
  work: Work,
  call: Omit<Call<unknown, unknown>, "now">,
  gate: Gate,
  redact: (text: string) => string,
): Promise<boolean> {
  const { begun, run, signal, connector } = work;
  const deadline = AbortSignal.timeout(END_MS);
  const over = new AbortController();
  const request = { ...call, signal: AbortSignal.any([signal, deadline, over.signal]) };
  const stream = streamOf(work);
  const source = `${begun.provider}:${begun.integration_id}`;
  const range =
    begun.since && begun.until ? { range: { since: begun.since, until: begun.until } } : undefined;
  const fetchPage = (checkpoint: unknown) =>
    stream.fetchPage({ ...request, ...range, checkpoint, now: new Date() }).catch((error: unknown) => {
      if (signal.aborted || !deadline.aborted) throw error;
      throw new ProviderError("transient", "The provider took minutes for one page.");
    });
  const until = Date.now() + (begun.is_bulk ? SLICE_MS.bulk : SLICE_MS.soonOver);
  const isNew = makeIsNew(begun.cursor);
  let checkpoint = readCursor(stream, begun);
  let ahead: Promise<Page<unknown>> | undefined;
  try {
    while (!signal.aborted && (ahead || Date.now() < until)) {
      const page: Page<unknown> = await (ahead ?? fetchPage(checkpoint));
      checkpoint = page.checkpoint;
      ahead = undefined;
      const cursor = JSON.stringify(checkpoint);
      if (!page.done && !isNew(JSON.parse(cursor)))
        throw new SyncError(
          "not_moving",
          "The provider's pages do not come to an end: they lead back to where they began. Reset the stream, or report this.",
        );
      for (const pause of page.pauses ?? []) await gate.pause({ ...pause, reason: redact(pause.reason) });
      const calls = gate.takeCalls();
      if (connector.readsAhead && !page.done && Date.now() < until) {
        ahead = fetchPage(checkpoint);
        // Looked at after the page before it was saved.
        ahead.catch(() => {});
      }
      const { events, unparsable } = storablePage(page, source);
      const isOver = await run.savePage({
        events,
        rejected: JSON.parse(redact(JSON.stringify(unparsable))),
        cursor,
        calls,
        done: page.done,
        highWater: page.highWater,
        progress: page.progress === undefined ? undefined : Math.min(Math.max(page.progress, 0), 1),
        complete: page.complete,
      });
      if (page.done) return isOver || (await sweep(work));
    }
    return false;
  } finally {
    over.abort();
  }
}

/** Deletes what a full refresh has not seen; false when the slice is over before that is done. */
export async function sweep({ run, signal }: Pick<Work, "run" | "signal">): Promise<boolean> {
  for (const until = Date.now() + SLICE_MS.bulk; !signal.aborted && Date.now() < until; )
    if (await run.sweep()) return true;
  return false;
}

function streamOf({ connector, begun }: Work): Stream {
  const stream = connector.streams[begun.stream];
  if (stream) return stream;
  throw new SyncError(
    "invalid_configuration",
    `${connector.name} has no stream "${begun.stream}" any more. Switch it off.`,
  );
}

function readCursor(stream: Stream, begun: Begun): unknown {
  if (begun.cursor == null) return undefined;
  const parsed = stream.checkpoint.safeParse(begun.cursor);
  if (parsed.success) return parsed.data;
  throw new SyncError(
    "invalid_cursor",
    `The cursor of the stream "${begun.stream}" does not fit: ${misfit(parsed.error)}. Reset the stream, or set another cursor.`,
  );
}

/** Whether a cursor is neither the one before it nor an earlier one of a circle (R. P. Brent's way, in constant memory). */
function makeIsNew(first: unknown) {
  let [last, remembered, steps, power] = [first, first, 0, 1];
  return (cursor: unknown): boolean => {
    if (isDeepStrictEqual(cursor, last) || isDeepStrictEqual(cursor, remembered)) return false;
    last = cursor;
    if (++steps === power) [remembered, steps, power] = [cursor, 0, power * 2];
    return true;
  };
}
