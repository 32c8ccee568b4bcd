import type pg from "pg";
import { recordAuditRead } from "../../src/audit/reads.ts";
import { beginRequest, type Identity } from "../../src/auth/requests.ts";
import type { Claims } from "../../src/auth/tokens.ts";
import type { TestTenant } from "./tenants.ts";

const ROLES = { admin: "ADMIN", user: "USER", viewer: "VIEWER" } as const;

/** Opens a session for a user, as a sign-in does. */
export async function claimsFor(
  owner: pg.Pool,
  tenant: TestTenant,
  role: keyof typeof ROLES,
): Promise<Claims> {
  const { rows } = await owner.query(
    `insert into sessions (tenant_id, user_id, expires_at)
     values ($1, $2, now() + interval '1 hour') returning id`,
    [tenant.id, tenant.users[role].id],
  );
  return { sub: tenant.users[role].id, tenant_id: tenant.id, role: ROLES[role], sid: rows[0].id };
}

/**
 * Runs plain SQL as a request of these claims, and takes it back.
 * @param options.readsLog puts on record that it reads the audit log, if it may
 */
export async function asRequest<Result>(
  authenticator: pg.Pool,
  claims: Identity["claims"],
  work: (client: pg.PoolClient) => Promise<Result>,
  options: { readsLog?: boolean } = {},
): Promise<Result> {
  const identity: Identity = { claims, origin: { ipAddress: "192.0.2.1", userAgent: "test" } };
  if (options.readsLog && claims) {
    const recorded = recordAuditRead(authenticator, identity, "audit_log.read", "a test");
    const auditRead = await recorded.catch(() => undefined);
    if (auditRead !== undefined) identity.auditRead = auditRead;
  }
  const client = await authenticator.connect();
  try {
    await client.query("begin");
    await client.query(beginRequest(identity));
    return await work(client);
  } finally {
    await client.query("rollback");
    client.release();
  }
}
