import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { rollUpTenant } from "../src/rollups/rollUp.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";
import { startTestWorker } from "./support/worker.ts";

let database: TestDatabase;
let api: TestApi;
let tenant: TestTenant;
let admin: string;

beforeAll(async () => {
  database = await createTestDatabase();
  tenant = await createTenant(database.owner, "acme");
  api = await startApi(database);
  admin = await api.signIn("acme", "admin");
});
afterAll(async () => {
  await api.close();
  await database.drop();
});

const CREATE =
  "mutation ($metric: MetricInput!) { createMetric(input: {metric: $metric}) { metric { id name } } }";
const UPDATE =
  "mutation ($id: UUID!, $patch: MetricPatch!) { updateMetric(input: {id: $id, patch: $patch}) { metric { name } } }";
const create = (metric: object, token = admin) => api.query(CREATE, { token, variables: { metric } });
const update = (id: string, patch: object) => api.query(UPDATE, { token: admin, variables: { id, patch } });
const sum = (name: string, type = "order") => ({ name, aggregate: "SUM", filter: { types: [type] } });
const value = async (metric: string, more = "") => {
  const { data, errors } = await api.query(
    `{ eventSeries(from: "2026-01-01T00:00:00Z", to: "2026-02-01T00:00:00Z", granularity: ALL, metrics: ["${metric}"]${more}) { total(of: "${metric}") columns { unit format } } }`,
    { token: admin },
  );
  return errors ? errors[0].extensions : data.eventSeries.total;
};

describe("metrics", () => {
  it("mean the same to everybody who asks for them by name", async () => {
    const made = await create({
      name: "sold",
      formula: "total",
      measures: [sum("total")],
      unit: "USD",
      format: "MONEY",
    });
    expect(made.errors).toBeUndefined();
    expect(await value("sold")).toBe("55");
    const { data } = await api.query(
      `{ eventSeries(from: "2026-01-01T00:00:00Z", to: "2026-02-01T00:00:00Z", granularity: ALL, metrics: ["sold"]) { columns { name unit format } } }`,
      { token: await api.signIn("acme", "viewer") },
    );
    expect(data.eventSeries.columns).toEqual([{ name: "sold", unit: "USD", format: "MONEY" }]);
  });

  it("compute with measures, other metrics and numbers, exactly", async () => {
    await create({ name: "count", formula: "n", measures: [{ name: "n", aggregate: "COUNT" }] });
    await create({ name: "perOrder", formula: "(sold - 1) * 2 / -count + 0.1", measures: [] });
    // (55 - 1) * 2 / -10 + 0.1
    expect(await value("perOrder")).toBe("-10.7");
    await create({ name: "third", formula: "1 / 3", measures: [] });
    expect(await value("third")).toBe("0.3333333333");
    await create({ name: "million", formula: "third * 3000000" });
    expect(await value("million")).toBe("1000000");
    await create({ name: "trillion", formula: "1000000000000 / 7" });
    expect(await value("trillion")).toBe("142857142857.1428571429");
    await create({ name: "bigThird", formula: "(2075 / 3) * 1000000000000000" });
    expect(await value("bigThird")).toBe("691666666666666666.6666666667");
    await create({ name: "never", formula: "sold / (count - count)", measures: [] });
    expect(await value("never")).toBeNull();
  });

  it("narrow the metrics that they build on by their own filter", async () => {
    await create({
      name: "small",
      formula: "sold",
      measures: [],
      filter: { names: ["order_canceled"] },
    }).then(({ errors }) => expect(errors?.[0].extensions.reason).toBe("unknown_event"));
    await create({ name: "dollars", formula: "sold", measures: [], filter: { currencies: ["USD"] } });
    expect(await value("dollars")).toBe("55");
    await create({ name: "euros", formula: "sold", measures: [], filter: { currencies: ["EUR"] } });
    expect(await value("euros")).toBe("0");
  });

  it.each([
    ["formula", { name: "x", formula: "a +", measures: [sum("a")] }],
    ["formula", { name: "x", formula: "a ** 2", measures: [sum("a")] }],
    ["formula", { name: "x", formula: "f(a)", measures: [sum("a")] }],
    ["formula", { name: "x", formula: "a.b", measures: [sum("a")] }],
    ["formula", { name: "x", formula: "'1'", measures: [] }],
    ["formula", { name: "x", formula: "1e400", measures: [] }],
    ["formula", { name: "x", formula: `${"(".repeat(40)}1${"+1)".repeat(40)}`, measures: [] }],
    ["unknown_name", { name: "x", formula: "a + b", measures: [sum("a")] }],
    ["unused_measure", { name: "x", formula: "1", measures: [sum("a")] }],
    ["metric", { name: "x", formula: "a", measures: [sum("a"), sum("a")] }],
    ["metric", { name: "x", formula: "x", measures: [sum("x")] }],
    ["circular", { name: "x", formula: "x + 1", measures: [] }],
    ["unknown_event", { name: "x", formula: "a", measures: [sum("a", "ordr")] }],
    [
      "unknown_event",
      { name: "x", formula: "a", measures: [{ name: "a", aggregate: "SUM", property: "clics" }] },
    ],
    [
      "unknown_event",
      { name: "x", formula: "a", measures: [{ name: "a", aggregate: "SUM", property: "tenant" }] },
    ],
  ])("refuse, with the reason %s, %j", async (reason, metric) => {
    const { errors } = await create(metric);
    expect(errors?.[0].extensions).toEqual({ code: "INVALID_INPUT", reason });
  });

  it.each([
    [{ name: "x", formula: "a", measures: [{ name: "a", aggregate: "MODE" }] }],
    [{ name: "x", formula: "a", measures: { a: 1 } }],
    [{ name: "X", formula: "1" }],
    [{ name: "x", formula: "a", measures: [sum("a")], filter: { typ: ["order"] } }],
  ])("refuse what is no metric: %j", async (metric) => {
    const { errors } = await create(metric);
    expect(errors?.[0].extensions.code).toBe("INVALID_INPUT");
  });

  it("can be written as literals, enums too", async () => {
    const { errors } = await api.query(
      `mutation { createMetric(input: {metric: {name: "literal", formula: "n", measures: [
         {name: "n", aggregate: COUNT, filter: {types: ["order"], value: {atLeast: "5"}}}], filter: {currencies: ["USD"]}}}) { metric { measures filter } } }`,
      { token: admin },
    );
    expect(errors).toBeUndefined();
    expect(await value("literal")).toBe("6");
  });

  it("cannot be changed into a circle, nor away from those that use them", async () => {
    const base = (await create({ name: "base", formula: "1" })).data.createMetric.metric.id;
    await create({ name: "upper", formula: "base + 1" });
    const circle = await update(base, { formula: "upper" });
    expect(circle.errors?.[0].extensions).toEqual({ code: "INVALID_INPUT", reason: "circular" });
    const renamed = await update(base, { name: "basis" });
    expect(renamed.errors?.[0].extensions).toEqual({ code: "INVALID_INPUT", reason: "in_use" });
    expect((await update(base, { formula: "2" })).errors).toBeUndefined();
    expect(await value("upper")).toBe("3");
  });

  it("cannot be deleted while another one uses them", async () => {
    const lower = (await create({ name: "lower", formula: "1" })).data.createMetric.metric.id;
    const above = (await create({ name: "above", formula: "lower" })).data.createMetric.metric.id;
    const remove = (id: string) =>
      api.query("mutation ($id: UUID!) { deleteMetric(input: {id: $id}) { metric { name } } }", {
        token: admin,
        variables: { id },
      });
    expect((await remove(lower)).errors?.[0].extensions).toEqual({ code: "CONFLICT", reason: "in_use" });
    expect((await remove(above)).errors).toBeUndefined();
    expect((await remove(lower)).errors).toBeUndefined();
  });

  it("are not blamed for what did not work before", async () => {
    await database.owner.query(
      "insert into metrics (tenant_id, name, formula) values ($1, 'broken', 'gone')",
      [tenant.id],
    );
    expect((await create({ name: "sound", formula: "1" })).errors).toBeUndefined();
    await database.owner.query("delete from metrics where tenant_id = $1 and name = 'broken'", [tenant.id]);
  });

  it("make no circle by two changes at once", async () => {
    const [one, two] = await Promise.all(
      ["one", "two"].map(async (name) => (await create({ name, formula: "1" })).data.createMetric.metric.id),
    );
    for (let round = 0; round < 5; round++) {
      const answers = await Promise.all([update(one, { formula: "two" }), update(two, { formula: "one" })]);
      expect(answers.map(({ errors }) => errors?.[0].extensions.reason ?? "done").sort()).toEqual([
        "circular",
        "done",
      ]);
      await database.owner.query("update metrics set formula = '1' where id = any($1)", [[one, two]]);
    }
  });

  it("come down to no more than anybody can follow", async () => {
    await create({ name: "wide0", formula: `${"sold + ".repeat(13)}sold` });
    await create({ name: "wide1", formula: `${"wide0 + ".repeat(13)}wide0` });
    const { errors } = await create({ name: "wide2", formula: "wide1 + wide1" });
    expect(errors?.[0].extensions).toEqual({ code: "INVALID_INPUT", reason: "formula" });
  });

  it("are managed by whoever has metrics:manage", async () => {
    const user = await api.signIn("acme", "user");
    const refused = await create({ name: "mine", formula: "1" }, user);
    expect(refused.errors?.[0].extensions).toEqual({ code: "FORBIDDEN", reason: "metrics:manage" });
    await database.owner.query("update users set permissions = '{metrics:manage}' where id = $1", [
      tenant.users.user.id,
    ]);
    expect((await create({ name: "mine", formula: "1" }, user)).errors).toBeUndefined();
  });

  it("come with a provider, and stay the tenant's own", async () => {
    const { rows } = await database.owner.query("select name from metrics where tenant_id = $1", [tenant.id]);
    expect(rows.map(({ name }) => name)).toEqual(expect.arrayContaining(["revenue", "orders", "netRevenue"]));
    expect(await value("revenue")).toBe("55");
    expect(await value("averageOrder")).toBe("5.5");
    expect(await value("refundShare")).toBe("0");
  });

  it("leave a record in the audit log", async () => {
    const { rows } = await database.owner.query(
      "select actor_name from audit_logs where tenant_id = $1 and action = 'metric.created' and changes -> 'after' ->> 'name' = 'sold'",
      [tenant.id],
    );
    expect(rows).toEqual([{ actor_name: "admin@acme.test" }]);
  });

  it("may be asked for in a mutation's payload, from the events", async () => {
    await rollUpTenant(database.worker, tenant.id);
    const { data, errors } = await api.query(
      `mutation { createMetric(input: {metric: {name: "fresh", formula: "sold + 1"}}) { query {
         eventSeries(from: "2026-01-01T00:00:00Z", to: "2026-02-01T00:00:00Z", granularity: ALL, metrics: ["fresh"]) { total(of: "fresh") freshness { source } } } } }`,
      { token: admin },
    );
    expect(errors).toBeUndefined();
    expect(data.createMetric.query.eventSeries).toEqual({ total: "56", freshness: { source: "EVENTS" } });
  });
});

describe("subjects", () => {
  const subjects = async () => {
    const { rows } = await database.owner.query(
      "select event_type, subject, count(*)::integer as count from analytics_events where tenant_id = $1 and event_type <> 'order' group by 1, 2 order by 1, 2",
      [tenant.id],
    );
    return rows.map(({ event_type, subject, count }) => [event_type, subject, count]);
  };
  const write = (...events: object[]) =>
    database.owner.query("select app_hidden.write_events($1, $2)", [tenant.id, JSON.stringify(events)]);
  const signup = {
    eventType: "signup",
    eventName: "signup_completed",
    source: "web",
    timestamp: "2026-01-02T00:00:00Z",
  };

  it("are promoted from the property of docs/events.md, and follow a restatement", async () => {
    await write(
      { ...signup, sourceId: "1", properties: { customerId: "c1" } },
      { ...signup, sourceId: "2", properties: { customerId: 2 } },
      { ...signup, sourceId: "3", properties: { customerId: { odd: true } } },
    );
    expect(await subjects()).toEqual([
      ["signup", "2", 1],
      ["signup", "c1", 1],
      ["signup", null, 1],
    ]);
    await write({ source: "web", sourceId: "3", properties: { customerId: "c1" } });
    expect(await subjects()).toEqual([
      ["signup", "2", 1],
      ["signup", "c1", 2],
    ]);
  });

  it("are what a tenant declares, of older events too once the worker has been at them", async () => {
    await write({ ...signup, sourceId: "4", properties: { customerId: "c4", teamId: "t1" } });
    const { errors } = await api.query(
      'mutation { createSubjectProperty(input: {subjectProperty: {eventType: "signup", property: "teamId"}}) { subjectProperty { id } } }',
      { token: admin },
    );
    expect(errors).toBeUndefined();
    await write({ ...signup, sourceId: "5", properties: { teamId: "t1" } });
    const worker = await startTestWorker(database);
    try {
      await database.worker.query("select graphile_worker.add_job('promote_subjects', '{}')");
      const promoted = await until(subjects, (found) => !found.some(([, subject]) => subject === "c1"));
      expect(promoted).toEqual([
        ["signup", "t1", 2],
        ["signup", null, 3],
      ]);
    } finally {
      await worker.stop();
    }
    const { data } = await api.query(
      `{ eventSeries(from: "2026-01-01T00:00:00Z", to: "2026-02-01T00:00:00Z", granularity: ALL, filter: {types: ["signup"]}, measures: [{name: "teams", aggregate: DISTINCT_COUNT, of: SUBJECT}]) { total(of: "teams") } }`,
      { token: admin },
    );
    expect(data.eventSeries.total).toBe("1");
  });
});
