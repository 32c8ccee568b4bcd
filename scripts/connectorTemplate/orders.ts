import { z } from "zod";
import {
  type EventInput,
  minorToDecimal,
  type Stream,
  timestampVersion,
  type UnparsableRecord,
} from "../connector.ts";
import { callExample } from "./api.ts";
import type { ExampleConfig, ExampleCredentials, ExampleRequest } from "./settings.ts";

/** Answers are eventually consistent, and the provider's clock is not ours. */
const OVERLAP_MS = 10 * 60_000;

/**
 * A run reads one window, page by page: everything that its query is made of stays in the checkpoint until it is done, or the
 * cursor would be of another query.
 */
const checkpoint = z.object({
  /** Everything updated until then has been saved. */
  highWater: z.iso.datetime().nullable(),
  /** Null between runs. */
  window: z
    .object({ from: z.iso.datetime(), to: z.iso.datetime(), cursor: z.string().nullable() })
    .nullable(),
});
type Checkpoint = z.output<typeof checkpoint>;

const timestamp = z.iso.datetime({ offset: true });
const order = z.object({
  id: z.string().min(1),
  status: z.enum(["open", "paid", "cancelled"]),
  created_at: timestamp,
  updated_at: timestamp,
  total: z.int(),
  currency: z.string().regex(/^[A-Z]{3}$/),
});
type Order = z.output<typeof order>;
const page = z.object({ orders: z.array(z.unknown()), next_cursor: z.string().nullable() });

export const orders: Stream<ExampleConfig, ExampleCredentials, Checkpoint> = {
  description: "Orders, by the time of their last change.",
  checkpoint,
  async fetchPage(request) {
    const window = request.checkpoint?.window ?? openWindow(request);
    const query = {
      updated_from: window.from,
      updated_to: window.to,
      ...(window.cursor === null ? {} : { cursor: window.cursor }),
    };
    const answer = await callExample(request, "/v1/orders", query, page);
    const before = request.checkpoint?.highWater ?? null;
    if (answer.next_cursor !== null) {
      const next = { highWater: before, window: { ...window, cursor: answer.next_cursor } };
      return { ...mapOrders(answer.orders), checkpoint: next, done: false };
    }
    // Moves last: only now has everything up to the window's end been read. A backfill leaves it to the ordinary sync.
    const highWater = request.range ? before : window.to;
    return {
      ...mapOrders(answer.orders),
      checkpoint: { highWater, window: null },
      done: true,
      ...(request.range ? {} : { highWater: window.to }),
    };
  },
};

function openWindow({ checkpoint, config, now, range }: ExampleRequest<Checkpoint>) {
  const from = checkpoint?.highWater
    ? Date.parse(checkpoint.highWater) - OVERLAP_MS
    : now.getTime() - config.backfillDays * 86_400_000;
  return {
    from: (range?.since ?? new Date(from)).toISOString(),
    to: (range?.until ?? now).toISOString(),
    cursor: null,
  };
}

/** What parses becomes an event of docs/events.md; the rest is kept with the reason. */
function mapOrders(records: unknown[]): { events: EventInput[]; unparsable: UnparsableRecord[] } {
  const events: EventInput[] = [];
  const unparsable: UnparsableRecord[] = [];
  for (const record of records) {
    const parsed = order.safeParse(record);
    if (parsed.success) events.push(toEvent(parsed.data));
    else unparsable.push({ reason: z.prettifyError(parsed.error), record });
  }
  return { events, unparsable };
}

const toEvent = (order: Order): EventInput => ({
  eventType: "order",
  eventName: order.status === "cancelled" ? "order_canceled" : "order_completed",
  timestamp: order.created_at,
  value: minorToDecimal(BigInt(order.total), order.currency),
  currency: order.currency,
  // Unique within the integration; the same again is a restatement, of which the newer version wins.
  sourceId: `order:${order.id}`,
  sourceVersion: timestampVersion(order.updated_at),
  properties: { status: order.status },
});
