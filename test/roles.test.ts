import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, expect, it } from "@jest/globals";
import type pg from "pg";
import { startTemporaryCluster, type TemporaryCluster } from "../scripts/support/temporaryCluster.ts";
import { describePrivileges } from "../src/db/catalogue/describePrivileges.ts";
import { migrate } from "../src/db/migrate.ts";
import { connectionString, withClient } from "../src/db/pools.ts";
import { paths } from "../src/paths.ts";

const DATABASE = "erp_analytics";
let cluster: TemporaryCluster;
let rolesSql: string;
/** As other tools write it, with the schema as a parameter. */
let ownerUrl: string;

const asSuperuser = <Result>(work: (client: pg.Client) => Promise<Result>) =>
  withClient(cluster.url("postgres", DATABASE), work);
const privileges = () => asSuperuser(describePrivileges);

beforeAll(async () => {
  cluster = await startTemporaryCluster();
  await withClient(cluster.url("postgres", "postgres"), (client) =>
    client.query(`create database ${DATABASE}`),
  );
  rolesSql = await readFile(paths.rolesSql, "utf8");
  ownerUrl = `postgresql://erp_user:dev_password@localhost:${cluster.port}/${DATABASE}?schema=public`;
});
afterAll(() => cluster.remove());

it("makes the roles on a server that has none, and nothing more the second time", async () => {
  const before = await asSuperuser((client) =>
    client.query("select from pg_roles where rolname ~ '^(erp|api)_'"),
  );
  expect(before.rowCount).toBe(0);
  await asSuperuser((client) => client.query(rolesSql));
  const once = await privileges();
  await asSuperuser((client) => client.query("alter role erp_worker password 'changed'"));
  await asSuperuser((client) => client.query(rolesSql));
  expect(await privileges()).toEqual(once);

  const worker = new URL(cluster.url("erp_worker", DATABASE));
  worker.password = "changed";
  await withClient(worker.href, (client) => client.query("select"));
  await asSuperuser((client) => client.query("alter role erp_worker password 'dev_password'"));
});

it("makes roles of which none passes row security, and of requests none can sign in but the authenticator", async () => {
  const { rows } = await asSuperuser((client) =>
    client.query(
      `select rolname, rolcanlogin, rolinherit from pg_roles
        where rolname ~ '^(erp|api)_' and not (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication)
        order by rolname`,
    ),
  );
  const request = (rolname: string) => ({ rolname, rolcanlogin: false, rolinherit: false });
  expect(rows).toEqual([
    ...["api_admin", "api_anonymous", "api_job", "api_super_admin", "api_user", "api_viewer"].map(request),
    request("erp_analyst"),
    { rolname: "erp_authenticator", rolcanlogin: true, rolinherit: false },
    { rolname: "erp_user", rolcanlogin: true, rolinherit: true },
    { rolname: "erp_worker", rolcanlogin: true, rolinherit: true },
  ]);
});

it("lets the owner in through a URL with ?schema=public, as an ordinary role that owns the database", async () => {
  expect(connectionString(ownerUrl)).toBe(ownerUrl.replace("?schema=public", ""));
  await withClient(ownerUrl, async (client) => {
    const { rows } = await client.query(
      `select current_user as role, current_setting('is_superuser') as superuser, pg_get_userbyid(datdba) as owner
         from pg_database where datname = current_database()`,
    );
    expect(rows).toEqual([{ role: "erp_user", superuser: "off", owner: "erp_user" }]);
  });
});

it("is enough for the migrations, which leave the tables in schema public to the owner", async () => {
  await migrate({ owner: ownerUrl, worker: cluster.url("erp_worker", DATABASE) });
  await withClient(ownerUrl, async (client) => {
    const { rows } = await client.query(
      "select tablename, tableowner from pg_tables where schemaname = 'public'",
    );
    const owned = (tablename: string) => ({ tablename, tableowner: "erp_user" });
    const tables = ["tenants", "users", "integrations", "analytics_events", "audit_logs"];
    expect(rows).toEqual(expect.arrayContaining(tables.map(owned)));
  });
});

it("refuses the authenticator every table until it has taken a role", async () => {
  await withClient(cluster.url("erp_authenticator", DATABASE), async (client) => {
    await expect(client.query("select from public.users")).rejects.toMatchObject({ code: "42501" });
    await expect(client.query("set role erp_user")).rejects.toMatchObject({ code: "42501" });
    await client.query("set role api_viewer");
    expect((await client.query("select from public.users")).rowCount).toBe(0);
  });
});

const CONSTRAINT = "user_passwords_tenant_id_user_id_fkey";
// The tenant must exist: the planted row is recorded in its log.
const PLANT = `
  alter table app_private.user_passwords drop constraint ${CONSTRAINT};
  with home as (insert into public.tenants (name, slug) values ('Planted', 'planted') returning id)
  insert into app_private.user_passwords (tenant_id, user_id, password_hash)
  select id, uuidv7(), '$argon2id$of nobody' from home`;
const CONSTRAIN = `
  alter table app_private.user_passwords add constraint ${CONSTRAINT}
    foreign key (tenant_id, user_id) references public.users (tenant_id, id) on delete cascade`;
const DROP_POLICY = "drop policy owner_all on app_private.user_passwords";
const RESTORE_POLICY =
  "create policy owner_all on app_private.user_passwords to erp_user using (true) with check (true)";

it("lets the owner's migrations see a bad row that a new foreign key must refuse", async () => {
  await inRolledBackTransaction(async (client) => {
    await client.query(PLANT);
    await expect(client.query(CONSTRAIN)).rejects.toMatchObject({ code: "23503" });
  });
});

it("would not without the policy owner_all: forced row security hides the bad row, and the key counts as valid", async () => {
  await inRolledBackTransaction(async (client) => {
    await client.query(PLANT);
    await client.query(DROP_POLICY);
    await client.query(CONSTRAIN);
    await client.query(RESTORE_POLICY);
    const { rows } = await client.query("select convalidated from pg_constraint where conname = $1", [
      CONSTRAINT,
    ]);
    expect(rows).toEqual([{ convalidated: true }]);
    const orphans =
      "select from app_private.user_passwords p where not exists (select from public.users u where u.id = p.user_id)";
    expect((await client.query(orphans)).rowCount).toBe(1);
  });
});

function inRolledBackTransaction(work: (client: pg.Client) => Promise<void>) {
  return withClient(ownerUrl, async (client) => {
    await client.query("begin");
    try {
      await work(client);
    } finally {
      await client.query("rollback");
    }
  });
}
