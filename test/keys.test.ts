import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { ensureAuditKey } from "../src/audit/keys.ts";
import { ensureTokenKey } from "../src/auth/tokenKeyRotation.ts";
import { openTokenKeys } from "../src/auth/tokenKeys.ts";
import { checkKeys } from "../src/crypto/check.ts";
import { makeKeyRing, seal } from "../src/crypto/keyRing.ts";
import { SEALED_TABLES } from "../src/crypto/keyWork.ts";
import { rewrapKeys } from "../src/crypto/rewrap.ts";
import { rotateTenantKeys } from "../src/crypto/rotate.ts";
import { openCredentials, sealed } from "../src/crypto/sealed.ts";
import { makePool } from "../src/db/pools.ts";
import { setCredentials } from "./support/credentials.ts";
import { createTestDatabase, silent, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until, untilBlocked } from "./support/until.ts";

const key = (id: string) => ({ id, key: randomBytes(32).toString("base64") });
const [old, young] = [key("old"), key("young")];
const ring = makeKeyRing([old]);
const SECRET = "sealed-canary";

let database: TestDatabase;
let acme: TestTenant;
let globex: TestTenant;
beforeAll(async () => {
  database = await createTestDatabase();
  // Of an operator's: what concerns no single tenant is in its log.
  await createTenant(database.owner, "platform", { events: [] });
});
afterAll(() => database.drop());
let count = 0;
beforeEach(async () => {
  await database.owner.query("delete from app_private.key_rotations");
  await database.owner.query("delete from app_private.tenant_keys");
  await database.owner.query("delete from app_private.token_keys");
  acme = await createTenant(database.owner, `acme${++count}`, { events: [] });
  globex = await createTenant(database.owner, `globex${count}`, { events: [] });
  for (const tenant of [acme, globex]) await set(tenant, `${SECRET} of ${tenant.slug}`);
});

const set = ({ id, integrationId }: TestTenant, secret: string, pool = database.owner) =>
  setCredentials(pool, ring, { tenantId: id, integrationId }, { secret });
/** More integrations of a tenant, each with credentials. */
const more = async ({ id }: TestTenant, howMany: number) => {
  const { rows } = await database.owner.query(
    "insert into integrations (tenant_id, name, provider) select $1, 'Shop ' || n, 'square' from generate_series(1, $2) n returning id",
    [id, howMany],
  );
  for (const row of rows)
    await setCredentials(database.owner, ring, { tenantId: id, integrationId: row.id }, { secret: SECRET });
};
const rows = async (sql: string, values: unknown[] = [acme.id]) =>
  (await database.owner.query(sql, values)).rows;
const keysOf = async (tenant = acme) =>
  (
    await rows("select version from app_private.tenant_keys where tenant_id = $1 order by 1", [tenant.id])
  ).map(({ version }) => version);
const usedBy = async (tenant = acme) =>
  (
    await rows(
      `select distinct key_version from app_private.integration_credentials where tenant_id = $1
       union select key_version from app_private.retired_credentials where tenant_id = $1 order by 1`,
      [tenant.id],
    )
  ).map(({ key_version }) => key_version);
const open = async ({ id, integrationId }: TestTenant, keyRing = ring): Promise<string> => {
  const [row] = await rows(
    `select c.version, c.key_version, c.ciphertext, k.kek_id, k.wrapped_key
       from app_private.integration_credentials c join app_private.tenant_keys k on k.tenant_id = c.tenant_id and k.version = c.key_version
      where c.tenant_id = $1 and c.integration_id = $2`,
    [id, integrationId],
  );
  return JSON.parse(openCredentials(keyRing, { tenantId: id, integrationId }, sealed.parse(row))).secret;
};
const rotate = (options?: Parameters<typeof rotateTenantKeys>[2]) =>
  rotateTenantKeys(database.owner, ring, options);
const check = (keyRing = ring) => checkKeys(database.owner, keyRing);

it("rotates one tenant's key: everything of it is sealed anew, and opens; others stay as they are", async () => {
  await set(acme, "newer");
  await more(acme, 4);
  expect(await rotate({ tenantId: acme.id, batch: 2 })).toEqual({
    tenants: 1,
    resealed: 6,
    problems: [],
    finished: true,
  });
  expect([await keysOf(), await usedBy()]).toEqual([[1, 2], [2]]);
  expect([await keysOf(globex), await usedBy(globex)]).toEqual([[1], [1]]);
  expect(await open(acme)).toBe("newer");
  expect(await check()).toMatchObject({ credentials: 6, replacedCredentials: 1, problems: [] });
  const [audit] = await rows("select * from audit_logs where tenant_id = $1 and action = 'key.rotated'");
  expect(audit).toMatchObject({
    actor_kind: "database",
    resource: "tenant_key",
    resource_id: "2",
    changes: { before: { version: 1 }, after: { version: 2 } },
  });
});

it("goes on after an interruption, with the key that it had made, and rotates again when it is asked again", async () => {
  await more(acme, 4);
  const stop = new AbortController();
  const interrupted = await rotate({
    batch: 2,
    signal: AbortSignal.any([stop.signal]),
    // After the first tenant, whichever it is.
    onProgress: () => stop.abort(),
  });
  expect(interrupted).toMatchObject({ finished: false, tenants: 1 });
  expect(await rotate({ batch: 2 })).toMatchObject({ finished: true, tenants: 2, problems: [] });
  for (const tenant of [acme, globex])
    expect([await keysOf(tenant), await usedBy(tenant)]).toEqual([[1, 2], [2]]);
  expect(await rotate()).toMatchObject({ finished: true, tenants: 2, resealed: 6 });
  expect(await usedBy()).toEqual([3]);
});

it("goes on in the middle of a tenant, too", async () => {
  await more(acme, 3);
  // One that nobody gets at, so that the rotation is stopped before the tenant's end.
  const client = await database.owner.connect();
  await client.query("begin");
  await client.query(
    "select from app_private.integration_credentials where tenant_id = $1 and integration_id = $2 for update",
    [acme.id, acme.integrationId],
  );
  const stop = new AbortController();
  const running = rotate({ tenantId: acme.id, batch: 1, signal: stop.signal });
  await until(
    () => usedBy(),
    (versions) => versions.length === 2,
  );
  stop.abort();
  expect(await running).toMatchObject({ finished: false });
  await client.query("rollback");
  client.release();
  expect(await rotate({ tenantId: acme.id })).toMatchObject({ finished: true });
  expect([await keysOf(), await usedBy()]).toEqual([[1, 2], [2]]);
});

it("never puts an older secret over one that is written meanwhile", async () => {
  await more(acme, 2);
  const pool = makePool(database.urls.owner, { name: "writer", max: 1, log: silent });
  const writer = await pool.connect();
  await writer.query("begin");
  await writer.query(
    "select from app_private.integration_credentials where tenant_id = $1 and integration_id = $2 for update",
    [acme.id, acme.integrationId],
  );
  const rotating = rotate({ tenantId: acme.id });
  await until(
    () => usedBy(),
    (versions) => versions.length === 2,
  );
  // Sealed under the key that was the newest when the writer read it.
  const before = await rows("select * from app_private.tenant_keys where tenant_id = $1 and version = 1");
  expect(before).toHaveLength(1);
  const dataKey = ring.unwrap(before[0].wrapped_key, before[0].kek_id, { tenantId: acme.id, version: 1 });
  const place = {
    tenantId: acme.id,
    table: "integration_credentials",
    rowId: acme.integrationId,
    version: 2,
  };
  await writer.query(
    `update app_private.integration_credentials set version = 2, key_version = 1, ciphertext = $3
      where tenant_id = $1 and integration_id = $2`,
    [acme.id, acme.integrationId, seal(JSON.stringify({ secret: "written meanwhile" }), dataKey, place)],
  );
  await writer.query("commit");
  writer.release();
  await pool.end();
  expect(await rotating).toMatchObject({ finished: true, problems: [] });
  expect(await open(acme)).toBe("written meanwhile");
  expect(await usedBy()).toEqual([2]);
});

it("deletes a key once nothing is under it and its time is over, never with what it seals", async () => {
  const purge = async (grace = "0 seconds") =>
    (await database.worker.query("select app_hidden.purge_tenant_keys($1) as count", [grace])).rows[0].count;
  await rotate();
  expect(await purge("15 minutes")).toBe(0);
  // One more was sealed under the old key, by somebody who had read it before.
  await database.owner.query(
    "update app_private.integration_credentials set key_version = 1 where tenant_id = $1",
    [globex.id],
  );
  expect(await purge()).toBe(1);
  expect([await keysOf(), await keysOf(globex)]).toEqual([[2], [1, 2]]);
  expect(await purge()).toBe(0);
  expect(
    await rows("select from app_private.integration_credentials where tenant_id = any ($1)", [
      [acme.id, globex.id],
    ]),
  ).toHaveLength(2);
});

it("waits for whoever is sealing under an old key before it looks whether it is in use", async () => {
  await rotate({ tenantId: acme.id });
  const writer = await database.owner.connect();
  await writer.query("begin");
  await writer.query(
    `insert into app_private.retired_credentials (tenant_id, integration_id, version, key_version, ciphertext)
     values ($1, $2, 9, 1, 'x')`,
    [acme.id, acme.integrationId],
  );
  const purging = database.worker.query("select app_hidden.purge_tenant_keys('0 seconds') as count");
  await untilBlocked(database);
  await writer.query("commit");
  writer.release();
  expect((await purging).rows).toEqual([{ count: 0 }]);
  expect(
    await rows("select from app_private.retired_credentials where tenant_id = $1 and version = 9"),
  ).toHaveLength(1);
});

it("opens no ciphertext that was copied to another row, version or tenant, and names each", async () => {
  expect((await check()).problems).toEqual([]);
  await more(acme, 1);
  const copy = (set: string, from: string, where: string) =>
    database.owner.query(
      `update app_private.integration_credentials c set ${set} from app_private.integration_credentials o
        where c.tenant_id = $1 and c.integration_id = $2 and ${where} ${from}`,
      [acme.id, acme.integrationId],
    );
  const found = async () => (await check()).problems;
  const named = [
    expect.stringMatching(
      new RegExp(`integration ${acme.integrationId} of "${acme.slug}" .*belongs elsewhere`),
    ),
  ];

  await copy("ciphertext = o.ciphertext", "", "o.tenant_id = $1 and o.integration_id <> $2");
  expect(await found()).toEqual(named);
  await set(acme, "mended");
  await database.owner.query("delete from app_private.retired_credentials");
  expect(await found()).toEqual([]);
  await copy("ciphertext = o.ciphertext", `and o.tenant_id = '${globex.id}'`, "true");
  expect(await found()).toEqual(named);
  await set(acme, "mended");
  await database.owner.query("delete from app_private.retired_credentials");
  await copy("version = c.version + 1", "", "o.tenant_id = $1 and o.integration_id = $2");
  expect(await found()).toEqual(named);
  // A whole key from elsewhere does not open, either.
  await database.owner.query(
    `update app_private.tenant_keys a set wrapped_key = g.wrapped_key from app_private.tenant_keys g
      where a.tenant_id = $1 and g.tenant_id = $2`,
    [acme.id, globex.id],
  );
  expect(await found()).toEqual(
    expect.arrayContaining([expect.stringContaining(`data key 1 of "${acme.slug}"`)]),
  );
  expect(JSON.stringify(await check())).not.toContain(SECRET);
});

it("leaves what does not open where it is, names it, and rotates the rest", async () => {
  await more(acme, 2);
  await database.owner.query(
    "update app_private.integration_credentials set ciphertext = substr(ciphertext, 2) where integration_id = $1",
    [acme.integrationId],
  );
  const { resealed, problems, finished } = await rotate({ tenantId: acme.id });
  expect({ resealed, finished }).toEqual({ resealed: 2, finished: true });
  expect(problems).toEqual([expect.stringContaining(acme.integrationId)]);
  expect(await usedBy()).toEqual([1, 2]);
});

it("rewraps every key, so that the old key-encryption key can go, and signs nobody out", async () => {
  await ensureTokenKey(database.owner, ring);
  await ensureAuditKey(database.owner, ring);
  const both = makeKeyRing([young, old]);
  const alone = makeKeyRing([young]);
  expect((await check(alone)).problems).toHaveLength(6);
  expect(await rewrapKeys(database.owner, both, { batch: 1 })).toEqual({
    tenantKeys: 2,
    tokenKeys: 1,
    auditKeys: 1,
    problems: [],
    finished: true,
  });
  expect(await rewrapKeys(database.owner, both)).toMatchObject({ tenantKeys: 0, tokenKeys: 0 });
  expect(await check(alone)).toMatchObject({
    tenantKeys: 2,
    credentials: 2,
    tokenKeys: 1,
    auditKeys: 1,
    problems: [],
  });
  expect(await open(acme, alone)).toBe(`${SECRET} of ${acme.slug}`);
  const store = await openTokenKeys({ pool: database.authenticator, keyRing: alone, log: silent });
  expect(store.signer().kid).toBeTruthy();
  store.close();
  const audit = await rows(
    "select l.changes, l.resource_id from audit_logs l join tenants t on t.id = l.tenant_id where t.slug = 'platform' and l.action = 'key.rewrapped'",
    [],
  );
  expect(audit).toEqual([{ changes: { tenantKeys: 2, tokenKeys: 1, auditKeys: 1 }, resource_id: "young" }]);
});

it("rewraps what it can, and names the keys whose key-encryption key is missing", async () => {
  const { problems, tenantKeys } = await rewrapKeys(database.owner, makeKeyRing([young]));
  expect(tenantKeys).toBe(0);
  expect(problems.sort()).toEqual(
    [acme, globex]
      .map(
        ({ id }) => `data key 1 of tenant ${id}: The key ring has no key "old": add it to ENCRYPTION_KEYS.`,
      )
      .sort(),
  );
});

it("lets one command at a time change keys", async () => {
  const client = await database.owner.connect();
  await client.query("select pg_advisory_lock(hashtextextended('app_private.tenant_keys', 0))");
  await expect(rotate()).rejects.toThrow("Another keys:rotate or keys:rewrap is at work");
  await expect(rewrapKeys(database.owner, ring)).rejects.toThrow("Another keys:rotate");
  client.release(true);
  expect(await keysOf()).toEqual([1]);
});

it("knows every place of ciphertexts and wrapped keys, and of what refers to data keys", async () => {
  const columns = await rows(
    `select c.oid::regclass::text as place, a.attname as name from pg_class c
       join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
      where n.nspname in ('public', 'app_private', 'app_hidden') and c.relkind in ('r', 'p') and a.atttypid = 'bytea'::regtype
        and (a.attname ~ 'cipher|wrapped|sealed|encrypted') order by 1, 2`,
    [],
  );
  expect(columns.map(({ place, name }) => `${place}.${name}`)).toEqual([
    "app_private.audit_keys.wrapped_private_key",
    ...SEALED_TABLES.map((table) => `app_private.${table}.ciphertext`),
    "app_private.tenant_keys.wrapped_key",
    "app_private.token_keys.wrapped_private_key",
  ]);
  const referring = await rows(
    "select conrelid::regclass::text as name from pg_constraint where confrelid = 'app_private.tenant_keys'::regclass order by 1",
    [],
  );
  expect(referring.map(({ name }) => name)).toEqual(SEALED_TABLES.map((table) => `app_private.${table}`));
});
