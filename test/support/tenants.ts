import type pg from "pg";
import { hashPassword } from "../../src/auth/passwords.ts";
import type { EventInput } from "../../tasks/connectors/connector.ts";
import { keepSecret } from "./secrets.ts";

/** Settings that the connector takes. */
export const SQUARE_CONFIG = { environment: "sandbox", locationIds: ["L1"] };
export const PASSWORD = keepSecret("a password", "Test-password-1");
export type TestTenant = {
  id: string;
  slug: string;
  users: Record<"admin" | "user" | "viewer", { id: string; email: string }>;
  integrationId: string;
};

const tenOrders = (slug: string): EventInput[] =>
  Array.from({ length: 10 }, (_, index) => ({
    eventType: "order",
    eventName: "order_completed",
    source: "test",
    sourceId: `order:${index + 1}`,
    timestamp: `2026-01-${String(index + 1).padStart(2, "0")}T12:00:00Z`,
    value: String(index + 1),
    currency: "USD",
    properties: { tenant: slug },
  }));

let hash: Promise<string> | undefined;

/** A tenant with an admin, a user and a viewer, one integration, and ten orders worth 1 to 10 USD, or other events. */
export async function createTenant(
  owner: pg.Pool,
  slug: string,
  options: { settings?: object; events?: readonly EventInput[] } = {},
): Promise<TestTenant> {
  hash ??= hashPassword(PASSWORD);
  const passwordHash = await hash;
  const { rows } = await owner.query(
    `insert into tenants (name, slug, status, settings)
     values ($1, $1, 'ACTIVE', coalesce($2, '{}'::jsonb)) returning id`,
    [slug, options.settings ? JSON.stringify(options.settings) : null],
  );
  const id: string = rows[0].id;
  const user = async (role: string) => {
    const email = `${role}@${slug}.test`;
    const inserted = await owner.query(
      "insert into users (tenant_id, email, role) values ($1, $2, $3) returning id",
      [id, email, role.toUpperCase()],
    );
    const userId: string = inserted.rows[0].id;
    await owner.query(
      "insert into app_private.user_passwords (tenant_id, user_id, password_hash) values ($1, $2, $3)",
      [id, userId, passwordHash],
    );
    return { id: userId, email };
  };
  const integration = await owner.query(
    "insert into integrations (tenant_id, name, provider) values ($1, 'Shop', 'square') returning id",
    [id],
  );
  const events = options.events ?? tenOrders(slug);
  await owner.query("select app_hidden.write_events($1, $2)", [id, JSON.stringify(events)]);
  return {
    id,
    slug,
    users: { admin: await user("admin"), user: await user("user"), viewer: await user("viewer") },
    integrationId: integration.rows[0].id,
  };
}
