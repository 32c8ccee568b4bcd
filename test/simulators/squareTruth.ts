import type { SquareRecord } from "./squareData.ts";
import type { TableName } from "./squareStore.ts";

export type TrueEvent = {
  sourceId: string;
  eventType: string;
  eventName: string;
  timestamp: string;
  value: string;
  currency: string;
};

const names: Record<TableName, Record<string, string>> = {
  orders: {
    OPEN: "order_opened",
    DRAFT: "order_opened",
    COMPLETED: "order_completed",
    CANCELED: "order_canceled",
  },
  payments: {
    PENDING: "payment_pending",
    APPROVED: "payment_approved",
    COMPLETED: "payment_completed",
    CANCELED: "payment_canceled",
    FAILED: "payment_failed",
  },
  refunds: {
    PENDING: "refund_pending",
    COMPLETED: "refund_completed",
    REJECTED: "refund_failed",
    FAILED: "refund_failed",
  },
};
const amounts = { orders: "total_money", payments: "total_money", refunds: "amount_money" } as const;
const signs = { orders: "", payments: "", refunds: "-" };

/** The event that a destination must hold for a record of a shop whose currency has cents. */
export function truthOf(table: TableName, record: SquareRecord): TrueEvent {
  const { amount, currency } = record[amounts[table]] as { amount: number; currency: string };
  const eventType = table.slice(0, -1);
  return {
    sourceId: `${eventType}:${record.id}`,
    eventType,
    eventName: names[table][String(record.status ?? record.state)] ?? "none",
    timestamp: record.created_at,
    value: `${signs[table]}${(amount / 100).toFixed(2)}`,
    currency,
  };
}
