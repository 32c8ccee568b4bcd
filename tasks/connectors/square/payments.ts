import { z } from "zod";
import { type EventInput, minorToDecimal, type Stream, timestampVersion } from "../connector.ts";
import { listSquare } from "./list.ts";
import { decimal, decimalUnlessZero, id, mapRecords, money, timestamp, withinRange } from "./records.ts";
import type { SquareConfig, SquareCredentials } from "./settings.ts";
import { fetchWindowPage, type SquareCheckpoint, squareCheckpoint, type TimeField } from "./window.ts";

const payment = z.object({
  id,
  location_id: id.optional(),
  order_id: id.optional(),
  status: z.enum(["PENDING", "APPROVED", "COMPLETED", "CANCELED", "FAILED"]),
  created_at: timestamp,
  updated_at: timestamp,
  total_money: money,
  tip_money: money.optional(),
  refunded_money: money.optional(),
  processing_fee: z.array(z.object({ amount_money: money })).default([]),
  source_type: z.string().optional(),
  card_details: z.object({ card: z.object({ card_brand: z.string().optional() }).optional() }).optional(),
});
type Payment = z.output<typeof payment>;

export const payments: Stream<SquareConfig, SquareCredentials, SquareCheckpoint> = {
  description: "Payments of every state, with tips and fees.",
  checkpoint: squareCheckpoint,
  fetchPage: (request) =>
    fetchWindowPage(request, { kind: "payment", maxLimit: 100, maxLocations: 1 }, async (query) => {
      const { cursor, payments } = await listSquare(request, "/v2/payments", query);
      return { cursor, ...withinRange(mapPayments(payments, query.field), request.range?.until) };
    }),
};

export const mapPayments = (records: unknown[], field: TimeField = "updated_at") =>
  mapRecords(records, { shape: payment, kind: "payment", toEvent }, field);

function toEvent(payment: Payment): EventInput {
  const fee = payment.processing_fee.reduce((sum, { amount_money }) => sum + amount_money.amount, 0n);
  return {
    eventType: "payment",
    eventName: `payment_${payment.status.toLowerCase()}`,
    timestamp: payment.created_at,
    value: decimal(payment.total_money),
    currency: payment.total_money.currency,
    sourceId: `payment:${payment.id}`,
    sourceVersion: timestampVersion(payment.updated_at),
    properties: {
      status: payment.status.toLowerCase(),
      method: payment.source_type?.toLowerCase(),
      cardBrand: payment.card_details?.card?.card_brand?.toLowerCase(),
      orderSourceId: payment.order_id && `order:${payment.order_id}`,
      locationId: payment.location_id,
      tip: decimalUnlessZero(payment.tip_money),
      fee: fee === 0n ? undefined : minorToDecimal(fee, payment.total_money.currency),
      refunded: decimalUnlessZero(payment.refunded_money),
    },
  };
}
