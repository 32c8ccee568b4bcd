import { z } from "zod";
import { type EventInput, minorToDecimal, type Stream, timestampVersion } from "../connector.ts";
import { listSquare } from "./list.ts";
import { id, mapRecords, money, timestamp, withinRange } from "./records.ts";
import type { SquareConfig, SquareCredentials } from "./settings.ts";
import { fetchWindowPage, type SquareCheckpoint, squareCheckpoint, type TimeField } from "./window.ts";

const refund = z.object({
  id,
  location_id: id.optional(),
  order_id: id.optional(),
  payment_id: id.optional(),
  status: z.enum(["PENDING", "COMPLETED", "REJECTED", "FAILED"]),
  created_at: timestamp,
  updated_at: timestamp,
  amount_money: money,
  reason: z.string().optional(),
});
type Refund = z.output<typeof refund>;

export const refunds: Stream<SquareConfig, SquareCredentials, SquareCheckpoint> = {
  description: "Refunds, each an event of its own with a negative value.",
  checkpoint: squareCheckpoint,
  fetchPage: (request) =>
    fetchWindowPage(request, { kind: "refund", maxLimit: 100, maxLocations: 1 }, async (query) => {
      const { cursor, refunds } = await listSquare(request, "/v2/refunds", query);
      return { cursor, ...withinRange(mapRefunds(refunds, query.field), request.range?.until) };
    }),
};

const names = {
  PENDING: "refund_pending",
  COMPLETED: "refund_completed",
  REJECTED: "refund_failed",
  FAILED: "refund_failed",
} as const;

export const mapRefunds = (records: unknown[], field: TimeField = "updated_at") =>
  mapRecords(records, { shape: refund, kind: "refund", toEvent }, field);

function toEvent(refund: Refund): EventInput {
  return {
    eventType: "refund",
    eventName: names[refund.status],
    timestamp: refund.created_at,
    value: minorToDecimal(-refund.amount_money.amount, refund.amount_money.currency),
    currency: refund.amount_money.currency,
    sourceId: `refund:${refund.id}`,
    sourceVersion: timestampVersion(refund.updated_at),
    properties: {
      status: refund.status.toLowerCase(),
      paymentSourceId: refund.payment_id && `payment:${refund.payment_id}`,
      orderSourceId: refund.order_id && `order:${refund.order_id}`,
      locationId: refund.location_id,
      reason: refund.reason,
    },
  };
}
