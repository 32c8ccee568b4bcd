import { createHmac, timingSafeEqual } from "node:crypto";
import { z } from "zod";
import {
  type Delivery,
  type EventInput,
  ProviderError,
  type UnparsableRecord,
  type Webhooks,
} from "../connector.ts";
import { mapPayments } from "./payments.ts";
import { mapRefunds } from "./refunds.ts";
import type { SquareConfig, SquareCredentials } from "./settings.ts";

const notification = z.object({
  type: z.string(),
  event_id: z.string().min(1).max(500),
  data: z.object({ object: z.record(z.string(), z.unknown()).optional() }).optional(),
});

/** Payments and refunds come whole, orders as an id that is to be looked up. */
export const squareWebhooks: Webhooks<SquareConfig, SquareCredentials> = {
  verify({ headers, rawBody, url }, { webhookSignatureKey }) {
    const given = Buffer.from(headers.get("x-square-hmacsha256-signature") ?? "");
    if (webhookSignatureKey === undefined) return false;
    const expected = Buffer.from(
      createHmac("sha256", webhookSignatureKey).update(url).update(rawBody).digest("base64"),
    );
    return given.length === expected.length && timingSafeEqual(given, expected);
  },

  identify(delivery) {
    // `created_at` is the event's: Square tries for a day, and its last attempt says what the first did.
    return { id: read(delivery).event_id, sentAt: undefined };
  },

  read(delivery, config) {
    const { type, data } = read(delivery);
    const [subject] = type.split(".");
    const objects = Object.values(data?.object ?? {});
    if (subject === "payment") return whole(objects, config, "payments", mapPayments);
    if (subject === "refund") return whole(objects, config, "refunds", mapRefunds);
    if (subject === "order") return { ...nothing, streams: objects.every(isOurs(config)) ? ["orders"] : [] };
    // The merchant took the permission back: the next call finds out, and says so.
    if (type === "oauth.authorization.revoked") return { ...nothing, streams: ["orders"] };
    return { ...nothing, streams: [] };
  },
};

const nothing = { events: [], unparsable: [] };
const place = z.object({ location_id: z.string() });

/** A subscription is the merchant's, an integration some of its locations'. One without a location is looked up. */
const isOurs = (config: SquareConfig) => (object: unknown) => {
  const { data } = place.safeParse(object);
  return data === undefined || config.locationIds.includes(data.location_id);
};

type Mapped = { events: EventInput[]; unparsable: UnparsableRecord[] };

function whole(
  objects: unknown[],
  config: SquareConfig,
  stream: string,
  map: (records: unknown[]) => Mapped,
) {
  const ours = objects.filter(isOurs(config));
  const placed = ours.filter((object) => place.safeParse(object).success);
  const { events, unparsable } = map(placed);
  return { events, unparsable, streams: placed.length < ours.length ? [stream] : [] };
}

function read({ rawBody }: Delivery): z.output<typeof notification> {
  try {
    return notification.parse(JSON.parse(rawBody.toString("utf8")));
  } catch (cause) {
    throw new ProviderError("permanent", "The body is not a notification of Square's.", { cause });
  }
}
