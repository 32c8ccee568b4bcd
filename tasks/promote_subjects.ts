import type { Task } from "graphile-worker";
import { z } from "zod";
import type { TaskServices } from "./index.ts";

const tenants = z.array(z.object({ id: z.string() }));
const promoted = z.tuple([z.object({ done: z.boolean() })]);

/** Gives events that were written before their type's property was declared the subject that it says. */
export const promoteSubjects =
  ({ pool }: TaskServices): Task =>
  async (_payload, { abortSignal }) => {
    const { rows } = await pool.query("select id from app_hidden.tenants_to_promote() as id");
    for (const { id } of tenants.parse(rows))
      for (let done = false; !done && !abortSignal?.aborted; ) {
        const step = await pool.query("select app_hidden.promote_subjects($1) as done", [id]);
        done = promoted.parse(step.rows)[0].done;
      }
  };
