import { once } from "node:events";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { WebSocket } from "ws";
import type { Claims } from "../src/auth/tokens.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { claimsFor } from "./support/asRequest.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { type Message, SocketClient } from "./support/socket.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";

const ORIGIN = "https://shop.example";
let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let globex: TestTenant;
let viewer: Claims;
let count = 0;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database, {
    config: { CORS_ORIGINS: [ORIGIN] },
    socketLimits: { socketsPerSession: 3, subscriptionsPerSocket: 2 },
  });
});
beforeEach(async () => {
  count++;
  acme = await createTenant(database.owner, `acme${count}`);
  globex = await createTenant(database.owner, `globex${count}`);
  viewer = await claimsFor(database.owner, acme, "viewer");
});
afterEach(async () => {
  for (const client of open.splice(0)) client.socket.terminate();
});
afterAll(async () => {
  await api.close();
  await database.drop();
});

const tokenOf = (claims: Claims, notAfter?: Date) =>
  api.tokens.sign(claims, notAfter ? { notAfter } : {}).token;
const open: SocketClient[] = [];
const socket = (options: { origin?: string; path?: string; url?: string } = {}) => {
  const client = new SocketClient(options.url ?? api.url, options);
  open.push(client);
  return client;
};
const connect = async (token: string, options?: Parameters<typeof socket>[0]) => {
  const client = socket(options);
  await client.connect(token);
  return client;
};
const UPDATES = "subscription ($id: UUID!) { integrationUpdated(id: $id) { id name syncStatus } }";
async function watch(claims = viewer, id = acme.integrationId) {
  const client = await connect(tokenOf(claims));
  client.subscribe("1", UPDATES, { id });
  await client.next("1", 0);
  return client;
}
const owner = async (sql: string, values: unknown[] = []) => (await database.owner.query(sql, values)).rows;
const rename = (name: string, id = acme.integrationId) =>
  owner("update integrations set name = $2 where id = $1", [id, name]);
const code = (payload: Message["payload"]) => payload.errors?.[0].extensions;

// --- Who

it("lets nobody in without a token that holds", async () => {
  for (const payload of [undefined, {}, { authorization: "Bearer forged" }, { authorization: "Bearer" }]) {
    const client = socket();
    await once(client.socket, "open");
    client.send({ type: "connection_init", payload });
    expect(await client.closed).toEqual({ code: 4401, reason: "invalid_token" });
  }
});

it("waits for nobody who says nothing", async () => {
  const impatient = await startApi(database, { socketLimits: { initMs: 300 } });
  try {
    expect((await socket({ url: impatient.url }).closed).code).toBe(4408);
  } finally {
    await impatient.close();
  }
});

it("lets nobody in whose session has ended or whose role has changed", async () => {
  await owner("update sessions set revoked_at = now() where id = $1", [viewer.sid]);
  expect(await (await connect(tokenOf(viewer))).closed).toEqual({ code: 4401, reason: "revoked" });
  const user = await claimsFor(database.owner, acme, "user");
  expect(await (await connect(tokenOf({ ...user, role: "ADMIN" }))).closed).toEqual({
    code: 4403,
    reason: "stale",
  });
});

it("tells another tenant's integration from none at all to nobody", async () => {
  expect(await owner("select from integrations where id = $1", [globex.integrationId])).toHaveLength(1);
  const client = await connect(tokenOf(viewer));
  client.subscribe("theirs", UPDATES, { id: globex.integrationId });
  client.subscribe("none", UPDATES, { id: "00000000-0000-4000-8000-000000000000" });
  for (const id of ["theirs", "none"]) {
    const payload = await client.next(id, 0);
    expect(payload.data).toEqual({ integrationUpdated: null });
    expect(code(payload)).toEqual({ code: "NOT_FOUND" });
    await client.ended(id);
  }
  await rename("Theirs", globex.integrationId);
  const own = await watch();
  expect((await own.next("1", 0)).errors).toBeUndefined();
  expect(client.of("theirs", "next")).toHaveLength(1);
});

// --- What

it("says how an integration is, and again when it changes, in whatever case its id is written", async () => {
  const client = await watch(viewer, acme.integrationId.toUpperCase());
  expect(await client.next("1", 0)).toEqual({
    data: { integrationUpdated: { id: acme.integrationId, name: "Shop", syncStatus: null } },
  });
  await rename("Renamed");
  expect((await client.next("1", 1)).data.integrationUpdated.name).toBe("Renamed");
  await rename("Theirs", globex.integrationId);
  await owner("update integrations set sync_status = 'running' where id = $1", [acme.integrationId]);
  expect((await client.next("1", 2)).data.integrationUpdated.syncStatus).toBe("running");
});

it("makes many changes in a moment into few events, of which the last has the last", async () => {
  const client = await watch();
  for (let index = 1; index <= 100; index++) await rename(`Name ${index}`);
  await until(
    async () => client.of("1", "next").at(-1)?.payload.data.integrationUpdated.name,
    (name) => name === "Name 100",
  );
  expect(client.of("1", "next").length).toBeLessThan(30);
});

it("hears of a run's progress", async () => {
  const [stream] = await owner(
    "insert into integration_streams (tenant_id, integration_id, name) values ($1, $2, 'orders') returning id",
    [acme.id, acme.integrationId],
  );
  const client = await connect(tokenOf(viewer));
  client.subscribe(
    "1",
    "subscription ($id: UUID!) { integrationUpdated(id: $id) { runs(first: 1) { nodes { state progress stream { recordsAccepted } } } } }",
    { id: acme.integrationId },
  );
  const seen = (wanted: object, act = async () => {}) =>
    until(
      async () => {
        await act();
        return client.of("1", "next").at(-1)?.payload.data?.integrationUpdated.runs.nodes[0];
      },
      (run) => JSON.stringify(run) === JSON.stringify(wanted),
    );
  await client.next("1", 0);
  await owner(
    "insert into integration_runs (tenant_id, integration_id, stream_id, trigger) values ($1, $2, $3, 'manual')",
    [acme.id, acme.integrationId, stream.id],
  );
  await seen({ state: "waiting", progress: null, stream: { recordsAccepted: "0" } });
  // As the pages of a run do: the stream is told of at the turn of the second.
  const page = `with counted as (update integration_streams set records_accepted = 50 where id = $1)
     update integration_runs set progress = 0.5 where stream_id = $1`;
  await seen({ state: "waiting", progress: 0.5, stream: { recordsAccepted: "50" } }, async () => {
    await owner(page, [stream.id]);
  });
  await owner("update integration_runs set state = 'running' where stream_id = $1", [stream.id]);
  await seen({ state: "running", progress: 0.5, stream: { recordsAccepted: "50" } });
});

it("answers an event from one transaction under row security, and none is left open", async () => {
  const client = await connect(tokenOf(viewer));
  client.subscribe(
    "1",
    "subscription ($id: UUID!) { integrationUpdated(id: $id) { tenant { users(first: 5) { nodes { email } } } } }",
    { id: acme.integrationId },
  );
  const { integrationUpdated } = (await client.next("1", 0)).data;
  expect(integrationUpdated.tenant.users.nodes).toHaveLength(3);
  await until(
    () => owner("select from pg_stat_activity where datname = current_database() and state like 'idle in%'"),
    (rows) => rows.length === 0,
  );
});

it("goes on for longer than an operation may take", async () => {
  const client = await watch();
  const now = performance.now.bind(performance);
  performance.now = () => now() + 120_000;
  try {
    await rename("Two minutes later");
    expect(await client.next("1", 1)).toMatchObject({
      data: { integrationUpdated: { name: "Two minutes later" } },
    });
  } finally {
    performance.now = now;
  }
});

it("goes on after the connection that listens was lost, and looks at what it may have missed", async () => {
  const client = await watch();
  await owner(
    "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name like '%listener'",
  );
  await rename("Meanwhile");
  await until(
    async () => client.of("1", "next").at(-1)?.payload.data?.integrationUpdated?.name,
    (name) => name === "Meanwhile",
  );
  await rename("Afterwards");
  await until(
    async () => client.of("1", "next").at(-1)?.payload.data?.integrationUpdated?.name,
    (name) => name === "Afterwards",
  );
});

it("stops listening when nobody subscribes any more", async () => {
  const listening = () =>
    owner(
      "select query from pg_stat_activity where datname = current_database() and application_name like '%listener'",
    );
  const client = await watch();
  client.send({ id: "1", type: "complete" });
  await until(listening, ([row]) => row?.query.startsWith("unlisten"));
  const other = await watch();
  other.socket.terminate();
  await until(listening, ([row]) => row?.query === `unlisten "integration:${acme.integrationId}"`);
});

// --- Until when

it("ends when the integration is deleted", async () => {
  const client = await watch();
  await owner("delete from integrations where id = $1", [acme.integrationId]);
  expect(code(await client.next("1", 1))).toEqual({ code: "NOT_FOUND" });
  await client.ended("1");
});

it.each([
  ["the session is revoked", "update sessions set revoked_at = now() where id = $1", "sid", 4401, "revoked"],
  ["the user is suspended", "update users set status = 'SUSPENDED' where id = $1", "sub", 4401, "revoked"],
  [
    "the tenant is suspended",
    "update tenants set status = 'SUSPENDED' where id = $1",
    "tenant_id",
    4401,
    "revoked",
  ],
  ["the role changes", "update users set role = 'USER' where id = $1", "sub", 4403, "stale"],
] as const)("closes idle sockets when %s, at once", async (_when, sql, claim, closeCode, reason) => {
  const client = await watch();
  const other = await watch(await claimsFor(database.owner, globex, "viewer"), globex.integrationId);
  const began = Date.now();
  await owner(sql, [viewer[claim]]);
  expect(await client.closed).toEqual({ code: closeCode, reason });
  expect(Date.now() - began).toBeLessThan(2_000);
  expect(other.socket.readyState).toBe(WebSocket.OPEN);
});

it("closes idle sockets that no notification was about, a check later", async () => {
  const eager = await startApi(database, { socketLimits: { recheckMs: 300 } });
  try {
    const [client, other] = [
      await connect(tokenOf(viewer), { url: eager.url }),
      await connect(tokenOf(viewer)),
    ];
    await owner("update sessions set expires_at = now() - interval '1 second' where id = $1", [viewer.sid]);
    expect(await client.closed).toEqual({ code: 4401, reason: "revoked" });
    expect(other.socket.readyState).toBe(WebSocket.OPEN);
  } finally {
    await eager.close();
  }
});

it("gives no event to a session that has ended, however soon it comes", async () => {
  const client = await watch();
  await owner(
    `with ended as (update sessions set revoked_at = now() where id = $2)
     update integrations set name = 'Secret' where id = $1`,
    [acme.integrationId, viewer.sid],
  );
  await client.closed;
  expect(JSON.stringify(client.messages)).not.toContain("Secret");
});

it("closes a socket when its token ends", async () => {
  const client = await connect(tokenOf(viewer, new Date(Date.now() + 5_000)));
  expect(client.messages).toEqual([{ type: "connection_ack" }]);
  expect(await client.closed).toEqual({ code: 4403, reason: "expired" });
});

// --- How much

it("takes only pages of the origins that are configured, and its own", async () => {
  for (const origin of ["https://evil.example", "null", "https://shop.example.evil.example"]) {
    const client = socket({ origin });
    const [error] = await once(client.socket, "error");
    expect(String(error)).toContain("403");
  }
  for (const origin of [ORIGIN, api.url])
    expect((await connect(tokenOf(viewer), { origin })).messages).toEqual([{ type: "connection_ack" }]);
});

it("has websockets nowhere else", async () => {
  const client = socket({ path: "/graphiql" });
  const [error] = await once(client.socket, "error");
  expect(String(error)).toContain("404");
});

it("limits sockets of a session, subscriptions of a socket, and the size of a message", async () => {
  const [client] = [await watch(), await watch(), await watch()];
  const fourth = await connect(tokenOf(viewer));
  expect(await fourth.closed).toEqual({ code: 4429, reason: "too_many_sockets" });
  client?.subscribe("2", UPDATES, { id: acme.integrationId });
  client?.subscribe("3", UPDATES, { id: acme.integrationId });
  await client?.ended("3");
  expect(client?.of("3", "error")[0]?.payload[0].extensions.code).toBe("QUERY_TOO_EXPENSIVE");
  client?.send({ type: "ping", payload: { large: "x".repeat(100_001) } });
  expect((await client?.closed)?.code).toBe(1009);
});

it("serves queries and mutations by POST alone, and refuses documents as it does there", async () => {
  const client = await connect(tokenOf(viewer));
  client.subscribe("query", "{ currentUser { email } }");
  client.subscribe("wrong", "subscription { integrationUpdated { id } }");
  client.subscribe("deep", `subscription { ${"a { ".repeat(30)} b ${"}".repeat(30)} }`);
  client.subscribe(
    "two",
    `subscription ($id: UUID!) { a: integrationUpdated(id: $id) { id } b: integrationUpdated(id: $id) { id } }`,
    { id: acme.integrationId },
  );
  for (const id of ["query", "wrong", "deep", "two"]) {
    await client.ended(id);
    const [error] = client.of(id, "error");
    expect(error?.payload[0].extensions.code).toMatch(/INVALID_INPUT|QUERY_TOO_EXPENSIVE/);
  }
  const { errors } = await api.query(UPDATES, {
    token: tokenOf(viewer),
    variables: { id: acme.integrationId },
  });
  expect(errors?.[0].extensions.code).toBe("INVALID_INPUT");
});
