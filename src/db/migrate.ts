import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { Logger } from "@graphile/logger";
import { migrate as runMigrations, watch } from "graphile-migrate";
import { clearAllPools } from "graphile-migrate/dist/pgReal.js";
import { runMigrations as runWorkerMigrations, Logger as WorkerLogger } from "graphile-worker";
import type pg from "pg";
import { UserError } from "../config.ts";
import { paths } from "../paths.ts";
import { connectionString, withClient } from "./pools.ts";

const printFailures = (level: string, message: string) => {
  if (level === "error" || level === "warning") console.error(message);
};
// graphile-migrate keeps its connections for a while, and ends the process should they be cut: hence clearAllPools.
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
  clearAllPools();
  await withClient(urls.worker, makePartitions);
}

/** Makes the partitions that are wanting, each in a transaction of its own: its locks are held for that long only. */
export async function makePartitions(client: Pick<pg.ClientBase, "query">): Promise<void> {
  for (let made: string | null = ""; made !== null; ) {
    const { rows } = await client.query("select app_hidden.make_next_partition() as made");
    made = rows[0]?.made ?? null;
  }
}

export const installWorkerSchema = (workerUrl: string) =>
  runWorkerMigrations({
    connectionString: connectionString(workerUrl),
    preset: { worker: { logger: workerLogger } },
  });

/** The parts that run by themselves do not migrate: of several, one would find the other's half-done. */
export async function assertMigrated(ownerUrl: string): Promise<void> {
  const committed = (await readdir(join(paths.migrations, "committed"))).filter((name) =>
    name.endsWith(".sql"),
  );
  const applied = await withClient(ownerUrl, async (client) => {
    const { rows } = await client.query(
      "select to_regclass('graphile_migrate.migrations') is not null as present",
    );
    if (!rows[0]?.present) return 0;
    return (await client.query("select from graphile_migrate.migrations")).rowCount ?? 0;
  });
  if (applied < committed.length)
    throw new UserError(
      `The database lacks ${committed.length - applied} of ${committed.length} migrations: run \`npm run db -- migrate\` first.`,
    );
}

const currentSettings = (ownerUrl: string) => ({
  connectionString: connectionString(ownerUrl),
  migrationsFolder: paths.migrations,
  afterCurrent: [{ _: "sql" as const, file: "after_current.sql" }],
});

/** Runs `migrations/current` once. */
export async function applyCurrent(ownerUrl: string): Promise<void> {
  await watch({ ...currentSettings(ownerUrl), logger }, true);
  clearAllPools();
}

/** Runs `migrations/current` now, and again whenever it or a fixture changes. */
export const watchCurrent = (ownerUrl: string) => watch(currentSettings(ownerUrl));
