import type { Task } from "graphile-worker";
import { z } from "zod";
import type { TaskServices } from "./index.ts";

const STRETCH = 5_000;
const retention = z.object({ tenant_id: z.uuid(), kept_since: z.date() });
const purged = z.tuple([z.object({ count: z.number() })]);

/** Deletes what tenants no longer keep of their audit logs: whole seals, from the beginning, each time with a record of it. */
export const purgeAudit =
  ({ pool, log }: TaskServices): Task =>
  async (_payload, { abortSignal }) => {
    const { rows } = await pool.query("select tenant_id, kept_since from app_hidden.audit_retention()");
    for (const { tenant_id: tenantId, kept_since: keptSince } of retention.array().parse(rows)) {
      let total = 0;
      for (let count = 1; count > 0 && !abortSignal?.aborted; total += count) {
        const { rows } = await pool.query("select app_hidden.purge_audit_log($1, $2, $3) as count", [
          tenantId,
          keptSince,
          STRETCH,
        ]);
        count = purged.parse(rows)[0].count;
      }
      if (total > 0)
        log.info({ tenantId, keptSince, count: total }, "audit rows that are no longer kept are gone");
    }
  };
