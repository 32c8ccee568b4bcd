import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { withClient } from "../src/db/pools.ts";
import { withTenant } from "../src/worker/withTenant.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";
import { createTenant, SQUARE_CONFIG, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let admin: string;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  acme = await createTenant(database.owner, "acme");
  admin = await api.signIn("acme", "admin");
});
afterAll(async () => {
  await api.close();
  await database.drop();
});

const log = async (resourceId: string, action?: string) => {
  const { rows } = await database.owner.query(
    "select * from audit_logs where resource_id = $1 and action = coalesce($2, action) order by id",
    [resourceId, action],
  );
  return rows;
};
it("records a mutation with its actor, address, request and the changed keys alone", async () => {
  const { errors, headers } = await api.query(
    `mutation ($id: UUID!) { updateUser(input: { id: $id, patch: { firstName: "Uma", avatar: "https://example.com/uma.png" } }) { user { id } } }`,
    { token: admin, variables: { id: acme.users.user.id } },
  );
  expect(errors).toBeUndefined();
  expect(await log(acme.users.user.id, "user.updated")).toEqual([
    expect.objectContaining({
      tenant_id: acme.id,
      resource: "user",
      actor_kind: "user",
      actor_id: acme.users.admin.id,
      user_id: acme.users.admin.id,
      actor_name: "admin@acme.test",
      ip_address: "127.0.0.1",
      user_agent: expect.stringMatching(/node/),
      request_id: headers.get("x-request-id"),
      session_id: expect.any(String),
      changes: {
        before: { first_name: null, avatar: null },
        after: { first_name: "Uma", avatar: "https://example.com/uma.png" },
      },
    }),
  ]);
});

it("records plain SQL with the login behind it", async () => {
  await database.owner.query("update users set last_name = 'Reyes' where id = $1", [acme.users.user.id]);
  expect((await log(acme.users.user.id, "user.updated")).at(-1)).toMatchObject({
    actor_kind: "database",
    actor_id: null,
    actor_name: "erp_user",
    ip_address: "127.0.0.1",
    changes: { before: { last_name: null }, after: { last_name: "Reyes" } },
  });
});

it("records a job with its task", async () => {
  await withTenant(database.worker, acme.id, "some_task", (client) =>
    client.query("select app_hidden.fail_sync($1, $2, 'internal', 'Broken.')", [acme.id, acme.integrationId]),
  );
  expect((await log(acme.integrationId, "integration.updated")).at(-1)).toMatchObject({
    actor_kind: "job",
    actor_name: "some_task",
    changes: { after: { sync_status: "failed" } },
  });
});

it("records creation and deletion whole, and nothing for an update that changes nothing", async () => {
  const created = await api.query(
    'mutation ($config: JSON!) { createIntegration(input: { integration: { name: "Till", provider: "square", config: $config } }) { integration { id } } }',
    { token: admin, variables: { config: SQUARE_CONFIG } },
  );
  const id: string = created.data.createIntegration.integration.id;
  await database.owner.query("update integrations set name = name where id = $1", [id]);
  await api.query("mutation ($id: UUID!) { deleteIntegration(input: { id: $id }) { integration { id } } }", {
    token: admin,
    variables: { id },
  });
  const rows = await log(id);
  expect(rows.map((row) => row.action)).toEqual(["integration.created", "integration.deleted"]);
  expect(rows[0].changes).toMatchObject({ before: {}, after: { name: "Till", provider: "square" } });
  expect(rows[1].changes).toMatchObject({ before: { name: "Till", provider: "square" }, after: {} });
});

it("records what a deletion takes with it under whoever deleted, not under the owner whom the cascade runs as", async () => {
  const created = await api.query(
    'mutation ($config: JSON!) { createIntegration(input: { integration: { name: "Kiosk", provider: "square", config: $config } }) { integration { id } } }',
    { token: admin, variables: { config: SQUARE_CONFIG } },
  );
  const id: string = created.data.createIntegration.integration.id;
  await database.owner.query(
    `with k as (
       insert into app_private.tenant_keys (tenant_id, version, kek_id, wrapped_key) values ($1, 1, 'test', 'wrapped')
       returning tenant_id, version
     )
     insert into app_private.integration_credentials (tenant_id, integration_id, key_version, ciphertext)
     select tenant_id, $2, version, 'sealed' from k`,
    [acme.id, id],
  );
  const deleted = await api.query(
    "mutation ($id: UUID!) { deleteIntegration(input: { id: $id }) { integration { id } } }",
    { token: admin, variables: { id } },
  );
  expect(deleted.errors).toBeUndefined();
  expect(await log(id, "integration.credentials_removed")).toEqual([
    expect.objectContaining({
      actor_kind: "user",
      actor_id: acme.users.admin.id,
      user_id: acme.users.admin.id,
      actor_name: "admin@acme.test",
      request_id: deleted.headers.get("x-request-id"),
      changes: { before: expect.objectContaining({ ciphertext: "***" }), after: {} },
    }),
  ]);
});

it("leaves nothing of a mutation that was taken back", async () => {
  const count = "select count(*)::integer from audit_logs where tenant_id = $1";
  const before = await database.owner.query(count, [acme.id]);
  const client = await database.owner.connect();
  await client.query("begin");
  await client.query("update tenants set name = 'Gone' where id = $1", [acme.id]);
  expect((await client.query(count, [acme.id])).rows[0].count).toBe(before.rows[0].count + 1);
  await client.query("rollback");
  client.release();
  expect((await database.owner.query(count, [acme.id])).rows).toEqual(before.rows);
});

it("records that a secret changed, and whose, but not what it is", async () => {
  const { users } = await createTenant(database.owner, "secretive");
  const canary =
    "update app_private.user_passwords set password_hash = '$argon2id$canary' where user_id = $1";
  await database.owner.query(canary, [users.viewer.id]);
  expect((await log(users.viewer.id)).map((row) => [row.action, row.changes.after.password_hash])).toEqual([
    ["user.created", undefined],
    ["user.password_set", "***"],
    ["user.password_changed", "***"],
  ]);
  const leaks = await database.owner.query("select from audit_logs where changes::text ~ 'argon2id'");
  expect(leaks.rowCount).toBe(0);
});

it("believes the login, not what plain SQL says of itself", async () => {
  const client = await database.owner.connect();
  await client.query("begin");
  await client.query(
    "select set_config('app.user_id', $1, true), set_config('app.ip_address', '203.0.113.9', true)",
    [acme.users.admin.id],
  );
  await client.query("update users set last_name = 'Forged' where id = $1", [acme.users.viewer.id]);
  await client.query("commit");
  client.release();
  expect((await log(acme.users.viewer.id)).at(-1)).toMatchObject({
    actor_kind: "database",
    actor_id: null,
    actor_name: "erp_user",
    ip_address: "127.0.0.1",
  });
});

it("is read by admins, and by nobody below them", async () => {
  const document = `{ auditLogs(first: 1, orderBy: CREATED_AT_DESC) { nodes { action user { email } } } }`;
  const seen = await api.query(document, { token: admin });
  expect(seen.errors).toBeUndefined();
  expect(seen.data.auditLogs.nodes).toHaveLength(1);
  for (const role of ["user", "viewer"]) {
    const { errors } = await api.query(document, { token: await api.signIn("acme", role) });
    expect(errors?.[0].extensions.code).toBe("FORBIDDEN");
  }
});

it("survives its user, keeping who it was", async () => {
  const other = await createTenant(database.owner, "other");
  const token = await api.signIn("other", "user");
  await api.query(
    `mutation ($id: UUID!) { updateUser(input: { id: $id, patch: { lastName: "X" } }) { user { id } } }`,
    {
      token,
      variables: { id: other.users.user.id },
    },
  );
  await database.owner.query("delete from users where id = $1", [other.users.user.id]);
  const rows = (await log(other.users.user.id)).filter((row) => row.resource === "user");
  expect(rows.map((row) => row.action)).toEqual([
    "user.created",
    "user.password_set",
    "user.updated",
    "user.deleted",
    "user.password_removed",
  ]);
  expect(rows[2]).toMatchObject({
    user_id: null,
    actor_id: other.users.user.id,
    actor_name: "user@other.test",
    tenant_id: other.id,
  });
});

it("goes with its tenant, of which the operator's log keeps a record", async () => {
  const platform = await createTenant(database.owner, "platform");
  const leaving = await createTenant(database.owner, "leaving");
  await database.owner.query("delete from tenants where id = $1", [leaving.id]);
  const left = await database.owner.query("select from audit_logs where tenant_id = $1", [leaving.id]);
  expect(left.rowCount).toBe(0);
  expect(await log(leaving.id)).toEqual([
    expect.objectContaining({ tenant_id: platform.id, action: "tenant.deleted", actor_name: "erp_user" }),
  ]);
});

it("cannot be changed by any role of the API", async () => {
  for (const statement of [
    "update audit_logs set action = 'x'",
    "delete from audit_logs",
    "truncate audit_logs",
    "insert into audit_logs (tenant_id, actor_kind, action, resource) values (uuidv7(), 'user', 'x', 'x')",
  ])
    for (const role of ["api_viewer", "api_user", "api_admin", "api_super_admin", "api_job", "api_anonymous"])
      expect(
        await withClient(database.urls.root, async (client) => {
          await client.query(`set role ${role}`);
          return refusal(client.query(statement));
        }),
      ).toBe("42501");
});
