import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "@jest/globals";
import type { Worker } from "../src/worker/runner.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { pagesUpTo, type ScriptedProvider, startScriptedProvider } from "./support/scriptedProvider.ts";
import { connect, watchSyncs } from "./support/syncs.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";
import { startTestWorker } from "./support/worker.ts";

const CONFIG = { environment: "simulator" };

let database: TestDatabase;
let acme: TestTenant;
let provider: ScriptedProvider;
let sync: ReturnType<typeof watchSyncs>;
let worker: Worker | undefined;
let count = 0;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());
beforeEach(async () => {
  acme = await createTenant(database.owner, `acme${++count}`);
  provider = await startScriptedProvider();
  sync = watchSyncs(database, acme.integrationId);
  await connect(database, acme, { config: CONFIG });
});
afterEach(async () => {
  await worker?.stop();
  worker = undefined;
  await provider.close();
});
const work = async () => {
  worker = await startTestWorker(database, {
    simulatorUrl: provider.url,
    connectorFor: provider.connectorFor,
  });
};
/** A first sync of 25 records, so that the stream is there. */
const syncOnce = async (last = 25) => {
  provider.script.answer = pagesUpTo(last);
  await sync.request();
  const ended = await sync.ended();
  provider.asked.length = 0;
  return ended;
};
/** Again and again, until the run is over. */
const untilOver = (kind?: string) =>
  until(
    async () => {
      await sync.hurry();
      return (await sync.runs(kind)).at(-1);
    },
    (run) => run?.ended_at != null,
  );

it("tells what a run did, and where the stream is", async () => {
  await work();
  provider.script.answer = (asked) => ({
    ...pagesUpTo(25)(asked),
    ...(asked.position === 20 ? { highWater: "2026-02-01T00:00:00Z" } : {}),
  });
  await sync.request();
  expect(await sync.ended()).toMatchObject({ status: "ACTIVE", sync_error: null, error_class: null });
  expect(await sync.runs()).toEqual([
    expect.objectContaining({
      trigger: "manual",
      state: "succeeded",
      pages: "3",
      calls: "3",
      retries: 0,
      records_accepted: "25",
      records_duplicate: "0",
      ended_at: expect.any(Date),
    }),
  ]);
  expect(await sync.stream()).toMatchObject({
    state: "succeeded",
    cursor: { position: 25 },
    high_water: new Date("2026-02-01T00:00:00Z"),
    last_success_at: expect.any(Date),
    records_accepted: "25",
  });
  provider.script.answer = () => ({ records: [3, 26, "x"], deleted: [1], next: 26, done: true });
  await sync.request();
  const second = await until(sync.runs, (runs) => runs[1]?.ended_at != null);
  expect(second[1]).toMatchObject({
    records_accepted: "1",
    records_duplicate: "1",
    records_deleted: "1",
    records_rejected: "1",
  });
  expect(await sync.events()).toHaveLength(25);
  const leases = await database.owner.query("select from app_private.sync_leases where tenant_id = $1", [
    acme.id,
  ]);
  expect(leases.rowCount).toBe(0);
});

it("keeps rejected records with the reason, the newest of each, without secrets", async () => {
  await work();
  provider.script.answer = () => ({ records: ["odd", "strange"], done: true });
  for (let time = 1; time <= 2; time++) {
    await sync.request();
    await until(sync.runs, (runs) => runs[time - 1]?.ended_at != null);
  }
  const { rows } = await database.owner.query(
    "select stream, source_id, reason, record from rejected_records where integration_id = $1 order by id",
    [acme.integrationId],
  );
  expect(rows).toEqual(
    ["odd", "strange"].map((id) => ({
      stream: "orders",
      source_id: `orders:${id}`,
      reason: "It is no number.",
      record: { id, token: "***" },
    })),
  );
});

it("gives up after five attempts at a page, and has them all again after the next one", async () => {
  await work();
  let calls = 0;
  provider.script.answer = (asked) =>
    asked.position === 10 && ++calls <= 4
      ? { status: 500, message: "Broken, with token-1 in it." }
      : asked.position === 20
        ? { status: 500, message: "Broken, with token-1 in it." }
        : pagesUpTo(100)(asked);
  await sync.request();
  const run = await untilOver();
  expect(run).toMatchObject({
    state: "failed",
    pages: "2",
    retries: 8,
    attempts: 4,
    error_class: "unreachable",
    error: "Broken, with *** in it.",
  });
  expect(calls).toBe(5);
  expect(provider.asked.filter(({ position }) => position === 20)).toHaveLength(5);
  expect(await sync.integration()).toMatchObject({
    status: "ERROR",
    error_class: "unreachable",
    failing_since: expect.any(Date),
  });
  expect(await sync.stream()).toMatchObject({ state: "failed", cursor: { position: 20 } });
  // The next sync goes on there.
  await syncOnce(30);
  expect(await sync.integration()).toMatchObject({
    status: "ACTIVE",
    error_class: null,
    failing_since: null,
  });
});

it("waits longer after each failure", async () => {
  await work();
  provider.script.answer = () => ({ status: 503 });
  await sync.request();
  const waits: number[] = [];
  for (let failed = 1; failed <= 4; failed++) {
    const run = await until(
      async () => (await sync.runs())[0],
      (seen) => seen?.retries === failed && seen.resumes_at,
    );
    expect(run).toMatchObject({ state: "waiting", waits_for: "retry", error_class: "unreachable" });
    waits.push((run.resumes_at - Date.now()) / 1000);
    await sync.hurry();
  }
  waits.forEach((seconds, index) => {
    expect(seconds).toBeLessThan(5 * 2 ** index * 1.5 + 1);
    expect(seconds).toBeGreaterThan(5 * 2 ** index * 0.5 - 3);
  });
});

it.each([
  ["the same place again", (_asked: { position: number | undefined }) => ({ records: [1], next: 10 })],
  ["a circle", ({ position = 0 }) => ({ records: [1], next: (position + 10) % 70 })],
])("ends a run whose pages lead to %s", async (_case, answer) => {
  await work();
  provider.script.answer = answer;
  await sync.request();
  expect(await sync.lastRun()).toMatchObject({ state: "failed", error_class: "not_moving", retries: 0 });
  expect(provider.asked.length).toBeLessThan(30);
  expect(await sync.integration()).toMatchObject({ status: "ERROR", error_class: "not_moving" });
});

it("stops at once when the credentials are refused, and waits for new ones", async () => {
  await work();
  await syncOnce();
  provider.script.answer = () => ({ status: 401, message: "The token was revoked." });
  await database.owner.query("update integrations set enabled = true where id = $1", [acme.integrationId]);
  const due = async () =>
    (await database.worker.query("select app_hidden.request_due_syncs() as count")).rows[0].count;
  expect(await due()).toBe(1);
  await until(sync.integration, ({ error_class }) => error_class === "needs_reauth");
  expect(await sync.integration()).toMatchObject({
    status: "ERROR",
    sync_status: "failed",
    sync_error: "The token was revoked.",
  });
  await database.owner.query("update integrations set next_sync_at = null where id = $1", [
    acme.integrationId,
  ]);
  expect(await due()).toBe(0);
  expect(provider.asked).toHaveLength(1);

  // A key that is rotated seals the same credentials again.
  const reseal =
    "update app_private.integration_credentials set ciphertext = ciphertext where tenant_id = $1";
  await database.owner.query(reseal, [acme.id]);
  expect(await due()).toBe(0);
  await connect(database, acme, { credentials: { token: "token-2" }, version: 2 });
  expect(await sync.integration()).toMatchObject({ status: "ACTIVE", error_class: null, sync_error: null });
  provider.script.answer = pagesUpTo(30);
  expect(await due()).toBe(1);
  await until(sync.integration, ({ sync_status }) => sync_status === "succeeded");
  expect(provider.asked.at(-1)?.token).toBe("token-2");
});

it("says which setting, credential or cursor does not fit, and calls nobody", async () => {
  await work();
  await syncOnce();
  const nextRun = async () => {
    const before = (await sync.runs()).length;
    await sync.request();
    const runs = await until(sync.runs, (seen) => seen.length > before && seen.at(-1).ended_at != null);
    return runs.at(-1);
  };
  await database.owner.query(
    `update integration_streams set cursor = '{"position": "x"}' where integration_id = $1`,
    [acme.integrationId],
  );
  expect(await nextRun()).toMatchObject({
    error_class: "invalid_cursor",
    error: expect.stringMatching(/position/),
  });
  await database.owner.query("update integration_streams set cursor = null where integration_id = $1", [
    acme.integrationId,
  ]);
  await database.owner.query(`update integrations set config = '{"environment": "moon"}' where id = $1`, [
    acme.integrationId,
  ]);
  expect(await nextRun()).toMatchObject({
    error_class: "invalid_configuration",
    error: expect.stringMatching(/environment/),
  });
  await connect(database, acme, { config: CONFIG, credentials: { secret: "x" }, version: 2 });
  expect(await nextRun()).toMatchObject({
    error_class: "needs_reauth",
    error: expect.stringMatching(/token/),
  });
  expect(provider.asked).toHaveLength(0);
});

it("reads a range beside the syncs, whose cursor it leaves alone", async () => {
  await work();
  await syncOnce();
  const since = "2025-11-01T00:00:00.000Z";
  const before = "2025-12-01T00:00:00.000Z";
  provider.script.answer = ({ position = 100 }) => ({
    records: [position],
    next: position + 1,
    done: position === 103,
  });
  const client = await database.owner.connect();
  await client.query(
    `select set_config('app.tenant_id', $1, false), set_config('app.permissions', 'integrations:manage', false)`,
    [acme.id],
  );
  const backfill = (...values: unknown[]) =>
    client.query("select app_hidden.request_backfill($1, $2, 'orders', $3, $4) as id", [
      acme.id,
      acme.integrationId,
      ...values,
    ]);
  await expect(backfill(before, since)).rejects.toMatchObject({ code: "EA400" });
  await backfill(since, before);
  client.release(true);
  expect(await sync.lastRun("backfill")).toMatchObject({
    state: "succeeded",
    trigger: "backfill",
    cursor: { position: 104 },
    records_accepted: "4",
  });
  expect(provider.asked.map((asked) => [asked.position, asked.since, asked.until])).toEqual(
    [undefined, 101, 102, 103].map((position) => [position, since, before]),
  );
  expect(await sync.stream()).toMatchObject({ cursor: { position: 25 }, state: "succeeded" });
});

it("after a full refresh deletes what the provider no longer has, and only that", async () => {
  await work();
  await syncOnce(40);
  // Another stream's, one from before what was read, and one that comes during the refresh.
  const write = (sourceId: string, timestamp: string) =>
    database.owner.query("select app_hidden.write_events($1, $2)", [
      acme.id,
      JSON.stringify([
        { eventType: "order", eventName: "o", source: `square:${acme.integrationId}`, sourceId, timestamp },
      ]),
    ]);
  await write("refunds:1", "2026-01-02T00:00:00Z");
  await write("orders:old", "2025-12-01T00:00:00Z");
  provider.script.answer = async ({ position = 0 }) => {
    if (position === 10) await write("orders:new", "2026-01-03T00:00:00Z");
    const records = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
      .map((id) => id + position)
      .filter((id) => id !== 7 && id !== 33);
    return {
      records: position === 0 ? [...records, "odd"] : records,
      next: position + 10,
      done: position === 30,
      ...(position === 30 ? { complete: { sourceIdPrefix: "orders:", since: "2026-01-01T00:00:00Z" } } : {}),
    };
  };
  await sync.request(null, "full_refresh");
  expect(await sync.lastRun("full_refresh")).toMatchObject({
    state: "succeeded",
    records_deleted: "2",
    records_duplicate: "38",
    error: null,
  });
  const left = await sync.events();
  expect(left).toHaveLength(41);
  for (const gone of ["orders:7", "orders:33"]) expect(left).not.toContain(gone);
  for (const kept of ["refunds:1", "orders:old", "orders:new", "orders:8"]) expect(left).toContain(kept);
  expect(await sync.stream()).toMatchObject({ cursor: { position: 40 } });
  const seen = await database.owner.query("select from app_private.refresh_seen where tenant_id = $1", [
    acme.id,
  ]);
  expect(seen.rowCount).toBe(0);
});

it("deletes nothing when a full refresh finds most records gone", async () => {
  await work();
  await syncOnce(250);
  provider.script.answer = () => ({
    records: [1],
    done: true,
    complete: { sourceIdPrefix: "orders:", since: "2026-01-01T00:00:00Z" },
  });
  await sync.request(null, "full_refresh");
  expect(await sync.lastRun("full_refresh")).toMatchObject({
    state: "failed",
    error_class: "suspicious_deletion",
  });
  expect(await sync.events()).toHaveLength(250);
});

it("asks for new credentials one run at a time, and saves them before anybody uses them", async () => {
  const streams = ["orders", "refunds", "payouts"];
  await provider.close();
  provider = await startScriptedProvider(streams);
  await connect(database, acme, {
    config: CONFIG,
    credentials: { token: "token-1", refreshToken: "refresh-1" },
    version: 2,
  });
  await database.owner.query("update tenants set plan_type = 'business' where id = $1", [acme.id]);
  let refreshes = 0;
  provider.script.refresh = async (refreshToken) => {
    // A provider that ends the old ones: whoever asks with them again has lost the account.
    if (refreshToken !== "refresh-1") return undefined as never;
    refreshes++;
    return { token: "token-2", refreshToken: "refresh-2" };
  };
  provider.script.answer = (asked) => (asked.token === "token-2" ? pagesUpTo(20)(asked) : { status: 401 });
  await work();
  await sync.request();
  const ended = await until(
    async () => {
      await sync.hurry();
      return sync.integration();
    },
    ({ sync_status }) => sync_status === "succeeded" || sync_status === "failed",
  );
  expect(ended).toMatchObject({ sync_status: "succeeded", error_class: null });
  expect(refreshes).toBe(1);
  expect(new Set(provider.asked.map(({ token }) => token))).toEqual(new Set(["token-2"]));
  const { rows } = await database.owner.query(
    "select version from app_private.integration_credentials where tenant_id = $1",
    [acme.id],
  );
  expect(rows).toEqual([{ version: 3 }]);
});

it("takes a job's tenant from the row, whatever the payload says", async () => {
  const globex = await createTenant(database.owner, `globex${count}`);
  provider.script.answer = pagesUpTo(5);
  await database.owner.query(
    "select graphile_worker.add_job('sync_integration', json_build_object('integrationId', $1::text, 'tenantId', $2::text), job_key => 'sync:' || $1::text)",
    [acme.integrationId, globex.id],
  );
  await work();
  await sync.lastRun();
  const { rows } = await database.owner.query(
    "select tenant_id, count(*)::integer from analytics_events where source like 'square:%' and tenant_id in ($1, $2) group by 1",
    [acme.id, globex.id],
  );
  expect(rows).toEqual([{ tenant_id: acme.id, count: 5 }]);
});

it("does another run after one during which a webhook told of a change", async () => {
  await work();
  await syncOnce();
  let called = 0;
  provider.script.answer = async () => {
    if (++called === 1) await sync.request(["orders"], "webhook");
    return { records: [100 + called], next: 100 + called, done: true };
  };
  await sync.request();
  const runs = await until(sync.runs, (seen) => seen.length === 3 && seen.every(({ ended_at }) => ended_at));
  expect(runs.map(({ trigger }) => trigger)).toEqual(["manual", "manual", "webhook"]);
  expect(called).toBe(2);
});

it("ends what breaks off five times at the same place, and forgets runs after 90 days", async () => {
  await sync.request();
  const client = await database.owner.connect();
  await client.query("select set_config('app.tenant_id', $1, false)", [acme.id]);
  const job = await client.query("select id::text from graphile_worker.jobs where key = $1", [
    `sync:${acme.integrationId}`,
  ]);
  await client.query("select app_hidden.open_runs($1, $2, $3, '{orders}', 'manual')", [
    acme.id,
    acme.integrationId,
    job.rows[0].id,
  ]);
  const [run] = await sync.runs();
  for (let time = 1; time <= 6; time++) {
    const { rows } = await client.query(
      "select stream from app_hidden.begin_run($1, $2, gen_random_uuid())",
      [acme.id, run.id],
    );
    expect(rows).toHaveLength(time <= 5 ? 1 : 0);
    await client.query("update app_private.sync_leases set expires_at = now() - interval '1 second'");
  }
  client.release(true);
  expect(await sync.runs()).toMatchObject([{ state: "failed", error_class: "internal" }]);
  await database.owner.query(
    "update integration_runs set ended_at = now() - interval '91 days' where id = $1",
    [run.id],
  );
  await database.worker.query("select app_hidden.purge_sync_history()");
  expect(await sync.runs()).toEqual([]);
});
