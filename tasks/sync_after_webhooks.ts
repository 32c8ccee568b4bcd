import type { Task } from "graphile-worker";
import { z } from "zod";
import { withTenant } from "../src/worker/withTenant.ts";
import type { TaskServices } from "./index.ts";

const TASK = "sync_after_webhooks";
/** All of one integration; graphile-worker appends those of later webhooks while the job waits. */
const streams = z.array(z.object({ integrationId: z.uuid(), stream: z.string() })).min(1);

/** Requests the syncs that webhooks ask for. */
export const syncAfterWebhooks =
  ({ pool }: TaskServices): Task =>
  async (rawPayload) => {
    const wanted = streams.parse(rawPayload);
    const integrationId = wanted[0]?.integrationId;
    const owner = await pool.query("select app_hidden.integration_tenant($1) as tenant_id", [integrationId]);
    const tenantId: string | null = owner.rows[0]?.tenant_id;
    if (tenantId === null) return;
    const names = [...new Set(wanted.map(({ stream }) => stream))];
    await withTenant(pool, tenantId, TASK, (client) =>
      client.query("select app_hidden.sync_after_webhooks($1, $2, $3)", [tenantId, integrationId, names]),
    );
  };
