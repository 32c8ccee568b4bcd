import { readdir } from "node:fs/promises";
import { resolve } from "node:path";
import type pg from "pg";
import { loadConfig, UserError } from "../src/config.ts";
import { openDatabase } from "../src/db/database.ts";
import { withClient } from "../src/db/pools.ts";
import { paths } from "../src/paths.ts";
import { runProgram } from "../src/program.ts";
import { aligned } from "./support/aligned.ts";
import { reportTables, type TableReport } from "./support/tableReport.ts";

/** Prints what is in the database: tables, indexes, foreign keys, policies and grants, or one table in full. */
await runProgram(
  async (onStop, say) => {
    const wanted = process.argv[2];
    const database = await openDatabase(loadConfig(), { purpose: "npm run db:check", join: true });
    onStop(() => database.close());
    const { host, pathname } = new URL(database.urls.owner);
    await withClient(database.urls.owner, async (client) => {
      const tables = await reportTables(client);
      if (tables.length === 0)
        throw new UserError(
          `Database "${pathname.slice(1)}" at ${host} has no tables yet: npm run db -- migrate`,
        );
      if (wanted) return say(inFull(find(tables, wanted)));
      say(`Database "${pathname.slice(1)}" at ${host}\n\n${summary(tables)}\n`);
      for (const table of tables) say(`${table.name}\n${details(table)}\n`);
      const verdicts = [rowSecurity(tables), await migrations(client)];
      for (const { sentence } of verdicts) say(sentence);
      if (verdicts.some(({ good }) => !good)) process.exitCode = 1;
    });
  },
  { once: true },
);

function find(tables: TableReport[], wanted: string): TableReport {
  const table =
    tables.find(({ name }) => name === wanted) ?? tables.find(({ name }) => name.endsWith(`.${wanted}`));
  if (table) return table;
  throw new UserError(
    `There is no table "${wanted}". There are:\n${tables.map(({ name }) => `  ${name}`).join("\n")}`,
  );
}

function summary(tables: TableReport[]): string {
  const lines = tables.map(({ name, rows, size, partitions, rowSecurity: security }) => [
    ...[name, rows, size, security],
    partitions > 0 ? `${partitions} partitions` : "",
  ]);
  return aligned([["table", "rows, about", "size", "row security", ""], ...lines]);
}

function details(table: TableReport): string {
  const { indexes, foreignKeys, policies, grants } = table;
  return [
    section("indexes", indexes),
    section("foreign keys", foreignKeys),
    section("policies", policies),
    section("grants", grants),
  ]
    .filter(Boolean)
    .join("\n");
}

function section(title: string, rows: string[][]): string {
  return rows.length > 0 ? `  ${title}\n${aligned(rows, "    ")}` : "";
}

function inFull(table: TableReport): string {
  const { name, comment, rows, size, rowSecurity: security } = table;
  const head = `${name}: ${comment}\nabout ${rows} rows, ${size}, row security ${security}`;
  return `${head}\n\n${aligned(table.columns)}\n\n${details(table)}`;
}

type Verdict = { good: boolean; sentence: string };

function rowSecurity(tables: TableReport[]): Verdict {
  const ofTenants = tables.filter((table) => table.ofTenants);
  const open = ofTenants.filter((table) => table.rowSecurity !== "forced").map(({ name }) => name);
  return open.length === 0
    ? {
        good: true,
        sentence: `Row security is enabled and forced on all ${ofTenants.length} tables of tenants.`,
      }
    : {
        good: false,
        sentence: `Row security is NOT enabled and forced on ${open.join(", ")}, or a partition of it.`,
      };
}

async function migrations(client: pg.Client): Promise<Verdict> {
  const { rows: known } = await client.query(
    "select to_regclass('graphile_migrate.migrations') is not null as known",
  );
  const { rows } = known[0]?.known
    ? await client.query("select filename from graphile_migrate.migrations")
    : { rows: [] };
  // Recorded without the message that a file's name may have: 000001.sql for 000001-schema.sql.
  const numberOf = (filename: string) => Number.parseInt(filename, 10);
  const applied = new Set(rows.map(({ filename }) => numberOf(filename)));
  const committed = (await readdir(resolve(paths.migrations, "committed"))).filter((name) =>
    /^\d+.*\.sql$/.test(name),
  );
  const pending = committed.filter((name) => !applied.has(numberOf(name)));
  return pending.length === 0
    ? { good: true, sentence: `Committed migrations: ${committed.length}, all applied.` }
    : { good: false, sentence: `Not applied yet: ${pending.join(", ")}. To apply: npm run db -- migrate` };
}
