import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { paths } from "../src/paths.ts";
import { makeAnalyst, type TestAnalyst, writeEvents } from "./support/analysts.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let acme: TestTenant;
let analyst: TestAnalyst;

beforeAll(async () => {
  database = await createTestDatabase();
  acme = await createTenant(database.owner, "acme");
  analyst = await makeAnalyst(database, acme);
});
afterAll(async () => {
  await analyst?.revoke();
  await database.drop();
});

it("is served by an index on its tenant", async () => {
  const { rows } = await analyst.query(
    "set enable_seqscan = off; explain select from analytics.orders where timestamp > '2026-01-01'",
  );
  const plan = rows.map((row) => row["QUERY PLAN"]).join("\n");
  expect(plan).toMatch(/Index Cond: .*tenant_id = .*SESSION_USER/);
  expect(plan).not.toMatch(/Filter: .*SESSION_USER/);
});

it("reads what is no number or time as null, and the rest as what it is", async () => {
  const properties = { closedAt: "2026-02-01T13:00:00+01:00", channel: "online", locationId: "L1" };
  const good = { ...properties, tax: "4.20", discount: 1.5, tip: "0", lineCount: 3 };
  const bad = { tax: "NaN", discount: "1e400", tip: { a: 1 }, lineCount: "3.5", closedAt: "infinity" };
  const nasty = {
    tax: "4.20; drop",
    discount: "",
    tip: null,
    lineCount: "9".repeat(40),
    closedAt: "2026-02-31T00:00:00Z",
  };
  await writeEvents(database.owner, acme, [
    { type: "order", id: "good", properties: good },
    { type: "order", id: "bad", properties: bad },
    { type: "order", id: "nasty", properties: nasty },
  ]);
  const { rows } = await analyst.query(
    "select channel, location_id, tax, discount, tip, line_count, closed_at from orders where source_id ~ 'good|bad|nasty' order by channel nulls last",
  );
  const none = {
    channel: null,
    location_id: null,
    tax: null,
    discount: null,
    tip: null,
    line_count: null,
    closed_at: null,
  };
  expect(rows).toEqual([
    {
      ...{ channel: "online", location_id: "L1", tax: "4.20", discount: "1.5", tip: "0", line_count: "3" },
      closed_at: new Date("2026-02-01T12:00:00Z"),
    },
    none,
    none,
  ]);
});

it("answers the queries of docs/analysts.md, in the tenant's time zone", async () => {
  await database.owner.query("update tenants set settings = $2 where id = $1", [
    acme.id,
    { timeZone: "Asia/Kolkata", currency: "INR" },
  ]);
  // On Monday in India, when it is Sunday in UTC; on the first of a month likewise.
  const moments = ["2026-05-31T20:00:00Z", "2026-06-02T12:00:00Z"];
  const events = moments.map((timestamp, index) => ({
    ...{ eventType: "order", eventName: "order_completed", source: "test", sourceId: `order:i${index}` },
    ...{ timestamp, value: 7, currency: "INR", properties: { channel: "online" } },
  }));
  await database.owner.query("select app_hidden.write_events($1, $2)", [acme.id, JSON.stringify(events)]);
  const document = await readFile(join(paths.root, "docs/analysts.md"), "utf8");
  const queries = (/```sql\n([\s\S]*?)```/.exec(document)?.[1] ?? "")
    .split(";\n")
    .filter((sql) => sql.trim());
  const answers = [];
  // Whenever this runs: "the last twelve weeks" would not hold these days for ever.
  for (const sql of queries) answers.push((await analyst.query(sql.replace("12 weeks", "100 years"))).rows);
  expect(answers.length).toBe(3);
  const [weeks = [], months = []] = answers;
  const day = (date: Date) => date.toLocaleDateString("sv");
  const rupees = ({ currency }: { currency: string }) => currency === "INR";
  expect(weeks.filter(rupees).map(({ week, revenue }) => [day(week), revenue])).toEqual([
    ["2026-06-01", "14"],
  ]);
  expect(months.filter(rupees).map(({ month, net }) => [day(month), net])).toEqual([["2026-06-01", "14"]]);
});
