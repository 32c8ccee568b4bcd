import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { type Answer, startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, PASSWORD, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let platform: TestTenant;
let operator: string;
let admin: string;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  acme = await createTenant(database.owner, "acme");
  platform = await createTenant(database.owner, "platform");
  await database.owner.query(
    "update users set role = 'SUPER_ADMIN', email = 'super@platform.test' where id = $1",
    [platform.users.user.id],
  );
  operator = await api.signIn("platform", "super");
  admin = await api.signIn("acme", "admin");
});
afterAll(async () => {
  await api.close();
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
const update = (token: string, id: string, patch: object) =>
  call(token, "updateTenant", { id, patch }, "tenant { name }");
const enter = (input: object, token = operator) =>
  call(token, "enterTenant", input, "accessToken accessTokenExpiresAt refreshToken endsAt tenant { slug }");
const visit = () => ({ tenantId: acme.id, role: "ADMIN", reason: "Ticket 42: wrong totals", minutes: 5 });

it("lets an operator into a tenant for a while, with every trace under both names", async () => {
  const outside = await api.query("{ analyticsEvents { totalCount } users { nodes { email } } }", {
    token: operator,
  });
  expect(outside.data.users.nodes.map(({ email }: { email: string }) => email.split("@")[1])).not.toContain(
    "acme.test",
  );

  const entered = await enter(visit());
  expect(entered.errors).toBeUndefined();
  const { accessToken: token, refreshToken, accessTokenExpiresAt, endsAt, tenant } = entered.data.enterTenant;
  expect(tenant.slug).toBe("acme");
  expect(Date.parse(accessTokenExpiresAt)).toBeLessThanOrEqual(Date.parse(endsAt));
  const minutes = (Date.parse(endsAt) - Date.now()) / 60_000;
  expect(minutes).toBeGreaterThan(3);
  expect(minutes).toBeLessThanOrEqual(5);
  const inside = await api.query(
    "{ analyticsEvents { totalCount } tenants { nodes { slug } } currentUser { id } }",
    { token },
  );
  expect(inside.data).toEqual({
    analyticsEvents: { totalCount: 10 },
    tenants: { nodes: [{ slug: "acme" }] },
    currentUser: null,
  });
  expect((await update(token, acme.id, { name: "Acme Ltd" })).errors).toBeUndefined();
  expect(error(await update(token, acme.id, { maxUsers: 9 }))).toEqual({ code: "FORBIDDEN" });

  // The tenant's own admin sees both.
  const { data } = await api.query(
    `{ auditLogs(filter: {resource: {equalTo: "tenant"}}, orderBy: CREATED_AT_DESC, first: 2) {
         nodes { action actorKind actorId actorName impersonatorId impersonatorName changes } } }`,
    { token: admin },
  );
  const operatorId = platform.users.user.id;
  expect(data.auditLogs.nodes).toEqual([
    expect.objectContaining({
      action: "tenant.updated",
      actorKind: "impersonator",
      actorId: operatorId,
      actorName: "ADMIN of acme",
      impersonatorId: operatorId,
      impersonatorName: "super@platform.test",
    }),
    expect.objectContaining({
      action: "tenant.entered",
      actorName: "super@platform.test",
      changes: { role: "ADMIN", reason: "Ticket 42: wrong totals", minutes: 5 },
    }),
  ]);
  const home = await database.owner.query(
    "select from audit_logs where tenant_id = $1 and action = 'tenant.entered'",
    [platform.id],
  );
  expect(home.rowCount).toBe(1);

  const refreshed = await api.query(
    "mutation ($t: String!) { refreshSession(input: { refreshToken: $t }) { accessToken user { id } } }",
    { variables: { t: refreshToken } },
  );
  expect(refreshed.data.refreshSession.user).toBeNull();
  const again = refreshed.data.refreshSession.accessToken;
  expect(
    (await api.query("{ analyticsEvents { totalCount } }", { token: again })).data.analyticsEvents.totalCount,
  ).toBe(10);
  await call(again, "logout", {}, "sessionId");
  for (const ended of [token, again])
    expect(error(await api.query("{ tenants { totalCount } }", { token: ended }))).toMatchObject({
      reason: "revoked",
    });
  expect((await api.query("{ currentUser { id } }", { token: operator })).errors).toBeUndefined();
});

it("gives a visitor the rights of the role they entered with, not their own", async () => {
  const { accessToken: token } = (await enter({ ...visit(), role: "VIEWER" })).data.enterTenant;
  expect(error(await api.query("{ auditLogs(first: 1) { nodes { id } } }", { token }))).toEqual({
    code: "FORBIDDEN",
    reason: "audit:read",
  });
  expect(
    error(await call(token, "updateTenant", { id: acme.id, patch: { name: "Mine" } }, "tenant { id }")),
  ).toEqual({
    code: "FORBIDDEN",
    reason: "tenant:settings",
  });
});

it("ends a visit with its time, with the operator's rank, and with the tenant", async () => {
  const count = (token: string) => api.query("{ analyticsEvents { totalCount } }", { token });
  const { accessToken: token } = (await enter(visit())).data.enterTenant;
  const ended = { code: "UNAUTHENTICATED", reason: "revoked" };
  await update(operator, acme.id, { status: "SUSPENDED" });
  expect((await count(token)).errors).toBeUndefined();
  await update(operator, acme.id, { status: "CANCELLED" });
  expect(error(await count(token))).toEqual(ended);
  await update(operator, acme.id, { status: "ACTIVE" });
  expect((await count(token)).errors).toBeUndefined();
  await database.owner.query("update sessions set expires_at = now() where entered_tenant_id is not null");
  expect(error(await count(token))).toEqual(ended);

  const { accessToken: later, refreshToken } = (await enter(visit())).data.enterTenant;
  const spare =
    "insert into users (tenant_id, email, role) values ($1, 'spare@platform.test', 'SUPER_ADMIN')";
  await database.owner.query(spare, [platform.id]);
  await database.owner.query("update users set role = 'ADMIN' where id = $1", [platform.users.user.id]);
  expect(error(await count(later))).toEqual(ended);
  const refreshed = await api.query(
    "mutation ($t: String!) { refreshSession(input: { refreshToken: $t }) { accessToken } }",
    { variables: { t: refreshToken } },
  );
  expect(error(refreshed)).toEqual(ended);
  await database.owner.query("update users set role = 'SUPER_ADMIN' where id = $1", [platform.users.user.id]);
});

it("lets nobody else enter, and an operator only with a reason, a role and a time", async () => {
  const { accessToken: inside } = (await enter(visit())).data.enterTenant;
  for (const token of [admin, inside])
    expect(error(await enter(visit(), token))).toEqual({ code: "FORBIDDEN" });
  for (const wrong of [{ reason: "no" }, { minutes: 0 }, { minutes: 241 }, { role: "SUPER_ADMIN" }])
    expect(error(await enter({ ...visit(), ...wrong }))).toEqual({ code: "INVALID_INPUT" });
  for (const tenantId of [platform.id, acme.users.user.id])
    expect(error(await enter({ ...visit(), tenantId }))).toEqual({ code: "NOT_FOUND" });
  await database.owner.query("update tenants set status = 'CANCELLED' where id = $1", [acme.id]);
  expect(error(await enter(visit()))).toEqual({ code: "NOT_FOUND" });
  await database.owner.query("update tenants set status = 'ACTIVE' where id = $1", [acme.id]);
});

it("lets an operator inside a tenant touch nobody's own account", async () => {
  const { accessToken: token } = (await enter(visit())).data.enterTenant;
  for (const answer of [
    await call(
      token,
      "changePassword",
      { currentPassword: PASSWORD, newPassword: "seven purple otters" },
      "done",
    ),
    await call(token, "logoutEverywhere", {}, "endedSessions"),
    await call(token, "requestEmailVerification", {}, "clientMutationId"),
  ])
    expect(error(answer)).toEqual({ code: "FORBIDDEN" });
});

it("leaves nothing behind that lets somebody in later: no API key, and no user where an admin can invite one", async () => {
  await database.owner.query("update tenants set features = '{api_keys}' where id = $1", [acme.id]);
  const { accessToken: token } = (await enter(visit())).data.enterTenant;
  const invite = (email: string) => call(token, "inviteUser", { email }, "user { status }");
  const key = { name: "Till", scopes: ["analytics:read"] };
  const refused = { code: "FORBIDDEN", reason: "visit" };
  expect(error(await call(token, "createApiKey", key, "secret"))).toEqual(refused);
  expect(error(await invite("spare@acme.test"))).toEqual(refused);
  const made = await database.owner.query("select from api_keys");
  expect(made.rowCount).toBe(0);

  // The first admin's invitation was lost.
  const { rows } = await database.owner.query(
    `with t as (insert into tenants (name, slug, status, features) values ('New', 'new', 'ACTIVE', '{api_keys}') returning id)
     insert into users (tenant_id, email, role, status) select id, 'lost@new.test', 'ADMIN', 'INVITED' from t returning tenant_id`,
  );
  const inside = (await enter({ ...visit(), tenantId: rows[0].tenant_id })).data.enterTenant.accessToken;
  const first = { email: "first@new.test", role: "ADMIN" };
  const invited = await call(inside, "inviteUser", first, "user { status }");
  expect(invited.data.inviteUser.user.status).toBe("INVITED");
  expect(error(await call(inside, "createApiKey", key, "secret"))).toEqual(refused);
});

it("raises nobody's rights, brings nobody back and mails no invitation in a visit, where an admin can", async () => {
  await database.owner.query("update users set status = 'SUSPENDED' where id = $1", [acme.users.user.id]);
  const { rows } = await database.owner.query(
    "insert into users (tenant_id, email, role, status) values ($1, 'invited@acme.test', 'VIEWER', 'INVITED') returning id",
    [acme.id],
  );
  const [viewer, suspended, invited] = [acme.users.viewer.id, acme.users.user.id, rows[0].id];
  const change = (token: string, field: string, input: object) => call(token, field, input, "user { id }");
  const attempts = [
    ["setUserRole", { userId: viewer, role: "USER" }],
    ["setUserPermissions", { userId: viewer, permissions: ["users:manage"] }],
    ["setUserStatus", { userId: suspended, status: "ACTIVE" }],
    ["resendInvitation", { userId: invited }],
  ] as const;
  const { accessToken: token } = (await enter(visit())).data.enterTenant;
  for (const [field, input] of attempts)
    expect([field, error(await change(token, field, input))]).toEqual([
      field,
      { code: "FORBIDDEN", reason: "visit" },
    ]);
  const rights = await database.owner.query(
    "select role, status, permissions from users where id = any ($1) order by email",
    [[viewer, suspended, invited]],
  );
  expect(rights.rows).toEqual([
    { role: "VIEWER", status: "INVITED", permissions: [] },
    { role: "USER", status: "SUSPENDED", permissions: [] },
    { role: "VIEWER", status: "ACTIVE", permissions: [] },
  ]);
  // The tenant's own admin may, and so may a visitor take away.
  for (const [field, input] of attempts)
    expect([field, (await change(admin, field, input)).errors]).toEqual([field, undefined]);
  for (const [field, input] of [
    ["setUserRole", { userId: viewer, role: "VIEWER" }],
    ["setUserPermissions", { userId: viewer, permissions: ["users:manage"] }],
    ["setUserPermissions", { userId: viewer, permissions: [] }],
    ["setUserStatus", { userId: viewer, status: "ACTIVE" }],
    ["setUserStatus", { userId: suspended, status: "SUSPENDED" }],
  ] as const)
    expect([field, (await change(token, field, input)).errors]).toEqual([field, undefined]);
});

it("helps a tenant whose admins cannot come: brings one back, and mails an invitation anew", async () => {
  const { rows } = await database.owner.query(
    `with t as (insert into tenants (name, slug, status) values ('Shut', 'shut', 'ACTIVE') returning id)
     insert into users (tenant_id, email, role, status)
     select id, email, 'ADMIN', status::user_status from t, (values ('boss@shut.test', 'INVITED'), ('left@shut.test', 'INACTIVE')) u (email, status)
     returning tenant_id, id`,
  );
  const [boss, left] = rows;
  const inside = (await enter({ ...visit(), tenantId: boss.tenant_id })).data.enterTenant.accessToken;
  const resent = await call(inside, "resendInvitation", { userId: boss.id }, "user { id }");
  expect(resent.errors).toBeUndefined();
  const back = await call(inside, "setUserStatus", { userId: left.id, status: "ACTIVE" }, "user { status }");
  expect(back.data.setUserStatus.user.status).toBe("ACTIVE");
  const again = await call(inside, "resendInvitation", { userId: boss.id }, "user { id }");
  expect(error(again)).toEqual({ code: "FORBIDDEN", reason: "visit" });
});
