import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { withClient } from "../src/db/pools.ts";
import { analystUrl, makeAnalyst, type TestAnalyst, writeEvents } from "./support/analysts.ts";
import { claimsFor } from "./support/asRequest.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let acme: TestTenant;
let globex: TestTenant;
let analyst: TestAnalyst;

beforeAll(async () => {
  database = await createTestDatabase();
  acme = await createTenant(database.owner, "acme");
  globex = await createTenant(database.owner, "globex");
  for (const tenant of [acme, globex]) {
    await claimsFor(database.owner, tenant, "viewer");
    await writeEvents(database.owner, tenant, [
      { type: "payment" },
      { type: "refund" },
      { type: "ad_insight" },
    ]);
  }
  await withClient(database.urls.root, (client) => client.query("analyze"));
  analyst = await makeAnalyst(database, acme);
});
afterAll(async () => {
  await analyst?.revoke();
  await database.drop();
});

const idsOf = async (table: string, { id }: TestTenant, condition = "true") => {
  const column = table === "tenants" ? "id" : "tenant_id";
  const sql = `select id from public.${table} where ${column} = $1 and ${condition}`;
  const { rows } = await database.owner.query(sql, [id]);
  return rows.map(({ id }) => id).sort();
};
const ids = ({ rows }: { rows: { id: string }[] }) => rows.map(({ id }) => id).sort();

const relations: [relation: string, table: string, condition: string][] = [
  ["analytics.events", "analytics_events", "true"],
  ["analytics.orders", "analytics_events", "event_type = 'order'"],
  ["analytics.payments", "analytics_events", "event_type = 'payment'"],
  ["analytics.refunds", "analytics_events", "event_type = 'refund'"],
  ["analytics.ad_insights", "analytics_events", "event_type = 'ad_insight'"],
  ["analytics.integrations", "integrations", "true"],
  ["analytics.users", "users", "true"],
  ["analytics.tenant", "tenants", "true"],
  ["public.analytics_events", "analytics_events", "true"],
  ["public.integrations", "integrations", "true"],
  ["public.users", "users", "true"],
  ["public.tenants", "tenants", "true"],
];

it.each(relations)("reads its own tenant's rows of %s, and no others", async (relation, table, condition) => {
  expect((await idsOf(table, globex, condition)).length).toBeGreaterThan(0);
  expect(ids(await analyst.query(`select id from ${relation}`))).toEqual(await idsOf(table, acme, condition));
  for (const id of await idsOf(table, globex, condition))
    expect((await analyst.query(`select from ${relation} where id = '${id}'`)).rowCount).toBe(0);
});

it("has all views of the schema in the list above", async () => {
  const { rows } = await analyst.query(
    "select relname from pg_class where relnamespace = to_regnamespace('analytics')",
  );
  const tested = relations.flatMap(([name]) => /^analytics\.(.*)/.exec(name)?.[1] ?? []);
  expect(rows.map(({ relname }) => relname).sort()).toEqual(tested.sort());
});

it.each([
  "set app.tenant_id = '<globex>'",
  "set app.tenant_id = '<globex>'; set app.user_id = '<user>'; set app.role = 'ADMIN'",
  "set role none",
  "set session authorization default",
  "reset all",
  "discard all",
  "set search_path = pg_temp, public",
  "set debug_parallel_query = on",
  "set session characteristics as transaction read write",
])("reads the same rows after %s", async (settings) => {
  const sql = settings.replaceAll("<globex>", globex.id).replaceAll("<user>", globex.users.admin.id);
  expect((await idsOf("analytics_events", globex)).length).toBe(13);
  expect(ids(await analyst.write(`${sql}; select id from public.analytics_events`))).toEqual(
    await idsOf("analytics_events", acme),
  );
});

it.each([
  "set role erp_analyst",
  "set role erp_user",
  "set role api_admin",
  "set session authorization erp_user",
  "set session authorization postgres",
  "set session_replication_role = replica",
  "alter role current_user superuser",
  "alter role current_user set app.tenant_id = 'x'",
  "alter role current_user connection limit 100",
  "grant erp_user to current_user",
  "alter role <own> rename to bi_<globex>_bi",
])("is refused %s", async (sql) => {
  const hex = globex.id.replaceAll("-", "");
  const code = await refusal(analyst.write(sql.replace("<globex>", hex).replace("<own>", analyst.login)));
  expect(code).toMatch(/42501|0A000/);
});

it("is told so, instead of seeing everything, when it switches row security off", async () => {
  const all = "select count(*)::integer as count from public.analytics_events";
  expect((await database.owner.query(all)).rows).toEqual([{ count: 26 }]);
  expect(await refusal(analyst.query(`set row_security = off; ${all}`))).toBe("42501");
});

describe("what exists, but not for analysts", () => {
  it.each([
    "select from public.audit_logs",
    "select from public.sessions",
    "select from public.users where email is not null",
    "select from public.users where permissions is not null",
    "select from public.integrations where config is not null",
    "select from public.tenants where features is not null",
    "select from app_private.user_passwords",
    "select from app_private.analysts",
    "select from app_private.event_keys",
    "select from graphile_worker._private_tasks",
    "select from graphile_migrate.migrations",
    "select from pg_authid",
    "select app_hidden.current_tenant_id()",
    "select from app_hidden.begin_sign_in('acme', null, 'admin@acme.test')",
    "select from app_hidden.hold_analysts()",
    "select from pg_ls_dir('.')",
  ])("%s", async (sql) => {
    const { rowCount } = await withClient(database.urls.root, (client) => client.query(sql));
    expect(rowCount).toBeGreaterThanOrEqual(sql.includes("_worker") || sql.includes("hold_") ? 0 : 1);
    expect(await refusal(analyst.query(sql))).toBe("42501");
  });

  it("a partition, around its parent", async () => {
    const { rows } = await database.owner.query(
      "select tableoid::regclass::text as partition, count(*) from analytics_events group by 1",
    );
    expect(rows.length).toBeGreaterThan(0);
    for (const { partition } of rows)
      expect(await refusal(analyst.query(`select from ${partition}`))).toBe("42501");
  });

  it("statistics of columns, which hold values of every tenant", async () => {
    const sql = `select from pg_stats where schemaname in ('public', 'partitions', 'app_private')`;
    const known = await withClient(database.urls.root, (client) => client.query(sql));
    expect(known.rowCount).toBeGreaterThan(50);
    expect((await analyst.query(sql)).rowCount).toBe(0);
  });

  it("statements of other logins", async () => {
    const sql = "select query from pg_stat_activity where usename = 'erp_user' and query ~ 'of the owner'";
    await withClient(database.urls.owner, async (owner) => {
      await owner.query("select 'of the owner'");
      const known = await withClient(database.urls.root, (client) => client.query(sql));
      expect(known.rowCount).toBe(1);
      expect((await analyst.query(sql)).rowCount).toBe(0);
    });
  });
});

describe("writing is refused, not only by a setting that it can change", () => {
  it.each([
    "insert into public.analytics_events default values",
    "insert into analytics.events (event_type) values ('x')",
    "update public.analytics_events set value = 0",
    "update analytics.integrations set name = 'x'",
    "update public.tenants set name = 'x'",
    "delete from public.analytics_events",
    "delete from analytics.users",
    "truncate public.analytics_events",
    "begin; lock table public.analytics_events in exclusive mode",
    "select from public.analytics_events for update",
    "create temporary table t ()",
    "select 1 as one into temporary t",
    "create temporary view v as select 1 as one",
    "create table public.t ()",
    "create view analytics.v as select 1 as one",
    "create schema s",
    "create function public.f() returns integer language sql return 1",
    "create extension dblink",
    "copy public.analytics_events from stdin",
    "copy public.tenants to '/tmp/tenants'",
    "copy (select 1) to program 'true'",
    "select pg_read_file('PG_VERSION')",
    "select lo_create(0)",
    "select lo_creat(-1)",
    "select lo_from_bytea(0, 'x')",
    "select lo_put(1, 0, 'x')",
    "select lo_import('/etc/hostname')",
    "select pg_logical_emit_message(false, 'x', 'x')",
    "select pg_advisory_lock(1)",
    "select pg_try_advisory_xact_lock_shared(1, 2)",
    "select pg_stat_reset()",
    "alter system set work_mem = '1GB'",
    "set temp_file_limit = '1TB'",
    "set log_statement = 'none'",
  ])("%s", async (sql) => expect(await refusal(analyst.write(sql))).toBe("42501"));

  it("what it does to itself does not last", async () => {
    await analyst.write("alter role current_user set statement_timeout = 0");
    expect((await analyst.query("show statement_timeout")).rows).toEqual([{ statement_timeout: "0" }]);
    await makeAnalyst(database, acme);
    expect((await analyst.query("show statement_timeout")).rows).toEqual([{ statement_timeout: "1min" }]);
    expect((await analyst.query("show transaction_read_only")).rows).toEqual([
      { transaction_read_only: "on" },
    ]);
  });
});

it("can get into no other database of the cluster", async () => {
  for (const name of ["postgres", "template1"]) {
    const url = new URL(analyst.url);
    url.pathname = name;
    expect(await refusal(withClient(url.href, (client) => client.query("select")))).toBe("42501");
  }
});

it("needs the name and the membership: one of them alone sees nothing", async () => {
  const odd = [
    { name: `bi_${acme.id.replaceAll("-", "")}_odd`, member: true, expected: 13 },
    { name: `bi_${acme.id.replaceAll("-", "")}_odd`, member: false, expected: "42501" },
    { name: `bi_${acme.id}_odd`, member: true, expected: 0 },
    { name: `BI_${acme.id.replaceAll("-", "")}_odd`, member: true, expected: 0 },
    { name: `xbi_${acme.id.replaceAll("-", "")}_odd`, member: true, expected: 0 },
    { name: "odd", member: true, expected: 0 },
  ];
  for (const { name, member, expected } of odd)
    await withClient(database.urls.root, async (root) => {
      await root.query("begin");
      await root.query(`create role "${name}" ${member ? "in role erp_analyst" : ""}`);
      await root.query(`set local session authorization "${name}"`);
      await root.query(`set local app.tenant_id = '${acme.id}'`);
      const seen = root.query("select from public.analytics_events").then(
        ({ rowCount }) => rowCount,
        ({ code }) => code,
      );
      expect([name, await seen]).toEqual([name, expected]);
    });
});

it("signs in with the password alone, of which the server keeps a SCRAM verifier", async () => {
  await analyst.query("select");
  const wrong = analystUrl(database, analyst.login, "four orange badgers writing");
  expect(await refusal(withClient(wrong, (client) => client.query("select")))).toBe("28P01");
  const { rows } = await withClient(database.urls.root, (client) =>
    client.query("select rolpassword from pg_authid where rolname = $1", [analyst.login]),
  );
  expect(rows[0].rolpassword).toMatch(/^SCRAM-SHA-256\$4096:/);
});
