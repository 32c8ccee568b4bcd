import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import type pg from "pg";
import { generateApiKey } from "../src/auth/apiKeys.ts";
import { makePool } from "../src/db/pools.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, silent, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";

let database: TestDatabase;
let api: TestApi;
/** Has one connection to the database, and waits 200 ms for it. */
let poor: TestApi;
let poorPool: pg.Pool;
let acme: TestTenant;
let key: string;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  poorPool = makePool(database.urls.authenticator, { name: "poor", max: 1, log: silent, patienceMs: 200 });
  poor = await startApi({ ...database, authenticator: poorPool });
  acme = await createTenant(database.owner, "acme");
  await database.owner.query("update tenants set features = '{api_keys}'");
  await database.owner.query(
    "update app_private.plans set events_per_minute = null, key_events_per_minute = null, events_per_day = null",
  );
});
beforeEach(async () => {
  await database.owner.query("truncate analytics_events, app_private.event_keys");
  key = await makeKey();
});
afterAll(async () => {
  await api.close();
  await poor.close();
  await poorPool.end();
  await database.drop();
});

async function makeKey(slug = "acme"): Promise<string> {
  const { data } = await api.query(
    "mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret } }",
    {
      token: await api.signIn(slug, "admin"),
      variables: { input: { name: "Till", scopes: ["events:write"] } },
    },
  );
  return data.createApiKey.secret;
}
const event = (id: string, more: object = {}) => ({
  eventType: "order",
  eventName: "order_completed",
  source: "till",
  sourceId: id,
  ...more,
});
async function post(events: object[], at = api, token = key) {
  const response = await fetch(`${at.url}/v1/events`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
    body: JSON.stringify(events),
  });
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of any shape
  const answer: any = await response.json();
  return { status: response.status, retryAfter: response.headers.get("retry-after"), answer };
}
const stored = async () => (await database.owner.query("select from analytics_events")).rowCount;
const waiting = async () => (await database.owner.query("select from pg_locks where not granted")).rowCount;
/** Has the owner do this in a transaction that stays open, until `end`. */
async function held(sql: string) {
  const client = await database.owner.connect();
  await client.query("begin");
  await client.query(sql);
  return async () => {
    await client.query("rollback");
    client.release();
  };
}
/** Lets the first `times` batches fail, with this SQLSTATE. */
async function failing(state: string, times: number) {
  await database.owner.query(`
    create sequence app_private.failures;
    create function app_private.fail() returns trigger language plpgsql security definer as $$
    begin
      if nextval('app_private.failures') <= ${times} then
        raise exception 'by a test' using errcode = '${state}';
      end if;
      return null;
    end $$;
    create trigger fail before insert on analytics_events for each statement execute function app_private.fail()`);
  return async () => {
    const { rows } = await database.owner.query(
      "select last_value::integer as tries from app_private.failures",
    );
    await database.owner.query(
      "drop trigger fail on analytics_events; drop function app_private.fail(); drop sequence app_private.failures",
    );
    return rows[0].tries;
  };
}

it.each(["40001", "40P01"])("tries again when batches got in each other's way: %s", async (state) => {
  const end = await failing(state, 2);
  const { status, answer } = await post([event("1")]);
  expect([await end(), status, answer.accepted]).toEqual([3, 202, 1]);
});

it.each(["40001", "40P01", "55P03", "57014", "53300"])(
  "says 503 and when to come back, not that something is wrong, for %s",
  async (state) => {
    const end = await failing(state, 99);
    const { status, retryAfter } = await post([event("1")]);
    expect([status, Number(retryAfter) > 0]).toEqual([503, true]);
    // Only what a second try may cure is tried a second time.
    expect(await end()).toBe(state.startsWith("40") ? 4 : 1);
    expect(await stored()).toBe(0);
    expect((await post([event("1")])).status).toBe(202);
  },
);

it("says 503 when others hold its events longer than the lock timeout", async () => {
  await post([event("1")]);
  const end = await held("select from app_private.event_keys for update");
  const { status, retryAfter } = await post([event("1", { value: 1 })]);
  expect([status, Number(retryAfter) > 0]).toEqual([503, true]);
  await end();
  expect((await post([event("1", { value: 1 })])).answer.updated).toBe(1);
});

it("says 503 when it is about to end, and has let its connections go", async () => {
  const pool = makePool(database.urls.authenticator, { name: "ending", max: 1, log: silent });
  const ending = await startApi({ ...database, authenticator: pool });
  await pool.end();
  const { status, retryAfter } = await post([event("o1")], ending);
  expect([status, Number(retryAfter) > 0]).toEqual([503, true]);
  await ending.close();
});

it("says 503 when there is no connection free, and writes nothing", async () => {
  const client = await poorPool.connect();
  const { status, retryAfter } = await post([event("1")], poor);
  expect([status, Number(retryAfter) > 0]).toEqual([503, true]);
  client.release();
  expect(await stored()).toBe(0);
  expect((await post([event("1")], poor)).status).toBe(202);
});

it("gives a key time for a full batch", async () => {
  const client = await database.authenticator.connect();
  const { rows } = await database.owner.query(
    `select jsonb_build_object('tenant_id', k.tenant_id, 'key_id', k.id, 'key_hash', encode(s.secret_hash, 'hex')) as claims
       from api_keys k join app_private.api_key_secrets s on s.api_key_id = k.id where k.tenant_id = $1 limit 1`,
    [acme.id],
  );
  await client.query("begin");
  await client.query("select app_hidden.begin_request($1)", [rows[0].claims]);
  const { rows: shown } = await client.query("show statement_timeout");
  await client.query("rollback");
  client.release();
  expect(shown).toEqual([{ statement_timeout: "15s" }]);
});

it("writes nothing for a key that is revoked between admission and writing", async () => {
  await database.owner.query("update app_private.plans set events_per_minute = 1000000");
  const counted = await held("lock table app_private.rate_limits in exclusive mode");
  const posting = post([event("1")]);
  await until(waiting, (count) => (count ?? 0) > 0);
  // Admission passed the key's check already; the transaction that writes checks it again.
  await database.owner.query("update api_keys set revoked_at = now() where tenant_id = $1", [acme.id]);
  await counted();
  const { status, answer } = await posting;
  await database.owner.query("update app_private.plans set events_per_minute = null");
  expect([status, answer.reason]).toEqual([401, "revoked"]);
  expect(await stored()).toBe(0);
});

it("keeps a tenant's waiting batches from holding up others", async () => {
  const globex = await createTenant(database.owner, "globex");
  await database.owner.query("update tenants set features = '{api_keys}'");
  await post([event("1")]);
  const unlock = await held("select from app_private.event_keys for update");
  const posting = Array.from({ length: 60 }, () => post([event("1", { value: 2 })]));
  await until(waiting, (count) => (count ?? 0) >= 4);
  const token = await api.signIn("globex", "admin");
  const { status } = await post([event("2")], api, await makeKey("globex"));
  const { errors } = await api.query("{ tenants { nodes { id } } }", { token });
  expect([globex.id.length, status, errors]).toEqual([36, 202, undefined]);
  expect(await waiting()).toBe(4);
  await unlock();
  expect(new Set((await Promise.all(posting)).map((answer) => answer.status))).toEqual(new Set([202]));
});

it("keeps keys that somebody made up from filling the line of the tenant that they name", async () => {
  await post([event("1")]);
  const unlock = await held("lock table app_private.event_keys in exclusive mode");
  const genuine = [post([event("2")]), post([event("3")])];
  await until(waiting, (count) => (count ?? 0) === 2);
  const forged = Array.from({ length: 700 }, () => post([], api, generateApiKey("test", acme.id).text));
  const refused = await Promise.all(forged);
  expect(new Set(refused.map(({ status }) => status))).toEqual(new Set([401, 429]));
  const more = post([event("4")]);
  await until(waiting, (count) => (count ?? 0) === 3);
  await unlock();
  expect((await Promise.all([...genuine, more])).map(({ status }) => status)).toEqual([202, 202, 202]);
});

it.each(["53200", "25006", "25P03", "57P05"])("answers 503 to a batch that failed with %s", async (state) => {
  const end = await failing(state, 1);
  const { status, retryAfter } = await post([event("1")]).finally(end);
  expect([status, retryAfter === null]).toEqual([503, false]);
});

it("restates the same records from eight writers in opposite orders, each as if alone", async () => {
  const ids = Array.from({ length: 500 }, (_, index) => `r${index}`);
  await post(ids.map((id) => event(id, { value: 0 })));
  const answers = await Promise.all(
    Array.from({ length: 8 }, async (_, writer) => {
      const order = writer % 2 === 0 ? ids : ids.toReversed();
      return post(order.map((id) => event(id, { value: writer + 1, sourceVersion: writer + 1 })));
    }),
  );
  for (const { status, answer } of answers)
    expect([status, answer.updated + answer.duplicate, answer.rejected]).toEqual([202, 500, 0]);
  const { rows } = await database.owner.query(
    `select distinct e.value::text, k.source_version::text as version
       from analytics_events e join app_private.event_keys k on k.id = e.id and k.timestamp = e.timestamp`,
  );
  expect(rows).toEqual([{ value: "8", version: "8" }]);
  expect(await stored()).toBe(500);
});
