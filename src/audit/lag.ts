import type pg from "pg";
import { z } from "zod";

/** Seconds. `sealed`: how old the oldest row may be that is not sealed; null when none ever was. `unanchored`: how old the oldest seal is that no anchor has. */
export type AuditLag = { sealedSecondsAgo: number | null; unanchoredSeconds: number };

const lagRow = z.object({ sealed: z.number().nullable(), unanchored: z.number() });

export async function auditLag(pool: pg.Pool): Promise<AuditLag> {
  const { rows } = await pool.query(
    `select extract(epoch from clock_timestamp() - l.sealed_as_of)::integer as sealed,
            coalesce(extract(epoch from clock_timestamp() - l.unanchored_since), 0)::integer as unanchored
       from app_hidden.audit_lag() l`,
  );
  const { sealed, unanchored } = lagRow.parse(rows[0]);
  return { sealedSecondsAgo: sealed, unanchoredSeconds: unanchored };
}
