import { randomUUID } from "node:crypto";

/** How ids come: as a source counts them, or at random. */
export const kinds = ["in order", "random"] as const;

const DAY = 86_400_000;
export const HISTORY_DAYS = 300;

/**
 * Orders, the oldest first.
 * @param stretch from how many days ago, over how many days; and what counted ids begin with
 */
export function makeEvents(
  count: number,
  kind: (typeof kinds)[number],
  { ago = HISTORY_DAYS, days = HISTORY_DAYS, from = 0 } = {},
) {
  const begin = Date.now() - ago * DAY;
  return Array.from({ length: count }, (_, index) => ({
    eventType: "order",
    eventName: "order_completed",
    timestamp: new Date(begin + ((days * DAY) / count) * index).toISOString(),
    source: "bench:1",
    sourceId: kind === "in order" ? `order:${String(from + index).padStart(12, "0")}` : randomUUID(),
    value: (((index * 7919) % 10_000) / 100).toFixed(2),
    currency: "EUR",
    properties: {
      locationId: `s${index % 10}`,
      channel: "online",
      lineCount: index % 7,
      customerId: `c${index % 5000}`,
    },
  }));
}
export type Events = ReturnType<typeof makeEvents>;

export async function seconds(work: () => Promise<unknown>): Promise<number> {
  const began = process.hrtime.bigint();
  await work();
  return Number(process.hrtime.bigint() - began) / 1e9;
}

/** Files are made by the function itself, so that both write the same rows; only reading them is timed. */
