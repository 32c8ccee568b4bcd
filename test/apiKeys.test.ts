import { createHash } from "node:crypto";
import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { base58 } from "@scure/base";
import { type Answer, startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let api: TestApi;
let other: TestApi;
let acme: TestTenant;
let globex: TestTenant;
let admin: string;

beforeAll(async () => {
  database = await createTestDatabase();
  [api, other] = [await startApi(database), await startApi(database)];
  acme = await createTenant(database.owner, "acme");
  globex = await createTenant(database.owner, "globex");
  await database.owner.query("update tenants set features = '{api_keys}'");
  admin = await api.signIn("acme", "admin");
});
afterAll(async () => {
  await api.close();
  await other.close();
  await database.drop();
});

const call = (token: string, field: string, input: object, selection: string) => {
  const type = `${field[0]?.toUpperCase()}${field.slice(1)}Input!`;
  return api.query(`mutation ($input: ${type}) { ${field}(input: $input) { ${selection} } }`, {
    variables: { input },
    token,
  });
};
const error = ({ errors }: Answer) => errors?.[0]?.extensions;
const create = (input: object, token = admin) =>
  call(
    token,
    "createApiKey",
    { name: "Till", ...input },
    "secret apiKey { id name scopes createdBy expiresAt }",
  );
async function makeKey(scopes: string[]): Promise<{ id: string; secret: string }> {
  const { data } = await create({ scopes });
  return { id: data.createApiKey.apiKey.id, secret: data.createApiKey.secret };
}
const count = (token: string, at = api) => at.query("{ analyticsEvents { totalCount } }", { token });

it("shows a key once, stores its hash, and takes requests with it as a viewer's of its tenant", async () => {
  const { data, errors } = await create({ scopes: ["analytics:read"] });
  expect(errors).toBeUndefined();
  const { secret, apiKey } = data.createApiKey;
  expect(apiKey).toMatchObject({ name: "Till", scopes: ["analytics:read"], createdBy: acme.users.admin.id });
  expect(secret).toMatch(/^erp_test_[1-9A-HJ-NP-Za-km-z]{32,44}_[1-9A-HJ-NP-Za-km-z]{32,44}$/);
  const read = await api.query(
    "{ analyticsEvents { totalCount } tenants { nodes { slug } } currentUser { id } sessions { totalCount } }",
    { token: secret },
  );
  expect(read.data).toEqual({
    analyticsEvents: { totalCount: 10 },
    tenants: { nodes: [{ slug: "acme" }] },
    currentUser: null,
    sessions: { totalCount: 0 },
  });
  const { rows } = await database.owner.query("select secret_hash from app_private.api_key_secrets");
  const bytes = base58.decode(secret.split("_")[3] ?? "");
  expect(rows).toEqual([{ secret_hash: createHash("sha256").update(bytes).digest() }]);
  const listed = await api.query("{ apiKeys { nodes { id name } } }", { token: admin });
  expect(listed.data.apiKeys.nodes).toEqual([{ id: apiKey.id, name: "Till" }]);
});

it("gives a key for writing events nothing to read", async () => {
  const { secret } = await makeKey(["events:write"]);
  for (const field of ["analyticsEvents", "users", "tenants", "integrations", "auditLogs", "apiKeys"])
    expect(error(await api.query(`{ ${field} { nodes { id } } }`, { token: secret }))).toEqual({
      code: "FORBIDDEN",
    });
});

it("gives a key what its scopes say, and no more", async () => {
  const { secret } = await makeKey(["analytics:read", "audit:read"]);
  const log = await api.query("{ auditLogs(first: 1) { nodes { id } } }", { token: secret });
  expect(log.data.auditLogs.nodes).toHaveLength(1);
  const sync = await call(
    secret,
    "syncIntegration",
    { integrationId: acme.integrationId },
    "integration { id }",
  );
  expect(error(sync)).toEqual({ code: "FORBIDDEN", reason: "integrations:sync" });
  const rename = await call(
    secret,
    "updateTenant",
    { id: acme.id, patch: { name: "Mine" } },
    "tenant { id }",
  );
  expect(error(rename)).toEqual({ code: "FORBIDDEN", reason: "tenant:settings" });
  expect(error(await create({ scopes: ["analytics:read"] }, secret))).toEqual({
    code: "FORBIDDEN",
    reason: "api_keys:manage",
  });
  for (const field of ["logout", "logoutEverywhere"])
    expect(error(await call(secret, field, {}, "clientMutationId"))).toEqual({ code: "FORBIDDEN" });
});

it("takes the tenant from the key alone, and records the key as the actor", async () => {
  const { id, secret } = await makeKey(["analytics:read", "integrations:sync"]);
  const foreign = await call(
    secret,
    "syncIntegration",
    { integrationId: globex.integrationId },
    "integration { id }",
  );
  expect(error(foreign)).toEqual({ code: "NOT_FOUND" });
  await database.owner.query(
    "insert into app_private.tenant_keys (tenant_id, kek_id, wrapped_key) values ($1, 'k', '')",
    [acme.id],
  );
  await database.owner.query(
    `insert into app_private.integration_credentials (tenant_id, integration_id, key_version, ciphertext)
     values ($1, $2, 1, '')`,
    [acme.id, acme.integrationId],
  );
  const own = await call(
    secret,
    "syncIntegration",
    { integrationId: acme.integrationId },
    "integration { syncStatus }",
  );
  expect(own.data.syncIntegration.integration.syncStatus).toBe("queued");
  const { rows } = await database.owner.query(
    "select actor_kind, actor_id, actor_name, user_id from audit_logs where action = 'integration.updated' and changes -> 'after' ? 'sync_status'",
  );
  expect(rows).toEqual([{ actor_kind: "api_key", actor_id: id, actor_name: "Till", user_id: null }]);
});

it("refuses a key that is revoked, expired, forged, of another deployment or of a closed tenant, at once and everywhere", async () => {
  const { id, secret } = await makeKey(["analytics:read"]);
  expect((await count(secret, other)).errors).toBeUndefined();
  const refused = { code: "UNAUTHENTICATED", reason: "revoked" };
  for (const [close, open] of [
    ["update api_keys set expires_at = now()", "update api_keys set expires_at = null"],
    ["update tenants set status = 'SUSPENDED'", "update tenants set status = 'ACTIVE'"],
    ["update tenants set features = '{}'", "update tenants set features = '{api_keys}'"],
  ] as const) {
    await database.owner.query(close);
    expect(error(await count(secret, other))).toEqual(refused);
    await database.owner.query(open);
    expect((await count(secret, other)).errors).toBeUndefined();
  }
  const second = (await makeKey(["analytics:read"])).secret;
  const mixed = [...secret.split("_").slice(0, 3), second.split("_")[3]].join("_");
  expect(error(await count(mixed))).toEqual(refused);
  // The same key and secret, as if they were another tenant's.
  const [, , place = "", rest] = secret.split("_");
  const elsewhere = Buffer.from(base58.decode(place));
  elsewhere.set(Buffer.from(globex.id.replaceAll("-", ""), "hex"));
  expect(error(await count(`erp_test_${base58.encode(elsewhere)}_${rest}`))).toEqual(refused);
  for (const malformed of [
    secret.slice(0, -3),
    // With one more, a short secret would have the right length.
    `${secret}xx`,
    "erp_test_abc",
    secret.replace("erp_test", "erp_live"),
  ]) {
    const { status, errors } = await count(malformed);
    expect([status, errors?.[0].extensions.reason]).toEqual([401, "invalid_token"]);
  }
  const revoked = await call(admin, "revokeApiKey", { apiKeyId: id }, "apiKey { revokedAt }");
  expect(revoked.data.revokeApiKey.apiKey.revokedAt).toEqual(expect.any(String));
  expect(error(await count(secret, other))).toEqual(refused);
});

it("makes no key without the right, the feature, a known scope, or a future", async () => {
  const keys = async () => (await database.owner.query("select from api_keys")).rowCount;
  const before = await keys();
  const viewer = await api.signIn("acme", "viewer");
  expect(error(await create({ scopes: ["analytics:read"] }, viewer))).toMatchObject({
    reason: "api_keys:manage",
  });
  for (const bad of [
    { scopes: [] },
    { scopes: ["users:manage"] },
    { scopes: ["audit:read"] },
    { scopes: ["analytics:read"], expiresAt: "2020-01-01T00:00:00Z" },
    { scopes: ["analytics:read"], expiresAt: "infinity" },
    { scopes: ["analytics:read"], name: "" },
    { scopes: ["analytics:read"], name: " " },
  ])
    expect(error(await create(bad))?.code).toBe("INVALID_INPUT");
  await database.owner.query("update users set permissions = '{api_keys:manage}' where id = $1", [
    acme.users.viewer.id,
  ]);
  expect(error(await create({ scopes: ["events:write"] }, viewer))).toEqual({
    code: "FORBIDDEN",
    reason: "events:write",
  });
  await database.owner.query("update tenants set features = '{}' where id = $1", [acme.id]);
  expect(error(await create({ scopes: ["analytics:read"] }))).toEqual({
    code: "FORBIDDEN",
    reason: "feature",
  });
  await database.owner.query("update tenants set features = '{api_keys}' where id = $1", [acme.id]);
  expect(await keys()).toBe(before);
});

it("is revoked by whoever may make keys, in its own tenant alone, once, and on record", async () => {
  const { id, secret } = await makeKey(["analytics:read"]);
  const revoke = (token: string) => call(token, "revokeApiKey", { apiKeyId: id }, "apiKey { revokedAt }");
  const user = await api.signIn("acme", "user");
  expect(error(await revoke(user))).toEqual({ code: "FORBIDDEN", reason: "api_keys:manage" });
  expect(error(await revoke(await api.signIn("globex", "admin")))).toEqual({ code: "NOT_FOUND" });
  expect((await count(secret)).errors).toBeUndefined();
  const first = (await revoke(admin)).data.revokeApiKey.apiKey.revokedAt;
  expect((await revoke(admin)).data.revokeApiKey.apiKey.revokedAt).toBe(first);
  const { rows } = await database.owner.query(
    "select action, actor_name from audit_logs where resource = 'api_key' and resource_id = $1 order by id",
    [id],
  );
  expect(rows).toEqual([
    { action: "api_key.created", actor_name: "admin@acme.test" },
    { action: "api_key.revoked", actor_name: "admin@acme.test" },
  ]);
});

it("ends when its maker said", async () => {
  const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
  const { data } = await create({ scopes: ["analytics:read"], expiresAt });
  expect(Date.parse(data.createApiKey.apiKey.expiresAt)).toBe(Date.parse(expiresAt));
});

it("is one of a hundred in its tenant at the most, revoked ones aside", async () => {
  await database.owner.query("update api_keys set revoked_at = now() where tenant_id = $1", [acme.id]);
  await database.owner.query(
    `insert into api_keys (id, tenant_id, name, scopes)
     select gen_random_uuid(), $1, 'Till', '{events:write}' from generate_series(1, 99)`,
    [acme.id],
  );
  const { id } = await makeKey(["analytics:read"]);
  const more = () => create({ scopes: ["analytics:read"] });
  expect(error(await more())).toEqual({ code: "LIMIT_EXCEEDED", reason: "api_keys" });
  await call(admin, "revokeApiKey", { apiKeyId: id }, "apiKey { id }");
  expect((await more()).errors).toBeUndefined();
  await database.owner.query("delete from api_keys where tenant_id = $1", [acme.id]);
});

it("says when it was last used", async () => {
  const { id, secret } = await makeKey(["analytics:read"]);
  const closing = await startApi(database);
  await count(secret, closing);
  await closing.close();
  const { rowCount } = await database.owner.query(
    "select from api_keys where id = $1 and last_used_at is not null",
    [id],
  );
  expect(rowCount).toBe(1);
});

it("outlives the user who made it", async () => {
  const { secret } = await makeKey(["analytics:read"]);
  await database.owner.query(
    "insert into users (tenant_id, email, role) values ($1, 'second@acme.test', 'ADMIN')",
    [acme.id],
  );
  await database.owner.query("update users set status = 'INACTIVE' where id = $1", [acme.users.admin.id]);
  expect((await count(secret)).errors).toBeUndefined();
  await database.owner.query("update users set status = 'ACTIVE' where id = $1", [acme.users.admin.id]);
});
