import type { Task } from "graphile-worker";
import { z } from "zod";
import type { TaskServices } from "./index.ts";

const purged = z.tuple([z.object({ count: z.number() })]);

/** Deletes bodies of webhooks, replaced credentials, and data keys under which nothing is sealed any more. */
export const purgeSecrets =
  ({ pool }: TaskServices): Task =>
  async (_payload, { abortSignal }) => {
    for (let count = 1; count > 0 && !abortSignal?.aborted; ) {
      const { rows } = await pool.query("select app_hidden.purge_webhooks() as count");
      count = purged.parse(rows)[0].count;
    }
    await pool.query("select app_hidden.purge_tenant_keys()");
  };
