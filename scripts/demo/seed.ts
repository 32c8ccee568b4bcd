import { createHash } from "node:crypto";
import type pg from "pg";
import { hashPassword } from "../../src/auth/passwords.ts";
import { generateDataKey, type KeyRing, seal } from "../../src/crypto/keyRing.ts";
import { withTransaction } from "../../src/db/pools.ts";
import { rollUpTenant } from "../../src/rollups/rollUp.ts";
import type { EventInput } from "../../tasks/connectors/connector.ts";
import { type DemoTenant, demoPassword, demoTenants } from "./catalogue.ts";
import { demoEvents } from "./events.ts";

const BATCH = 5_000;
const WRITERS = 3;

type SeedOptions = {
  signal?: AbortSignal | undefined;
  /** The day on which the demo is made: it ends there. Default: today. */
  now?: Date;
  tenants?: readonly DemoTenant[];
  /** Whether the rollups are built. Default: true. */
  rollUp?: boolean;
};

/** (Re)creates the demo data: what is there already stays as it is. */
export async function seedDemo(
  pool: pg.Pool,
  keyRing: KeyRing,
  say: (sentence: string) => void,
  { signal, now = new Date(), tenants = demoTenants, rollUp = true }: SeedOptions = {},
): Promise<void> {
  const started = Date.now();
  await makePartitions(pool, now);
  const passwordHashes = new Map<string, string>();
  for (const { slug, users } of tenants)
    await Promise.all(
      users.map(async ({ name }) => passwordHashes.set(`${slug}/${name}`, await hashPassword(demoPassword))),
    );
  await withTransaction(pool, async (client) => {
    for (const tenant of tenants) await seedTenant(client, tenant, passwordHashes, keyRing);
  });
  const total = await seedEvents(pool, batches(tenants, now), signal);
  if (rollUp) for (const { slug } of tenants) await rollUpTenant(pool, demoId(slug), { signal });
  // Last, so that a seeding that was killed is taken up again.
  await pool.query(
    `update tenants set metadata = metadata || '{"demo": "complete"}' where slug = 'platform'`,
  );
  await pool.query("analyze");
  say(
    `Demo data: ${total.toLocaleString("en")} events of ${tenants.filter(({ slug }) => slug !== "platform").length} tenants, in ${((Date.now() - started) / 1000).toFixed(1)} s.`,
  );
}

/** "complete" once everything is there; "absent" in an empty database; "foreign" where other tenants live. */
export async function demoState(pool: pg.Pool): Promise<"complete" | "partial" | "absent" | "foreign"> {
  const { rows } = await pool.query("select slug, metadata ->> 'demo' as demo from tenants");
  if (rows.length === 0) return "absent";
  const slugs = new Set<string>(demoTenants.map(({ slug }) => slug));
  if (rows.some(({ slug }) => !slugs.has(slug))) return "foreign";
  return rows.some(({ demo }) => demo === "complete") ? "complete" : "partial";
}

/** Before any event is written: the months of the demo's history. */
async function makePartitions(pool: pg.Pool, now: Date) {
  await pool.query(
    `select app_private.make_partition('analytics_events', month::date)
       from generate_series(date_trunc('month', $1::timestamptz - interval '14 months'), $1, interval '1 month') month`,
    [now.toISOString()],
  );
}

/** The same id for the same name, always: a UUID of version 8 from its hash. */
export function demoId(name: string): string {
  const hex = createHash("sha256").update(`erp-analytics demo ${name}`).digest("hex");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

async function seedTenant(
  client: pg.PoolClient,
  tenant: DemoTenant,
  passwordHashes: ReadonlyMap<string, string>,
  keyRing: KeyRing,
) {
  const tenantId = demoId(tenant.slug);
  const { slug, name, status, plan, settings } = tenant;
  await client.query(
    `insert into tenants (id, slug, name, status, plan_type, settings, billing_email, max_users, max_integrations, features)
     select $1, $2, $3, $4, p.name, $6, 'billing@' || $2 || '.test', p.max_users, p.max_integrations, p.features
       from app_private.plans p where p.name = $5
     on conflict (slug) do nothing`,
    [tenantId, slug, name, status, plan, JSON.stringify(settings)],
  );
  const dataKey = generateDataKey();
  const { kekId, wrapped } = keyRing.wrap(dataKey, { tenantId, version: 1 });
  const key = await client.query(
    `insert into app_private.tenant_keys (tenant_id, version, kek_id, wrapped_key) values ($1, 1, $2, $3)
     on conflict do nothing returning version`,
    [tenantId, kekId, wrapped],
  );
  for (const user of tenant.users) {
    const userId = demoId(`${slug}/${user.name}`);
    await client.query(
      `insert into users (id, tenant_id, email, first_name, last_name, role, email_verified)
       values ($1, $2, $3, $4, $5, $6, true) on conflict do nothing`,
      [userId, tenantId, `${user.name}@${slug}.test`, user.firstName, user.lastName, user.role],
    );
    await client.query(
      `insert into app_private.user_passwords (tenant_id, user_id, password_hash) values ($1, $2, $3)
       on conflict do nothing`,
      [tenantId, userId, passwordHashes.get(`${slug}/${user.name}`)],
    );
  }
  for (const integration of tenant.integrations) {
    const integrationId = demoId(`${slug}/${integration.key}`);
    await client.query(
      `insert into integrations (id, tenant_id, name, provider, description, config, status, enabled)
       values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing`,
      [
        integrationId,
        tenantId,
        integration.name,
        integration.provider,
        integration.description,
        JSON.stringify(integration.config),
        integration.status,
        integration.enabled,
      ],
    );
    // Sealed under the key that was made just now; with an older key, its credentials are there already.
    if (!integration.credentials || key.rowCount === 0) continue;
    const place = { tenantId, table: "integration_credentials", rowId: integrationId, version: 1 };
    await client.query(
      `insert into app_private.integration_credentials (tenant_id, integration_id, version, key_version, ciphertext)
       values ($1, $2, 1, 1, $3)`,
      [tenantId, integrationId, seal(JSON.stringify(integration.credentials), dataKey, place)],
    );
  }
}

type Batch = { tenantId: string; events: EventInput[] };

/** All tenants' events in batches. Several writers take from it, so it hands out each batch once. */
function* batches(tenants: readonly DemoTenant[], now: Date): Generator<Batch> {
  for (const tenant of tenants) {
    let events: EventInput[] = [];
    for (const event of eventsOf(tenant, now)) {
      if (events.push(event) < BATCH) continue;
      yield { tenantId: demoId(tenant.slug), events };
      events = [];
    }
    yield { tenantId: demoId(tenant.slug), events };
  }
}

function eventsOf({ slug, integrations }: DemoTenant, now: Date): Iterable<EventInput> {
  const id = (key: string) => demoId(`${slug}/${key}`);
  const ids = Object.fromEntries(integrations.map(({ key }) => [key, id(key)]));
  switch (slug) {
    case "acme":
      return demoEvents({
        tenant: slug,
        now,
        integrations: { ...ids, onlineShop: id("onlineShop"), metaAds: id("metaAds") },
      });
    case "globex":
      return demoEvents({
        tenant: slug,
        now,
        integrations: { ...ids, restaurants: id("restaurants"), metaAds: id("metaAds") },
      });
    case "initech":
      return demoEvents({ tenant: slug, now, integrations: ids });
    case "platform":
      return [];
  }
}

async function seedEvents(
  pool: pg.Pool,
  waiting: Generator<Batch>,
  signal: AbortSignal | undefined,
): Promise<number> {
  let count = 0;
  const write = async () => {
    const client = await pool.connect();
    try {
      // A crash costs a batch that the next start writes again; the commit behind all of them waits for the disk.
      await client.query("set synchronous_commit = off");
      for (let next = waiting.next(); !next.done; next = waiting.next()) {
        signal?.throwIfAborted();
        const { tenantId, events } = next.value;
        const { rows } = await client.query(
          "select reason, pointer from app_hidden.write_events($1, $2) where outcome = 'rejected' limit 1",
          [tenantId, JSON.stringify(events)],
        );
        if (rows[0]) throw new Error(`A demo event was rejected: ${JSON.stringify(rows[0])}`);
        count += events.length;
      }
    } finally {
      client.release(true);
    }
  };
  await Promise.all(Array.from({ length: WRITERS }, write));
  return count;
}
