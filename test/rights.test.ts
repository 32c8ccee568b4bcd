import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import type pg from "pg";
import type { Claims } from "../src/auth/tokens.ts";
import { allCells, type Cell, permissionOf, titleOf } from "./rights/cells.ts";
import { cellsOf, functions, tables } from "./rights/matrix.ts";
import { makePeople, type People } from "./rights/people.ts";
import { asRequest } from "./support/asRequest.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";

let database: TestDatabase;
let people: People;

beforeAll(async () => {
  database = await createTestDatabase();
  people = await makePeople(database.owner);
});
afterAll(() => database.drop());

it("knows every table and column of the API, and no others", async () => {
  const { rows } = await database.owner.query(
    `select c.relname as name, array_agg(a.attname::text order by a.attname) as columns
       from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
      group by 1`,
  );
  const present = Object.fromEntries(rows.map(({ name, columns }) => [name, columns]));
  const known = Object.fromEntries(
    Object.entries(tables).map(([name, { columns }]) => [name, Object.keys(columns).sort()]),
  );
  expect(known).toEqual(present);
});

it("knows every function of the API, and no others", async () => {
  const { rows } = await database.owner.query(
    "select proname::text as name from pg_proc where pronamespace = 'public'::regnamespace order by 1",
  );
  expect(Object.keys(functions).sort()).toEqual(rows.map(({ name }) => name));
});

describe("functions", () => {
  const cells = Object.entries(functions).flatMap(([name, row]) =>
    cellsOf(row).map(({ role, right }) => ({ name, role, right })),
  );
  it.each(cells)("$role calls $name: $right", async ({ name, role, right }) => {
    const { rows } = await database.owner.query(
      "select has_function_privilege($1, oid, 'execute') as may from pg_proc where pronamespace = 'public'::regnamespace and proname = $2",
      [`api_${role.toLowerCase()}`, name],
    );
    expect(rows).toEqual([{ may: right !== "-" }]);
  });
});

/** The SQLSTATE of a refusal, or how many rows it was about. Nothing of it is kept. */
const attempt = (claims: Claims | undefined, sql: string, values: unknown[] = []): Promise<string | number> =>
  asRequest(
    database.authenticator,
    claims,
    (client: pg.PoolClient) =>
      client.query(sql, values).then(
        ({ rowCount }) => rowCount ?? 0,
        (error: { code: string }) => error.code,
      ),
    { readsLog: sql.startsWith("select from public.audit_logs") },
  );
const tenantColumn = (table: string) => (table === "tenants" ? "id" : "tenant_id");

/** What the cell's statement comes to, about rows of one's own tenant, of oneself, and of another tenant. */
async function tries({ table, operation, column }: Cell, claims: Claims | undefined) {
  const tenant = claims?.tenant_id ?? people.acme.id;
  const foreign = people.globex.id;
  const person = table === "users" ? "id" : "user_id";
  const hasPerson = table === "users" || table === "sessions";
  const verb = {
    select: `select from public.${table}`,
    update: `update public.${table} set "${column}" = "${column}"`,
    delete: `delete from public.${table}`,
    insert: "",
  }[operation];
  const where = `where ${tenantColumn(table)} = $1`;
  return {
    own: await attempt(claims, `${verb} ${where}`, [tenant]),
    self: hasPerson
      ? await attempt(claims, `${verb} ${where} and ${person} = $2`, [tenant, claims?.sub ?? null])
      : undefined,
    others: hasPerson
      ? await attempt(claims, `${verb} ${where} and ${person} <> $2`, [tenant, claims?.sub ?? tenant])
      : undefined,
    foreign: await attempt(claims, `${verb} ${where}`, [foreign]),
  };
}

/** That a column is generated is found before that one may not write it; nobody may. */
const withoutGenerated = (outcome: string | number) => (outcome === "428C9" ? "42501" : outcome);

/** Not null, check and the like come after grants and policies: they are no refusal of the role. */
const insertion = async ({ table, column }: Cell, claims: Claims | undefined) => {
  const outcome = await attempt(claims, `insert into public.${table} ("${column}") values (default)`);
  return outcome === "42501" || outcome === "EA403" ? outcome : "permitted";
};

const count = async (table: string, tenantId: string) =>
  Number(
    (
      await database.owner.query(`select count(*) from public.${table} where ${tenantColumn(table)} = $1`, [
        tenantId,
      ])
    ).rows[0].count,
  );

describe("tables, through SQL", () => {
  it.each(allCells().map((cell) => [titleOf(cell), cell] as const))("%s", async (_title, cell) => {
    const { role, right, operation, table } = cell;
    const permission = permissionOf(right);
    const claims = permission ? people.with(role, permission) : people.as(role);
    if (operation === "insert") {
      expect(await insertion(cell, claims)).toBe(right === "-" ? "42501" : "permitted");
      if (permission)
        for (const lacking of [people.as(role), people.without(role, permission)])
          expect(await insertion(cell, lacking)).toBe("EA403");
      return;
    }
    const outcome = await tries(cell, claims);
    const tenantId = claims?.tenant_id ?? people.acme.id;
    if (right === "-") {
      expect([outcome.own, outcome.foreign].map(withoutGenerated)).toEqual(["42501", "42501"]);
      return;
    }
    expect(await count(table, people.globex.id)).toBeGreaterThan(0);
    if (right === "self") {
      expect(outcome.self).toBeGreaterThan(0);
      expect(outcome).toMatchObject({ others: 0, foreign: 0, own: outcome.self });
    } else {
      const foreign = right === "all" ? await count(table, people.globex.id) : 0;
      // The second look at the log is on record in it, too.
      const since = table === "audit_logs" ? 1 : 0;
      expect(outcome).toMatchObject({ own: (await count(table, tenantId)) - since, foreign });
      expect(outcome.own).toBeGreaterThan(0);
    }
    if (permission)
      for (const lacking of [people.as(role), people.without(role, permission)])
        expect(await tries(cell, lacking)).toMatchObject({ own: "EA403" });
  });
});
