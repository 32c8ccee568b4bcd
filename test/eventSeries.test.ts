import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { rollUpTenant } from "../src/rollups/rollUp.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let api: TestApi;
let tenant: TestTenant;
let token: string;

beforeAll(async () => {
  database = await createTestDatabase();
  tenant = await createTenant(database.owner, "acme");
  await createTenant(database.owner, "globex");
  api = await startApi(database);
  token = await api.signIn("acme", "viewer");
});
afterAll(async () => {
  await api.close();
  await database.drop();
});

const SELECTION = `{
  columns { name unit format }
  rows { start label dimensions isOther values }
  timeZone freshness { source pendingQuarterHours }
}`;
const ask = (args: string, selection = SELECTION) =>
  api.query(`{ eventSeries(${args}) ${selection} }`, { token });
const JANUARY = 'from: "2026-01-01T00:00:00Z", to: "2026-02-01T00:00:00Z", timeZone: "UTC"';
const SUM = 'measures: [{name: "revenue", aggregate: SUM}, {name: "orders", aggregate: COUNT}]';

describe("eventSeries", () => {
  it("answers days, gaps filled, from the events and from rollups alike", async () => {
    const raw = await ask(`${JANUARY}, granularity: DAY, ${SUM}`);
    expect(raw.errors).toBeUndefined();
    const { rows, columns, freshness } = raw.data.eventSeries;
    expect(freshness.source).toBe("EVENTS");
    expect(columns.map(({ name }: { name: string }) => name)).toEqual(["revenue", "orders"]);
    expect(rows).toHaveLength(31);
    expect(rows[2]).toEqual({
      start: "2026-01-03T00:00:00.000000Z",
      label: "2026-01-03",
      dimensions: [],
      isOther: false,
      values: ["3", "1"],
    });
    expect(rows[20].values).toEqual(["0", "0"]);
    expect(await rollUpTenant(database.worker, tenant.id)).toBe(true);
    const rolled = await ask(`${JANUARY}, granularity: DAY, ${SUM}`);
    expect(rolled.data.eventSeries.freshness).toEqual({ source: "ROLLUPS", pendingQuarterHours: 0 });
    expect(rolled.data.eventSeries.rows).toEqual(rows);
  });
});
