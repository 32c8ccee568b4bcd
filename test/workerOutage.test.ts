import { afterAll, beforeAll, expect, it } from "@jest/globals";
import type pg from "pg";
import { pino } from "pino";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { passAMinute } from "./support/passAMinute.ts";
import { startScriptedProvider } from "./support/scriptedProvider.ts";
import { connect, watchSyncs } from "./support/syncs.ts";
import { createTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";
import { startTestWorker } from "./support/worker.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());

/** A pool whose server is away while `isAway()`. */
function flaky(pool: pg.Pool, isAway: () => boolean): pg.Pool {
  const refuse = async () => {
    throw Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED" });
  };
  return new Proxy(pool, {
    get(target, name) {
      if (isAway() && (name === "connect" || name === "query")) return refuse;
      const value = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

it("hands a job back whose end came while the database was away, and works on", async () => {
  const acme = await createTenant(database.owner, "acme");
  await connect(database, acme, { config: { environment: "simulator" } });
  const provider = await startScriptedProvider();
  let isAway = false;
  const said: string[] = [];
  const log = pino({ level: "error" }, { write: (line) => said.push(JSON.parse(line).msg) });
  provider.script.answer = async () => {
    isAway = true;
    return { status: 500 };
  };
  const worker = await startTestWorker(
    {
      ...database,
      worker: flaky(database.worker, () => isAway),
    },
    { simulatorUrl: provider.url, connectors: provider.connectors, log },
  );
  const locked = async () => {
    const { rows } = await database.owner.query(
      "select attempts from graphile_worker.jobs where task_identifier = 'sync_stream' and locked_by is not null",
    );
    return rows;
  };
  try {
    await watchSyncs(database, acme.integrationId).request();
    await until(
      async () => isAway,
      (away) => away,
    );
    expect(await locked()).toHaveLength(1);
    await until(
      async () => said,
      (lines) => lines.includes("the worker has ended, and is started again"),
    );
    provider.script.answer = async () => ({ done: true });
    isAway = false;
    await passAMinute(database.owner);
    await until(
      () => watchSyncs(database, acme.integrationId).integration(),
      ({ sync_status }) => sync_status === "succeeded",
    );
  } finally {
    isAway = false;
    await worker.stop();
    await provider.close();
  }
});

it("works on whatever somebody notifies", async () => {
  const said: string[] = [];
  const log = pino({ level: "warn" }, { write: (line) => said.push(JSON.parse(line).msg) });
  const worker = await startTestWorker(database, { log });
  const work = async () => {
    await database.owner.query("select graphile_worker.add_job('purge_expired')");
    await until(
      async () =>
        (
          await database.owner.query(
            "select from graphile_worker.jobs where task_identifier = 'purge_expired'",
          )
        ).rowCount,
      (count) => count === 0,
    );
  };
  try {
    await work();
    // As any login can, an analyst's, too.
    await database.owner.query(`notify "worker:migrate", '{"breaking": true, "migrationNumber": 999}'`);
    await work();
    await database.owner.query(`notify "jobs:insert", 'no JSON'`);
    await work();
    expect(said).toEqual([]);
  } finally {
    await worker.stop();
  }
});
