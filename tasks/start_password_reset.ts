import type { Task } from "graphile-worker";
import { z } from "zod";
import type { TaskServices } from "./index.ts";

const payload = z.object({
  tenant: z.string().nullable(),
  domain: z.string().nullable(),
  email: z.string(),
});

/** Looks up who asked for a link to reset the password: here, where its time tells nobody who exists. */
export const startPasswordReset =
  ({ pool }: TaskServices): Task =>
  async (input) => {
    const { tenant, domain, email } = payload.parse(input);
    await pool.query("select app_hidden.start_password_reset($1, $2, $3)", [tenant, domain, email]);
  };
