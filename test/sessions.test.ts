import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, PASSWORD, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
/** Two instances on one database. */
let api: TestApi;
let other: TestApi;
let acme: TestTenant;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  other = await startApi(database);
  acme = await createTenant(database.owner, "acme");
});
afterAll(async () => {
  await api.close();
  await other.close();
  await database.drop();
});

const LOGIN = /* GraphQL */ `
  mutation ($input: LoginInput!) { login(input: $input) { accessToken refreshToken user { id } } }
`;
const REFRESH = /* GraphQL */ `
  mutation ($refreshToken: String!) {
    refreshSession(input: { refreshToken: $refreshToken }) { accessToken refreshToken user { id } }
  }
`;
type Tokens = { accessToken: string; refreshToken: string };
async function login(role = "viewer"): Promise<Tokens> {
  const input = { tenant: "acme", email: `${role}@acme.test`, password: PASSWORD };
  return (await api.query(LOGIN, { variables: { input } })).data.login;
}
const refresh = async (refreshToken: string, at = api) => {
  const { data, errors } = await at.query(REFRESH, { variables: { refreshToken } });
  return { tokens: data.refreshSession as Tokens, error: errors?.[0]?.extensions };
};
const reasonOf = async (token: string, at = api) =>
  (await at.query("{ currentUser { id } }", { token })).errors?.[0].extensions.reason;
/** As if the refresh tokens of a session had been used so long ago. */
const age = (interval: string) =>
  database.owner.query("update app_private.refresh_tokens set used_at = used_at - $1::interval", [interval]);
/** The newest record of an action. */
async function recorded(action: string) {
  const { rows } = await database.owner.query(
    "select actor_name, resource_id, changes from audit_logs where action = $1 order by id desc limit 1",
    [action],
  );
  return rows[0];
}

it("gives a refresh that is sent again the same successor: a lost answer signs nobody out", async () => {
  const { refreshToken } = await login();
  const first = await refresh(refreshToken);
  const again = await refresh(refreshToken, other);
  expect(again.error).toBeUndefined();
  expect(again.tokens.refreshToken).toBe(first.tokens.refreshToken);
  expect(await reasonOf(again.tokens.accessToken)).toBeUndefined();
});

it("gives a slow tab the token that is valid now, even when another has refreshed twice meanwhile", async () => {
  const { refreshToken } = await login();
  const first = await refresh(refreshToken);
  const second = await refresh(first.tokens.refreshToken);
  expect((await refresh(refreshToken)).tokens.refreshToken).toBe(second.tokens.refreshToken);
});

it("keeps one family through 50 refreshes of one token at once, on two instances", async () => {
  const { refreshToken } = await login();
  const before = await database.owner.query("select from sessions");
  const answers = await Promise.all(
    Array.from({ length: 50 }, (_, index) => refresh(refreshToken, index % 2 ? api : other)),
  );
  expect(answers.filter(({ error }) => error)).toEqual([]);
  expect(new Set(answers.map(({ tokens }) => tokens.refreshToken)).size).toBe(1);
  expect((await database.owner.query("select from sessions")).rowCount).toBe(before.rowCount);
  const { tokens } = await refresh(answers[0]?.tokens.refreshToken ?? "");
  expect(await reasonOf(tokens.accessToken)).toBeUndefined();
});

it("ends the session when a used token comes back later, and records it", async () => {
  const { refreshToken } = await login("user");
  const { tokens } = await refresh(refreshToken);
  await age("31 seconds");
  expect((await refresh(refreshToken)).error).toMatchObject({ code: "UNAUTHENTICATED", reason: "revoked" });
  expect(await reasonOf(tokens.accessToken, other)).toBe("revoked");
  expect((await refresh(tokens.refreshToken)).error).toMatchObject({ reason: "revoked" });
  const { rows } = await database.owner.query(
    "select actor_id, actor_name, ip_address from audit_logs where action = 'session.refresh_reused'",
  );
  expect(rows).toEqual([
    { actor_id: acme.users.user.id, actor_name: "user@acme.test", ip_address: "127.0.0.1" },
  ]);
});

it("neither reads nor refreshes for a session that expired, a closed account or a closed tenant", async () => {
  const { accessToken, refreshToken } = await login("user");
  const trial = "update tenants set status = 'TRIAL', trial_ends_at = now()";
  for (const [close, open] of [
    ["update users set status = 'SUSPENDED' where role = 'USER'", "update users set status = 'ACTIVE'"],
    ["update tenants set status = 'SUSPENDED'", "update tenants set status = 'ACTIVE'"],
    [trial, "update tenants set status = 'ACTIVE', trial_ends_at = null"],
    ["update sessions set expires_at = now()", "update sessions set expires_at = now() + interval '30 days'"],
  ] as const) {
    await database.owner.query(close);
    const { error } = await refresh(refreshToken);
    const reason = await reasonOf(accessToken, other);
    await database.owner.query(open);
    expect([close, error, reason]).toEqual([
      close,
      { code: "UNAUTHENTICATED", reason: "revoked" },
      "revoked",
    ]);
  }
  expect((await refresh(refreshToken)).error).toBeUndefined();
});

it("does not end a session for a token that it never had", async () => {
  const { accessToken, refreshToken } = await login();
  const forged = Buffer.from(refreshToken, "base64url");
  forged.writeUInt8(forged.readUInt8(63) ^ 1, 63);
  expect((await refresh(forged.toString("base64url"))).error).toMatchObject({ code: "UNAUTHENTICATED" });
  expect(await reasonOf(accessToken)).toBeUndefined();
});

it("stores refresh tokens as hashes only", async () => {
  const { refreshToken } = await login();
  const secret = Buffer.from(refreshToken, "base64url").subarray(32);
  const { rowCount } = await database.owner.query(
    "select from app_private.refresh_tokens where token_hash = sha256($1)",
    [secret],
  );
  expect(rowCount).toBe(1);
  const plain = await database.owner.query("select from app_private.refresh_tokens where token_hash = $1", [
    secret,
  ]);
  expect(plain.rowCount).toBe(0);
});

it("lists one's own sessions with address, agent and last use, and nobody else's", async () => {
  const { accessToken: token } = await login("user");
  const { data, errors } = await api.query(
    "{ currentSession { id } sessions(filter: { revokedAt: { isNull: true } }) { nodes { id userId ipAddress userAgent createdAt lastUsedAt expiresAt } } }",
    { token },
  );
  expect(errors).toBeUndefined();
  const { nodes } = data.sessions;
  expect(nodes.map(({ userId }: { userId: string }) => userId)).toEqual(nodes.map(() => acme.users.user.id));
  expect(nodes).toContainEqual({
    id: data.currentSession.id,
    userId: acme.users.user.id,
    ipAddress: "127.0.0.1",
    userAgent: expect.stringMatching(/node/),
    createdAt: expect.any(String),
    lastUsedAt: expect.any(String),
    expiresAt: expect.any(String),
  });
  const [last] = await database.owner
    .query("select expires_at - created_at = interval '30 days' as month from sessions where id = $1", [
      data.currentSession.id,
    ])
    .then(({ rows }) => rows);
  expect(last.month).toBe(true);
  expect(await recorded("session.created")).toMatchObject({
    actor_name: "user@acme.test",
    resource_id: data.currentSession.id,
  });
  const all = await database.owner.query("select from sessions where revoked_at is null");
  expect(all.rowCount).toBeGreaterThan(nodes.length);
});

it("ends one of one's own sessions, and nobody else's", async () => {
  const REVOKE =
    "mutation ($id: UUID!) { revokeSession(input: { sessionId: $id }) { session { id revokedAt } } }";
  const here = await login("user");
  const there = await login("user");
  const stranger = await login("admin");
  const idOf = async (token: string) =>
    (await api.query("{ currentSession { id } }", { token })).data.currentSession.id;
  const token = here.accessToken;
  const foreign = await api.query(REVOKE, { token, variables: { id: await idOf(stranger.accessToken) } });
  expect(foreign.errors?.[0].extensions.code).toBe("NOT_FOUND");
  expect(await reasonOf(stranger.accessToken)).toBeUndefined();
  const id = await idOf(there.accessToken);
  const revoked = await api.query(REVOKE, { token, variables: { id } });
  expect(revoked.data.revokeSession.session.revokedAt).toEqual(expect.any(String));
  expect(await recorded("session.revoked")).toMatchObject({ actor_name: "user@acme.test", resource_id: id });
  expect(await reasonOf(there.accessToken, other)).toBe("revoked");
  expect(await reasonOf(here.accessToken, other)).toBeUndefined();
});

it("logs out everywhere, on every instance at once", async () => {
  const [one, two] = [await login("viewer"), await login("viewer")];
  const stranger = await login("user");
  const { data } = await api.query("mutation { logoutEverywhere(input: {}) { endedSessions } }", {
    token: one.accessToken,
  });
  const { endedSessions } = data.logoutEverywhere;
  expect(endedSessions).toBeGreaterThanOrEqual(2);
  const record = await recorded("session.revoked");
  expect(record).toMatchObject({ actor_name: "viewer@acme.test", resource_id: acme.users.viewer.id });
  expect(record.changes.sessions).toHaveLength(endedSessions);
  for (const { accessToken, refreshToken } of [one, two]) {
    expect(await reasonOf(accessToken, other)).toBe("revoked");
    expect((await refresh(refreshToken, other)).error).toMatchObject({ reason: "revoked" });
  }
  expect(await reasonOf(stranger.accessToken)).toBeUndefined();
});

it("writes when a session was last used behind the requests' back, in one statement for all", async () => {
  const { accessToken: token } = await login("viewer");
  await database.owner.query("update sessions set last_used_at = '2020-01-01'");
  await api.query("{ currentUser { id } }", { token });
  const { rows } = await database.owner.query("select from sessions where last_used_at > '2020-01-02'");
  expect(rows).toHaveLength(0);
  const closing = await startApi(database);
  await closing.query("{ currentUser { id } }", { token });
  await closing.close();
  const later = await database.owner.query("select from sessions where last_used_at > '2020-01-02'");
  expect(later.rowCount).toBe(1);
});

it("purges what ended long ago, and nothing that is in use", async () => {
  const { accessToken } = await login("viewer");
  const end = async () =>
    api.query("mutation { logout(input: {}) { sessionId } }", { token: (await login()).accessToken });
  await end();
  await database.owner.query("update sessions set revoked_at = revoked_at - interval '31 days'");
  await end();
  await database.owner.query(
    "update sessions set revoked_at = now() - interval '29 days' where revoked_at > now() - interval '1 day'",
  );
  await database.owner.query(
    `insert into app_private.one_time_tokens (tenant_id, user_id, purpose, email, expires_at)
     select $1, $2, 'password_reset', days || '@acme.test', now() - make_interval(days => days)
       from unnest('{29,31}'::integer[]) days`,
    [acme.id, acme.users.viewer.id],
  );
  await database.owner.query(
    `insert into app_private.rate_limits (bucket, used, counted_at)
     select sha256(hours::text::bytea), 1, now() - make_interval(hours => hours) from unnest('{23,25}'::integer[]) hours`,
  );
  await database.owner.query(
    `insert into app_private.event_counts (tenant_id, day, count)
     select $1, (now() at time zone 'UTC')::date - days, 1 from unnest('{399,402}'::integer[]) days`,
    [acme.id],
  );
  await database.worker.query("select app_hidden.purge_expired()");
  const left = async (sql: string) => (await database.owner.query(sql)).rowCount;
  expect(await left("select from sessions where revoked_at is not null")).toBe(1);
  expect((await database.owner.query("select email from app_private.one_time_tokens")).rows).toEqual([
    { email: "29@acme.test" },
  ]);
  expect(await left("select from app_private.rate_limits where counted_at < now() - interval '1 hour'")).toBe(
    1,
  );
  expect(await left("select from app_private.event_counts")).toBe(1);
  expect(await reasonOf(accessToken)).toBeUndefined();
});

it("knows a stolen refresh token for as long as its session lives, whatever was purged", async () => {
  const { refreshToken } = await login("user");
  const { tokens } = await refresh(refreshToken);
  await age("8 days");
  await database.worker.query("select app_hidden.purge_expired()");
  expect((await refresh(refreshToken)).error).toMatchObject({ code: "UNAUTHENTICATED", reason: "revoked" });
  expect(await reasonOf(tokens.accessToken)).toBe("revoked");
  expect((await refresh(tokens.refreshToken)).error).toMatchObject({ reason: "revoked" });
});
