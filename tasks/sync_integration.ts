import { randomUUID } from "node:crypto";
import type { JobHelpers, Task } from "graphile-worker";
import { z } from "zod";
import { unseal } from "../src/crypto/keyRing.ts";
import { makeFiles } from "../src/uploads/files.ts";
import { withTenant } from "../src/worker/withTenant.ts";
import { ProviderError } from "./connectors/connector.ts";
import { connectorFor, providerUrl } from "./connectors/index.ts";
import { storablePage } from "./connectors/storable.ts";
import type { TaskServices } from "./index.ts";

const TASK = "sync_integration";
/** Then the rest becomes a job of its own, and other tenants' jobs get their turn. */
const SLICE_MS = 4 * 60_000;
const MAX_PATIENCE_SECONDS = 3_600;

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
type InTenant = (text: string, values: unknown[]) => Promise<{ rows: unknown[] }>;
type Place = { tenantId: string; integrationId: string };

/** Pulls every stream of an integration from its checkpoint on; each page is saved with the checkpoint behind it. */
export const syncIntegration =
  (services: TaskServices): Task =>
  async (rawPayload, helpers) => {
    const { integrationId } = payload.parse(rawPayload);
    const { pool, log } = services;
    const owner = await pool.query("select app_hidden.integration_tenant($1) as tenant_id", [integrationId]);
    const tenantId: string | null = owner.rows[0]?.tenant_id;
    // Deleted since it was enqueued.
    if (tenantId === null) return;

    const runId = randomUUID();
    const inTenant: InTenant = (text, values) =>
      withTenant(pool, tenantId, TASK, (client) =>
        client.query(text, [tenantId, integrationId, runId, ...values]),
      );
    const pause = (seconds: number) =>
      inTenant("select app_hidden.pause_sync($1, $2, $3, $4)", [Math.ceil(seconds)]);
    const signal = helpers.abortSignal ?? new AbortController().signal;
    let pages = 0;
    try {
      const begun = await inTenant("select * from app_hidden.begin_sync($1, $2, $3)", []);
      const pull = pullPages(
        services,
        run.parse(begun.rows[0]),
        { tenantId, integrationId },
        inTenant,
        signal,
      );
      const until = Date.now() + SLICE_MS;
      for await (const _page of pull) {
        pages++;
        if (signal.aborted || Date.now() > until) return void (await pause(0));
      }
      await inTenant("select app_hidden.finish_sync($1, $2, $3)", []);
    } catch (error) {
      if (isRefusal(error)) {
        log.info({ integrationId, reason: error.message }, "sync gave way");
        // A run that may have died: looks again when its lease is over. Otherwise superseded, or disabled.
        if (error.detail === "under way") await lookAgain(helpers, integrationId);
        return;
      }
      if (signal.aborted) return void (await pause(0));
      if (error instanceof ProviderError && error.kind === "throttled")
        return void (await pause(Math.min((error.retryAfterMs ?? 60_000) / 1000, MAX_PATIENCE_SECONDS)));
      // After progress, the rest has all its attempts again.
      if (pages > 0 && !isPermanent(error)) return void (await pause(10));
      await inTenant("select app_hidden.finish_sync($1, $2, $3, $4)", [sentence(error)]);
      // Trying again mends nothing that only a person can.
      if (!isPermanent(error)) throw error;
      log.warn({ err: error, integrationId }, "sync failed until a person mends it");
    }
  };

/** Fetches and saves, stream by stream; yields after each page. */
async function* pullPages(
  services: TaskServices,
  sync: Run,
  place: Place,
  inTenant: InTenant,
  signal: AbortSignal,
): AsyncGenerator<void> {
  const connector = connectorFor(sync.provider);
  const config = connector.config.parse(sync.config);
  const credentials = connector.credentials.parse(
    connector.needsCredentials === false ? {} : openCredentials(services, sync, place),
  );
  const files = makeFiles(services.pool, { ...place, task: TASK });
  const source = `${sync.provider}:${place.integrationId}`;
  const baseUrl = providerUrl(sync.provider, config, services.simulatorUrl);
  for (const [name, stream] of Object.entries(connector.streams)) {
    let checkpoint = stream.checkpoint.optional().parse(sync.checkpoints[name]);
    for (let done = false; !done; ) {
      const now = new Date();
      const { fetch } = services;
      const request = { config, credentials, checkpoint, now, signal, fetch, baseUrl, files };
      const page = await stream.fetchPage(request);
      const { events, unparsable } = storablePage(page, source);
      await inTenant("select * from app_hidden.save_sync_page($1, $2, $3, $4, $5, $6, $7)", [
        name,
        JSON.stringify(page.checkpoint),
        JSON.stringify(events),
        JSON.stringify(unparsable),
      ]);
      ({ checkpoint, done } = page);
      yield;
    }
  }
}

const isPermanent = (error: unknown) =>
  error instanceof z.ZodError ||
  (error instanceof ProviderError && (error.kind === "reauth" || error.kind === "permanent"));

/** Under way elsewhere, superseded, or disabled: the database refuses this run. */
const isRefusal = (error: unknown): error is Error & { detail: unknown } =>
  error instanceof Error && "code" in error && error.code === "EA409" && "detail" in error;

const lookAgain = (helpers: JobHelpers, integrationId: string) =>
  helpers.addJob(
    TASK,
    { integrationId },
    { jobKey: `sync:${integrationId}`, runAt: new Date(Date.now() + 10_000), maxAttempts: 5 },
  );

function openCredentials({ keyRing }: TaskServices, sync: Run, { tenantId, integrationId }: Place): unknown {
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
  if (error instanceof z.ZodError) {
    const problems = error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`);
    return `The settings or credentials do not fit: ${problems.join("; ")}.`;
  }
  return "The sync failed unexpectedly and will be tried again.";
}
