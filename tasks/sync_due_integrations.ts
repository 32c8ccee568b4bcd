import type { Task } from "graphile-worker";
import type { TaskServices } from "./index.ts";

export const syncDueIntegrations =
  ({ pool }: TaskServices): Task =>
  async () => {
    await pool.query("select app_hidden.request_due_syncs()");
  };
