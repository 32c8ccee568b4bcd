import type { Task } from "graphile-worker";
import { z } from "zod";
import type { TaskServices } from "./index.ts";

const answer = z.object({ count: z.int() });

/** Gives up uploads that nobody will finish, and requests syncs for files that wait. */
export const tendUploads =
  ({ pool, log }: TaskServices): Task =>
  async () => {
    const { rows } = await pool.query("select app_hidden.tend_uploads() as count");
    const { count } = answer.parse(rows[0]);
    if (count > 0) log.info({ count }, "gave up uploads that were cut off");
  };
