import { z } from "zod";
import type { EventInput, Stream } from "../connector.ts";
import { callSquare } from "./api.ts";
import { decimal, decimalUnlessZero, id, mapRecords, money, timestamp, withinRange } from "./records.ts";
import type { SquareConfig, SquareCredentials } from "./settings.ts";
import { fetchWindowPage, type SquareCheckpoint, squareCheckpoint, type TimeField } from "./window.ts";

const order = z.object({
  id,
  location_id: id,
  state: z.enum(["OPEN", "COMPLETED", "CANCELED", "DRAFT"]),
  version: z.int().min(0).optional(),
  created_at: timestamp,
  updated_at: timestamp,
  closed_at: timestamp.optional(),
  total_money: money,
  total_tax_money: money.optional(),
  total_discount_money: money.optional(),
  total_tip_money: money.optional(),
  customer_id: id.optional(),
  source: z.object({ name: z.string().optional() }).optional(),
  line_items: z
    .array(
      z.object({
        name: z.string().optional(),
        quantity: z.string().regex(/^\d+(\.\d+)?$/),
        total_money: money.optional(),
      }),
    )
    .default([]),
  returns: z.array(z.unknown()).default([]),
});
type Order = z.output<typeof order>;

const answer = z.object({ orders: z.array(z.unknown()).default([]), cursor: z.string().optional() });

export const orders: Stream<SquareConfig, SquareCredentials, SquareCheckpoint> = {
  description: "Orders of every state, with their line items.",
  checkpoint: squareCheckpoint,
  fetchPage: (request) =>
    fetchWindowPage(request, { kind: "order", maxLimit: 500, maxLocations: 10 }, async (query) => {
      const body = {
        location_ids: query.locationIds,
        query: {
          filter: { date_time_filter: { [query.field]: { start_at: query.from, end_at: query.end } } },
          // Square refuses a sort by any other field than the filter's.
          sort: { sort_field: query.field.toUpperCase(), sort_order: "ASC" },
        },
        limit: query.limit,
        ...(query.cursor === null ? {} : { cursor: query.cursor }),
      };
      const ask = { method: "POST", path: "/v2/orders/search", body } as const;
      const { cursor, orders } = await callSquare(request, ask, answer);
      return { cursor, ...withinRange(mapOrders(orders, query.field), request.range?.until) };
    }),
};

const names = {
  OPEN: "order_opened",
  DRAFT: "order_opened",
  COMPLETED: "order_completed",
  CANCELED: "order_canceled",
} as const;

const mapOrders = (records: unknown[], field: TimeField) =>
  mapRecords(records, { shape: order, kind: "order", toEvent }, field);

function toEvent(order: Order): EventInput {
  const onlyReturns = order.returns.length > 0 && order.line_items.length === 0;
  return {
    eventType: "order",
    eventName: onlyReturns ? "order_returned" : names[order.state],
    timestamp: order.created_at,
    value: decimal(order.total_money),
    currency: order.total_money.currency,
    sourceId: `order:${order.id}`,
    ...(order.version === undefined ? {} : { sourceVersion: String(order.version) }),
    properties: {
      status: order.state.toLowerCase(),
      channel: order.source?.name,
      locationId: order.location_id,
      customerId: order.customer_id,
      lineCount: order.line_items.length,
      items: order.line_items.map((item) => ({
        name: item.name ?? "",
        quantity: item.quantity,
        ...(item.total_money ? { total: decimal(item.total_money) } : {}),
      })),
      tax: decimalUnlessZero(order.total_tax_money),
      discount: decimalUnlessZero(order.total_discount_money),
      tip: decimalUnlessZero(order.total_tip_money),
      closedAt: order.closed_at,
    },
  };
}
