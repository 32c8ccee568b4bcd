import { afterAll, beforeAll, beforeEach, describe, expect, it } from "@jest/globals";
import Ajv2020 from "ajv/dist/2020.js";
import { exportLimits } from "../src/exports/limits.ts";
import { extendTimeouts } from "../src/exports/service.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { emptyAuditLog } from "./support/audit.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { type Asked, askFor, readCsv, readLines } from "./support/exports.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until, untilBlocked } from "./support/until.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let globex: TestTenant;
let admin: string;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  acme = await createTenant(database.owner, "acme");
  globex = await createTenant(database.owner, "globex");
  await database.owner.query("update tenants set features = '{api_keys}'");
  admin = await api.signIn("acme", "admin");
});
beforeEach(async () => {
  await emptyAuditLog(database);
});
afterAll(async () => {
  await api.close();
  await database.drop();
});

async function ask(name: "series" | "events", body: unknown, asked: Asked = {}) {
  const response = await askFor(api, name, body, { token: admin, ...asked });
  const text = await response.text();
  const { status, headers } = response;
  return { status, headers, text };
}
const YEAR = { from: "2026-01-01T00:00:00Z", to: "2027-01-01T00:00:00Z" };
const write = (events: object[], tenant = acme) =>
  database.owner.query("select app_hidden.write_events($1, $2)", [tenant.id, JSON.stringify(events)]);
const recorded = async () =>
  (
    await database.owner.query(
      "select action, resource, actor_kind, actor_name, changes from audit_logs where action = 'analytics.exported' order by id",
    )
  ).rows;
const makeKey = async (scopes: string[]): Promise<string> => {
  const { data, errors } = await api.query(
    "mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret } }",
    { token: admin, variables: { input: { name: "Sheet", scopes } } },
  );
  expect(errors).toBeUndefined();
  return data.createApiKey.secret;
};

describe("events", () => {
  const nasty = ['a "b", c', "two\nlines\r\n", "żółć 🦊 日本", " space ", "semi;colon", "'quoted'", "\\n"];
  const formulas = ["=1+1", "+48 123", "-2", "@sum", "\tx", "\rx", "\nx", "＝1"];
  const texts = [...nasty, ...formulas];
  const DAY = { from: "2026-06-01T00:00:00Z", to: "2026-06-02T00:00:00Z" };

  beforeAll(async () => {
    await write(
      texts.map((text, index) => ({
        eventType: "note",
        eventName: text,
        source: "test",
        sourceId: `note:${index}`,
        timestamp: `2026-06-01T10:00:${String(index).padStart(2, "0")}.123456Z`,
        value: index === 0 ? "-12345678901234567890.1234567890" : "0.10",
        currency: index === 0 ? null : "EUR",
        properties: { text, n: 1, empty: "" },
      })),
    );
    await write([
      {
        eventType: "precise",
        eventName: "n",
        sourceId: "precise",
        timestamp: "2026-07-01T00:00:00Z",
        properties: { list: [1, { a: null }], flag: true },
      },
    ]);
    await database.owner.query(
      `update analytics_events set properties = properties || '{"n": 9007199254740993.10}' where event_type = 'precise'`,
    );
  });

  it("are those of plain SQL, in the order of time, every digit of them", async () => {
    const { status, headers, text } = await ask("events", YEAR);
    expect([status, headers.get("content-type")]).toEqual([200, "text/csv; charset=utf-8; header=present"]);
    expect(headers.get("content-disposition")).toBe('attachment; filename="events.csv"');
    expect(text.split("\r\n")[0]).toBe(
      "id,timestamp,eventType,eventName,value,currency,subject,source,sourceId,properties",
    );
    const { rows } = await database.owner.query(
      `select id, to_char("timestamp" at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as "timestamp",
              event_type as "eventType", event_name as "eventName", coalesce(value::text, '') as value,
              coalesce(currency, '') as currency, coalesce(subject, '') as subject, coalesce(source, '') as source,
              coalesce(source_id, '') as "sourceId", properties::text
         from analytics_events where tenant_id = $1 order by "timestamp", id`,
      [acme.id],
    );
    expect(rows).toHaveLength(11 + texts.length);
    const plain = (row: Record<string, string>) => ({
      ...row,
      eventName: row.eventName?.replace(/^'(?!quoted)/, ""),
    });
    expect(readCsv(text).map(plain)).toEqual(rows);
    expect(readCsv(text).find(({ sourceId }) => sourceId === "note:0")?.value).toBe(
      "-12345678901234567890.1234567890",
    );
  });

  it("come back from CSV as they were, and formulas as text", async () => {
    const columns = ["eventName", "properties.text", "properties.empty", "properties.none", "value"];
    const { text } = await ask("events", { ...DAY, columns });
    const rows = readCsv(text);
    expect(rows.map(({ eventName }) => eventName)).toEqual([...nasty, ...formulas.map((one) => `'${one}`)]);
    for (const row of rows) expect(row["properties.text"]).toBe(row.eventName);
    // Numbers stay numbers, below zero too.
    expect(rows[0]?.value).toBe("-12345678901234567890.1234567890");
    expect(text.split("\r\n").at(-2)).toBe(`'＝1,'＝1,"",,0.10`);
  });

  it("are verbatim in NDJSON", async () => {
    const { text, headers } = await ask("events", DAY, { accept: "application/x-ndjson" });
    expect(headers.get("content-type")).toBe("application/x-ndjson; charset=utf-8");
    const lines = readLines(text);
    expect(lines.map(({ eventName }) => eventName)).toEqual(texts);
    expect(lines[0]).toEqual({
      id: expect.any(String),
      timestamp: "2026-06-01T10:00:00.123456Z",
      eventType: "note",
      eventName: texts[0],
      value: "-12345678901234567890.1234567890",
      currency: null,
      subject: null,
      source: "test",
      sourceId: "note:0",
      properties: { text: texts[0], n: 1, empty: "" },
    });
    const precise = await ask(
      "events",
      {
        ...YEAR,
        filter: { types: ["precise"] },
        columns: ["properties.n", "properties.list", "properties.none"],
      },
      { query: "?format=ndjson" },
    );
    expect(precise.text).toBe(
      '{"properties.n":9007199254740993.10,"properties.list":[1, {"a": null}],"properties.none":null}\n',
    );
  });

  it("are those that pass the filter; none of them is an answer, too", async () => {
    const filter = { types: ["note"], properties: [{ name: "text", in: ["=1+1"] }] };
    const found = await ask("events", { ...YEAR, filter, columns: ["sourceId"] });
    expect(found.text).toBe(`sourceId\r\nnote:${nasty.length}\r\n`);
    const none = { ...YEAR, filter: { types: ["nothing"] }, columns: ["sourceId", "value"] };
    expect((await ask("events", none)).text).toBe("sourceId,value\r\n");
    expect(await ask("events", none, { query: "?format=ndjson" })).toMatchObject({ status: 200, text: "" });
  });

  it("of other tenants are never among them", async () => {
    const { text } = await ask("events", YEAR, { query: "?format=ndjson" });
    const { rows } = await database.owner.query("select id, tenant_id from analytics_events");
    const tenantOf = new Map(rows.map(({ id, tenant_id }) => [id, tenant_id]));
    expect(rows.some(({ tenant_id }) => tenant_id === globex.id)).toBe(true);
    expect(new Set(readLines(text).map(({ id }) => tenantOf.get(id)))).toEqual(new Set([acme.id]));
    expect(await ask("events", { ...YEAR, tenantId: globex.id })).toMatchObject({ status: 400 });
  });
});

describe("a series", () => {
  const JANUARY = { from: "2026-01-01T00:00:00Z", to: "2026-02-01T00:00:00Z", timeZone: "UTC" };
  const request = {
    ...JANUARY,
    granularity: "WEEK",
    dimensions: [{ field: "CURRENCY" }, { property: "tenant" }],
    measures: [{ name: "revenue", aggregate: "SUM" }],
    metrics: ["order_count"],
    top: { first: 3 },
    compare: "PREVIOUS_YEAR",
  };

  it("is what eventSeries answers, with a column for each measure and metric", async () => {
    await database.owner.query(
      `insert into metrics (tenant_id, name, formula, measures) values ($1, 'order_count', 'n * 1', '[{"name": "n", "aggregate": "COUNT"}]')`,
      [acme.id],
    );
    const { data, errors } = await api.query(
      `{ eventSeries(from: "${JANUARY.from}", to: "${JANUARY.to}", timeZone: "UTC", granularity: WEEK,
           dimensions: [{field: CURRENCY}, {property: "tenant"}], measures: [{name: "revenue", aggregate: SUM}],
           metrics: ["order_count"], top: {first: 3}, compare: PREVIOUS_YEAR) {
           rows { start label dimensions isOther revenue: value(of: "revenue") orders: value(of: "order_count")
                  revenueBefore: compared(of: "revenue") ordersBefore: compared(of: "order_count") } } }`,
      { token: admin },
    );
    expect(errors).toBeUndefined();
    const expected = data.eventSeries.rows.map(
      (row: Record<string, unknown> & { dimensions: unknown[] }) => ({
        start: row.start,
        label: row.label,
        currency: row.dimensions[0],
        "properties.tenant": row.dimensions[1],
        isOther: row.isOther,
        revenue: row.revenue,
        order_count: row.orders,
        "revenue.compared": row.revenueBefore,
        "order_count.compared": row.ordersBefore,
      }),
    );
    expect(expected).toHaveLength(5);
    expect(expected[0].revenue).toBe("10");
    const ndjson = await ask("series", request, { accept: "application/ndjson" });
    expect(readLines(ndjson.text)).toEqual(expected);
    const csv = await ask("series", request);
    const asTexts = (row: object) =>
      Object.fromEntries(
        Object.entries(row).map(([name, cell]) => [name, cell === null ? "" : String(cell)]),
      );
    expect(readCsv(csv.text)).toEqual(expected.map(asTexts));
    expect(Object.keys(readCsv(csv.text)[0] ?? {})).toEqual(Object.keys(expected[0]));
  });

  it("has no two columns of one name", async () => {
    const measures = [{ name: "label", aggregate: "COUNT" }];
    const { status, text } = await ask("series", { ...JANUARY, granularity: "DAY", measures });
    expect([status, JSON.parse(text)]).toEqual([
      400,
      expect.objectContaining({ code: "INVALID_INPUT", reason: "column_name" }),
    ]);
    expect(await recorded()).toEqual([]);
  });
});

describe("the permission analytics:export", () => {
  it("is what a viewer and a user lack, until it is granted", async () => {
    for (const role of ["viewer", "user"])
      for (const name of ["events", "series"] as const) {
        const { status, text } = await ask(name, YEAR, { token: await api.signIn("acme", role) });
        expect([status, JSON.parse(text)]).toEqual([
          403,
          expect.objectContaining({ code: "FORBIDDEN", reason: "analytics:export" }),
        ]);
      }
    expect(await recorded()).toEqual([]);
    await database.owner.query("update users set permissions = '{analytics:export}' where id = $1", [
      acme.users.viewer.id,
    ]);
    const { status, text } = await ask("events", YEAR, { token: await api.signIn("acme", "viewer") });
    expect(status).toBe(200);
    expect(readCsv(text).length).toBeGreaterThan(10);
    expect(await recorded()).toMatchObject([{ actor_kind: "user", actor_name: "viewer@acme.test" }]);
  });

  it("is a scope of API keys", async () => {
    for (const scopes of [["analytics:read"], ["events:write"]]) {
      const { status, text } = await ask("events", YEAR, { token: await makeKey(scopes) });
      expect([status, JSON.parse(text).reason]).toEqual([403, "analytics:export"]);
    }
    const token = await makeKey(["analytics:read", "analytics:export"]);
    expect((await ask("events", YEAR, { token })).status).toBe(200);
    expect(await recorded()).toMatchObject([{ actor_kind: "api_key", actor_name: "Sheet" }]);
  });
});

describe("the audit log", () => {
  it("says who exported what", async () => {
    const request = { ...YEAR, filter: { types: ["order"] }, columns: ["id"] };
    await ask("events", request, { query: "?format=ndjson" });
    expect(await recorded()).toEqual([
      {
        action: "analytics.exported",
        resource: "events",
        actor_kind: "user",
        actor_name: "admin@acme.test",
        changes: { format: "ndjson", request },
      },
    ]);
  });

  it("has it before the first byte leaves", async () => {
    const blocker = await database.owner.connect();
    try {
      await blocker.query("begin; lock table audit_logs in share mode");
      let answered = false;
      const answer = askFor(api, "events", YEAR, { token: admin });
      void answer.then(() => {
        answered = true;
      });
      await untilBlocked(database);
      expect(answered).toBe(false);
      await blocker.query("commit");
      expect((await answer).status).toBe(200);
      expect(await recorded()).toHaveLength(1);
    } finally {
      await blocker.query("rollback");
      blocker.release();
    }
  });

  it("gives nothing away when it cannot be written", async () => {
    const { rows } = await database.owner.query(
      "select pg_get_functiondef('app_private.write_audit'::regproc) as definition",
    );
    await database.owner.query(
      rows[0].definition.replace(/begin[\s\S]*end/, "begin raise exception 'no room'; end"),
    );
    try {
      const series = { ...YEAR, granularity: "ALL", measures: [{ name: "n", aggregate: "COUNT" }] };
      for (const { status, text } of [await ask("events", YEAR), await ask("series", series)]) {
        expect([status, JSON.parse(text).code]).toEqual([500, "INTERNAL"]);
        expect(text).not.toContain("order_completed");
      }
    } finally {
      await database.owner.query(rows[0].definition);
    }
    expect((await ask("events", YEAR)).status).toBe(200);
  });

  it("has nothing of an export that found no first row", async () => {
    const { status, text } = await ask("series", { ...YEAR, granularity: "DAY", metrics: ["unheard_of"] });
    expect([status, JSON.parse(text).reason]).toEqual([400, "unknown_metric"]);
    expect(await recorded()).toEqual([]);
  });
});

describe("refuses as a problem that OpenAPI describes", () => {
  it.each<[string, number, string, unknown, Asked]>([
    ["nobody", 401, "UNAUTHENTICATED", YEAR, { token: undefined }],
    ["what is no JSON", 400, "INVALID_INPUT", "{", {}],
    ["what is no object", 400, "INVALID_INPUT", "[]", {}],
    ["no range", 400, "INVALID_INPUT", {}, {}],
    ["a reversed range", 400, "INVALID_INPUT", { from: YEAR.to, to: YEAR.from }, {}],
    ["an unknown column", 400, "INVALID_INPUT", { ...YEAR, columns: ["tenantId"] }, {}],
    ["a nameless property", 400, "INVALID_INPUT", { ...YEAR, columns: ["properties."] }, {}],
    ["a column twice", 400, "INVALID_INPUT", { ...YEAR, columns: ["id", "id"] }, {}],
    ["no column", 400, "INVALID_INPUT", { ...YEAR, columns: [] }, {}],
    ["an unknown filter", 400, "INVALID_INPUT", { ...YEAR, filter: { type: "order" } }, {}],
    ["NUL", 400, "INVALID_INPUT", { ...YEAR, filter: { types: ["a\0"] } }, {}],
    ["another format", 400, "INVALID_INPUT", YEAR, { query: "?format=xlsx" }],
    ["an unknown parameter", 400, "INVALID_INPUT", YEAR, { query: "?limit=1" }],
    ["another Accept", 406, "INVALID_INPUT", YEAR, { accept: "application/pdf" }],
    ["another content type", 415, "INVALID_INPUT", "from=2026", { type: "text/plain" }],
    ["a large body", 413, "INVALID_INPUT", { ...YEAR, x: "x".repeat(100_000) }, {}],
  ])("%s", async (_case, status, code, body, asked) => {
    const answer = await ask("events", body, asked);
    expect([answer.status, answer.headers.get("content-type")]).toEqual([
      status,
      expect.stringContaining("application/problem+json"),
    ]);
    const problem = JSON.parse(answer.text);
    expect(problem).toMatchObject({ code, requestId: answer.headers.get("x-request-id") });
    // biome-ignore lint/suspicious/noExplicitAny: a document of any shape
    const openApi: any = await (await fetch(`${api.url}/v1/openapi.json`)).json();
    for (const name of ["events", "series"])
      expect(openApi.paths[`/v1/exports/${name}`].post.responses).toHaveProperty(String(status));
    const ajv = new Ajv2020.default({ strict: false, validateFormats: false });
    ajv.addSchema({ $id: "api", components: openApi.components });
    expect(ajv.compile({ $ref: "api#/components/schemas/Problem" })(problem)).toBe(true);
    expect(await recorded()).toEqual([]);
  });

  it("other methods", async () => {
    const get = await fetch(`${api.url}/v1/exports/events`);
    expect([get.status, get.headers.get("allow")]).toEqual([405, "POST"]);
  });
});

it("may take longer than other requests", async () => {
  const client = await database.authenticator.connect();
  try {
    await client.query("begin");
    await client.query("select set_config('transaction_timeout', '400', true)");
    await extendTimeouts(client, { ...exportLimits, durationMs: 1_500 });
    await client.query("select pg_sleep(0.8)");
    await until(
      () =>
        client.query("select 1").then(
          () => "open",
          () => "closed",
        ),
      (seen) => seen === "closed",
    );
  } finally {
    client.release(new Error("Its transaction timed out."));
  }
});
