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
const create = (input: object, token = operator) =>
  call(
    token,
    "createTenant",
    input,
    "tenant { id slug status planType maxUsers maxIntegrations features trialEndsAt settings }",
  );
const update = (token: string, id: string, patch: object) =>
  call(
    token,
    "updateTenant",
    { id, patch },
    "tenant { name settings status planType maxUsers maxIntegrations features }",
  );
const umbrella = { name: "Umbrella", slug: "umbrella", adminEmail: "Boss@umbrella.test" };

it("lets an operator create a tenant on trial, and invites its first admin", async () => {
  const { data, errors } = await create(umbrella);
  expect(errors).toBeUndefined();
  const { tenant } = data.createTenant;
  expect(tenant).toMatchObject({ status: "TRIAL", planType: "trial", maxUsers: 10, features: ["api_keys"] });
  const days = (Date.parse(tenant.trialEndsAt) - Date.now()) / 86_400_000;
  expect(days).toBeGreaterThan(13.9);
  expect(days).toBeLessThanOrEqual(14);
  const users = await database.owner.query("select email, role, status from users where tenant_id = $1", [
    tenant.id,
  ]);
  expect(users.rows).toEqual([{ email: "boss@umbrella.test", role: "ADMIN", status: "INVITED" }]);
  const jobs = await database.owner.query(
    "select from graphile_worker.jobs where task_identifier = 'send_mail'",
  );
  expect(jobs.rowCount).toBe(1);
  const log = await database.owner.query(
    "select action, actor_kind, actor_name from audit_logs where tenant_id = $1 and resource = 'tenant'",
    [tenant.id],
  );
  expect(log.rows).toEqual([
    { action: "tenant.created", actor_kind: "user", actor_name: "super@platform.test" },
  ]);
});

it("refuses tenants with a taken slug, an unknown plan, bad settings or a bad e-mail, and makes nothing of them", async () => {
  const tenants = async () => (await database.owner.query("select from tenants")).rowCount;
  const before = await tenants();
  const bad = { ...umbrella, slug: "bad" };
  expect(error(await create(umbrella))).toEqual({ code: "CONFLICT" });
  expect(error(await create({ ...bad, plan: "gold" }))).toEqual({ code: "INVALID_INPUT" });
  expect(error(await create({ ...bad, adminEmail: "boss" }))).toEqual({ code: "INVALID_INPUT" });
  expect(error(await create({ ...bad, slug: "Not A Slug" }))).toEqual({ code: "INVALID_INPUT" });
  expect(error(await create({ ...bad, plan: "starter", trialDays: 5 }))).toEqual({ code: "INVALID_INPUT" });
  expect(error(await create({ ...bad, settings: { timeZone: "Mars/Olympus" } }))).toMatchObject({
    reason: "settings",
  });
  expect(await tenants()).toBe(before);
});

it("lets nobody but an operator create tenants, or change another's plan, limits or status", async () => {
  expect(error(await create({ ...umbrella, slug: "mine" }, admin))).toEqual({ code: "FORBIDDEN" });
  for (const patch of [
    { maxUsers: 1000 },
    { planType: "business" },
    { status: "ACTIVE" },
    { features: ["custom_domain"] },
  ])
    expect(error(await update(admin, acme.id, patch))).toEqual({ code: "FORBIDDEN" });
  expect(error(await update(admin, platform.id, { name: "Mine" }))).toEqual({ code: "NOT_FOUND" });
});

it("validates settings key by key, and says what each must be", async () => {
  const good = {
    timeZone: "Asia/Kolkata",
    currency: "INR",
    weekStart: 1,
    fiscalYearStart: 4,
    retentionDays: 365,
  };
  const saved = await update(admin, acme.id, { settings: good });
  expect(saved.data.updateTenant.tenant.settings).toEqual(good);
  for (const settings of [
    { timeZone: "IST+5" },
    { timeZone: 5 },
    { currency: "EURO" },
    { currency: "XXX" },
    { weekStart: 7 },
    { weekStart: "1" },
    { fiscalYearStart: 0 },
    { retentionDays: 29 },
    { retentionDays: 30.5 },
    { timezone: "UTC" },
  ]) {
    const answer = await update(admin, acme.id, { settings });
    expect(error(answer)).toEqual({ code: "INVALID_INPUT", reason: "settings" });
    expect(answer.errors?.[0].message).toContain(Object.keys(settings)[0]);
  }
});

it("lets a single permission widen what a viewer may change, by exactly that", async () => {
  const viewer = await api.signIn("acme", "viewer");
  const rename = () => update(viewer, acme.id, { name: "Acme" });
  expect(error(await rename())).toEqual({ code: "FORBIDDEN", reason: "tenant:settings" });
  await database.owner.query("update users set permissions = '{tenant:settings}' where id = $1", [
    acme.users.viewer.id,
  ]);
  expect((await rename()).data.updateTenant.tenant.name).toBe("Acme");
  expect(error(await update(viewer, acme.id, { maxUsers: 99 }))).toEqual({ code: "FORBIDDEN" });
  await database.owner.query("update users set permissions = '{}' where id = $1", [acme.users.viewer.id]);
});

it("brings a plan's limits and features with the plan, unless others are set with it", async () => {
  const upgraded = await update(operator, acme.id, { planType: "business" });
  expect(upgraded.data.updateTenant.tenant).toMatchObject({
    maxUsers: 250,
    maxIntegrations: 50,
    features: ["api_keys", "custom_domain"],
  });
  const negotiated = await update(operator, acme.id, { planType: "starter", maxUsers: 40 });
  expect(negotiated.data.updateTenant.tenant).toMatchObject({
    maxUsers: 40,
    maxIntegrations: 10,
    features: ["api_keys"],
  });
  expect(error(await update(operator, acme.id, { features: ["teleport"] }))).toEqual({
    code: "INVALID_INPUT",
  });
});

it("shuts a suspended, cancelled or expired tenant out on the next request, and lets it in again", async () => {
  const me = () => api.query("{ currentUser { id } }", { token: admin });
  for (const status of ["SUSPENDED", "CANCELLED"]) {
    await update(operator, acme.id, { status });
    expect(error(await me())).toMatchObject({ reason: "revoked" });
    await update(operator, acme.id, { status: "ACTIVE" });
    expect((await me()).errors).toBeUndefined();
  }
  await update(operator, acme.id, {
    status: "TRIAL",
    trialEndsAt: new Date(Date.now() + 60_000).toISOString(),
  });
  expect((await me()).errors).toBeUndefined();
  await update(operator, acme.id, { trialEndsAt: new Date().toISOString() });
  expect(error(await me())).toMatchObject({ reason: "revoked" });
  await update(operator, acme.id, { status: "ACTIVE" });
});

it("keeps the operator's own tenant open, and its admin below the operator", async () => {
  expect(error(await update(operator, platform.id, { status: "SUSPENDED" }))).toEqual({ code: "CONFLICT" });
  const below = await api.signIn("platform", "admin");
  const suspend = await call(
    below,
    "setUserStatus",
    { userId: platform.users.user.id, status: "SUSPENDED" },
    "user { id }",
  );
  expect(error(suspend)).toEqual({ code: "FORBIDDEN" });
});

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

  const { accessToken: later } = (await enter(visit())).data.enterTenant;
  const spare =
    "insert into users (tenant_id, email, role) values ($1, 'spare@platform.test', 'SUPER_ADMIN')";
  await database.owner.query(spare, [platform.id]);
  await database.owner.query("update users set role = 'ADMIN' where id = $1", [platform.users.user.id]);
  expect(error(await count(later))).toEqual(ended);
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
