import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { type Answer, startApi, type TestApi } from "./support/api.ts";
import { emptyAuditLog } from "./support/audit.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import type { Mailbox } from "./support/mailbox.ts";
import { createTenant, PASSWORD, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";
import { startTestWorker } from "./support/worker.ts";

let database: TestDatabase;
let api: TestApi;
let mailbox: Mailbox;
let worker: Awaited<ReturnType<typeof startTestWorker>>;
/** Of each test its own, with the mails of its own. */
let acme: TestTenant;
let admin: string;
let user: { id: string; email: string };
let token: string;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  worker = await startTestWorker(database);
  ({ mailbox } = worker);
});
let count = 0;
beforeEach(async () => {
  await database.owner.query("truncate app_private.rate_limits");
  acme = await createTenant(database.owner, `acme${++count}`);
  ({ user } = acme.users);
  admin = await api.signIn(acme.slug, "admin");
  token = await api.signIn(acme.slug, "user");
});
afterAll(async () => {
  await worker.stop();
  await api.close();
  await database.drop();
});

const GOOD = "seven purple otters dancing";
const LINK = { code: "INVALID_INPUT", reason: "invalid_link" };
const call = (field: string, input: object, selection: string, by?: string): Promise<Answer> => {
  const type = `${field[0]?.toUpperCase()}${field.slice(1)}Input!`;
  return api.query(`mutation ($input: ${type}) { ${field}(input: $input) { ${selection} } }`, {
    variables: { input },
    ...(by ? { token: by } : {}),
  });
};
const error = ({ errors }: Answer) => errors?.[0]?.extensions;
const changeEmail = (newEmail: string) =>
  call("changeEmail", { currentPassword: PASSWORD, newEmail }, "done", token);
const confirm = (link: string, by?: string) => call("confirmEmail", { token: link }, "email", by);
const askReset = () =>
  call("requestPasswordReset", { tenant: acme.slug, email: user.email }, "clientMutationId");
const reset = (link: string) => call("resetPassword", { token: link, newPassword: GOOD }, "done");
const setStatus = (status: string) =>
  call("setUserStatus", { userId: user.id, status }, "user { status }", admin);
const resetLink = (mails: number) => mailbox.token(user.email, "password_reset", mails);

it.each<[string, () => Promise<Answer[]>]>([
  ["is suspended and comes back", async () => [await setStatus("SUSPENDED"), await setStatus("ACTIVE")]],
  ["is deactivated and comes back", async () => [await setStatus("INACTIVE"), await setStatus("ACTIVE")]],
  ["logs out everywhere", async () => [await call("logoutEverywhere", {}, "endedSessions", token)]],
])("ends what could take over an account when its user %s", async (_event, happens) => {
  const address = `eve@${acme.slug}.test`;
  expect((await changeEmail(address)).errors).toBeUndefined();
  await askReset();
  const links = { change: await mailbox.token(address, "email_change"), reset: await resetLink(1) };
  for (const answer of await happens()) expect(answer.errors).toBeUndefined();
  expect(error(await confirm(links.change))).toEqual(LINK);
  expect(error(await reset(links.reset))).toEqual(LINK);
  expect(await api.signIn(acme.slug, "user")).toEqual(expect.any(String));
});

it("tells the old address when another is asked for, which is taken as it was pasted", async () => {
  const address = `uma@${acme.slug}.test`;
  expect((await changeEmail(` Uma@${acme.slug}.test `)).errors).toBeUndefined();
  expect((await mailbox.newest(user.email, "email_change_requested")).to).toHaveLength(1);
  const confirmed = await confirm(await mailbox.token(address, "email_change"));
  expect(confirmed.data.confirmEmail.email).toBe(address);
});

it("changes to no address that somebody else took meanwhile", async () => {
  const address = `new@${acme.slug}.test`;
  await changeEmail(address);
  const link = await mailbox.token(address, "email_change");
  await database.owner.query("update users set email = $2 where id = $1", [acme.users.viewer.id, address]);
  expect(error(await confirm(link))).toEqual({ code: "CONFLICT" });
  // The link is not used up by that.
  await database.owner.query("update users set email = $2 where id = $1", [
    acme.users.viewer.id,
    acme.users.viewer.email,
  ]);
  expect((await confirm(link)).data.confirmEmail.email).toBe(address);
});

it("lets whoever asks for more resets end none that was mailed, and ends all when one is used", async () => {
  const links: string[] = [];
  for (let mails = 1; mails <= 3; mails++) {
    await askReset();
    links.push(await resetLink(mails));
  }
  expect(new Set(links).size).toBe(3);
  const [first = "", ...later] = links;
  expect((await reset(first)).data.resetPassword.done).toBe(true);
  for (const link of [first, ...later]) expect(error(await reset(link))).toEqual(LINK);
});

it("mails ten resets an hour, and other links however many resets somebody asked for", async () => {
  for (let index = 0; index < 12; index++) expect((await askReset()).errors).toBeUndefined();
  await until(
    () => database.owner.query("select from graphile_worker.jobs"),
    ({ rowCount }) => rowCount === 0,
  );
  const resets = await database.owner.query(
    "select from app_private.one_time_tokens where user_id = $1 and purpose = 'password_reset'",
    [user.id],
  );
  expect(resets.rowCount).toBe(10);
  const verify = await call("requestEmailVerification", {}, "clientMutationId", token);
  expect(verify.errors).toBeUndefined();
  expect((await changeEmail(`uma@${acme.slug}.test`)).errors).toBeUndefined();
});

/** Who did what to the tenant, in order, since its log was last emptied. */
const actors = async () => {
  const { rows } = await database.owner.query(
    `select action, actor_kind, actor_id, actor_name, user_id from audit_logs where tenant_id = $1 order by id`,
    [acme.id],
  );
  return rows;
};
const emptyLog = () => emptyAuditLog(database);
const by = ({ id, email }: { id: string; email: string }, ...actions: string[]) =>
  actions.map((action) => ({ action, actor_kind: "user", actor_id: id, actor_name: email, user_id: id }));

it("records an accepted invitation as its user's doing", async () => {
  const email = `nora@${acme.slug}.test`;
  const { id } = (await call("inviteUser", { email }, "user { id }", admin)).data.inviteUser.user;
  const link = await mailbox.token(email, "invitation");
  await emptyLog();
  await call("acceptInvitation", { token: link, password: GOOD }, "accessToken");
  expect(await actors()).toEqual(by({ id, email }, "user.activated", "user.password_set", "session.created"));
});

it("records a reset as its user's doing, and the wish for it as the job's", async () => {
  await emptyLog();
  await askReset();
  const link = await resetLink(1);
  expect(await actors()).toEqual([
    {
      action: "user.password_reset_requested",
      actor_kind: "job",
      actor_id: null,
      actor_name: "start_password_reset",
      user_id: null,
    },
  ]);
  await emptyLog();
  await reset(link);
  expect(await actors()).toEqual(by(user, "user.updated", "user.password_changed", "session.revoked"));
});

it("records a confirmed address as its user's doing, unless an API key followed the link", async () => {
  const verification = async () => {
    await database.owner.query("update users set email_verified = false where id = $1", [user.id]);
    await call("requestEmailVerification", {}, "clientMutationId", token);
  };
  await verification();
  const link = await mailbox.token(user.email, "email_verification");
  await emptyLog();
  await confirm(link);
  expect(await actors()).toEqual(by(user, "user.updated"));

  await database.owner.query("update tenants set features = '{api_keys}' where id = $1", [acme.id]);
  const key = await call(
    "createApiKey",
    { name: "Till", scopes: ["analytics:read"] },
    "secret apiKey { id }",
    admin,
  );
  const { secret, apiKey } = key.data.createApiKey;
  await verification();
  const next = await mailbox.token(user.email, "email_verification", 2);
  await emptyLog();
  await confirm(next, secret);
  expect(await actors()).toEqual([
    { action: "user.updated", actor_kind: "api_key", actor_id: apiKey.id, actor_name: "Till", user_id: null },
  ]);
});

it("takes nobody who knows their password for a guesser, whatever else was wrong", async () => {
  const input = { currentPassword: PASSWORD, newPassword: "aaaaaaaaaaaa" };
  for (let index = 0; index < 12; index++)
    expect(error(await call("changePassword", input, "done", token))).toMatchObject({
      reason: "weak_password",
    });
  const { rowCount } = await database.owner.query("select from app_private.rate_limits where used >= 1");
  expect(rowCount).toBe(0);
});

it("mails five changes of e-mail of one user in an hour, to whatever addresses", async () => {
  const answers: Answer[] = [];
  for (let index = 0; index < 7; index++)
    answers.push(await changeEmail(`uma${index}@elsewhere-${acme.slug}.test`));
  expect(answers.slice(0, 5).map(({ errors }) => errors)).toEqual(Array(5).fill(undefined));
  for (const answer of answers.slice(5)) {
    expect(error(answer).code).toBe("RATE_LIMITED");
    expect(error(answer).retryAfterSeconds).toBeGreaterThan(60);
  }
  // What is refused for another reason mails nothing, and does not count.
  await database.owner.query("truncate app_private.rate_limits");
  for (let index = 0; index < 7; index++)
    expect(error(await changeEmail("uma"))).toEqual({ code: "INVALID_INPUT" });
  expect((await changeEmail(`uma@elsewhere-${acme.slug}.test`)).errors).toBeUndefined();
});
