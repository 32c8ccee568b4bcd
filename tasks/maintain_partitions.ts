import type { Task } from "graphile-worker";
import type { TaskServices } from "./index.ts";

/** Makes partitions ahead. A lock that is not had in time fails the job, which is tried again. */
export const maintainPartitions =
  ({ pool }: TaskServices): Task =>
  async () => {
    await pool.query("select app_hidden.maintain_partitions()");
  };
