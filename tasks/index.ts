import type { CronItem, TaskList } from "graphile-worker";
import type pg from "pg";
import type { Logger } from "pino";
import type { KeyRing } from "../src/crypto/keyRing.ts";
import { maintainPartitions } from "./maintain_partitions.ts";
import { syncDueIntegrations } from "./sync_due_integrations.ts";
import { syncIntegration } from "./sync_integration.ts";

export type TaskServices = {
  pool: pg.Pool;
  log: Logger;
  keyRing: KeyRing;
  /** Where integrations with the environment "simulator" find their provider; undefined where none may. */
  simulatorUrl: string | undefined;
};

/** The name of a task is its file's name and the string in add_job. */
export const makeTaskList = (services: TaskServices): TaskList => ({
  // Pulls an integration's data, page by page. Enqueued by app_hidden.request_sync.
  sync_integration: syncIntegration(services),
  // Enqueues what is due.
  sync_due_integrations: syncDueIntegrations(services),
  // Makes the months ahead.
  maintain_partitions: maintainPartitions(services),
});

export const schedule: CronItem[] = [
  { task: "sync_due_integrations", match: "* * * * *", options: { backfillPeriod: 0 } },
  { task: "maintain_partitions", match: "17 3 * * *", options: { backfillPeriod: 86_400_000 } },
];
