import type { Task } from "graphile-worker";
import { z } from "zod";
import { makeWebhookUrls } from "../src/webhooks/urls.ts";
import { withTenant } from "../src/worker/withTenant.ts";
import type { Connector, Delivery } from "./connectors/connector.ts";
import { storablePage } from "./connectors/storable.ts";
import type { TaskServices } from "./index.ts";

const TASK = "process_webhook";
const payload = z.object({ integrationId: z.uuid(), id: z.uuid() });
const kept = z.object({
  provider: z.string(),
  config: z.unknown(),
  headers: z.array(z.tuple([z.string(), z.string()])),
  body: z.instanceof(Buffer),
});

/** Turns what a provider sent into events, and into syncs of the streams that it names. */
export const processWebhook =
  ({ pool, log, connectors }: TaskServices): Task =>
  async (rawPayload) => {
    const { integrationId, id } = payload.parse(rawPayload);
    const owner = await pool.query("select app_hidden.integration_tenant($1) as tenant_id", [integrationId]);
    const tenantId: string | null = owner.rows[0]?.tenant_id;
    // Deleted since it was enqueued.
    if (tenantId === null) return;
    const inTenant = (text: string, values: unknown[] = []) =>
      withTenant(pool, tenantId, TASK, (client) =>
        client.query(text, [tenantId, integrationId, id, ...values]),
      );
    const { rows } = await inTenant("select * from app_hidden.begin_webhook($1, $2, $3)");
    if (rows.length === 0) return;
    let read: ReturnType<typeof readDelivery>;
    try {
      read = readDelivery(connectors, integrationId, kept.parse(rows[0]));
    } catch (error) {
      // The same body would fail again. Its error stays here: what somebody bought may be in the message.
      log.warn({ integrationId, webhook: id, reason: nameOf(error) }, "a webhook cannot be read");
      await inTenant("select app_hidden.fail_webhook($1, $2, $3, $4)", [sentence(error)]);
      return;
    }
    await inTenant("select app_hidden.finish_webhook($1, $2, $3, $4, $5, $6)", [
      JSON.stringify(read.events),
      JSON.stringify(read.unparsable),
      read.streams,
    ]);
  };

function readDelivery(
  connectors: readonly Connector[],
  integrationId: string,
  { provider, config, headers, body }: z.output<typeof kept>,
) {
  const connector = connectors.find((one) => one.provider === provider);
  if (!connector?.webhooks) throw new Error("The provider has no webhooks.");
  // Without the host, which only signatures are about.
  const url = makeWebhookUrls("", connectors)({ id: integrationId, provider }) ?? "";
  const delivery: Delivery = { headers: new Headers(headers), rawBody: body, url };
  const { streams, ...page } = connector.webhooks.read(delivery, connector.config.parse(config));
  return {
    ...storablePage(page, `${provider}:${integrationId}`),
    streams: streams.filter((stream) => stream in connector.streams),
  };
}

const nameOf = (error: unknown) => (error instanceof Error ? error.name : "Error");
const sentence = (error: unknown) =>
  error instanceof z.ZodError
    ? `It does not fit: ${error.issues.map(({ path }) => path.join(".")).join(", ")}.`
    : "It cannot be read.";
