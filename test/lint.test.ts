import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "@jest/globals";
import pg from "pg";
import { breakages } from "./lint/breakages.ts";
import { offenders } from "./lint/offenders.ts";
import { rules } from "./lint/rules/index.ts";
import { withoutVolatility } from "./lint/rules/volatilityIsStated.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";

let database: TestDatabase;
let client: pg.Client;

beforeAll(async () => {
  database = await createTestDatabase();
  client = new pg.Client({ connectionString: database.urls.root });
  await client.connect();
});
afterAll(async () => {
  await client.end();
  await database.drop();
});
beforeEach(() => client.query("begin"));
afterEach(() => client.query("rollback"));

describe.each(Object.entries(rules))("%s", (name, rule) => {
  it(`holds: ${rule.name}`, async () => {
    expect(await offenders(rule, client)).toEqual([]);
  });

  const cases = breakages.filter((breakage) => breakage.rule === name);
  for (const { sql, as = "erp_user", found } of cases)
    it(`sees ${sql.replaceAll(/\s+/g, " ")}`, async () => {
      await client.query(`set local role ${as}`);
      await client.query(sql);
      expect(await offenders(rule, client)).toEqual(found);
    });
});

it("is seen failing, each rule of it", () => {
  // The rule about sources has none to break in a database.
  const broken = new Set<string>(["volatilityIsStated", ...breakages.map(({ rule }) => rule)]);
  expect(Object.keys(rules).filter((name) => !broken.has(name))).toEqual([]);
});

it("finds functions whose source does not state their volatility", () => {
  const stated = "create function a.stated() returns void\nlanguage sql stable\nas $$ select volatile $$;";
  const unstated = "create or replace function a.unstated() returns void language sql as $$ select 1 $$;";
  const standard = "create function a.standard() returns integer language sql return 1;";
  expect(withoutVolatility(`${stated}\n${unstated}\n${standard}\n${stated}`)).toEqual([
    "a.unstated",
    "a.standard",
  ]);
});
