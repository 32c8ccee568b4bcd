import { randomUUID } from "node:crypto";
import type { Task } from "graphile-worker";
import { z } from "zod";
import { unseal } from "../src/crypto/keyRing.ts";
import { withTenant } from "../src/worker/withTenant.ts";
import { ProviderError } from "./connectors/connector.ts";
import { connectorFor, providerUrl } from "./connectors/index.ts";
import type { TaskServices } from "./index.ts";

const TASK = "sync_integration";
const payload = z.object({ integrationId: z.uuid() });
const run = z.object({
  provider: z.string(),
  config: z.record(z.string(), z.unknown()),
  checkpoints: z.record(z.string(), z.unknown()),
  credential_version: z.number().nullable(),
  ciphertext: z.instanceof(Buffer).nullable(),
  key_version: z.number().nullable(),
  kek_id: z.string().nullable(),
  wrapped_key: z.instanceof(Buffer).nullable(),
});
type Run = z.output<typeof run>;

/** Pulls every stream of an integration from its checkpoint on; each page is saved with the checkpoint behind it. */
export const syncIntegration =
  (services: TaskServices): Task =>
  async (rawPayload, helpers) => {
    const { integrationId } = payload.parse(rawPayload);
    const { pool } = services;
    const owner = await pool.query("select app_hidden.integration_tenant($1) as tenant_id", [integrationId]);
    const tenantId: string | null = owner.rows[0]?.tenant_id;
    // Deleted since it was enqueued.
    if (tenantId === null) return;

    const runId = randomUUID();
    const inTenant = (text: string, values: unknown[]) =>
      withTenant(pool, tenantId, TASK, (client) =>
        client.query(text, [tenantId, integrationId, runId, ...values]),
      );
    const begun = await inTenant("select * from app_hidden.begin_sync($1, $2, $3)", []);
    try {
      const sync = run.parse(begun.rows[0]);
      const connector = connectorFor(sync.provider);
      const config = connector.config.parse(sync.config);
      const credentials = connector.credentials.parse(
        openCredentials(services, sync, { tenantId, integrationId }),
      );
      const source = `${sync.provider}:${integrationId}`;
      const baseUrl = providerUrl(sync.provider, config, services.simulatorUrl);
      for (const [name, stream] of Object.entries(connector.streams)) {
        let checkpoint = stream.checkpoint.optional().parse(sync.checkpoints[name]);
        for (let done = false; !done; ) {
          const page = await stream.fetchPage({
            config,
            credentials,
            checkpoint,
            now: new Date(),
            signal: helpers.abortSignal ?? new AbortController().signal,
            fetch,
            baseUrl,
          });
          const events = page.events.map((event) => ({ ...event, source }));
          await inTenant("select * from app_hidden.save_sync_page($1, $2, $3, $4, $5, $6, $7)", [
            name,
            JSON.stringify(page.checkpoint),
            JSON.stringify(events),
            JSON.stringify(page.unparsable),
          ]);
          ({ checkpoint, done } = page);
        }
      }
      await inTenant("select app_hidden.finish_sync($1, $2, $3)", []);
    } catch (error) {
      // The next attempt goes on from the checkpoint; a shutdown is no failure of the sync.
      if (helpers.abortSignal?.aborted) await inTenant("select app_hidden.release_sync($1, $2, $3)", []);
      else
        await inTenant("select app_hidden.finish_sync($1, $2, $3, $4)", [sentence(error)]).catch(
          ignoreSuperseded,
        );
      // Trying again mends nothing that only a person can.
      if (!isPermanent(error)) throw error;
      services.log.warn({ err: error, integrationId }, "sync failed until a person mends it");
    }
  };

const isPermanent = (error: unknown) =>
  error instanceof z.ZodError ||
  (error instanceof ProviderError && (error.kind === "reauth" || error.kind === "permanent"));

/** Another run took over: what became of this one is no longer of interest. */
function ignoreSuperseded(error: unknown) {
  if (!(error instanceof Error && "code" in error && error.code === "EA409")) throw error;
}

function openCredentials(
  { keyRing }: TaskServices,
  sync: Run,
  { tenantId, integrationId }: { tenantId: string; integrationId: string },
): unknown {
  const { ciphertext, credential_version, key_version, kek_id, wrapped_key } = sync;
  if (!ciphertext || !credential_version || !key_version || !kek_id || !wrapped_key)
    throw new ProviderError("permanent", "The integration has no credentials.");
  const dataKey = keyRing.unwrap(wrapped_key, kek_id, { tenantId, version: key_version });
  const place = {
    tenantId,
    table: "integration_credentials",
    rowId: integrationId,
    version: credential_version,
  };
  return JSON.parse(unseal(ciphertext, dataKey, place));
}

/** For the people who read `syncError`: what a provider or a schema said, nothing of our internals. */
function sentence(error: unknown): string {
  if (error instanceof ProviderError) return error.message;
  if (error instanceof z.ZodError)
    return `The settings or credentials do not fit: ${error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`).join("; ")}.`;
  return "The sync failed unexpectedly and will be tried again.";
}
