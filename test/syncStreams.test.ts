import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "@jest/globals";
import type { Worker } from "../src/worker/runner.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { pagesUpTo, type ScriptedProvider, startScriptedProvider } from "./support/scriptedProvider.ts";
import { connect, watchSyncs } from "./support/syncs.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";
import { startTestWorker } from "./support/worker.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let tokens: Record<"admin" | "user" | "viewer", string>;
let provider: ScriptedProvider;
let sync: ReturnType<typeof watchSyncs>;
let worker: Worker | undefined;
let count = 0;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
});
afterAll(async () => {
  await api.close();
  await database.drop();
});
beforeEach(async () => {
  acme = await createTenant(database.owner, `acme${++count}`);
  const signIn = (role: string) => api.signIn(acme.slug, role);
  tokens = { admin: await signIn("admin"), user: await signIn("user"), viewer: await signIn("viewer") };
  provider = await startScriptedProvider(["orders", "refunds"]);
  provider.script.answer = pagesUpTo(20);
  sync = watchSyncs(database, acme.integrationId);
  await connect(database, acme, { config: { environment: "simulator" } });
  worker = await startTestWorker(database, {
    simulatorUrl: provider.url,
    connectors: provider.connectors,
  });
});
afterEach(async () => {
  await worker?.stop();
  await provider.close();
});
const ask = async (
  document: string,
  variables: Record<string, unknown> = {},
  role: keyof typeof tokens = "admin",
) => {
  const { data, errors } = await api.query(document, { token: tokens[role], variables });
  return {
    data,
    code: errors?.[0].extensions.code,
    reason: errors?.[0].extensions.reason,
    message: errors?.[0].message,
  };
};
const syncOnce = async () => {
  await sync.request();
  await sync.ended();
  provider.asked.length = 0;
};
const streamId = async (name = "orders") => (await sync.stream(name)).id as string;
const audited = async (id: string) =>
  (
    await database.owner.query(
      "select actor_name, action, changes from audit_logs where resource_id = $1 and actor_kind = 'user' order by id",
      [id],
    )
  ).rows;

const SYNC = /* GraphQL */ `
  mutation ($input: SyncIntegrationInput!) { syncIntegration(input: $input) { integration { syncStatus } } }`;
const RESET = /* GraphQL */ `
  mutation ($id: UUID!) { resetIntegrationStream(input: { streamId: $id }) { stream { cursor highWater } } }`;
const SET_CURSOR = /* GraphQL */ `
  mutation ($id: UUID!, $cursor: JSON!) {
    setIntegrationStreamCursor(input: { streamId: $id, cursor: $cursor }) { stream { cursor } } }`;
const CANCEL = /* GraphQL */ `
  mutation ($id: UUID!, $run: UUID) {
    cancelSync(input: { integrationId: $id, runId: $run }) { integration { syncStatus } } }`;
const BACKFILL = /* GraphQL */ `
  mutation ($input: BackfillIntegrationInput!) {
    backfillIntegration(input: $input) { run { id state trigger since until stream { name } } } }`;

it("shows everybody in the tenant where the streams are and what the runs did; rejected records to admins alone", async () => {
  provider.script.answer = () => ({ records: [1, "odd"], next: 1, done: true });
  await syncOnce();
  const document = /* GraphQL */ `query ($id: UUID!) { integration(id: $id) {
    syncStatus errorClass
    streams(orderBy: NAME_ASC) { nodes { name state enabled cursor lastSuccessAt recordsAccepted recordsRejected } }
    runs(filter: { state: { equalTo: "succeeded" } }) { totalCount nodes { trigger pages calls stream { name } } } } }`;
  const { data } = await ask(document, { id: acme.integrationId }, "viewer");
  expect(data.integration.streams.nodes).toEqual(
    ["orders", "refunds"].map((name) => ({
      name,
      state: "succeeded",
      enabled: true,
      cursor: { position: 1 },
      lastSuccessAt: expect.any(String),
      recordsAccepted: "1",
      recordsRejected: "1",
    })),
  );
  expect(data.integration.runs.totalCount).toBe(2);
  const rejected = `query ($id: UUID!) { integration(id: $id) { rejectedRecords { nodes { stream sourceId reason record } } } }`;
  expect((await ask(rejected, { id: acme.integrationId }, "user")).code).toBe("FORBIDDEN");
  const seen = await ask(rejected, { id: acme.integrationId });
  expect(seen.data.integration.rejectedRecords.nodes).toContainEqual({
    stream: "orders",
    sourceId: "orders:odd",
    reason: "It is no number.",
    record: { id: "odd", token: "***" },
  });
  const globex = await createTenant(database.owner, `globex${count}`);
  const foreign = await api.query(document, {
    token: await api.signIn(globex.slug, "admin"),
    variables: { id: acme.integrationId },
  });
  expect(foreign.data.integration).toBeNull();
});

it("lets an admin reset a stream, which is audited; others may not", async () => {
  await syncOnce();
  const id = await streamId();
  expect((await ask(RESET, { id }, "user")).code).toBe("FORBIDDEN");
  expect(await sync.stream()).toMatchObject({ cursor: { position: 20 } });
  expect((await ask(RESET, { id })).data.resetIntegrationStream.stream).toEqual({
    cursor: null,
    highWater: null,
  });
  expect(await audited(id)).toEqual([
    {
      actor_name: `admin@${acme.slug}.test`,
      action: "integration_stream.updated",
      changes: { before: { cursor: { position: 20 } }, after: { cursor: null } },
    },
  ]);
  await sync.request();
  await until(sync.runs, (runs) => runs.length === 4 && runs.every(({ ended_at }) => ended_at));
  expect(provider.asked.filter(({ stream }) => stream === "orders").map(({ position }) => position)).toEqual([
    undefined,
    10,
  ]);
  expect(await sync.events()).toHaveLength(40);
  const nobodys = await ask(RESET, { id: "00000000-0000-7000-8000-000000000000" });
  expect(nobodys.code).toBe("NOT_FOUND");
});

it("lets an admin edit a cursor, also under a running sync, which goes on from there", async () => {
  await syncOnce();
  const id = await streamId();
  let opened = () => {};
  const door = new Promise<void>((resolve) => {
    opened = resolve;
  });
  let waiting = false;
  provider.script.answer = async (asked) => {
    if (asked.stream !== "orders" || waiting) return pagesUpTo(80)(asked);
    waiting = true;
    await door;
    return pagesUpTo(80)(asked);
  };
  expect(
    (await ask(SYNC, { input: { integrationId: acme.integrationId, streams: ["orders"] } })).code,
  ).toBeUndefined();
  await until(
    async () => waiting,
    (is) => is,
  );
  expect(
    (await ask(SET_CURSOR, { id, cursor: { position: 60 } })).data.setIntegrationStreamCursor.stream.cursor,
  ).toEqual({
    position: 60,
  });
  await sync.lastRun();
  opened();
  expect(provider.asked.map(({ position }) => position)).toEqual([20, 60, 70]);
  expect(await sync.events()).toHaveLength(60);
  expect((await audited(id)).map(({ changes }) => changes.after)).toEqual([{ cursor: { position: 60 } }]);
  // One that the connector cannot read is found before anything is called.
  await ask(SET_CURSOR, { id, cursor: { place: 1 } });
  provider.asked.length = 0;
  await ask(SYNC, { input: { integrationId: acme.integrationId, streams: ["orders"] } });
  await until(sync.stream, ({ state }) => state === "failed");
  expect(await sync.stream()).toMatchObject({ error_class: "invalid_cursor" });
  expect(provider.asked).toEqual([]);
});

it("stops a running sync before its next write, and starts none that waits", async () => {
  await syncOnce();
  let opened = () => {};
  const door = new Promise<void>((resolve) => {
    opened = resolve;
  });
  provider.script.answer = async (asked) => {
    await door;
    return pagesUpTo(200)(asked);
  };
  await ask(SYNC, { input: { integrationId: acme.integrationId } });
  await until(
    async () => provider.asked.length,
    (calls) => calls === 2,
  );
  const canceled = await ask(CANCEL, { id: acme.integrationId });
  expect(canceled.data.cancelSync.integration.syncStatus).toBe("canceled");
  opened();
  const jobs = () =>
    database.owner.query(
      "select from graphile_worker.jobs where task_identifier like 'sync_%' and attempts < max_attempts",
    );
  await until(jobs, ({ rowCount }) => rowCount === 0);
  await until(
    () => database.owner.query("select from graphile_worker.jobs where locked_at is not null"),
    ({ rowCount }) => rowCount === 0,
  );
  expect(await sync.events()).toHaveLength(40);
  expect((await sync.runs()).slice(2)).toEqual([
    expect.objectContaining({ state: "canceled", records_accepted: "0", error: "It was canceled." }),
    expect.objectContaining({ state: "canceled", records_accepted: "0" }),
  ]);
  expect(await sync.integration()).toMatchObject({ sync_status: "canceled", status: "ACTIVE" });
  // One stream that succeeds later makes up for it.
  provider.script.answer = pagesUpTo(20);
  await ask(SYNC, { input: { integrationId: acme.integrationId, streams: ["refunds"] } });
  await until(sync.integration, ({ sync_status }) => sync_status === "succeeded");
  provider.script.answer = pagesUpTo(200);
  // The next one goes on where it was.
  await ask(SYNC, { input: { integrationId: acme.integrationId } });
  expect(await until(sync.integration, ({ sync_status }) => sync_status === "succeeded")).toMatchObject({
    error_class: null,
  });
  expect(await sync.events()).toHaveLength(400);
});

it("starts backfills and full refreshes for admins, one of a kind at a time", async () => {
  const input = { integrationId: acme.integrationId, stream: "orders", since: "2025-01-01T00:00:00Z" };
  expect((await ask(BACKFILL, { input })).code).toBe("CONFLICT");
  await syncOnce();
  await worker?.stop();
  expect((await ask(BACKFILL, { input }, "user")).code).toBe("FORBIDDEN");
  expect(await ask(BACKFILL, { input: { ...input, stream: "odours" } })).toMatchObject({
    code: "INVALID_INPUT",
    reason: "stream",
  });
  expect(await ask(BACKFILL, { input: { ...input, since: "2125-01-01T00:00:00Z" } })).toMatchObject({
    code: "INVALID_INPUT",
    reason: "range",
  });
  const { data } = await ask(BACKFILL, { input: { ...input, until: "2025-02-01T00:00:00Z" } });
  const { run } = data.backfillIntegration;
  expect(run).toMatchObject({ state: "waiting", trigger: "backfill", stream: { name: "orders" } });
  expect((await ask(BACKFILL, { input })).code).toBe("CONFLICT");
  await ask(CANCEL, { id: acme.integrationId, run: run.id });
  expect(await sync.runs("backfill")).toMatchObject([{ state: "canceled" }]);
  // The integration itself is as it was.
  expect(await sync.integration()).toMatchObject({ sync_status: "succeeded" });

  const refresh = { input: { integrationId: acme.integrationId, mode: "FULL_REFRESH" } };
  expect((await ask(SYNC, refresh, "user")).code).toBe("FORBIDDEN");
  expect((await ask(SYNC, refresh)).data.syncIntegration.integration.syncStatus).toBe("queued");
  await ask(SYNC, refresh);
  expect(await sync.runs("full_refresh")).toHaveLength(2);
  worker = await startTestWorker(database, {
    simulatorUrl: provider.url,
    connectors: provider.connectors,
  });
  await until(
    () => sync.runs("full_refresh"),
    (runs) => runs.every(({ state }) => state === "succeeded"),
  );
  expect(provider.asked.map(({ position }) => position).toSorted()).toEqual([10, 10, undefined, undefined]);
});

it("reads only streams that are switched on, and names those that there are", async () => {
  await syncOnce();
  const id = await streamId("refunds");
  const off = `mutation ($id: UUID!) { updateIntegrationStream(input: { id: $id, patch: { enabled: false } }) { integrationStream { enabled } } }`;
  expect((await ask(off, { id }, "user")).code).toBe("FORBIDDEN");
  expect((await ask(off, { id })).data.updateIntegrationStream.integrationStream).toEqual({ enabled: false });
  expect((await audited(id)).map(({ changes }) => changes)).toEqual([
    { before: { enabled: true }, after: { enabled: false } },
  ]);
  await sync.request();
  await until(sync.runs, (runs) => runs.length === 3 && runs[2].ended_at);
  expect(new Set(provider.asked.map(({ stream }) => stream))).toEqual(new Set(["orders"]));
  const named = (streams: string[]) => ask(SYNC, { input: { integrationId: acme.integrationId, streams } });
  expect(await named(["refunds"])).toMatchObject({ code: "CONFLICT" });
  expect(await named(["odours"])).toMatchObject({
    code: "INVALID_INPUT",
    reason: "stream",
    message: expect.stringMatching(/orders, refunds/),
  });
});

it("takes an integration out of service and back", async () => {
  await syncOnce();
  const disable = `mutation ($id: UUID!) { disableIntegration(input: { integrationId: $id }) { integration { status } } }`;
  const reactivate = `mutation ($id: UUID!) { reactivateIntegration(input: { integrationId: $id }) { integration { status } } }`;
  const id = { id: acme.integrationId };
  expect((await ask(disable, id, "user")).code).toBe("FORBIDDEN");
  expect((await ask(disable, id)).data.disableIntegration.integration.status).toBe("DISABLED");
  expect((await ask(SYNC, { input: { integrationId: acme.integrationId } })).code).toBe("CONFLICT");
  expect((await ask(reactivate, id)).data.reactivateIntegration.integration.status).toBe("ACTIVE");
  // A month of errors has the same effect.
  await database.owner.query(
    "update integrations set status = 'ERROR', error_class = 'refused', failing_since = now() - interval '31 days' where id = $1",
    [acme.integrationId],
  );
  await database.worker.query("select app_hidden.request_due_syncs()");
  expect(await sync.integration()).toMatchObject({ status: "DISABLED" });
  expect((await ask(reactivate, id)).data.reactivateIntegration.integration.status).toBe("ERROR");
});
