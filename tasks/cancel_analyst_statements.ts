import type { Task } from "graphile-worker";
import type { TaskServices } from "./index.ts";

/** Analysts can raise their own timeouts: what still runs after five minutes is cancelled, or else its session ended. */
export const cancelAnalystStatements =
  ({ pool, log }: TaskServices): Task =>
  async () => {
    const { rows } = await pool.query("select login, outcome from app_hidden.hold_analysts()");
    for (const { login, outcome } of rows) log.info({ login, outcome }, "held an analyst to the limits");
  };
