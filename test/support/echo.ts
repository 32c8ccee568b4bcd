import { createHmac, timingSafeEqual } from "node:crypto";
import { z } from "zod";
import { type Delivery, defineConnector } from "../../tasks/connectors/connector.ts";

const thing = z.object({ id: z.string(), version: z.number(), value: z.string() });
const envelope = z.object({ id: z.string(), sentAt: z.iso.datetime().optional() });
const body = envelope.extend({
  things: thing.array().default([]),
  odd: z.array(z.unknown()).default([]),
  streams: z.string().array().default([]),
});
const json = ({ rawBody }: Delivery): unknown => JSON.parse(rawBody.toString("utf8"));
const isSame = (one: string, other: string) =>
  one.length === other.length && timingSafeEqual(Buffer.from(one), Buffer.from(other));

/** As a provider signs: over the address that it was told, and the bytes that it sends. */
export const echoSignature = (secret: string, url: string, text: string) =>
  createHmac("sha256", secret).update(url).update(text).digest("hex");

/** The smallest connector with webhooks. */
export const echo = defineConnector({
  provider: "echo",
  name: "Echo",
  config: z.object({ environment: z.string().default("test") }),
  credentials: z.object({ secret: z.string(), verifyToken: z.string() }),
  hosts: { test: "http://127.0.0.1:9" },
  test: async () => ({ account: "Echo" }),
  streams: {
    things: {
      checkpoint: z.object({}),
      fetchPage: async () => ({ events: [], unparsable: [], checkpoint: {}, done: true }),
    },
    others: {
      checkpoint: z.object({}),
      fetchPage: async () => ({ events: [], unparsable: [], checkpoint: {}, done: true }),
    },
  },
  webhooks: {
    handshake(query, { verifyToken }) {
      const isOurs = isSame(query.get("hub.verify_token") ?? "", verifyToken);
      return isOurs ? (query.get("hub.challenge") ?? undefined) : undefined;
    },
    verify: ({ headers, rawBody, url }, { secret }) =>
      isSame(headers.get("x-echo-signature") ?? "", echoSignature(secret, url, rawBody.toString("latin1"))),
    identify(delivery) {
      const { id, sentAt } = envelope.parse(json(delivery));
      return { id, sentAt: sentAt === undefined ? undefined : new Date(sentAt) };
    },
    read(delivery) {
      const { things, odd, streams } = body.parse(json(delivery));
      return {
        events: things.map(({ id, version, value }) => ({
          eventType: "order",
          eventName: "order_completed",
          sourceId: `thing:${id}`,
          sourceVersion: String(version),
          timestamp: "2026-01-01T00:00:00Z",
          currency: "EUR",
          value,
        })),
        unparsable: odd.map((record) => ({ reason: "is odd", record })),
        streams,
      };
    },
  },
});
