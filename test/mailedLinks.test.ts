import { stat } from "node:fs/promises";
import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { type Answer, startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import type { Mailbox } from "./support/mailbox.ts";
import { createTenant, PASSWORD, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";
import { startTestWorker } from "./support/worker.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let admin: string;
let mailbox: Mailbox;
let worker: Awaited<ReturnType<typeof startTestWorker>>;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  acme = await createTenant(database.owner, "acme");
  admin = await api.signIn("acme", "admin");
  worker = await startTestWorker(database);
  ({ mailbox } = worker);
});
beforeEach(() => database.owner.query("truncate app_private.rate_limits"));
afterAll(async () => {
  await worker.stop();
  await api.close();
  await database.drop();
});

const GOOD = "seven purple otters dancing";
const call = (field: string, input: object, selection: string, token?: string): Promise<Answer> => {
  const type = `${field[0]?.toUpperCase()}${field.slice(1)}Input!`;
  return api.query(`mutation ($input: ${type}) { ${field}(input: $input) { ${selection} } }`, {
    variables: { input },
    ...(token ? { token } : {}),
  });
};
const error = ({ errors }: Answer) => errors?.[0]?.extensions;
const invite = (email: string, more: object = {}) =>
  call("inviteUser", { email, ...more }, "user { id status role email }", admin);
const accept = (token: string, password = GOOD) =>
  call("acceptInvitation", { token, password }, "accessToken user { id email status emailVerified role }");
const login = (email: string, password: string) =>
  call("login", { tenant: "acme", email, password }, "accessToken user { email }");
const LINK = { code: "INVALID_INPUT", reason: "invalid_link" };

it("invites somebody, who sets a password by the mailed link and is signed in", async () => {
  const invited = await invite("Nora@Acme.test", { role: "USER", firstName: "Nora" });
  expect(invited.data.inviteUser.user).toMatchObject({
    email: "nora@acme.test",
    role: "USER",
    status: "INVITED",
  });
  const mail = await mailbox.newest("nora@acme.test", "invitation");
  expect(mail.subject).toBe("Invitation to acme");
  expect(mail.text).toContain("admin@acme.test invites you");
  const token = await mailbox.token("nora@acme.test", "invitation");
  expect(mail.html).toContain(`#token=${token}`);

  expect(error(await accept(token, "short"))).toMatchObject({ reason: "password_length" });
  expect(error(await accept(token, "nora@acme.test"))).toMatchObject({ reason: "weak_password" });
  const accepted = await accept(token);
  expect(accepted.errors).toBeUndefined();
  expect(accepted.data.acceptInvitation.user).toMatchObject({ status: "ACTIVE", emailVerified: true });
  const me = await api.query("{ currentUser { email } }", {
    token: accepted.data.acceptInvitation.accessToken,
  });
  expect(me.data.currentUser.email).toBe("nora@acme.test");
  expect((await login("nora@acme.test", GOOD)).data.login.user.email).toBe("nora@acme.test");
  expect(error(await accept(token))).toEqual(LINK);
});

it("lets one of twenty who accept the same invitation at once succeed", async () => {
  await invite("twenty@acme.test");
  const token = await mailbox.token("twenty@acme.test", "invitation");
  const answers = await Promise.all(Array.from({ length: 20 }, () => accept(token)));
  expect(answers.filter(({ errors }) => !errors)).toHaveLength(1);
  expect(answers.filter((answer) => answer.errors).map(error)).toEqual(Array(19).fill(LINK));
  const { rowCount } = await database.owner.query(
    "select from sessions s join users u on u.id = s.user_id where u.email = 'twenty@acme.test'",
  );
  expect(rowCount).toBe(1);
});

it("replaces an invitation that is sent again, withdraws one that is revoked, and refuses one that expired", async () => {
  const { id } = (await invite("again@acme.test")).data.inviteUser.user;
  expect(error(await invite("again@acme.test"))).toEqual({ code: "CONFLICT" });
  const first = await mailbox.token("again@acme.test", "invitation");
  await call("resendInvitation", { userId: id }, "user { id }", admin);
  const second = await mailbox.token("again@acme.test", "invitation", 2);
  expect(second).not.toBe(first);
  expect(error(await accept(first))).toEqual(LINK);

  await database.owner.query("update app_private.one_time_tokens set expires_at = now() where user_id = $1", [
    id,
  ]);
  expect(error(await accept(second))).toEqual(LINK);
  await database.owner.query(
    "update app_private.one_time_tokens set expires_at = now() + interval '1 day' where user_id = $1",
    [id],
  );
  const revoked = await call("revokeInvitation", { userId: id }, "userId", admin);
  expect(revoked.data.revokeInvitation.userId).toBe(id);
  expect(error(await accept(second))).toEqual(LINK);
  expect((await database.owner.query("select from users where id = $1", [id])).rowCount).toBe(0);
});

it("refuses tokens that are forged, of another purpose, or of a suspended tenant", async () => {
  await invite("forged@acme.test");
  const token = await mailbox.token("forged@acme.test", "invitation");
  for (const bad of [
    "",
    "abc",
    token.slice(0, -1),
    `${token}A`,
    token.replace(/.$/, "A"),
    token.replace(/^./, "_"),
  ])
    if (bad !== token) expect(error(await accept(bad))).toEqual(LINK);
  expect(error(await call("resetPassword", { token, newPassword: GOOD }, "done"))).toEqual(LINK);
  expect(error(await call("confirmEmail", { token }, "email"))).toEqual(LINK);
  await database.owner.query("update tenants set status = 'SUSPENDED' where id = $1", [acme.id]);
  expect(error(await accept(token))).toEqual({ code: "FORBIDDEN", reason: "tenant_closed" });
  await database.owner.query("update tenants set status = 'ACTIVE' where id = $1", [acme.id]);
  expect((await accept(token)).errors).toBeUndefined();
});

it("keeps no usable token in PostgreSQL, nor in the job that mails it", async () => {
  await invite("secret@acme.test");
  const token = await mailbox.token("secret@acme.test", "invitation");
  const bytes = Buffer.from(token, "base64url");
  const dump = async (sql: string) => (await database.owner.query(sql)).rows.map(({ row }) => row).join("\n");
  const kept = [
    await dump("select t::text as row from app_private.one_time_tokens t"),
    await dump("select l::text as row from audit_logs l"),
    await dump("select j.payload::text as row from graphile_worker._private_jobs j"),
  ].join("\n");
  expect(kept).toContain("secret@acme.test");
  expect(kept).not.toContain(token);
  expect(kept).not.toContain(bytes.subarray(32).toString("hex"));
  const { rowCount } = await database.owner.query(
    "select from app_private.one_time_tokens where token_hash = sha256($1)",
    [bytes],
  );
  expect(rowCount).toBe(1);
  expect((await stat(mailbox.folder)).mode & 0o777).toBe(0o700);
});

it("resets a forgotten password once, and ends all sessions", async () => {
  const before = (await login("viewer@acme.test", PASSWORD)).data.login.accessToken;
  const asked = await call(
    "requestPasswordReset",
    { tenant: "acme", email: "Viewer@acme.test" },
    "clientMutationId",
  );
  expect(asked.errors).toBeUndefined();
  const token = await mailbox.token("viewer@acme.test", "password_reset");
  expect(
    error(await call("resetPassword", { token, newPassword: "viewer@acme.test" }, "done")),
  ).toMatchObject({
    reason: "weak_password",
  });
  expect((await call("resetPassword", { token, newPassword: GOOD }, "done")).data.resetPassword.done).toBe(
    true,
  );
  expect(error(await call("resetPassword", { token, newPassword: GOOD }, "done"))).toEqual(LINK);
  expect(error(await api.query("{ currentUser { id } }", { token: before }))).toMatchObject({
    reason: "revoked",
  });
  expect(error(await login("viewer@acme.test", PASSWORD))).toMatchObject({ code: "UNAUTHENTICATED" });
  expect((await login("viewer@acme.test", GOOD)).errors).toBeUndefined();
  const notice = await mailbox.newest("viewer@acme.test", "password_changed");
  expect(notice.text).toContain("was just changed");
});

it("answers a reset for nobody as one for somebody, and mails nothing", async () => {
  const ask = (input: object) => call("requestPasswordReset", input, "clientMutationId");
  const known = await ask({ tenant: "acme", email: "user@acme.test" });
  const unknown = await ask({ tenant: "acme", email: "nobody@acme.test" });
  const nowhere = await ask({ tenant: "nowhere", email: "user@acme.test" });
  for (const answer of [unknown, nowhere]) expect(answer.data).toEqual(known.data);
  await mailbox.newest("user@acme.test", "password_reset");
  await until(
    () => database.owner.query("select from graphile_worker.jobs"),
    ({ rowCount }) => rowCount === 0,
  );
  const { rows } = await database.owner.query(
    "select email from app_private.one_time_tokens where purpose = 'password_reset' and used_at is null",
  );
  expect(rows).toEqual([{ email: "user@acme.test" }]);
  expect(error(await ask({ email: "user@acme.test" }))).toEqual({ code: "INVALID_INPUT" });
});

it("changes one's own password, which ends the other sessions and not this one", async () => {
  const here = (await login("user@acme.test", PASSWORD)).data.login.accessToken;
  const there = (await login("user@acme.test", PASSWORD)).data.login.accessToken;
  const change = (currentPassword: string, newPassword: string) =>
    call("changePassword", { currentPassword, newPassword }, "done", here);
  expect(error(await change("wrong", GOOD))).toEqual({ code: "FORBIDDEN", reason: "wrong_password" });
  expect(error(await change(PASSWORD, "aaaaaaaaaaaa"))).toMatchObject({ reason: "weak_password" });
  expect((await change(PASSWORD, GOOD)).data.changePassword.done).toBe(true);
  const me = (token: string) => api.query("{ currentUser { id } }", { token });
  expect((await me(here)).errors).toBeUndefined();
  expect(error(await me(there))).toMatchObject({ reason: "revoked" });
  const tries = await Promise.all(Array.from({ length: 15 }, () => change("wrong", GOOD)));
  expect(tries.some((answer) => error(answer).code === "RATE_LIMITED")).toBe(true);
});

it("changes one's e-mail once the new address is proved, tells the old one, and ends the other sessions", async () => {
  await createTenant(database.owner, "globex");
  const token = (
    await call("login", { tenant: "globex", email: "user@globex.test", password: PASSWORD }, "accessToken")
  ).data.login.accessToken;
  const input = { currentPassword: PASSWORD, newEmail: "Uma@globex.test" };
  expect(
    error(await call("changeEmail", { ...input, newEmail: "admin@globex.test" }, "done", token)),
  ).toEqual({
    code: "CONFLICT",
  });
  expect(error(await call("changeEmail", { ...input, newEmail: "uma" }, "done", token))).toEqual({
    code: "INVALID_INPUT",
  });
  expect((await call("changeEmail", input, "done", token)).errors).toBeUndefined();
  const me = () => api.query("{ currentUser { email emailVerified } }", { token });
  expect((await me()).data.currentUser.email).toBe("user@globex.test");
  const link = await mailbox.token("uma@globex.test", "email_change");
  const confirmed = await call("confirmEmail", { token: link }, "email");
  expect(confirmed.data.confirmEmail.email).toBe("uma@globex.test");
  expect((await mailbox.newest("user@globex.test", "email_changed")).subject).toContain("was changed");
  expect(error(await me())).toMatchObject({ reason: "revoked" });
  const again = await call(
    "login",
    { tenant: "globex", email: "uma@globex.test", password: PASSWORD },
    "user { emailVerified }",
  );
  expect(again.data.login.user.emailVerified).toBe(true);
});

it("proves an e-mail address on request", async () => {
  const token = await api.signIn("globex", "viewer");
  const ask = () => call("requestEmailVerification", {}, "clientMutationId", token);
  expect((await ask()).errors).toBeUndefined();
  const link = await mailbox.token("viewer@globex.test", "email_verification");
  expect((await call("confirmEmail", { token: link }, "email", token)).data.confirmEmail.email).toBe(
    "viewer@globex.test",
  );
  const { data } = await api.query("{ currentUser { emailVerified } }", { token });
  expect(data.currentUser.emailVerified).toBe(true);
  expect(error(await ask())).toEqual({ code: "CONFLICT" });
});

it("mails one person ten times an hour at the most", async () => {
  const { id } = (await invite("flooded@acme.test")).data.inviteUser.user;
  const resend = () => call("resendInvitation", { userId: id }, "user { id }", admin);
  for (let index = 0; index < 9; index++) expect((await resend()).errors).toBeUndefined();
  expect(error(await resend())).toMatchObject({ code: "RATE_LIMITED" });
});

it("mails an address ten times an hour at the most, also when each invitation is withdrawn again", async () => {
  const email = "withdrawn@acme.test";
  for (let index = 0; index < 10; index++) {
    const userId = (await invite(email)).data.inviteUser.user.id;
    expect((await call("revokeInvitation", { userId }, "userId", admin)).errors).toBeUndefined();
  }
  expect(error(await invite(email))).toMatchObject({ code: "RATE_LIMITED" });
  expect((await invite("another@acme.test")).errors).toBeUndefined();
});

it("changes the password and e-mail of nobody who is not signed in", async () => {
  const input = { currentPassword: PASSWORD };
  for (const answer of [
    await call("changePassword", { ...input, newPassword: GOOD }, "done"),
    await call("changeEmail", { ...input, newEmail: "uma@acme.test" }, "done"),
  ])
    expect(error(answer)).toEqual({ code: "UNAUTHENTICATED" });
});

it("leaves no room in a mail for headers, tags or links of somebody's own", async () => {
  await database.owner.query("update tenants set name = $2 where id = $1", [
    acme.id,
    'Acme\r\nBcc: victim@example.com <a href="https://evil.example">click</a>',
  ]);
  await invite("injected@acme.test", { firstName: "Eve\r\nX-Evil: yes" });
  const mail = await mailbox.newest("injected@acme.test", "invitation");
  expect(mail.headers.map(({ key }) => key)).not.toContain("x-evil");
  expect(mail.bcc ?? []).toEqual([]);
  expect(mail.html).not.toContain('<a href="https://evil');
  expect(mail.text).not.toContain("https://evil");
  expect(mail.html?.match(/<a /g)).toHaveLength(1);
});
