import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import type { Claims } from "../src/auth/tokens.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { asRequest, claimsFor } from "./support/asRequest.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let acme: TestTenant;
let globex: TestTenant;
let claims: Record<"admin" | "user" | "viewer", Claims>;

beforeAll(async () => {
  database = await createTestDatabase();
  acme = await createTenant(database.owner, "acme");
  globex = await createTenant(database.owner, "globex");
  claims = {
    admin: await claimsFor(database.owner, acme, "admin"),
    user: await claimsFor(database.owner, acme, "user"),
    viewer: await claimsFor(database.owner, acme, "viewer"),
  };
});
afterAll(() => database.drop());

const tables = ["tenants", "users", "integrations", "analytics_events", "audit_logs"] as const;
const tenantColumn = (table: string) => (table === "tenants" ? "id" : "tenant_id");
const countOf = async (table: string, tenant: TestTenant) => {
  const { rows } = await database.owner.query(
    `select count(*)::integer from ${table} where ${tenantColumn(table)} = $1`,
    [tenant.id],
  );
  return rows[0].count;
};
const sql = (role: keyof typeof claims, text: string, values: unknown[] = []) =>
  asRequest(database.authenticator, claims[role], (client) => client.query(text, values), {
    readsLog: text.includes("audit_logs"),
  });
describe("in SQL, as erp_authenticator", () => {
  it.each(tables)("the login itself reads nothing of %s", async (table) => {
    expect(await countOf(table, acme)).toBeGreaterThan(0);
    expect(await refusal(database.authenticator.query(`select from ${table}`))).toBe("42501");
  });

  it("begin_request with forged claims of another tenant is refused", async () => {
    const forged = { ...claims.admin, tenant_id: globex.id };
    expect(
      await refusal(asRequest(database.authenticator, forged, (client) => client.query("select 1"))),
    ).toBe("EA401");
    const promoted: Claims = { ...claims.viewer, role: "ADMIN" };
    expect(
      await refusal(asRequest(database.authenticator, promoted, (client) => client.query("select 1"))),
    ).toBe("EA401");
  });

  it.each(tables)("an admin cannot see or count another tenant's %s", async (table) => {
    expect(await countOf(table, globex)).toBeGreaterThan(0);
    const own = await sql("admin", `select ${tenantColumn(table)} as tenant_id from ${table}`);
    expect(own.rowCount).toBe(await countOf(table, acme));
    expect(new Set(own.rows.map((row) => row.tenant_id))).toEqual(new Set([acme.id]));
    const others = await sql("admin", `select from ${table} where ${tenantColumn(table)} = $1`, [globex.id]);
    expect(others.rowCount).toBe(0);
  });

  it("an admin cannot change or delete another tenant's rows", async () => {
    const foreign = globex.integrationId;
    expect(
      (await sql("admin", "update integrations set name = 'mine' where id = $1", [foreign])).rowCount,
    ).toBe(0);
    expect((await sql("admin", "delete from integrations where id = $1", [foreign])).rowCount).toBe(0);
    expect(
      (await sql("admin", "update users set first_name = 'x' where id = $1", [globex.users.user.id]))
        .rowCount,
    ).toBe(0);
    expect((await sql("admin", "update tenants set name = 'x' where id = $1", [globex.id])).rowCount).toBe(0);
    const own = await sql("admin", "update integrations set name = 'mine' where id = $1", [
      acme.integrationId,
    ]);
    expect(own.rowCount).toBe(1);
    expect(await countOf("integrations", globex)).toBe(1);
  });

  it("an admin cannot write a row into another tenant, or move one there", async () => {
    const insert = "insert into integrations (tenant_id, name, provider) values ($1, 'x', 'square')";
    expect(await refusal(sql("admin", insert, [globex.id]))).toBe("42501");
    expect(await refusal(sql("admin", "update integrations set tenant_id = $1", [globex.id]))).toBe("42501");
    expect(
      await refusal(
        sql("admin", "select app_hidden.request_sync($1, $2)", [globex.id, globex.integrationId]),
      ),
    ).toBe("EA403");
    const own = await sql(
      "admin",
      "insert into integrations (name, provider) values ('x', 'square') returning tenant_id",
    );
    expect(own.rows).toEqual([{ tenant_id: acme.id }]);
  });

  it("no row can refer to another tenant's row, not even one that the owner writes", async () => {
    const audit =
      "insert into audit_logs (tenant_id, user_id, actor_kind, action, resource) values ($1, $2, 'user', 'x', 'x')";
    expect(await refusal(database.owner.query(audit, [acme.id, globex.users.user.id]))).toBe("23503");
    const key = "insert into integration_streams (tenant_id, integration_id, name) values ($1, $2, 's')";
    expect(await refusal(database.owner.query(key, [acme.id, globex.integrationId]))).toBe("23503");
  });

  it("nothing can be inferred: an id of another tenant and an id of nobody answer alike", async () => {
    const nobody = "00000000-0000-7000-8000-000000000000";
    const answers = async (id: string) => [
      await refusal(sql("admin", "select sync_integration($1)", [id])),
      (await sql("admin", "update integrations set name = 'x' where id = $1", [id])).rowCount,
      (await sql("admin", "select from integrations where id = $1", [id])).rowCount,
    ];
    expect(await answers(globex.integrationId)).toEqual(await answers(nobody));
    expect((await answers(acme.integrationId))[2]).toBe(1);
  });

  it("a partition cannot be read around its parent", async () => {
    const { rows } = await database.owner.query(
      "select tableoid::regclass::text as partition from analytics_events limit 1",
    );
    expect(rows[0].partition).toMatch(/^partitions\./);
    expect(await refusal(sql("admin", `select from ${rows[0].partition}`))).toBe("42501");
  });

  it("app_private is closed to every role of the API", async () => {
    expect((await database.owner.query("select from app_private.user_passwords")).rowCount).toBe(6);
    for (const role of ["admin", "user", "viewer"] as const)
      expect(await refusal(sql(role, "select from app_private.user_passwords"))).toBe("42501");
  });

  it("what one transaction set is gone in the next on the same connection", async () => {
    const client = await database.authenticator.connect();
    try {
      await client.query("begin");
      await client.query("select app_hidden.begin_request($1)", [JSON.stringify(claims.admin)]);
      await client.query(
        "select set_config('app.tenant_id', $1, false), set_config('app.user_id', $2, false)",
        [globex.id, globex.users.admin.id],
      );
      await client.query("commit");
      await client.query("begin");
      await client.query("select app_hidden.begin_request('{}')");
      const { rows } = await client.query(
        "select app_hidden.current_tenant_id() as tenant, current_user as role",
      );
      expect(rows).toEqual([{ tenant: null, role: "api_anonymous" }]);
      await client.query("rollback");
    } finally {
      client.release(true);
    }
  });
});

describe.each([true, false])("through GraphQL, with the tenant predicate %s", (tenantPredicate) => {
  let api: TestApi;
  let token: string;
  beforeAll(async () => {
    api = await startApi(database, { tenantPredicate });
    token = await api.signIn("acme", "admin");
  });
  afterAll(() => api.close());
  const ask = async (document: string, variables: Record<string, unknown>) => {
    const { data, errors } = await api.query(document, { token, variables });
    return { data, code: errors?.[0].extensions.code };
  };

  it("lists, counts and aggregates the own rows alone", async () => {
    const { data } = await ask(
      /* GraphQL */ `{
        tenants { totalCount }
        users { totalCount }
        integrations { totalCount nodes { tenantId } }
        analyticsEvents { totalCount aggregates { sum { value } distinctCount { tenantId } } }
      }`,
      {},
    );
    expect(data).toEqual({
      tenants: { totalCount: 1 },
      users: { totalCount: 3 },
      integrations: { totalCount: 1, nodes: [{ tenantId: acme.id }] },
      analyticsEvents: {
        totalCount: 10,
        aggregates: { sum: { value: "55" }, distinctCount: { tenantId: "1" } },
      },
    });
    expect(await countOf("analytics_events", globex)).toBe(10);
  });

  it("finds another tenant's row neither by id, nor by a relation, nor by a filter", async () => {
    const { data } = await ask(
      /* GraphQL */ `query ($user: UUID!, $integration: UUID!, $tenant: UUID!) {
        user(id: $user) { id }
        integration(id: $integration) { id }
        tenant(id: $tenant) { id }
        tenantBySlug(slug: "globex") { id }
        users(filter: { tenantId: { equalTo: $tenant } }) { totalCount }
        tenants(filter: { integrations: { some: { id: { equalTo: $integration } } } }) { totalCount }
      }`,
      { user: globex.users.user.id, integration: globex.integrationId, tenant: globex.id },
    );
    expect(data).toEqual({
      user: null,
      integration: null,
      tenant: null,
      tenantBySlug: null,
      users: { totalCount: 0 },
      tenants: { totalCount: 0 },
    });
    const own = await ask("query ($id: UUID!) { user(id: $id) { email } }", { id: acme.users.user.id });
    expect(own.data.user.email).toBe("user@acme.test");
  });

  it("changes and deletes nothing of another tenant, and does not tell that it exists", async () => {
    const documents = [
      'mutation ($id: UUID!) { updateIntegration(input: { id: $id, patch: { name: "x" } }) { integration { id } } }',
      "mutation ($id: UUID!) { deleteIntegration(input: { id: $id }) { integration { id } } }",
      "mutation ($id: UUID!) { syncIntegration(input: { integrationId: $id }) { integration { id } } }",
    ];
    for (const document of documents) {
      const foreign = await ask(document, { id: globex.integrationId });
      const nobody = await ask(document, { id: "00000000-0000-7000-8000-000000000000" });
      expect(foreign).toEqual(nobody);
      expect(foreign.code).toBe("NOT_FOUND");
    }
    expect(await countOf("integrations", globex)).toBe(1);
    const own = await ask(documents[0] ?? "", { id: acme.integrationId });
    expect(own.data.updateIntegration.integration.id).toBe(acme.integrationId);
  });
});
