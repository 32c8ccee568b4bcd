import type { ChildProcess } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { generateDataKey, makeKeyRing, seal } from "../src/crypto/keyRing.ts";
import type { Worker } from "../src/worker/runner.ts";
import { startSquareSimulator } from "./simulators/square.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { passAMinute } from "./support/passAMinute.ts";
import { secret, secretKey } from "./support/secrets.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";
import { startTestWorker } from "./support/worker.ts";
import { killProcess, spawnWorker } from "./support/workerProcess.ts";

const ACCESS_TOKEN = secret("an access token");
const encryptionKey = { id: "test", key: secretKey("a key-encryption key") };
const keyRing = makeKeyRing([encryptionKey]);

let database: TestDatabase;
let api: TestApi;
let dataDir: string;
let simulator: Awaited<ReturnType<typeof startSquareSimulator>>;
let acme: TestTenant;
let admin: string;
const children: ChildProcess[] = [];
let worker: Worker | undefined;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  dataDir = await mkdtemp(join(tmpdir(), "erp-sync-"));
});
afterAll(async () => {
  await api.close();
  await database.drop();
  await rm(dataDir, { recursive: true });
});
let count = 0;
beforeEach(async () => {
  acme = await createTenant(database.owner, `acme${++count}`);
  admin = await api.signIn(acme.slug, "admin");
  await connect(acme);
});
afterEach(async () => {
  await worker?.stop();
  worker = undefined;
  await Promise.all(children.splice(0).map(killProcess));
  await simulator?.close();
});

/** Settings and sealed credentials for the simulator. */
async function connect({ id: tenantId, integrationId }: TestTenant, accessToken = ACCESS_TOKEN) {
  const dataKey = generateDataKey();
  const { kekId, wrapped } = keyRing.wrap(dataKey, { tenantId, version: 1 });
  await database.owner.query(
    "insert into app_private.tenant_keys (tenant_id, kek_id, wrapped_key) values ($1, $2, $3)",
    [tenantId, kekId, wrapped],
  );
  const place = { tenantId, table: "integration_credentials", rowId: integrationId, version: 1 };
  await database.owner.query(
    "insert into app_private.integration_credentials (tenant_id, integration_id, key_version, ciphertext) values ($1, $2, 1, $3)",
    [tenantId, integrationId, seal(JSON.stringify({ accessToken }), dataKey, place)],
  );
  const config = { environment: "simulator", locationIds: ["L1"], pageSize: 50, backfillDays: 60 };
  await database.owner.query("update integrations set config = $2 where id = $1", [
    integrationId,
    JSON.stringify(config),
  ]);
}
const simulate = async (options: Partial<Parameters<typeof startSquareSimulator>[0]> = {}) => {
  simulator = await startSquareSimulator({
    port: 0,
    accessToken: ACCESS_TOKEN,
    locations: ["L1"],
    orders: 300,
    days: 5,
    latencyMs: 0,
    ...options,
  });
};
const work = async () => {
  worker = await startTestWorker(database, { keyRing, simulatorUrl: simulator.url });
};
const SYNC = /* GraphQL */ `
  mutation ($id: UUID!) { syncIntegration(input: { integrationId: $id }) { integration { id syncStatus } } }
`;
const requestSync = () => api.query(SYNC, { token: admin, variables: { id: acme.integrationId } });
const integration = async () => {
  const { rows } = await database.owner.query("select * from integrations where id = $1", [
    acme.integrationId,
  ]);
  return rows[0];
};
const ended = (timeoutMs?: number) =>
  until(integration, ({ sync_status }) => ["succeeded", "failed"].includes(sync_status), timeoutMs);
const events = async () => {
  const { rows } = await database.owner.query(
    `select event_type, count(*)::integer, count(distinct source_id)::integer as records, sum(value)::text
       from analytics_events where tenant_id = $1 and source like 'square:%' group by 1 order by 1`,
    [acme.id],
  );
  return rows;
};
/** What the simulator has on record. */
const expected = () => ({
  order: simulator.records("orders").length,
  payment: simulator.records("payments").length,
  refund: simulator.records("refunds").length,
});
const tally = async () => Object.fromEntries((await events()).map((row) => [row.event_type, row.count]));

/** Of this integration, that wait or run. */
const jobs = async () => {
  const { rows } = await database.owner.query(
    `select attempts, extract(epoch from run_at - now())::integer as wait from graphile_worker.jobs
      where (key = 'sync:' || $1::uuid or key in (select 'run:' || id from integration_runs where integration_id = $1))
        and attempts < max_attempts`,
    [acme.integrationId],
  );
  return rows;
};

it("pulls every page once; a second sync adds nothing; the audit log tells both", async () => {
  await simulate();
  await work();
  const requested = await requestSync();
  expect(requested.data.syncIntegration.integration).toEqual({
    id: acme.integrationId,
    syncStatus: "queued",
  });
  expect(await ended()).toMatchObject({ sync_status: "succeeded", sync_error: null, status: "ACTIVE" });
  const first = await events();
  expect(await tally()).toEqual(expected());
  for (const row of first) expect(row.records).toBe(row.count);

  const viewer = await api.signIn(acme.slug, "viewer");
  const { data } = await api.query(
    `{ analyticsEvents(filter: { source: { equalTo: "square:${acme.integrationId}" } }) {
         groupedAggregates(groupBy: [EVENT_TYPE]) { keys sum { value } } } }`,
    { token: viewer },
  );
  const sums = data.analyticsEvents.groupedAggregates.map(
    (group: { keys: string[]; sum: { value: string } }) => [group.keys[0], Number(group.sum.value)],
  );
  expect(Object.fromEntries(sums)).toEqual(
    Object.fromEntries(first.map((row) => [row.event_type, Number(row.sum)])),
  );

  await requestSync();
  await until(integration, ({ sync_status }) => sync_status !== "succeeded");
  expect(await ended()).toMatchObject({ sync_status: "succeeded" });
  expect(await events()).toEqual(first);

  const audit = await database.owner.query(
    `select actor_kind, actor_name, changes -> 'after' ->> 'sync_status' as sync_status
       from audit_logs where resource_id = $1 and changes -> 'after' ->> 'sync_status' is not null order by id`,
    [acme.integrationId],
  );
  const oneSync = [
    { actor_kind: "user", actor_name: `admin@${acme.slug}.test`, sync_status: "queued" },
    { actor_kind: "job", actor_name: "sync_stream", sync_status: "running" },
    { actor_kind: "job", actor_name: "sync_stream", sync_status: "succeeded" },
  ];
  // Between two streams, and two slices, it may be queued again.
  const told = audit.rows
    .filter(({ actor_kind, sync_status }) => actor_kind === "user" || sync_status !== "queued")
    .filter((row, index, all) => row.sync_status !== all[index - 1]?.sync_status);
  expect(told).toEqual([...oneSync, ...oneSync]);
});

it("goes on where it was when its worker is killed in the middle of a page; nothing is lost or doubled", async () => {
  await simulate({ latencyMs: 30, orders: 1500 });
  const start = () => {
    const child = spawnWorker(database, {
      dataDir,
      encryptionKeys: `${encryptionKey.id}:${encryptionKey.key}`,
      simulatorUrl: simulator.url,
    });
    children.push(child);
    return child;
  };
  const doomed = start();
  await requestSync();
  await until(tally, ({ order = 0 }) => order >= 500, 60_000);
  await killProcess(doomed);
  expect((await tally()).order).toBeLessThan(1500);
  expect((await integration()).sync_status).toBe("running");
  await passAMinute(database.owner);
  start();
  expect(await ended(110_000)).toMatchObject({ sync_status: "succeeded" });
  expect(await tally()).toEqual(expected());
  for (const row of await events()) expect(row.records).toBe(row.count);
}, 180_000);

it("stops for good, with a sentence, when the provider refuses the credentials", async () => {
  await simulate({ accessToken: "another" });
  await work();
  await requestSync();
  const { status, sync_status, sync_error } = await ended();
  expect({ status, sync_status }).toEqual({ status: "ERROR", sync_status: "failed" });
  expect(sync_error).toMatch(/Square/);
  expect(await integration()).toMatchObject({ error_class: "needs_reauth" });
  expect(await until(jobs, (left) => left.length === 0)).toEqual([]);
});

it("waits as long as the provider asks, and spends no attempt on it", async () => {
  await simulate({ faults: { kind: "rateLimited", retryAfter: 1800, times: 100 } });
  await work();
  await requestSync();
  const paused = await until(
    jobs,
    (waiting) => waiting.length === 3 && waiting.every(({ wait }) => wait > 60),
  );
  for (const { attempts, wait } of paused) {
    expect(attempts).toBe(0);
    expect(wait).toBeGreaterThan(1700);
    expect(wait).toBeLessThan(1900);
  }
  // Of each stream that was at it; the third heard of it.
  expect(simulator.requests.length).toBeLessThanOrEqual(2);
  expect((await integration()).sync_status).toBe("queued");
});

it("hands the rest on when its worker is stopped, and goes on at once with the next", async () => {
  // Of the test before.
  await database.owner.query("delete from app_private.provider_limits");
  await simulate({ latencyMs: 100, orders: 1500 });
  await work();
  await requestSync();
  await until(tally, ({ order = 0 }) => order >= 200, 60_000);
  await worker?.stop();
  expect((await tally()).order).toBeLessThan(1500);
  for (const { attempts } of await jobs()) expect(attempts).toBe(0);
  expect((await jobs()).length).toBeGreaterThan(0);
  expect((await integration()).sync_status).toBe("queued");
  await work();
  expect(await ended(20_000)).toMatchObject({ sync_status: "succeeded" });
  expect(await tally()).toEqual(expected());
});

it.each([
  ["an integration that was disabled", "update integrations set status = 'DISABLED' where tenant_id = $1"],
  ["a tenant that was suspended", "update tenants set status = 'SUSPENDED' where id = $1"],
])("pulls nothing for %s since the sync was requested", async (_case, statement) => {
  await simulate();
  await requestSync();
  await database.owner.query(statement, [acme.id]);
  await work();
  await until(jobs, (waiting) => waiting.length === 0);
  expect(await tally()).toEqual({});
  expect(simulator.requests).toEqual([]);
});

it("starts the integrations that are due, and no others", async () => {
  const due = () => database.worker.query("select app_hidden.request_due_syncs() as count");
  expect((await due()).rows).toEqual([{ count: 0 }]);
  await database.owner.query("update integrations set enabled = true where id = $1", [acme.integrationId]);
  expect((await due()).rows).toEqual([{ count: 1 }]);
  expect((await due()).rows).toEqual([{ count: 0 }]);
  expect((await integration()).sync_status).toBe("queued");
  await database.owner.query("delete from tenants where id = $1", [acme.id]);
});
