import { createHash } from "node:crypto";
import type pg from "pg";
import type { Logger } from "pino";
import { z } from "zod";
import type { Connector, Delivery } from "../../tasks/connectors/connector.ts";
import type { KeyRing } from "../crypto/keyRing.ts";
import { openCredentials, sealed } from "../crypto/sealed.ts";
import { ApiError } from "../graphql/errors.ts";
import type { WebhookUrls } from "./urls.ts";

/** How far the time in a signed delivery may be from ours. */
const TOLERANCE_MS = 5 * 60_000;

const target = sealed.extend({ tenant_id: z.uuid(), provider: z.string() });
type Target = z.output<typeof target>;
const received = z.tuple([z.object({ is_new: z.boolean() })]);

export type Sender = { integrationId: string; address: string | undefined };
export type WebhookService = {
  /** Keeps a delivery, once. False: nobody may send this; who and why stays unsaid. */
  receive(sender: Sender, headers: Headers, rawBody: Buffer): Promise<boolean>;
  /** The answer to a provider that asks whether the address is ours. */
  handshake(sender: Sender, query: URLSearchParams): Promise<string | undefined>;
};

export function makeWebhookService(options: {
  pool: pg.Pool;
  keyRing: Pick<KeyRing, "unwrap">;
  connectors: readonly Connector[];
  urls: WebhookUrls;
  log: Pick<Logger, "warn">;
  now?: () => Date;
}): WebhookService {
  const { pool, keyRing, connectors, urls, log, now = () => new Date() } = options;

  /** What `test` makes of the credentials in use, or of those that they replaced; undefined when it takes none. */
  async function trying<Result>(
    { integrationId, address }: Sender,
    test: (
      webhooks: NonNullable<Connector["webhooks"]>,
      url: string,
      credentials: unknown,
    ) => Result | undefined,
  ): Promise<Result | undefined> {
    const { rows } = await pool.query("select * from app_hidden.webhook_target($1, $2)", [
      integrationId,
      address ?? null,
    ]);
    for (const candidate of target.array().parse(rows)) {
      const connector = connectors.find(({ provider }) => provider === candidate.provider);
      const url = urls({ id: integrationId, provider: candidate.provider });
      if (!connector?.webhooks || !url) return undefined;
      try {
        const result = test(connector.webhooks, url, open(connector, candidate, integrationId));
        if (result !== undefined) return result;
      } catch (error) {
        // Not the error itself: what a sender or a tenant wrote may be in its message.
        log.warn(
          { integrationId, version: candidate.version, reason: nameOf(error) },
          "webhook not verified",
        );
      }
    }
    return undefined;
  }
  const open = (connector: Connector, { tenant_id: tenantId, ...rest }: Target, integrationId: string) =>
    connector.credentials.parse(JSON.parse(openCredentials(keyRing, { tenantId, integrationId }, rest)));

  return {
    async receive(sender, headers, rawBody) {
      const verified = await trying(sender, (webhooks, url, credentials) => {
        const delivery = { headers, rawBody, url };
        return webhooks.verify(delivery, credentials) ? { webhooks, delivery } : undefined;
      });
      if (!verified) return false;
      const { id, sentAt } = identify(verified.webhooks, verified.delivery);
      if (sentAt && !(Math.abs(sentAt.getTime() - now().getTime()) <= TOLERANCE_MS))
        throw new ApiError("INVALID_INPUT", "It was sent more than five minutes ago, or will be.", {
          reason: "not_now",
        });
      const { rows } = await pool.query("select app_hidden.receive_webhook($1, $2, $3, $4, $5) as is_new", [
        sender.integrationId,
        storableId(id),
        JSON.stringify(keptHeaders(headers)),
        rawBody,
        sender.address ?? null,
      ]);
      received.parse(rows);
      return true;
    },
    async handshake(sender, query) {
      const answer = await trying(sender, ({ handshake }, _url, credentials) =>
        handshake?.(query, credentials),
      );
      if (answer !== undefined)
        await pool.query("select app_hidden.forgive_webhook($1)", [sender.address ?? null]);
      return answer;
    },
  };
}

function identify(webhooks: NonNullable<Connector["webhooks"]>, delivery: Delivery) {
  try {
    return webhooks.identify(delivery);
  } catch {
    throw new ApiError("INVALID_INPUT", "The body is not what this provider sends.", {
      reason: "unreadable",
    });
  }
}

const storableId = (id: string) =>
  /^[\x20-\x7e]{1,200}$/.test(id) ? id : createHash("sha256").update(id).digest("hex");

/** Of the headers, what a mapping may need: neither what proxies added, nor what lets somebody in. */
function keptHeaders(headers: Headers): [string, string][] {
  return [...headers].filter(
    ([name]) =>
      name === "content-type" ||
      (/^x-/.test(name) &&
        !/^x-(forwarded|real|request-id|amzn|envoy)|signature|hmac|token|secret|auth/.test(name)),
  );
}

const nameOf = (error: unknown) => (error instanceof Error ? error.name : "Error");
