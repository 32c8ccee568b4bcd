import type { Task } from "graphile-worker";
import { z } from "zod";
import { withTenant } from "../src/worker/withTenant.ts";
import type { TaskServices } from "./index.ts";

const TASK = "sync_after_webhooks";
const AGAIN_MS = 10_000;
/** All of one integration; graphile-worker appends those of later webhooks while the job waits. */
const streams = z.array(z.object({ integrationId: z.uuid(), stream: z.string() })).min(1);
const asked = z.tuple([z.object({ settled: z.boolean() })]);

/** Requests the syncs that webhooks ask for; again later, while one is under way that may have read past the change. */
export const syncAfterWebhooks =
  ({ pool }: TaskServices): Task =>
  async (rawPayload, helpers) => {
    const wanted = streams.parse(rawPayload);
    const integrationId = wanted[0]?.integrationId;
    const owner = await pool.query("select app_hidden.integration_tenant($1) as tenant_id", [integrationId]);
    const tenantId: string | null = owner.rows[0]?.tenant_id;
    if (tenantId === null) return;
    const names = [...new Set(wanted.map(({ stream }) => stream))];
    const { rows } = await withTenant(pool, tenantId, TASK, (client) =>
      client.query("select app_hidden.sync_after_webhooks($1, $2, $3) as settled", [
        tenantId,
        integrationId,
        names,
      ]),
    );
    if (asked.parse(rows)[0].settled) return;
    await helpers.addJob(
      TASK,
      names.map((stream) => ({ integrationId, stream })),
      {
        jobKey: `webhooks:${integrationId}`,
        jobKeyMode: "preserve_run_at",
        runAt: new Date(Date.now() + AGAIN_MS),
        maxAttempts: 8,
      },
    );
  };
