import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, PASSWORD, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let globex: TestTenant;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  acme = await createTenant(database.owner, "acme");
  globex = await createTenant(database.owner, "globex");
});
afterAll(async () => {
  await api.close();
  await database.drop();
});

const LOGIN = /* GraphQL */ `
  mutation ($input: LoginInput!) {
    login(input: $input) { accessToken refreshToken accessTokenExpiresAt user { id email role tenant { slug } } }
  }
`;
const REFRESH = /* GraphQL */ `
  mutation ($refreshToken: String!) {
    refreshSession(input: { refreshToken: $refreshToken }) { accessToken refreshToken user { id } }
  }
`;
const ME = "{ currentUser { id email } }";
const login = (role: string, password = PASSWORD, tenant = "acme") =>
  api.query(LOGIN, { variables: { input: { tenant, email: `${role}@acme.test`, password } } });

it("signs in, reads the own tenant's events and sums, and nothing of another's", async () => {
  const signedIn = await login("viewer");
  expect(signedIn.errors).toBeUndefined();
  expect(signedIn.data.login.user).toEqual({
    id: acme.users.viewer.id,
    email: "viewer@acme.test",
    role: "VIEWER",
    tenant: { slug: "acme" },
  });
  const lifetime = Date.parse(signedIn.data.login.accessTokenExpiresAt) - Date.now();
  expect(lifetime).toBeGreaterThan(14 * 60_000);
  expect(lifetime).toBeLessThanOrEqual(15 * 60_000);

  const read = await api.query(
    /* GraphQL */ `{
      analyticsEvents(first: 3, orderBy: TIMESTAMP_DESC) {
        totalCount
        nodes { value properties tenant { slug } }
        groupedAggregates(groupBy: [EVENT_TYPE, TIMESTAMP_TRUNCATED_TO_DAY]) { keys sum { value } }
      }
      tenants { nodes { slug } }
      users { nodes { email } }
    }`,
    { token: signedIn.data.login.accessToken },
  );
  expect(read.errors).toBeUndefined();
  expect(read.data.analyticsEvents.totalCount).toBe(10);
  expect(read.data.analyticsEvents.nodes.map((node: { value: string }) => node.value)).toEqual([
    "10",
    "9",
    "8",
  ]);
  expect(read.data.analyticsEvents.nodes[0]).toMatchObject({
    properties: { tenant: "acme" },
    tenant: { slug: "acme" },
  });
  expect(read.data.analyticsEvents.groupedAggregates).toHaveLength(10);
  expect(read.data.analyticsEvents.groupedAggregates).toContainEqual({
    keys: ["order", "2026-01-07T00:00:00.000000+00:00"],
    sum: { value: "7" },
  });
  expect(read.data.tenants.nodes).toEqual([{ slug: "acme" }]);
  expect(read.data.users.nodes).toHaveLength(3);
  const others = await database.owner.query("select from analytics_events where tenant_id = $1", [globex.id]);
  expect(others.rowCount).toBe(10);
});

it("gives the same answer to a wrong password, an unknown user and an unknown tenant", async () => {
  const refusals = [
    await login("viewer", "wrong"),
    await login("nobody"),
    await login("viewer", PASSWORD, "nowhere"),
    await login("viewer", "x".repeat(5_000)),
    await login("viewer", "\0"),
  ];
  for (const { data, errors } of refusals) {
    expect(data).toEqual({ login: null });
    expect(errors).toEqual([
      expect.objectContaining({
        message: "Unknown tenant or e-mail, or wrong password.",
        extensions: { code: "UNAUTHENTICATED" },
      }),
    ]);
  }
});

it("refuses everything but signing in without a token", async () => {
  for (const field of ["analyticsEvents", "users", "tenants", "integrations", "auditLogs"]) {
    const { data, errors } = await api.query(`{ ${field} { nodes { id } } }`);
    expect(data).toEqual({ [field]: null });
    expect(errors?.[0].extensions.code).toBe("UNAUTHENTICATED");
  }
});

it("permits one sign-in per request, alone in its operation", async () => {
  const input = `{ tenant: "acme", email: "viewer@acme.test", password: "x" }`;
  const aliased = await api.query(
    `mutation { a: login(input: ${input}) { accessToken } b: login(input: ${input}) { accessToken } }`,
  );
  expect(aliased.status).toBe(400);
  const hidden = await api.query(
    `mutation { ...f ...f } fragment f on Mutation { login(input: ${input}) { accessToken } }`,
  );
  expect(hidden.status).toBe(400);
});

it("answers 401 to tokens that are malformed, unsigned, expired, of another key or of another purpose", async () => {
  const token = await api.signIn("acme", "viewer");
  const [header, payload, signature] = token.split(".");
  const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const decoded = JSON.parse(Buffer.from(payload ?? "", "base64url").toString());
  expect((await api.query(ME, { token })).data.currentUser.email).toBe("viewer@acme.test");
  const forged = {
    garbage: "abc",
    "another tenant, same signature": `${header}.${encode({ ...decoded, tenant_id: globex.id })}.${signature}`,
    "algorithm none": `${encode({ alg: "none", typ: "JWT", kid: "test" })}.${payload}.`,
    "unknown key": `${encode({ alg: "ES256", typ: "JWT", kid: "other" })}.${payload}.${signature}`,
  };
  for (const [name, bad] of Object.entries(forged)) {
    const { status, errors } = await api.query(ME, { token: bad });
    expect({ name, status, code: errors?.[0].extensions.code }).toEqual({
      name,
      status: 401,
      code: "UNAUTHENTICATED",
    });
  }
});

it("exchanges a refresh token once", async () => {
  const { refreshToken } = (await login("viewer")).data.login;
  const refreshed = await api.query(REFRESH, { variables: { refreshToken } });
  expect(refreshed.errors).toBeUndefined();
  expect(refreshed.data.refreshSession.user.id).toBe(acme.users.viewer.id);
  const token = refreshed.data.refreshSession.accessToken;
  expect((await api.query(ME, { token })).data.currentUser.id).toBe(acme.users.viewer.id);
  for (const stale of [refreshToken, "abc", `${refreshToken}A`]) {
    const { errors } = await api.query(REFRESH, { variables: { refreshToken: stale } });
    expect(errors?.[0].extensions.code).toBe("UNAUTHENTICATED");
  }
});

it("ends a session at once when it is logged out", async () => {
  const { accessToken: token, refreshToken } = (await login("viewer")).data.login;
  const out = await api.query("mutation { logout(input: {}) { sessionId } }", { token });
  expect(out.data.logout.sessionId).toMatch(/^[0-9a-f-]{36}$/);
  const { errors } = await api.query(ME, { token });
  expect(errors?.[0].extensions).toEqual({ code: "UNAUTHENTICATED", reason: "revoked" });
  const refreshed = await api.query(REFRESH, { variables: { refreshToken } });
  expect(refreshed.errors?.[0].extensions.code).toBe("UNAUTHENTICATED");
});

it("feels a suspended user, a suspended tenant and a changed role on the next request", async () => {
  const token = await api.signIn("acme", "user");
  const reason = async () => (await api.query(ME, { token })).errors?.[0].extensions.reason;
  expect(await reason()).toBeUndefined();
  const { id } = acme.users.user;
  await database.owner.query("update users set status = 'SUSPENDED' where id = $1", [id]);
  expect(await reason()).toBe("revoked");
  await database.owner.query("update users set status = 'ACTIVE', role = 'VIEWER' where id = $1", [id]);
  expect(await reason()).toBe("stale");
  await database.owner.query("update users set role = 'USER' where id = $1", [id]);
  expect(await reason()).toBeUndefined();
  await database.owner.query("update tenants set status = 'SUSPENDED' where id = $1", [acme.id]);
  expect(await reason()).toBe("revoked");
  await database.owner.query("update tenants set status = 'ACTIVE' where id = $1", [acme.id]);
  expect(await reason()).toBeUndefined();
});

it("reads one snapshot: no field of a query sees what another transaction commits meanwhile", async () => {
  const token = await api.signIn("acme", "viewer");
  const { data } = await api.query(
    "{ a: analyticsEvents { totalCount } b: analyticsEvents { totalCount } c: users { totalCount } }",
    { token },
  );
  expect(data).toEqual({ a: { totalCount: 10 }, b: { totalCount: 10 }, c: { totalCount: 3 } });
  const idle = await database.owner.query(
    "select from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'",
  );
  expect(idle.rowCount).toBe(0);
});
