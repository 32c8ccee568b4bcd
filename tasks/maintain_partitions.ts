import type { Task } from "graphile-worker";
import { makePartitions } from "../src/db/migrate.ts";
import type { TaskServices } from "./index.ts";

/**
 * Makes partitions ahead, and those of which events wait in the default one. A lock that is not had in time fails the job,
 * which is tried again.
 */
export const maintainPartitions =
  ({ pool, log }: TaskServices): Task =>
  async () => {
    await makePartitions(pool);
    const { rows } = await pool.query("select app_hidden.rows_without_partition() as count");
    if (rows[0]?.count > 0)
      log.warn(
        { count: rows[0].count },
        "rows of months that are too far away for a partition lie in the default one",
      );
  };
