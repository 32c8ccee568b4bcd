import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { pino } from "pino";
import type { Worker } from "../src/worker/runner.ts";
import { withTenant } from "../src/worker/withTenant.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { echo } from "./support/echo.ts";
import type { TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";
import { createEcho, deliver, PUBLIC_URL } from "./support/webhooks.ts";
import { startTestWorker } from "./support/worker.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let worker: Worker | undefined;
const lines: string[] = [];
const log = pino({ level: "debug" }, { write: (line: string) => lines.push(line) });

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database, { connectors: [echo], publicUrl: PUBLIC_URL });
});
afterAll(async () => {
  await api.close();
  await database.drop();
});
let count = 0;
beforeEach(async () => {
  lines.length = 0;
  acme = await createEcho(database.owner, `acme${++count}`);
});
afterEach(async () => {
  await worker?.stop();
  worker = undefined;
});

const work = async () => {
  worker = await startTestWorker(database, { connectors: [echo], log });
};
const rows = async (sql: string, values: unknown[] = [acme.integrationId]) =>
  (await database.owner.query(sql, values)).rows;
const deliveries = () =>
  rows(
    "select delivery_id, state, attempts, error from app_private.webhook_deliveries where integration_id = $1 order by received_at",
  );
const settled = () => until(deliveries, (all) => all.every(({ state }) => state !== "pending"));
const events = () =>
  rows(
    "select source_id, value::text from analytics_events where tenant_id = $1 and source = $2 order by source_id",
    [acme.id, `echo:${acme.integrationId}`],
  );
const things = (...list: [id: string, version: number, value: string][]) =>
  list.map(([id, version, value]) => ({ id, version, value }));
const send = async (body: object) => expect((await deliver(api, acme.integrationId, body)).status).toBe(200);
const syncJob = () =>
  rows("select payload, run_at > now() as waits from graphile_worker._private_jobs where key = $1", [
    `webhooks:${acme.integrationId}`,
  ]);
/** As if the burst were over. */
const elapse = () =>
  database.owner.query(
    "update graphile_worker._private_jobs set run_at = now() where key = $1 and locked_at is null",
    [`webhooks:${acme.integrationId}`],
  );

it("turns what comes, in whatever order and however often, into the newest events of its own tenant", async () => {
  await work();
  await send({ id: "b", things: things(["1", 2, "20.00"], ["2", 1, "5.00"]) });
  await send({ id: "a", things: things(["1", 1, "10.00"]) });
  await send({ id: "b", things: things(["1", 2, "20.00"]) });
  expect(await settled()).toEqual([
    { delivery_id: "b", state: "done", attempts: 1, error: null },
    { delivery_id: "a", state: "done", attempts: 1, error: null },
  ]);
  expect(await events()).toEqual([
    { source_id: "thing:1", value: "20.00" },
    { source_id: "thing:2", value: "5.00" },
  ]);
  const audit = await rows(
    "select distinct actor_kind, actor_name from audit_logs where tenant_id = $1 and action = 'events.written'",
    [acme.id],
  );
  expect(audit).toEqual([{ actor_kind: "job", actor_name: "process_webhook" }]);
});

it("keeps aside what is odd, with the reason, and takes the rest", async () => {
  await work();
  await send({ id: "1", things: things(["1", 1, "1.00"], ["2", 1, "not a number"]), odd: [{ is: "odd" }] });
  await settled();
  expect(await events()).toEqual([{ source_id: "thing:1", value: "1.00" }]);
  const unparsable = await rows(
    "select stream, source_id, reason from rejected_records where integration_id = $1 order by reason",
  );
  expect(unparsable).toEqual([
    { stream: "webhooks", source_id: null, reason: "is odd" },
    { stream: "webhooks", source_id: "thing:2", reason: expect.stringContaining("is not a decimal") },
  ]);
});

it("ends a delivery that nobody can read, and says so without a word of it", async () => {
  await work();
  await send({ id: "1", things: "canary-4111" });
  await send({ id: "2", things: [{ id: "canary-4111" }] });
  expect(await settled()).toEqual(
    ["1", "2"].map((id) => ({
      delivery_id: id,
      state: "failed",
      attempts: 1,
      error: expect.stringContaining("It does not fit: things"),
    })),
  );
  const traces = await rows("select last_error from graphile_worker._private_jobs", []);
  expect(JSON.stringify(traces) + lines.join() + JSON.stringify(await deliveries())).not.toContain("canary");
  expect(lines.join()).toContain("a webhook cannot be read");
});

it.each([
  ["disabled", "update integrations set status = 'DISABLED' where tenant_id = $1"],
  ["of a tenant that is suspended", "update tenants set status = 'SUSPENDED' where id = $1"],
])("writes nothing for an integration that is %s by then", async (_case, statement) => {
  await send({ id: "1", things: things(["1", 1, "1.00"]) });
  await database.owner.query(statement, [acme.id]);
  await work();
  expect(await settled()).toEqual([expect.objectContaining({ state: "skipped" })]);
  expect(await events()).toEqual([]);
});

it("does a delivery once, though two workers have read it", async () => {
  await send({ id: "1", things: things(["1", 1, "1.00"]), streams: ["things"] });
  const [{ id }] = await rows("select id from app_private.webhook_deliveries where integration_id = $1");
  const inTenant = (text: string, values: unknown[] = []) =>
    withTenant(database.worker, acme.id, "test", (client) =>
      client.query(text, [acme.id, acme.integrationId, id, ...values]),
    );
  for (const _worker of [1, 2])
    expect((await inTenant("select * from app_hidden.begin_webhook($1, $2, $3)")).rowCount).toBe(1);
  const event = { eventType: "order", eventName: "order_completed", sourceId: "1", source: "echo:x" };
  await Promise.all(
    ["1.00", "2.00"].map((value) =>
      inTenant("select app_hidden.finish_webhook($1, $2, $3, $4, '[]', $5)", [
        JSON.stringify([{ ...event, value }]),
        ["things"],
      ]),
    ),
  );
  expect((await inTenant("select * from app_hidden.begin_webhook($1, $2, $3)")).rowCount).toBe(0);
  const written = "select from audit_logs where tenant_id = $1 and action = 'events.written'";
  expect(await rows(written, [acme.id])).toHaveLength(1);
  expect((await syncJob()).map(({ payload }) => payload)).toEqual([
    [{ integrationId: acme.integrationId, stream: "things" }],
  ]);
});

it("asks for one sync after a burst that names streams, of all of them together", async () => {
  await work();
  const bursts = { 1: [], 2: ["others", "things", "unknown"], 3: ["others"] };
  for (const [id, streams] of Object.entries(bursts)) await send({ id, streams });
  await settled();
  const [job, ...others] = await syncJob();
  expect(others).toEqual([]);
  expect(job.waits).toBe(true);
  expect([...new Set(job.payload.map(({ stream }: { stream: string }) => stream))].sort()).toEqual([
    "others",
    "things",
  ]);
  const requests = () =>
    rows(
      `select changes -> 'after' ->> 'sync_status' as status from audit_logs
        where resource_id = $1::uuid::text and actor_name = 'sync_after_webhooks'`,
    );
  expect(await requests()).toEqual([]);
  await elapse();
  expect(await until(requests, (all) => all.length > 0)).toEqual([{ status: "queued" }]);
  expect(await until(syncJob, (jobs) => jobs.length === 0)).toEqual([]);
});

it("forgets bodies after a week and deliveries after a month, but none that is young", async () => {
  await work();
  for (const id of ["1", "2", "3"]) await send({ id });
  await settled();
  const age = (id: string, days: number) =>
    database.owner.query(
      "update app_private.webhook_deliveries set received_at = now() - make_interval(days => $3) where integration_id = $1 and delivery_id = $2",
      [acme.integrationId, id, days],
    );
  await age("1", 31);
  await age("2", 8);
  await age("3", 6);
  await database.owner.query("select graphile_worker.add_job('purge_secrets')");
  const left = () =>
    rows(
      "select delivery_id, body is null as bodiless from app_private.webhook_deliveries where integration_id = $1 order by 1",
    );
  expect(await until(left, (all) => all.length === 2 && all.some(({ bodiless }) => bodiless))).toEqual([
    { delivery_id: "2", bodiless: true },
    { delivery_id: "3", bodiless: false },
  ]);
  // What is remembered is still a duplicate.
  await send({ id: "2" });
  expect(await left()).toHaveLength(2);
});
