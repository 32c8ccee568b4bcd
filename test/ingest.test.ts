import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "@jest/globals";
import Ajv2020 from "ajv/dist/2020.js";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
/** Two instances on one database. */
let api: TestApi;
let other: TestApi;
let acme: TestTenant;
let globex: TestTenant;
let key: string;

beforeAll(async () => {
  database = await createTestDatabase();
  [api, other] = [await startApi(database), await startApi(database)];
  acme = await createTenant(database.owner, "acme");
  globex = await createTenant(database.owner, "globex");
  await database.owner.query("update tenants set features = '{api_keys}'");
  key = await makeKey(["events:write"]);
});
beforeEach(async () => {
  await database.owner.query(
    "truncate app_private.rate_limits, app_private.event_counts, analytics_events, app_private.event_keys",
  );
});
afterAll(async () => {
  await api.close();
  await other.close();
  await database.drop();
});

async function makeKey(scopes: string[]): Promise<string> {
  const { data } = await api.query(
    "mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret } }",
    { token: await api.signIn("acme", "admin"), variables: { input: { name: "Till", scopes } } },
  );
  return data.createApiKey.secret;
}

type Post = {
  method?: string;
  query?: string;
  type?: string;
  token?: string | null;
  headers?: Record<string, string>;
  at?: TestApi;
};
async function post(
  body: unknown,
  { method = "POST", query = "", type = "application/json", token = key, headers, at = api }: Post = {},
) {
  const response = await fetch(`${at.url}/v1/events${query}`, {
    method,
    headers: { "content-type": type, ...(token ? { authorization: `Bearer ${token}` } : {}), ...headers },
    body:
      typeof body === "string" || body instanceof Uint8Array
        ? (body as RequestInit["body"] & {})
        : JSON.stringify(body),
  });
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of any shape
  const answer: any = await response.json();
  return { status: response.status, headers: response.headers, answer };
}
const event = (id: string, more: object = {}) => ({
  eventType: "order",
  eventName: "order_completed",
  timestamp: "2026-03-05T10:00:00Z",
  source: "till",
  sourceId: id,
  value: "12.50",
  currency: "EUR",
  ...more,
});
const stored = async () =>
  (
    await database.owner.query(
      "select source_id, value::text, properties::text, tenant_id from analytics_events order by source_id",
    )
  ).rows;

it("takes what is sound of a batch, says where the rest is wrong, and counts nothing twice", async () => {
  const batch = [event("1"), event("2", { timestamp: "yesterday" }), event("3")];
  const first = await post(batch);
  expect(first.status).toBe(202);
  expect(first.answer).toEqual({
    accepted: 2,
    updated: 0,
    deleted: 0,
    duplicate: 0,
    rejected: 1,
    events: [
      { index: 0, status: "accepted", id: expect.any(String), timestamp: "2026-03-05T10:00:00.000000Z" },
      {
        index: 1,
        status: "rejected",
        code: "INVALID_INPUT",
        reason: "not_a_time",
        pointer: "/1/timestamp",
        detail: expect.any(String),
      },
      { index: 2, status: "accepted", id: expect.any(String), timestamp: "2026-03-05T10:00:00.000000Z" },
    ],
  });
  const { status, answer } = await post(batch, { at: other });
  expect([status, answer.accepted, answer.duplicate, answer.rejected]).toEqual([202, 0, 2, 1]);
  expect(answer.events[0].id).toBe(first.answer.events[0].id);
  expect(await stored()).toMatchObject([{ source_id: "1" }, { source_id: "3" }]);
});

it("takes one event, NDJSON and packed bodies alike", async () => {
  expect((await post(event("1"))).answer.accepted).toBe(1);
  const lines = `${JSON.stringify(event("2"))}\r\n\n{"eventType":\n${JSON.stringify(event("3"))}`;
  const ndjson = await post(lines, { type: "application/x-ndjson; charset=utf-8" });
  expect(ndjson.answer).toMatchObject({ accepted: 2, rejected: 1 });
  expect(ndjson.answer.events[1]).toMatchObject({ reason: "not_json", pointer: "/1" });
  const packed = gzipSync(JSON.stringify([event("4"), event("1")]));
  expect((await post(packed, { headers: { "content-encoding": "gzip" } })).answer).toMatchObject({
    accepted: 1,
    duplicate: 1,
  });
  expect(await stored()).toHaveLength(4);
});

it("keeps every digit of every number", async () => {
  const body = `[${JSON.stringify(event("1")).replace('"12.50"', "12345678901234567890.1234567890").replace("}", ',"properties":{"n":9007199254740993,"m":[0.1000000000000000055,1e2]}}')}]`;
  expect((await post(body)).answer.accepted).toBe(1);
  expect(await stored()).toMatchObject([
    {
      value: "12345678901234567890.1234567890",
      properties: '{"m": [0.1000000000000000055, 100], "n": 9007199254740993}',
    },
  ]);
});

it.each<[string, string, string]>([
  ["NUL", '{"t":"a\\u0000b"}', "not_storable"],
  ["half a character", '{"t":"\\ud800"}', "not_storable"],
  ["a key with half a character", '{"\\udc00":1}', "not_storable"],
  ["a number that is long to print", '{"n":1e131000}', "number_too_long"],
  ["a number of a thousand digits", `{"n":${"9".repeat(1000)}}`, "number_too_long"],
  ["deep nesting", `{"d":${"[".repeat(33)}${"]".repeat(33)}}`, "too_deep"],
  ["nesting that no stack holds", `{"d":${"[".repeat(50_000)}${"]".repeat(50_000)}}`, "too_deep"],
  ["far too much", `{"t":"${"x".repeat(40_000)}"}`, "too_large"],
])("rejects one event alone for %s", async (_case, properties, reason) => {
  const bad = JSON.stringify(event("bad", { properties: {} })).replace("{}", () => properties);
  const { status, answer } = await post(`[${JSON.stringify(event("1"))},${bad}]`);
  expect([status, answer.accepted, answer.rejected]).toEqual([202, 1, 1]);
  expect(answer.events[1]).toMatchObject({ code: "INVALID_INPUT", reason });
  expect(answer.events[1].pointer).toMatch(/^\/1\/properties/);
});

it("says 422 when nothing was written, and 409 when all of it differs from what is stored", async () => {
  expect(await post([event("1", { value: "x" })])).toMatchObject({
    status: 422,
    answer: { code: "INVALID_INPUT", rejected: 1, events: [{ pointer: "/0/value" }] },
  });
  await post([event("1")]);
  const restated = [event("1", { value: 13 })];
  expect(await post(restated, { query: "?onConflict=reject" })).toMatchObject({
    status: 409,
    answer: { code: "CONFLICT", events: [{ status: "rejected", code: "CONFLICT", pointer: "/0" }] },
  });
  expect((await post(restated)).answer).toMatchObject({ updated: 1 });
  expect(await stored()).toMatchObject([{ value: "13" }]);
});

it("writes all or nothing when asked to, whoever finds the flaw", async () => {
  for (const bad of [{ value: "x" }, { properties: { t: "\0" } }]) {
    const { status, answer } = await post([event("1"), event("2", bad)], { query: "?atomic=true" });
    expect([status, answer.withheld, answer.rejected]).toEqual([422, 1, 1]);
    expect(answer.events[0]).toEqual({ index: 0, status: "withheld" });
  }
  expect(await stored()).toEqual([]);
});

describe("refuses as a problem", () => {
  it.each<[string, number, string, Parameters<typeof post>]>([
    ["what is no JSON", 400, "INVALID_INPUT", ["[{"]],
    ["what is no UTF-8", 400, "INVALID_INPUT", [Buffer.from('[{"a":"\xff"}]', "latin1")]],
    ["too many events", 400, "INVALID_INPUT", [Array.from({ length: 5_001 }, () => 1)]],
    ["an unknown parameter", 400, "INVALID_INPUT", [[], { query: "?onconflict=reject" }]],
    ["a bad parameter", 400, "INVALID_INPUT", [[], { query: "?atomic=yes" }]],
    ["another content type", 415, "INVALID_INPUT", ["a,b", { type: "text/csv" }]],
    ["another encoding", 415, "INVALID_INPUT", ["[]", { headers: { "content-encoding": "zip" } }]],
    ["what is not packed", 400, "INVALID_INPUT", ["[]", { headers: { "content-encoding": "gzip" } }]],
    ["a large body", 413, "INVALID_INPUT", [" ".repeat(5 * 1024 * 1024 + 1)]],
    [
      "a packed bomb",
      413,
      "INVALID_INPUT",
      [gzipSync(Buffer.alloc(50_000_000)), { headers: { "content-encoding": "gzip" } }],
    ],
    ["nobody", 401, "UNAUTHENTICATED", [[], { token: null }]],
    ["a forged token", 401, "UNAUTHENTICATED", [[], { token: "forged" }]],
  ])("%s", async (_case, status, code, request) => {
    const { answer, headers, ...result } = await post(...request);
    expect(result.status).toBe(status);
    expect(headers.get("content-type")).toMatch(/^application\/problem\+json/);
    expect(answer).toMatchObject({
      type: "about:blank",
      status,
      code,
      requestId: headers.get("x-request-id"),
    });
    expect(await stored()).toEqual([]);
  });

  it("whoever has not the right, before a large body is read", async () => {
    const reader = await makeKey(["analytics:read"]);
    const viewer = await api.signIn("acme", "viewer");
    for (const token of [reader, viewer]) {
      const small = await post([event("1")], { token });
      expect([small.status, small.answer.code, small.answer.reason]).toEqual([
        403,
        "FORBIDDEN",
        "events:write",
      ]);
      const large = await post(" ".repeat(6 * 1024 * 1024), { token });
      expect(large.status).toBe(403);
    }
    expect(await stored()).toEqual([]);
  });

  it("other methods and places", async () => {
    const get = await fetch(`${api.url}/v1/events`);
    expect([get.status, get.headers.get("allow")]).toEqual([405, "POST"]);
    const lost = await fetch(`${api.url}/v1/nothing`);
    expect([lost.status, lost.headers.get("content-type")]).toEqual([
      404,
      expect.stringContaining("problem+json"),
    ]);
  });
});

it("takes the tenant from the key, whatever the body says", async () => {
  const { answer } = await post([{ ...event("1"), tenantId: globex.id }, event("2")]);
  expect(answer.events[0]).toMatchObject({ reason: "unknown_field", pointer: "/0/tenantId" });
  expect(await stored()).toMatchObject([{ source_id: "2", tenant_id: acme.id }]);
});

it("takes events of signed-in users who may write, and records who it was", async () => {
  const { answer } = await post([event("1")], { token: await api.signIn("acme", "user") });
  expect(answer.accepted).toBe(1);
  await post([event("2")]);
  const { rows } = await database.owner.query(
    "select actor_kind, actor_name from audit_logs where tenant_id = $1 and action = 'events.written' order by id desc limit 2",
    [acme.id],
  );
  expect(rows).toEqual([
    { actor_kind: "api_key", actor_name: "Till" },
    { actor_kind: "user", actor_name: "user@acme.test" },
  ]);
});

describe("limits", () => {
  const plan = (column: string, limit: number | null) =>
    database.owner.query(`update app_private.plans set ${column} = $1 where name = 'trial'`, [limit]);
  const many = (count: number, from = 0) =>
    Array.from({ length: count }, (_, index) => event(`${from + index}`));

  const limits = ["events_per_minute", "key_events_per_minute", "events_per_day"];
  beforeEach(async () => {
    for (const each of limits) await plan(each, null);
  });
  afterAll(async () => {
    await plan("events_per_minute", 6_000);
    await plan("key_events_per_minute", 6_000);
    await plan("events_per_day", 200_000);
  });

  it.each(limits)("%s holds for all instances together, and says when to come back", async (column) => {
    await plan(column, 5_000);
    expect((await post(many(3_000))).status).toBe(202);
    const { status, answer, headers } = await post(many(3_000, 3_000), { at: other });
    expect([status, answer.code, answer.limit]).toEqual([429, "RATE_LIMITED", column]);
    const wait = Number(headers.get("retry-after"));
    const midnight = Math.ceil((86_400_000 - (Date.now() % 86_400_000)) / 1_000);
    expect(Math.abs(wait - (column === "events_per_day" ? midnight : 12))).toBeLessThanOrEqual(5);
    expect(await stored()).toHaveLength(3_000);
    // A smaller one fits, and the refused one has cost nothing.
    expect((await post(many(1_500, 3_000))).status).toBe(202);
    // Of the key alone: its tenant's others go on.
    const token = await makeKey(["events:write"]);
    expect((await post(many(3_000, 3_000), { token })).status).toBe(column.startsWith("key") ? 202 : 429);
  });

  it("events_per_day counts what was written, and not what failed, was rejected or there already", async () => {
    await plan("events_per_day", 5_000);
    const counted = async () => {
      const { rows } = await database.owner.query("select count::integer from app_private.event_counts");
      return rows[0].count;
    };
    await database.owner.query(`
      create function app_private.fail() returns trigger language plpgsql as $$
      begin raise exception 'by a test' using errcode = '57014'; end $$;
      create trigger fail before insert on analytics_events for each statement execute function app_private.fail()`);
    expect((await post(many(4_900))).status).toBe(503);
    await database.owner.query("drop trigger fail on analytics_events; drop function app_private.fail()");
    expect((await post(many(4_900))).status).toBe(202);
    expect((await post(many(4_900, 10_000))).status).toBe(429);
    expect((await post(many(4_900))).answer.duplicate).toBe(4_900);
    expect((await post(many(100))).answer.duplicate).toBe(100);
    expect((await post(many(100).map((event) => ({ ...event, value: "x" })))).status).toBe(422);
    expect((await post(many(100, 4_900))).status).toBe(202);
    expect(await counted()).toBe(5_000);
    expect((await post(many(1, 5_000))).status).toBe(429);
  });

  it("events_per_day does not come back within the day, and does on the next", async () => {
    await plan("events_per_day", 5_000);
    await post(many(5_000));
    // As if sent long ago on this day.
    await database.owner.query("update app_private.rate_limits set counted_at = now() - interval '20 hours'");
    expect((await post(many(2))).answer.limit).toBe("events_per_day");
    await database.owner.query("update app_private.event_counts set day = day - 1");
    expect((await post(many(2))).status).toBe(202);
  });
});

describe("OpenAPI", () => {
  // biome-ignore lint/suspicious/noExplicitAny: a document of any shape
  let openApi: any;
  beforeAll(async () => {
    openApi = await (await fetch(`${api.url}/v1/openapi.json`)).json();
  });
  const validator = (name: string) => {
    const ajv = new Ajv2020.default({ strict: false, validateFormats: false });
    ajv.addSchema({ $id: "api", components: openApi.components });
    return ajv.compile({ $ref: `api#/components/schemas/${name}` });
  };

  it("describes the answers that are given", async () => {
    const { responses } = openApi.paths["/v1/events"].post;
    const receipts = validator("Receipts");
    const problem = validator("Problem");
    const answers = [
      await post([event("1"), event("2", { value: "x" })]),
      await post([event("2", { value: "x" })]),
      await post("["),
      await post([], { token: null }),
      await post("", { type: "text/csv" }),
      await post("", { type: "application/json; charset=latin1" }),
      await post("", { headers: { "content-encoding": "zstd" } }),
      await post(undefined, { method: "PUT" }),
    ];
    expect(answers.map(({ status }) => status)).toEqual([202, 422, 400, 401, 415, 415, 415, 405]);
    for (const { status, answer, headers } of answers) {
      const [mediaType] = headers.get("content-type")?.split(";") ?? [];
      expect(Object.keys(responses[status].content)).toEqual([mediaType]);
      if (status === 202 || status === 422) expect([receipts(answer), receipts.errors]).toEqual([true, null]);
      if (status !== 202) expect([problem(answer), problem.errors]).toEqual([true, null]);
    }
  });

  it("calls an event sound exactly when the database does, as far as a schema can", async () => {
    const sound = validator("Event");
    const { sourceId: _, ...anonymous } = event("1");
    for (const candidate of [
      event("1"),
      anonymous,
      event("2", { value: 1.5, currency: null, properties: null, timestamp: null, source: null }),
      event("3", { timestamp: "2026-03-05T10:00:00+05:30", sourceVersion: 7 }),
      event("4", { eventType: "" }),
      event("5", { eventName: "x".repeat(201) }),
      event("6", { sourceId: 7 }),
      event("7", { value: "1e3" }),
      event("8", { value: "9".repeat(31) }),
      event("9", { currency: "eur" }),
      event("10", { properties: [] }),
      event("11", { sourceVersion: "1.5" }),
      event("12", { extra: 1 }),
      event("13", { source: "x".repeat(201) }),
      ...[
        "2026-03-05T10:00Z",
        "2026-03-05 10:00:00Z",
        "2026-03-05t10:00:00z",
        "2026-03-05T24:00:00Z",
        "2026-03-05T23:59:60Z",
        "2026-03-05T10:00:00.123456789Z",
        "2026-03-05T10:00:00.1234567890Z",
        "2026-03-05T10:00:00+15:59",
        "2026-03-05T10:00:00+16:00",
        "2026-03-05T10:00:00-0500",
        "2026-02-29T10:00:00Z",
        "2024-02-29T10:00:00Z",
        "2026-04-31T10:00:00Z",
        { year: 2026 },
      ].map((timestamp) => event("14", { timestamp })),
      ...[
        7.0,
        1e3,
        1e18,
        999_999_999_999_999_900,
        -5,
        1.5,
        "7.0",
        "+7",
        "-7",
        "1e3",
        "9".repeat(19),
        true,
      ].map((sourceVersion) => event("15", { sourceVersion })),
      ...[1e40, -1e30, 1e29, 1e-7, "1e40", ".5", "5.", "+5", "-0.5", " 5", [1], true].map((value) =>
        event("16", { value }),
      ),
      event("17", { deleted: "yes" }),
      event("18", { deleted: false }),
      event("19", { deleted: true }),
      event("20", { sourceId: [1e100], source: { a: 1 } }),
    ]) {
      const { answer } = await post([candidate]);
      expect([candidate, sound(candidate)]).toEqual([candidate, answer.rejected === 0]);
    }
  });
});

describe("createAnalyticsEvents", () => {
  const create = (token: string, input: object) =>
    api.query(
      `mutation ($input: CreateAnalyticsEventsInput!) {
         createAnalyticsEvents(input: $input) {
           accepted updated duplicate rejected
           receipts { index outcome id timestamp code reason pointer detail }
         }
       }`,
      { token, variables: { input } },
    );

  it("writes a signed-in user's events by the same rules", async () => {
    const token = await api.signIn("acme", "user");
    const { data, errors } = await create(token, {
      events: [event("1", { properties: { n: 1 } }), event("2", { value: "5", currency: "XXY" })],
    });
    expect(errors).toBeUndefined();
    expect(data.createAnalyticsEvents).toMatchObject({
      accepted: 1,
      rejected: 1,
      receipts: [
        {
          index: 0,
          outcome: "ACCEPTED",
          id: expect.any(String),
          timestamp: expect.stringMatching(/^2026-03-05T/),
        },
        { index: 1, outcome: "REJECTED", reason: "unknown_currency", pointer: "/currency" },
      ],
    });
    // What is left out stays; what is null is cleared.
    const { sourceId, source } = event("1");
    await create(token, { events: [{ source, sourceId, currency: null }] });
    const { rows } = await database.owner.query("select value::text, currency from analytics_events");
    expect(rows).toEqual([{ value: "12.50", currency: null }]);
    const rejected = await create(token, { events: [event("1")], onConflict: "REJECT" });
    expect(rejected.data.createAnalyticsEvents.receipts).toMatchObject([
      { outcome: "REJECTED", code: "CONFLICT" },
    ]);
  });

  it("is not for viewers, nor for nobody", async () => {
    const viewer = await create(await api.signIn("acme", "viewer"), { events: [event("1")] });
    expect(viewer.errors?.[0].extensions).toEqual({ code: "FORBIDDEN", reason: "events:write" });
    const nobody = await create("", { events: [event("1")] });
    expect(nobody.errors?.[0].extensions).toEqual({ code: "UNAUTHENTICATED" });
    expect(await stored()).toEqual([]);
  });
});
