import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { afterAll, beforeAll, expect, it } from "@jest/globals";
import jwt from "jsonwebtoken";
import { startApi, type TestApi, testKey } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, PASSWORD, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";

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

it("answers 401 to tokens that are malformed, forged, expired, of another key or of another purpose", async () => {
  const token = await api.signIn("acme", "viewer");
  expect((await api.query(ME, { token })).data.currentUser.email).toBe("viewer@acme.test");
  const [header, payload, signature] = token.split(".");
  const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const decoded = JSON.parse(Buffer.from(payload ?? "", "base64url").toString());
  const other = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
  const { exp: _exp, ...endless } = decoded;
  const sign = (claims: object, key: KeyObject = testKey.privateKey, more: jwt.SignOptions = {}) =>
    jwt.sign(claims, key, { algorithm: "ES256", keyid: testKey.kid, ...more });
  // The same way of signing, with nothing wrong: what is refused below is refused for its one fault.
  expect((await api.query(ME, { token: sign(decoded) })).status).toBe(200);
  const forged = {
    garbage: "abc",
    "another tenant, same signature": `${header}.${encode({ ...decoded, tenant_id: globex.id })}.${signature}`,
    "algorithm none": `${encode({ alg: "none", typ: "JWT", kid: testKey.kid })}.${payload}.`,
    "signed by another key": sign(decoded, other),
    "unknown key id": sign(decoded, testKey.privateKey, { keyid: "other" }),
    "HMAC with the public key": jwt.sign(decoded, testKey.publicKey.export({ type: "spki", format: "pem" }), {
      algorithm: "HS256",
      keyid: testKey.kid,
    }),
    expired: sign({ ...decoded, exp: Math.floor(Date.now() / 1000) - 1 }),
    "without expiry": sign(endless),
    "another audience": sign({ ...decoded, aud: "somebody" }),
    "another issuer": sign({ ...decoded, iss: "somebody" }),
    "a role that is none": sign({ ...decoded, role: "OWNER" }),
    "a tenant that is a list": sign({ ...decoded, tenant_id: [acme.id] }),
    "an unknown extension": sign(decoded, testKey.privateKey, {
      header: { alg: "ES256", kid: "test", crit: ["x"] },
    }),
    "a refresh token": (await login("viewer")).data.login.refreshToken,
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
  for (const stale of ["abc", `${refreshToken}A`]) {
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
  // Between the two counts, waits until the owner has committed another event. Definer: requests may take no advisory locks.
  await database.owner.query(`
    create function public.wait_for_owner() returns integer language plpgsql stable security definer as $$
    begin
      perform pg_advisory_xact_lock_shared(42);
      return 1;
    end $$;
    grant execute on function public.wait_for_owner() to api_viewer`);
  const own = await startApi(database);
  const token = await own.signIn("acme", "viewer");
  const gate = await database.owner.connect();
  try {
    await gate.query("select pg_advisory_lock(42)");
    const reading = own.query(
      "{ before: analyticsEvents { totalCount } waitForOwner after: analyticsEvents { totalCount } }",
      { token },
    );
    await until(
      () =>
        database.owner.query(
          "select from pg_locks where locktype = 'advisory' and objid = 42 and not granted",
        ),
      ({ rowCount }) => rowCount === 1,
    );
    const event = [{ eventType: "visit", eventName: "meanwhile" }];
    await database.owner.query("select app_hidden.write_events($1, $2)", [acme.id, JSON.stringify(event)]);
    await gate.query("select pg_advisory_unlock(42)");
    const { data, errors } = await reading;
    expect(errors).toBeUndefined();
    expect(data).toEqual({ before: { totalCount: 10 }, waitForOwner: 1, after: { totalCount: 10 } });
    const later = await own.query("{ analyticsEvents { totalCount } }", { token });
    expect(later.data.analyticsEvents.totalCount).toBe(11);
  } finally {
    gate.release();
    await own.close();
    await database.owner.query("drop function public.wait_for_owner()");
  }
});
