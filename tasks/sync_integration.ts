import type { Task } from "graphile-worker";
import { z } from "zod";
import { failureOf } from "../src/sync/failures.ts";
import { isRefusal } from "../src/sync/run.ts";
import { withTenant } from "../src/worker/withTenant.ts";
import { connectorFor } from "./connectors/index.ts";
import type { TaskServices } from "./index.ts";

const TASK = "sync_integration";
const payload = z.object({
  integrationId: z.uuid(),
  trigger: z.enum(["manual", "schedule", "webhook"]).default("manual"),
});
const found = z.tuple([z.object({ tenant_id: z.uuid(), provider: z.string() })]);

/** Opens a run of each stream, which only the connector knows; `sync_stream` reads them. */
export const syncIntegration =
  (services: TaskServices): Task =>
  async (input, { job }) => {
    const { integrationId, trigger } = payload.parse(input);
    const { pool, log } = services;
    const owner = await pool.query("select app_hidden.integration_tenant($1) as tenant_id", [integrationId]);
    const tenantId: string | null = owner.rows[0]?.tenant_id;
    // Deleted since it was enqueued.
    if (tenantId === null) return;
    const inTenant = (text: string, ...values: unknown[]) =>
      withTenant(pool, tenantId, TASK, (client) => client.query(text, [tenantId, integrationId, ...values]));
    try {
      const { rows } = await inTenant(
        "select tenant_id, provider from public.integrations where tenant_id = $1 and id = $2",
      );
      const [{ provider }] = found.parse(rows);
      const streams = Object.keys((services.connectorFor ?? connectorFor)(provider).streams);
      await inTenant("select app_hidden.open_runs($1, $2, $3, $4, $5)", job.id, streams, trigger);
    } catch (error) {
      if (isRefusal(error)) return void log.info({ integrationId, reason: error.message }, "a sync gave way");
      const { isFinal, sentence } = failureOf(error);
      if (!isFinal) throw error;
      await inTenant("select app_hidden.fail_sync($1, $2, $3, $4)", "invalid_configuration", sentence);
    }
  };
