import type { Task } from "graphile-worker";
import { makePartitions } from "../src/db/migrate.ts";
import type { TaskServices } from "./index.ts";

/** Makes partitions ahead. A lock that is not had in time fails the job, which is tried again. */
export const maintainPartitions =
  ({ pool }: TaskServices): Task =>
  async () => {
    await makePartitions(pool);
  };
