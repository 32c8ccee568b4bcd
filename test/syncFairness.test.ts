import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "@jest/globals";
import type { Worker } from "../src/worker/runner.ts";
import { withTenant } from "../src/worker/withTenant.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import {
  type Answer,
  pagesUpTo,
  type ScriptedProvider,
  startScriptedProvider,
} from "./support/scriptedProvider.ts";
import { connect, watchSyncs } from "./support/syncs.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";
import { startTestWorker } from "./support/worker.ts";

const CONFIG = { environment: "simulator" };
const MANY = process.env.ERP_TEST_LONG ? 200 : 24;

let database: TestDatabase;
let provider: ScriptedProvider;
const workers: Worker[] = [];
let count = 0;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());
beforeEach(async () => {
  provider = await startScriptedProvider();
});
afterEach(async () => {
  for (const worker of workers.splice(0)) await worker.stop();
  await provider.close();
  await database.owner.query("update integrations set enabled = false");
});
const work = async (howMany = 1, concurrency = 2) => {
  for (let one = 0; one < howMany; one++)
    workers.push(
      await startTestWorker(database, {
        simulatorUrl: provider.url,
        connectors: provider.connectors,
        concurrency,
      }),
    );
};
const tenant = async (config: object = CONFIG, token = `token-${count}`) => {
  const made = await createTenant(database.owner, `t${++count}`);
  await connect(database, made, { config, credentials: { token } });
  return made;
};
/** One more integration of a tenant, with credentials. */
const addIntegration = async ({ id }: TestTenant, token: string) => {
  const { rows } = await database.owner.query(
    "insert into integrations (tenant_id, name, provider) values ($1, 'One more', 'square') returning id",
    [id],
  );
  const integrationId: string = rows[0].id;
  await connect(database, { id, integrationId }, { config: CONFIG, credentials: { token } });
  return integrationId;
};
/** A way for the provider to keep callers waiting. */
function makeDoor() {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open };
}

it("never lets two workers read one stream: the one that was overtaken writes nothing more", async () => {
  const acme = await tenant();
  const sync = watchSyncs(database, acme.integrationId);
  const door = makeDoor();
  let first = true;
  provider.script.answer = async (asked) => {
    if (first) {
      first = false;
      await door.opened;
      return { records: [999], next: 500, done: true };
    }
    return pagesUpTo(30)(asked);
  };
  await work(2);
  await sync.request();
  await until(
    async () => provider.asked.length,
    (calls) => calls === 1,
  );
  // A second job for the same run finds the lease taken, and waits.
  const [run] = await sync.runs();
  await database.owner.query(
    "select graphile_worker.add_job('sync_stream', json_build_object('runId', $1::text))",
    [run.id],
  );
  await until(
    async () => (await sync.runs())[0],
    (seen) => seen.waits_for === "turn",
  );
  expect(provider.asked).toHaveLength(1);
  // The first worker is away for longer than its lease.
  await database.owner.query(
    "update app_private.sync_leases set token = gen_random_uuid(), expires_at = now()",
  );
  await sync.hurry();
  expect(await sync.lastRun()).toMatchObject({ state: "succeeded", records_accepted: "30" });
  door.open();
  for (const worker of workers.splice(0)) await worker.stop();
  expect(await sync.events()).not.toContain("orders:999");
  expect(await sync.stream()).toMatchObject({ cursor: { position: 30 } });
});

/** A run of `orders`, as a worker would find it. */
async function openRun() {
  const acme = await tenant();
  const sync = watchSyncs(database, acme.integrationId);
  const asJob = (sql: string, ...values: unknown[]) =>
    withTenant(database.worker, acme.id, "test", (client) => client.query(sql, [acme.id, ...values]));
  await sync.request();
  const job = await database.owner.query("select id from graphile_worker.jobs where key = $1", [
    `sync:${acme.integrationId}`,
  ]);
  await asJob(
    "select app_hidden.open_runs($1, $2, $3, '{orders}', 'manual')",
    acme.integrationId,
    job.rows[0].id,
  );
  const [{ id: run }] = await sync.runs();
  return { acme, sync, asJob, run: run as string };
}

it("cancels a run whose page is being written, after that page", async () => {
  const { acme, sync, asJob, run } = await openRun();
  const token = "00000000-0000-4000-8000-000000000001";
  await asJob("select from app_hidden.begin_run($1, $2, $3)", run, token);
  const holder = await database.owner.connect();
  await holder.query("begin");
  await holder.query("lock table analytics_events in share mode");
  const page = JSON.stringify([
    { eventType: "order", eventName: "o", sourceId: "1", source: `square:${acme.integrationId}` },
  ]);
  const saving = asJob(
    `select app_hidden.save_sync_page($1, $2, $3, '${page}', '[]', '{"position": 1}')`,
    run,
    token,
  );
  const waiting = (count: number) =>
    until(
      async () => (await database.owner.query("select from pg_locks where not granted")).rowCount,
      (found) => found === count,
    );
  await waiting(1);
  const canceling = database.owner.query(
    "select app_private.end_run($1, $2, 'canceled', null, 'It was canceled.')",
    [acme.id, run],
  );
  await waiting(2);
  await holder.query("rollback");
  holder.release();
  await Promise.all([saving, canceling]);
  expect(await sync.events()).toEqual(["1"]);
  expect(await sync.runs()).toMatchObject([{ state: "canceled", pages: "1" }]);
});

it("keeps the newest thousand of what a stream cannot read", async () => {
  const { acme, asJob, run } = await openRun();
  const token = "00000000-0000-4000-8000-000000000001";
  await asJob("select from app_hidden.begin_run($1, $2, $3)", run, token);
  const rejected = (from: number) =>
    JSON.stringify(
      Array.from({ length: 700 }, (_, index) => ({
        sourceId: `odd${from + index}`,
        reason: "odd",
        record: {},
      })),
    );
  for (const from of [0, 700])
    await asJob("select app_hidden.save_sync_page($1, $2, $3, '[]', $4, '{}')", run, token, rejected(from));
  const { rows } = await database.owner.query(
    "select source_id from rejected_records where integration_id = $1 order by id",
    [acme.integrationId],
  );
  expect(rows.map(({ source_id }) => source_id)).toEqual(
    Array.from({ length: 1_000 }, (_, index) => `odd${400 + index}`),
  );
});

it("waits for a limit whose name is long, too", async () => {
  const scopes = ["a", "b"].map((end) => `account:${"x".repeat(300)}${end}`);
  const pauseOf = async (scope: string | undefined) =>
    (await database.worker.query("select app_hidden.provider_pause('p', $1) as ms", [[scope]])).rows[0].ms;
  await database.worker.query("select app_hidden.pause_provider('p', $1, 60000, 'x')", [[scopes[0]]]);
  expect([await pauseOf(scopes[0]), await pauseOf(scopes[1])]).toEqual([expect.any(String), null]);
});

it("refuses every write of a worker whose lease went to another one", async () => {
  const { acme, sync, asJob, run } = await openRun();
  const [older, newer] = ["00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"];
  const begin = async (token: string) =>
    (await asJob("select from app_hidden.begin_run($1, $2, $3)", run, token)).rowCount;
  const page = JSON.stringify([
    { eventType: "order", eventName: "o", sourceId: "late", source: `square:${acme.integrationId}` },
  ]);
  const save = `select app_hidden.save_sync_page($1, $2, $3, '${page}', '[]', '{"position": 1}')`;
  expect(await begin(older)).toBe(1);
  expect(await begin(newer)).toBe(0);
  await database.owner.query("update app_private.sync_leases set expires_at = now() - interval '1 second'");
  expect(await begin(newer)).toBe(1);
  for (const write of [
    save,
    "select app_hidden.pause_run($1, $2, $3, 0, 0)",
    "select app_hidden.retry_run($1, $2, $3, 0, 'internal', 'x')",
    "select app_hidden.finish_run($1, $2, $3, 0, 'internal', 'x')",
    "select app_hidden.sweep_run($1, $2, $3)",
    "select app_hidden.begin_refresh($1, $2, $3, 1)",
    "select app_hidden.end_refresh($1, $2, $3, 1, 1, '\\x00')",
  ])
    await expect(asJob(write, run, older)).rejects.toMatchObject({ code: "EA409", detail: "superseded" });
  const renew = async (token: string) =>
    (await asJob("select app_hidden.renew_lease($1, $2, $3) as held", run, token)).rows[0].held;
  expect(await renew(older)).toBe(false);
  expect(await renew(newer)).toBe(true);
  expect(await sync.events()).toEqual([]);
  await asJob(save, run, newer);
  expect(await sync.events()).toEqual(["late"]);
  expect(await sync.runs()).toMatchObject([{ state: "running", pages: "1", attempts: 0, retries: 1 }]);
});

it("calls nobody while a provider says to wait, for whoever shares the limit; others go on", async () => {
  const one = await tenant({ ...CONFIG, app: "shared" }, "token-a");
  const other = await tenant({ ...CONFIG, app: "shared" }, "token-b");
  const third = await tenant({ ...CONFIG, app: "shared" }, "token-c");
  const [syncOne, syncOther, syncThird] = [one, other, third].map(({ integrationId }) =>
    watchSyncs(database, integrationId),
  ) as [ReturnType<typeof watchSyncs>, ReturnType<typeof watchSyncs>, ReturnType<typeof watchSyncs>];
  let pausedAt = 0;
  let answers = 0;
  provider.script.answer = (asked): Answer => {
    if (asked.token === "token-a" && ++answers === 2) {
      pausedAt = Date.now();
      return { status: 429, retryAfterMs: 3_000, scope: "app:shared" };
    }
    return pagesUpTo(30)(asked);
  };
  await work(2);
  await syncOne.request();
  await until(
    async () => (await syncOne.runs())[0],
    (run) => run?.waits_for === "provider",
  );
  await syncOther.request();
  await syncThird.request();
  expect(await syncThird.ended()).toMatchObject({ sync_status: "succeeded" });
  const waiting = await until(
    async () => (await syncOther.runs())[0],
    (run) => run?.waits_for === "provider",
  );
  expect(waiting).toMatchObject({ attempts: 0, retries: 0, calls: "0" });
  // Even to those who do not wait until then.
  await syncOther.hurry();
  expect(await syncOne.ended()).toMatchObject({ sync_status: "succeeded" });
  expect(await syncOther.ended()).toMatchObject({ sync_status: "succeeded" });
  const early = provider.asked.filter(
    ({ at, token }) => token !== "token-c" && at > pausedAt + 50 && at < pausedAt + 3_000,
  );
  expect(early).toEqual([]);
  expect(await syncOne.runs()).toMatchObject([{ attempts: 0, retries: 0, records_accepted: "30" }]);
});

it("heeds what a page says of limits, although it was a good one", async () => {
  const acme = await tenant();
  const sync = watchSyncs(database, acme.integrationId);
  let pausedAt = 0;
  provider.script.answer = (asked) => {
    if (asked.position === 10 && !pausedAt) pausedAt = Date.now();
    const pauses = [{ scope: "app:app", milliseconds: 2_000, reason: "95 % are used." }];
    return { ...pagesUpTo(30)(asked), ...(asked.position === 10 ? { pauses } : {}) };
  };
  await work();
  await sync.request();
  expect(await sync.ended()).toMatchObject({ sync_status: "succeeded" });
  const last = provider.asked.at(-1);
  expect(last?.position).toBe(20);
  expect(last?.at).toBeGreaterThanOrEqual(pausedAt + 2_000);
  const { rows } = await database.owner.query(
    "select scope, reason from app_private.provider_limits where scope like 'app:app:%'",
  );
  expect(rows).toEqual([
    { scope: expect.stringMatching(/^app:app:[0-9a-f]{16}$/), reason: "95 % are used." },
  ]);
});

it(`syncs ${MANY} integrations that are due at once, none of them twice`, async () => {
  const made: TestTenant[] = [];
  for (let one = 0; one < MANY; one++) made.push(await tenant());
  await database.owner.query("update integrations set enabled = true where tenant_id = any ($1)", [
    made.map(({ id }) => id),
  ]);
  provider.script.answer = pagesUpTo(20);
  // Several schedules at the same time enqueue each of them once.
  const due = () => database.worker.query("select app_hidden.request_due_syncs() as count");
  const counts = (await Promise.all([due(), due(), due()])).map(({ rows }) => rows[0].count as number);
  expect(counts.reduce((sum, one) => sum + one)).toBe(MANY);
  await work(4, 1);
  const done = async () => {
    const { rows } = await database.owner.query(
      "select state, pages::integer, count(*)::integer from integration_runs r join integrations i on i.id = r.integration_id where i.enabled group by 1, 2",
    );
    return rows;
  };
  expect(
    await until(
      done,
      (rows) => rows.length === 1 && rows[0].count === MANY && rows[0].state === "succeeded",
      120_000,
    ),
  ).toEqual([{ state: "succeeded", pages: 2, count: MANY }]);
  expect(provider.asked).toHaveLength(MANY * 2);
  // Each has its own time for the next.
  const { rows } = await database.owner.query(
    "select count(distinct next_sync_at)::integer as times, max(next_sync_at) - now() <= interval '1 hour' as within from integrations where enabled",
  );
  expect(rows[0].times).toBeGreaterThan(MANY / 2);
  expect(rows[0].within).toBe(true);
}, 180_000);

it("gives a tenant no more workers than its plan says, and others theirs", async () => {
  const big = await tenant();
  const small = await tenant();
  await database.owner.query("update tenants set max_integrations = 20 where id = $1", [big.id]);
  const ids = [big.integrationId];
  for (let one = 0; one < 5; one++) ids.push(await addIntegration(big, "big"));
  const door = makeDoor();
  let atWork = 0;
  let most = 0;
  provider.script.answer = async (asked) => {
    if (asked.token === "small") return pagesUpTo(10)(asked);
    most = Math.max(most, ++atWork);
    await door.opened;
    atWork--;
    return pagesUpTo(10)(asked);
  };
  await connect(database, big, { credentials: { token: "big" }, version: 2 });
  await connect(database, small, { credentials: { token: "small" }, version: 2 });
  await work(1, 4);
  for (const id of ids) await watchSyncs(database, id).request();
  await until(
    async () => atWork,
    (now) => now === 1,
  );
  const sync = watchSyncs(database, small.integrationId);
  await sync.request();
  expect(await sync.ended()).toMatchObject({ sync_status: "succeeded" });
  // Of the two turns of a trial, a first sync leaves one for those that are soon over.
  expect(most).toBe(1);
  door.open();
  for (const id of ids)
    expect(await watchSyncs(database, id).ended()).toMatchObject({ sync_status: "succeeded" });
  expect(most).toBe(1);
}, 60_000);

it("lets a sync pass that is soon over while a backfill waits in line", async () => {
  const acme = await tenant();
  const sync = watchSyncs(database, acme.integrationId);
  provider.script.answer = pagesUpTo(10);
  await sync.request();
  await work();
  await sync.lastRun();
  for (const worker of workers.splice(0)) await worker.stop();
  await database.owner.query(
    `select app_private.open_run(tenant_id, id, 'full_refresh'), app_private.open_run(tenant_id, id, 'manual')
       from integration_streams where integration_id = $1`,
    [acme.integrationId],
  );
  const jobs = await database.owner.query(
    `select r.kind, j.priority from graphile_worker.jobs j join integration_runs r on j.key = 'run:' || r.id
      where r.integration_id = $1 order by j.priority`,
    [acme.integrationId],
  );
  expect(jobs.rows).toEqual([
    { kind: "incremental", priority: 0 },
    { kind: "full_refresh", priority: 10 },
  ]);
});
