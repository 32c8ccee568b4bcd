import type pg from "pg";
import { z } from "zod";
import { UserError } from "../config.ts";
import { withClient } from "../db/pools.ts";
import { databaseUrl } from "../db/roles.ts";
import { type Analyst, admissionSql, dropOwnedSql, dropSql, lockSql, loginOf, loginSql } from "./login.ts";
import { scramVerifier } from "./scram.ts";

/** The owner gives and takes rights; only a superuser, where there is one, makes and drops logins. */
type Urls = { owner: string; root?: string | undefined };

export type Tenant = { id: string; slug: string; isOpen: boolean };
const tenants = z.object({ id: z.string(), slug: z.string(), isOpen: z.boolean() }).array();

/** By its slug or id. */
export async function findTenant(ownerUrl: string, given: string): Promise<Tenant | undefined> {
  const { rows } = await withClient(ownerUrl, (owner) =>
    owner.query(
      `select id, slug, app_private.is_open(status, trial_ends_at) as "isOpen"
         from public.tenants where slug = $1 or id::text = lower($1) order by slug = $1 desc`,
      [given],
    ),
  );
  return tenants.parse(rows)[0];
}

/**
 * Makes the login, then lets it in, on record.
 * @returns `sql` for a superuser, where there is no ROOT_DATABASE_URL; `elsewhere`: other databases that let the login in
 */
export async function grantAnalyst(
  urls: Urls,
  analyst: Analyst,
  password: string,
): Promise<{ login: string; sql?: string; elsewhere: string[] }> {
  const login = loginOf(analyst);
  const sql = loginSql(login, await scramVerifier(password));
  const elsewhere = await asRoot(urls, async (root) => {
    // One message is one transaction.
    await root.query(sql);
    const { rows } = await root.query(ELSEWHERE, [login]);
    return z
      .object({ datname: z.string() })
      .array()
      .parse(rows)
      .map(({ datname }) => datname);
  });
  await withClient(urls.owner, (owner) =>
    owner.query("select app_private.grant_analyst($1, $2)", [analyst.tenantId, analyst.name]),
  );
  return elsewhere ? { login, elsewhere } : { login, elsewhere: [], sql: `${sql}\n${admissionSql(login)}` };
}

/** Shadow databases of ours are empty. */
const ELSEWHERE = `
  select datname from pg_database
   where datallowconn and datdba <> 'erp_user'::regrole and has_database_privilege($1::name, oid, 'connect')
   order by datname`;

/** Other databases in which the login has something, such as default privileges that it set for itself. */
const LEFT_IN = `
  select distinct d.datname
    from pg_shdepend s join pg_database d on d.oid = s.dbid
   where s.refclassid = 'pg_authid'::regclass and s.refobjid = to_regrole($1)
     and d.datname <> current_database() and d.datallowconn`;

/** Takes the rights, on record, ends what runs, and drops the login. False if there was none. */
export async function revokeAnalyst(
  urls: Urls,
  analyst: Analyst,
): Promise<{ login: string; found: boolean; sql?: string }> {
  const login = loginOf(analyst);
  // Before its sessions end: it would come back.
  await asRoot(urls, (root) => root.query(lockSql(login)));
  const found = await withClient(urls.owner, async (owner) => {
    const before = await owner.query("select to_regrole($1) is not null as there", [login]);
    const revoked = await owner.query("select app_private.revoke_analyst($1, $2) as there", [
      analyst.tenantId,
      analyst.name,
    ]);
    await owner.query("select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = $1", [
      login,
    ]);
    return [before, revoked].some(({ rows }) => rows[0]?.there === true);
  });
  const dropped = await asRoot(urls, async (root) => {
    const { rows } = await root.query(LEFT_IN, [login]);
    for (const { datname } of z.object({ datname: z.string() }).array().parse(rows))
      await withClient(databaseUrl(urls.root ?? "", datname), (other) => other.query(dropOwnedSql(login)));
    return root.query(dropSql(login)).catch(explainDependants(login));
  });
  return dropped ? { login, found } : { login, found, sql: dropSql(login) };
}

/** Before a database is erased: its logins would read a tenant that comes back under the same id, such as the demo's. */
export async function revokeAllAnalysts(urls: Urls): Promise<void> {
  const analysts = await withClient(urls.owner, async (owner) => {
    const { rows: known } = await owner.query(
      "select to_regclass('app_private.analysts') is not null as there",
    );
    if (known[0]?.there !== true) return [];
    const { rows } = await owner.query('select tenant_id as "tenantId", name from app_private.analysts');
    return z.object({ tenantId: z.string(), name: z.string() }).array().parse(rows);
  });
  for (const analyst of analysts) await revokeAnalyst(urls, analyst);
}

const explainDependants =
  (login: string) =>
  (error: Error): never => {
    if (!("code" in error) || error.code !== "2BP01") throw error;
    const detail = "detail" in error ? String(error.detail) : "";
    throw new UserError(
      `${login} is shut out, but cannot be dropped: somebody granted it more than this command does. ${detail}`,
    );
  };

const listed = z
  .object({
    tenant: z.string(),
    name: z.string(),
    login: z.string(),
    granted: z.string(),
    state: z.string(),
    connections: z.string(),
  })
  .array();

/** What this database granted, and logins of that kind which it did not, such as of tenants that are gone. */
export async function listAnalysts(ownerUrl: string, tenantId: string | undefined) {
  const { rows } = await withClient(ownerUrl, (owner) => owner.query(LIST, [tenantId ?? null]));
  return listed.parse(rows);
}

const LIST = `
  select coalesce(g.slug, r.tenant_id::text) as tenant, coalesce(g.name, r.name) as name, coalesce(g.login, r.login) as login,
         coalesce(to_char(g.granted_at at time zone 'UTC', 'YYYY-MM-DD'), '-') as granted,
         case
           when g.login is null then 'not granted here'
           when r.login is null then 'granted, but there is no such login'
           when not g.is_open then 'shut out, as the tenant is ' || case g.status when 'TRIAL' then 'past its trial' else lower(g.status::text) end
           else 'reads'
         end as state,
         (select count(*) from pg_stat_activity a where a.usesysid = r.oid)::text as connections
    from (
      select a.tenant_id, a.name, a.granted_at, t.slug, t.status, app_private.analyst_login(a.tenant_id, a.name)::text as login,
             app_private.is_open(t.status, t.trial_ends_at) as is_open
        from app_private.analysts a join public.tenants t on t.id = a.tenant_id
    ) g
    full join (
      select oid, rolname::text as login, substring(rolname::text from 4 for 32)::uuid as tenant_id, substring(rolname::text from 37) as name
        from pg_roles where rolname ~ '^bi_[0-9a-f]{32}_'
    ) r on r.login = g.login
   where $1::uuid is null or coalesce(g.tenant_id, r.tenant_id) = $1::uuid
   order by 1, 2`;

/** Connected to the product's database; undefined where there is no superuser's URL. */
async function asRoot<Result>(
  { owner, root }: Urls,
  work: (root: pg.Client) => Promise<Result>,
): Promise<Result | undefined> {
  if (!root) return undefined;
  return withClient(databaseUrl(root, decodeURIComponent(new URL(owner).pathname.slice(1))), work);
}
