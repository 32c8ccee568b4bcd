import type pg from "pg";

/** What a minute brings about after a worker died: its leases are over, and its jobs are freed. No other worker may run. */
export async function passAMinute(owner: pg.Pool): Promise<void> {
  await owner.query("update app_private.sync_leases set expires_at = now() - interval '1 second'");
  await owner.query(
    "select graphile_worker.force_unlock_workers(array_agg(distinct locked_by)) from graphile_worker.jobs where locked_by is not null",
  );
}
