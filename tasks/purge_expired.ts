import type { Task } from "graphile-worker";
import type { TaskServices } from "./index.ts";

/** Deletes sessions, tokens, counters and the history of syncs that nobody needs any more. */
export const purgeExpired =
  ({ pool }: TaskServices): Task =>
  async () => {
    await pool.query("select app_hidden.purge_expired()");
    await pool.query("select app_hidden.purge_sync_history()");
  };
