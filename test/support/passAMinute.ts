import type pg from "pg";

/** Since all workers died: what they held looks a minute older, so that the next one frees it at once. */
export async function passAMinute(owner: pg.Pool): Promise<void> {
  for (const [table, column] of [
    ["app_private.sync_leases", "expires_at"],
    ["app_private.worker_heartbeats", "beat_at"],
    ["graphile_worker._private_jobs", "locked_at"],
    ["graphile_worker._private_job_queues", "locked_at"],
  ])
    await owner.query(`update ${table} set ${column} = ${column} - interval '1 minute'`);
}
