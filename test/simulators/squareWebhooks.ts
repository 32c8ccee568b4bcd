import { createHmac, randomUUID } from "node:crypto";
import type { SquareRecord } from "./squareData.ts";
import type { TableName } from "./squareStore.ts";
import { MERCHANT_ID } from "./squareTokens.ts";

/** As entered in Square's console. */
export type SquareSubscription = { url: string; signatureKey: string };
export type SquareNotification = { headers: Record<string, string>; body: string };

/** What Square posts when a record was created or changed: payments and refunds whole, of orders little but the id. */
export function notificationOf(
  table: TableName,
  record: SquareRecord,
  options: { action?: "created" | "updated"; eventId?: string; createdAt: Date },
): string {
  const subject = table.slice(0, -1);
  const action = options.action ?? "updated";
  const { id, location_id, created_at, updated_at, state, version } = record;
  const brief = { order_id: id, location_id, created_at, updated_at, state, version };
  const data =
    table === "orders"
      ? { type: `order_${action}`, id, object: { [`order_${action}`]: brief } }
      : { type: subject, id, object: { [subject]: record } };
  return JSON.stringify({
    merchant_id: MERCHANT_ID,
    location_id,
    type: `${subject}.${action}`,
    event_id: options.eventId ?? randomUUID(),
    created_at: options.createdAt.toISOString(),
    data,
  });
}

/** The headers that prove it: over the address and the body, byte for byte. */
export const sign = (body: string, { url, signatureKey }: SquareSubscription): SquareNotification => ({
  body,
  headers: {
    "content-type": "application/json",
    "user-agent": "Square Connect v2",
    "square-environment": "Sandbox",
    "x-square-hmacsha256-signature": createHmac("sha256", signatureKey)
      .update(url + body)
      .digest("base64"),
  },
});

/** Posts it as Square does: no redirects, and no more patience than ten seconds. `to`: past a proxy in front of `url`. */
export async function post(
  { headers, body }: SquareNotification,
  { url }: SquareSubscription,
  to = url,
): Promise<number> {
  const response = await fetch(to, {
    method: "POST",
    headers,
    body,
    redirect: "manual",
    signal: AbortSignal.timeout(10_000),
  });
  await response.arrayBuffer();
  return response.status;
}
