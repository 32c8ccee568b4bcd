import type pg from "pg";
import type { Claims } from "../../src/auth/tokens.ts";
import { createTenant, type TestTenant } from "../support/tenants.ts";
import { functions, type MatrixRole, tables } from "./matrix.ts";

const PERMISSIONS = [
  "users:manage",
  "integrations:manage",
  "integrations:sync",
  "events:write",
  "audit:read",
  "analytics:export",
  "tenant:settings",
  "api_keys:manage",
  "metrics:manage",
];

export type People = {
  acme: TestTenant;
  globex: TestTenant;
  platform: TestTenant;
  /** Somebody of the role; undefined for anonymous. */
  as(role: MatrixRole): Claims | undefined;
  /** Somebody of the role with this permission alone. */
  with(role: MatrixRole, permission: string): Claims | undefined;
  /** Somebody of the role with every permission but this one. */
  without(role: MatrixRole, permission: string): Claims | undefined;
};

/** Two tenants and the operator's, and for each permission of the matrix somebody with it alone, and with all the others. */
export async function makePeople(owner: pg.Pool): Promise<People> {
  const acme = await createTenant(owner, "acme");
  const globex = await createTenant(owner, "globex");
  const platform = await createTenant(owner, "platform");
  await owner.query("update tenants set max_users = 200, max_integrations = 2000, features = '{api_keys}'");
  // Starter metrics build on each other; the cells are about one that stands alone.
  await owner.query("delete from metrics");
  for (const { id, integrationId } of [acme, globex, platform]) {
    await owner.query(
      `with s as (
         insert into integration_streams (tenant_id, integration_id, name) values ($1, $2, 'orders') returning *
       ),
       r as (
         insert into rejected_records (tenant_id, integration_id, stream, reason, record) values ($1, $2, 'orders', 'odd', '{}')
       )
       insert into integration_runs (tenant_id, integration_id, stream_id, trigger) select $1, $2, id, 'manual' from s`,
      [id, integrationId],
    );
    await owner.query(
      "insert into api_keys (id, tenant_id, name, scopes) values (gen_random_uuid(), $1, 'Till', '{events:write}')",
      [id],
    );
    await owner.query("insert into metrics (tenant_id, name, formula) values ($1, 'one', '1')", [id]);
    await owner.query(
      "insert into subject_properties (tenant_id, event_type, property) values ($1, 'scan', 'memberId')",
      [id],
    );
  }
  const claims = new Map<string, Claims>();
  const add = async (tenant: TestTenant, name: string, role: Claims["role"], permissions: string[]) => {
    const user = await owner.query(
      "insert into users (tenant_id, email, role, permissions) values ($1, $2, $3, $4) returning id",
      [
        tenant.id,
        `the.${name.toLowerCase().replaceAll(" ", ".").replaceAll(":", ".")}@${tenant.slug}.test`,
        role,
        permissions,
      ],
    );
    const sub: string = user.rows[0].id;
    const session = await owner.query(
      "insert into sessions (tenant_id, user_id, expires_at) values ($1, $2, now() + interval '1 hour') returning id",
      [tenant.id, sub],
    );
    claims.set(name, { sub, tenant_id: tenant.id, role, sid: session.rows[0].id });
  };
  const text = JSON.stringify([tables, functions]);
  const used = PERMISSIONS.filter((permission) => text.includes(`?${permission}`));
  await add(platform, "SUPER_ADMIN", "SUPER_ADMIN", []);
  for (const role of ["VIEWER", "USER", "ADMIN"] as const) await add(acme, role, role, []);
  for (const role of ["VIEWER", "USER"] as const)
    for (const permission of used) {
      await add(acme, `${role} with ${permission}`, role, [permission]);
      await add(
        acme,
        `${role} without ${permission}`,
        role,
        PERMISSIONS.filter((other) => other !== permission),
      );
    }
  await owner.query(
    "insert into sessions (tenant_id, user_id, expires_at) values ($1, $2, now() + interval '1 hour')",
    [globex.id, globex.users.user.id],
  );
  const find = (name: string) => {
    const found = claims.get(name);
    if (!found) throw new Error(`There is nobody who is ${name}.`);
    return found;
  };
  return {
    acme,
    globex,
    platform,
    as: (role) => (role === "anonymous" ? undefined : find(role)),
    with: (role, permission) => find(`${role} with ${permission}`),
    without: (role, permission) => find(`${role} without ${permission}`),
  };
}
