import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { deleteTenant } from "../src/tenants/deleteTenant.ts";
import { startApi, type TestApi, testKeyRing } from "./support/api.ts";
import { runScript } from "./support/command.ts";
import { setCredentials } from "./support/credentials.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let api: TestApi;
let operator: TestTenant;
let folder: string;
beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  operator = await createTenant(database.owner, "platform", { events: [] });
  folder = await mkdtemp(join(tmpdir(), "erp-delete-"));
});
afterAll(async () => {
  await api.close();
  await database.drop();
  await rm(folder, { recursive: true });
});
let count = 0;
let acme: TestTenant;
let globex: TestTenant;
beforeEach(async () => {
  [acme, globex] = [await filled(`acme${++count}`), await filled(`globex${count}`)];
});

/** A tenant with something in each table that grows. */
async function filled(slug: string): Promise<TestTenant> {
  const events = Array.from({ length: 60 }, (_, index) => ({
    ...{ eventType: "order", eventName: "order_completed", source: "till", sourceId: `${index}` },
    timestamp: `2026-0${1 + (index % 6)}-01T12:00:00Z`,
    ...{ value: "1.00", currency: "EUR" },
  }));
  const tenant = await createTenant(database.owner, slug, { events });
  await setCredentials(
    database.owner,
    testKeyRing,
    { tenantId: tenant.id, integrationId: tenant.integrationId },
    { accessToken: "x" },
  );
  await database.owner.query(
    `insert into app_private.webhook_deliveries (tenant_id, integration_id, delivery_id, headers, body)
     select $1, $2, n::text, '[]', 'x' from generate_series(1, 20) n`,
    [tenant.id, tenant.integrationId],
  );
  await database.owner.query(
    "insert into app_hidden.event_rollups select $1, '2026-01-01', 'order', n::text, '', '', 1, 0 from generate_series(1, 30) n",
    [tenant.id],
  );
  return tenant;
}
const rows = async (sql: string, values: unknown[] = []) => (await database.owner.query(sql, values)).rows;
/** Of every table that has a tenant_id, how many rows are this tenant's. */
async function rowsOf({ id }: TestTenant): Promise<Record<string, number>> {
  const tables = await rows(`
    select c.oid::regclass::text as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
      join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
     where n.nspname in ('public', 'app_hidden', 'app_private') and c.relkind in ('r', 'p')`);
  const counts = await Promise.all(
    tables.map(async ({ name }) => [
      name,
      (await rows(`select count(*)::integer as count from ${name} where tenant_id = $1`, [id]))[0].count,
    ]),
  );
  return Object.fromEntries(counts.filter(([, rowCount]) => rowCount > 0));
}
const logOf = async (slug: string) =>
  rows(
    `select action, changes from audit_logs where tenant_id = $1 and resource = 'tenant'
        and (changes ->> 'slug' = $2 or changes #>> '{before,slug}' = $2) order by created_at, id`,
    [operator.id, slug],
  );

it("deletes everything of the tenant, nothing of another, and leaves its record with the operator", async () => {
  const others = await rowsOf(globex);
  expect(others).toMatchObject({ analytics_events: 60, "app_private.event_keys": 60 });
  const steps: string[] = [];
  const done = await deleteTenant(database.owner, acme.id, {
    batch: 7,
    onProgress: (deleted, total, table) => {
      expect(deleted).toBeLessThanOrEqual(total);
      steps.push(table);
    },
  });
  expect(done).toBe(true);
  expect(await rowsOf(acme)).toEqual({});
  expect(await rows("select from tenants where id = $1", [acme.id])).toEqual([]);
  expect(await rowsOf(globex)).toEqual(others);
  expect([...new Set(steps)].at(0)).toBe("public.analytics_events");
  expect(steps.at(-1)).toBe("public.audit_logs");
  const log = await logOf(acme.slug);
  expect(log.map(({ action }) => action)).toEqual([
    "tenant.deletion_started",
    "tenant.keys_destroyed",
    "tenant.purged",
    "tenant.deleted",
  ]);
  expect(log[1].changes.before).toMatchObject({
    integration_credentials: 1,
    tenant_keys: 1,
    user_passwords: 3,
  });
  expect(log[2].changes.before).toMatchObject({
    analytics_events: 60,
    event_rollups: 30,
    webhook_deliveries: 20,
  });
});

it("destroys keys and credentials before all else; interrupted, it goes on, and nobody brings the tenant back", async () => {
  const stop = new AbortController();
  const interrupted = await deleteTenant(database.owner, acme.id, {
    batch: 10,
    signal: stop.signal,
    onProgress: () => stop.abort(),
  });
  expect(interrupted).toBe(false);
  const left = await rowsOf(acme);
  expect(left).toMatchObject({ analytics_events: 50, users: 3 });
  for (const table of ["tenant_keys", "integration_credentials", "user_passwords"])
    expect(left).not.toHaveProperty(`app_private.${table}`);
  await expect(api.signIn(acme.slug, "admin")).rejects.toThrow("Cannot sign in");
  expect(
    await refusal(database.owner.query("update tenants set status = 'ACTIVE' where id = $1", [acme.id])),
  ).toBe("EA409");
  expect(
    await refusal(database.owner.query("update tenants set status = 'SUSPENDED' where id = $1", [globex.id])),
  ).toBe("no error");
  expect(await deleteTenant(database.owner, acme.id, { batch: 10 })).toBe(true);
  const log = await logOf(acme.slug);
  expect(log.map(({ action }) => action)).toEqual([
    "tenant.deletion_started",
    "tenant.keys_destroyed",
    "tenant.purged",
    "tenant.deleted",
  ]);
  // Across both runs.
  expect(log[2].changes.before.analytics_events).toBe(60);
});

it("lets one at a time delete a tenant, and never the operator's", async () => {
  const client = await database.owner.connect();
  await client.query("select pg_advisory_lock(hashtextextended($1, 0))", [`tenant:delete ${acme.id}`]);
  await expect(deleteTenant(database.owner, acme.id)).rejects.toThrow("Another tenant:delete");
  client.release(true);
  expect(await rowsOf(acme)).toHaveProperty(["app_private.tenant_keys"], 1);
  await expect(deleteTenant(database.owner, operator.id)).rejects.toThrow(
    "platform is the operator's own tenant",
  );
  expect(await rowsOf(operator)).toHaveProperty(["users"], 3);
});

const isLong = process.env.ERP_TEST_LONG !== undefined;
it("lets others go on meanwhile: they hardly wait longer", async () => {
  const rowCount = isLong ? 1_000_000 : 5_000;
  await database.owner.query(
    `insert into analytics_events (tenant_id, "timestamp", event_type, event_name, source, source_id, value)
     select $1, '2026-01-01'::timestamptz + n * interval '10 seconds', 'order', 'order_completed', 'bulk', n::text, 1
       from generate_series(1, $2) n`,
    [acme.id, rowCount],
  );
  await database.owner.query(
    `insert into app_private.event_keys (tenant_id, source, source_id, "timestamp", id, content_hash)
     select tenant_id, source, source_id, "timestamp", id, '' from analytics_events where tenant_id = $1 and source = 'bulk'`,
    [acme.id],
  );
  await database.owner.query("analyze");
  let value = 0;
  const readAndWrite = async () => {
    const started = performance.now();
    const found = await database.owner.query(
      'select * from analytics_events where tenant_id = $1 order by "timestamp" desc, id desc limit 20',
      [globex.id],
    );
    expect(found.rowCount).toBe(20);
    const event = {
      eventType: "order",
      eventName: "order_completed",
      source: "till",
      sourceId: "new",
      value: ++value,
    };
    await database.owner.query("select * from app_hidden.write_events($1, $2)", [
      globex.id,
      JSON.stringify([event]),
    ]);
    return performance.now() - started;
  };
  const times: Record<"alone" | "beside", number[]> = { alone: [], beside: [] };
  // Turn and turn about, since the machine has others, too.
  const turn = isLong ? 3_000 : 1_000;
  for (let isDone = false; !isDone; ) {
    for (const end = Date.now() + turn; Date.now() < end; ) times.alone.push(await readAndWrite());
    let running = true;
    const deleting = deleteTenant(database.owner, acme.id, { signal: AbortSignal.timeout(turn) }).finally(
      () => {
        running = false;
      },
    );
    while (running) times.beside.push(await readAndWrite());
    isDone = await deleting;
  }
  expect(await rowsOf(acme)).toEqual({});
  const p99 = (list: number[]) => list.sort((a, b) => a - b)[Math.floor(list.length * 0.99)] ?? 0;
  // So few, on a machine that others use, say little.
  if (isLong) expect(p99(times.beside)).toBeLessThan(2 * p99(times.alone));
}, 900_000);

const command = (args: string[], input = "") =>
  runScript(database, ["tenantDelete.ts", ...args], { input, env: { DATA_DIR: folder } });

it.each<[sentence: string, args: (slug: string) => string[], input: (slug: string) => string]>([
  ["--tenant is missing", () => [], String],
  ['There is no tenant "nobody"', () => ["--tenant", "nobody"], () => "nobody\n"],
  ["platform is the operator's own tenant", () => ["--tenant", "platform"], () => "platform\n"],
  ['"another" is not "', (slug) => ["--tenant", slug], () => "another\n"],
  ["stdin has no slug in its first line", (slug) => ["--tenant", slug], () => ""],
])("says %j, and changes nothing", async (sentence, args, input) => {
  const before = await rowsOf(acme);
  const { code, err } = await command(args(acme.slug), input(acme.slug));
  expect({ code, err }).toEqual({ code: 1, err: expect.stringContaining(sentence) });
  expect(await rowsOf(acme)).toEqual(before);
  expect(await rows("select status from tenants where slug = $1", [acme.slug])).toEqual([
    { status: "ACTIVE" },
  ]);
});

it("deletes once the slug was typed", async () => {
  const { code, out } = await command(["--tenant", acme.slug], `${acme.slug}\n`);
  expect({ code, out }).toEqual({ code: 0, out: expect.stringContaining(`"${acme.slug}" is gone.`) });
  expect(await rowsOf(acme)).toEqual({});
});
