import { Logger } from "@graphile/logger";
import { migrate as runMigrations, watch } from "graphile-migrate";
import { runMigrations as runWorkerMigrations, Logger as WorkerLogger } from "graphile-worker";
import { paths } from "../paths.ts";
import { connectionString, withClient } from "./pools.ts";

const printFailures = (level: string, message: string) => {
  if (level === "error" || level === "warning") console.error(message);
};
const logger = new Logger(() => printFailures);
const workerLogger = new WorkerLogger(() => printFailures);

/**
 * Brings a database up to date: graphile-worker's schema (as its own login), the committed migrations, and the
 * partitions of the months to come.
 */
export async function migrate(urls: { owner: string; worker: string }): Promise<void> {
  await installWorkerSchema(urls.worker);
  await runMigrations({
    connectionString: connectionString(urls.owner),
    migrationsFolder: paths.migrations,
    logger,
  });
  await withClient(urls.worker, (client) => client.query("select app_hidden.maintain_partitions()"));
}

export const installWorkerSchema = (workerUrl: string) =>
  runWorkerMigrations({
    connectionString: connectionString(workerUrl),
    preset: { worker: { logger: workerLogger } },
  });

const currentSettings = (ownerUrl: string) => ({
  connectionString: connectionString(ownerUrl),
  migrationsFolder: paths.migrations,
  afterCurrent: [{ _: "sql" as const, file: "after_current.sql" }],
});

/** Runs `migrations/current` once. */
export const applyCurrent = (ownerUrl: string) => watch({ ...currentSettings(ownerUrl), logger }, true);

/** Runs `migrations/current` now, and again whenever it or a fixture changes. */
export const watchCurrent = (ownerUrl: string) => watch(currentSettings(ownerUrl));
