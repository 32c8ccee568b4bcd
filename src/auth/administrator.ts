import type pg from "pg";
import { UserError } from "../config.ts";
import { withTransaction } from "../db/pools.ts";

export type Administrator = {
  email: string;
  passwordHash: string;
  firstName?: string | undefined;
  lastName?: string | undefined;
};

/**
 * Makes the first SUPER_ADMIN, as the owner, and the tenant "platform" where it is missing. Refuses, with a UserError, once there
 * is one: a SUPER_ADMIN invites the others.
 */
export function createAdministrator(owner: pg.Pool, administrator: Administrator): Promise<void> {
  const { email, passwordHash, firstName, lastName } = administrator;
  const made = withTransaction(owner, async (client) => {
    await client.query("select pg_advisory_xact_lock(hashtextextended('admin:create', 0))");
    await client.query("select app_private.assert_email($1)", [email]);
    const present = await client.query(
      "select email from users where role = 'SUPER_ADMIN' and status = 'ACTIVE' order by created_at limit 1",
    );
    if (present.rows.length > 0)
      throw new UserError(
        `There is a SUPER_ADMIN already: ${present.rows[0].email}. They invite others with inviteUser.`,
      );
    await client.query(
      `insert into tenants (name, slug, status, plan_type, max_users, max_integrations, features, settings)
       select 'Platform operations', 'platform', 'ACTIVE', name, max_users, max_integrations, features, '{"timeZone": "UTC"}'
         from app_private.plans where name = 'business'
       on conflict (slug) do nothing`,
    );
    const { rows } = await client.query(
      `insert into users (tenant_id, email, first_name, last_name, role, status, email_verified)
       select id, $1, $2, $3, 'SUPER_ADMIN', 'ACTIVE', true from tenants where slug = 'platform'
       on conflict (tenant_id, email) do update
          set role = 'SUPER_ADMIN', status = 'ACTIVE', email_verified = true,
              first_name = coalesce(excluded.first_name, users.first_name), last_name = coalesce(excluded.last_name, users.last_name)
       returning tenant_id, id`,
      [email, firstName ?? null, lastName ?? null],
    );
    const { tenant_id: tenantId, id } = rows[0];
    await client.query(
      `insert into app_private.user_passwords (tenant_id, user_id, password_hash) values ($1, $2, $3)
       on conflict (tenant_id, user_id) do update set password_hash = excluded.password_hash`,
      [tenantId, id, passwordHash],
    );
    await client.query("select app_private.revoke_sessions($1, $2, null)", [tenantId, id]);
    // A link that is still under way would undo the password, or the e-mail.
    await client.query(
      "delete from app_private.one_time_tokens where tenant_id = $1 and user_id = $2 and used_at is null",
      [tenantId, id],
    );
  });
  // What the schema refuses, it says in a sentence for people.
  return made.catch((error: Error & { code?: string }) => {
    throw error.code?.startsWith("EA") ? new UserError(error.message) : error;
  });
}
