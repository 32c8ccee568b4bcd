import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { type Answer, startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

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
    "tenant { name domain billingEmail settings status planType maxUsers maxIntegrations features trialEndsAt }",
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
  expect(error(await create(umbrella))).toEqual({ code: "CONFLICT", field: "slug" });
  expect(error(await create({ ...bad, plan: "gold" }))).toEqual({ code: "INVALID_INPUT" });
  expect(error(await create({ ...bad, adminEmail: "boss" }))).toEqual({ code: "INVALID_INPUT" });
  expect(error(await create({ ...bad, slug: "Bad Slug" }))).toEqual({ code: "INVALID_INPUT", field: "slug" });
  expect(error(await create({ ...bad, plan: "starter", trialDays: 5 }))).toEqual({ code: "INVALID_INPUT" });
  expect(error(await create({ ...bad, settings: { timeZone: "Mars/Olympus" } }))).toMatchObject({
    reason: "settings",
  });
  for (const trialDays of [0, 366])
    expect(error(await create({ ...bad, trialDays }))).toEqual({ code: "INVALID_INPUT" });
  expect(await tenants()).toBe(before);
});

it("makes a tenant with what its plan brings, and a trial as long as was asked", async () => {
  const bought = await create({ ...umbrella, slug: "bought", plan: "business" });
  expect(bought.data.createTenant.tenant).toMatchObject({
    status: "ACTIVE",
    maxUsers: 250,
    maxIntegrations: 50,
    features: ["api_keys", "custom_domain"],
    trialEndsAt: null,
  });
  const tried = await create({ ...umbrella, slug: "tried", trialDays: 3 });
  const days = (Date.parse(tried.data.createTenant.tenant.trialEndsAt) - Date.now()) / 86_400_000;
  expect(days).toBeGreaterThan(2.9);
  expect(days).toBeLessThanOrEqual(3);
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
    { currency: "XXY" },
    { weekStart: 7 },
    { weekStart: "1" },
    { fiscalYearStart: 0 },
    { fiscalYearStart: 13 },
    { retentionDays: 29 },
    { retentionDays: 36_501 },
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
    field: "features",
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

it.each<[string, unknown[], object]>([
  ["billingEmail", ["x", "", "a@b\nBcc: x@y.z", "a@b, c@d"], {}],
  ["domain", ["", "a b", "http://x", "127.0.0.1", "localhost", "müller.example"], { reason: "domain" }],
  ["name", ["", " "], { reason: "name" }],
  ["planType", ["gold", ""], { reason: "planType" }],
  ["settings", [[], "x", 7], { reason: "settings" }],
])("refuses an update of %s that is none", async (field, values, reason) => {
  for (const value of values) {
    const answer = await update(operator, acme.id, { [field]: value });
    expect([value, error(answer)]).toEqual([value, { code: "INVALID_INPUT", ...reason }]);
  }
});

it("keeps a domain as hosts are compared: in lower case, and without the root's dot", async () => {
  const { data } = await update(operator, acme.id, { domain: "Shop.Acme.Example." });
  expect(data.updateTenant.tenant.domain).toBe("shop.acme.example");
  const taken = await update(operator, platform.id, { domain: "shop.acme.example" });
  expect(error(taken)).toEqual({ code: "CONFLICT", field: "domain" });
});

it("ends the trial of whoever buys a plan, unless the same update says otherwise", async () => {
  const trial = async (slug: string) => (await create({ ...umbrella, slug })).data.createTenant.tenant;
  const { id } = await trial("buyer");
  const bought = await update(operator, id, { planType: "business" });
  expect(bought.data.updateTenant.tenant).toMatchObject({
    planType: "business",
    status: "ACTIVE",
    trialEndsAt: null,
  });
  const other = await trial("later");
  const trialEndsAt = new Date(Date.now() + 86_400_000).toISOString();
  const postponed = await update(operator, other.id, { planType: "business", trialEndsAt });
  expect(postponed.data.updateTenant.tenant).toMatchObject({ planType: "business", status: "TRIAL" });
});

it("gives a tenant that goes back to the plan of a trial an end of it", async () => {
  const days = (end: string) => (Date.parse(end) - Date.now()) / 86_400_000;
  const buy = async (slug: string) =>
    (await create({ ...umbrella, slug, plan: "starter" })).data.createTenant.tenant.id;
  const id = await buy("lapsed");
  const back = (await update(operator, id, { planType: "trial" })).data.updateTenant.tenant;
  expect(back).toMatchObject({ planType: "trial", status: "TRIAL", maxUsers: 10 });
  expect(days(back.trialEndsAt)).toBeGreaterThan(13.9);
  expect(days(back.trialEndsAt)).toBeLessThanOrEqual(14);

  const trialEndsAt = new Date(Date.now() + 3 * 86_400_000).toISOString();
  const chosen = await update(operator, await buy("three"), { planType: "trial", trialEndsAt });
  expect(chosen.data.updateTenant.tenant.status).toBe("TRIAL");
  expect(days(chosen.data.updateTenant.tenant.trialEndsAt)).toBeCloseTo(3, 1);

  const shut = await buy("shut-out");
  await update(operator, shut, { status: "SUSPENDED" });
  const still = (await update(operator, shut, { planType: "trial" })).data.updateTenant.tenant;
  expect(still.status).toBe("SUSPENDED");
  expect(days(still.trialEndsAt)).toBeGreaterThan(13.9);
  // Nor does the operator's own tenant go on trial.
  await update(operator, platform.id, { planType: "business" });
  expect(error(await update(operator, platform.id, { planType: "trial" }))).toEqual({ code: "CONFLICT" });
});
