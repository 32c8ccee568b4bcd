import { stat } from "node:fs/promises";
import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { type Answer, startApi, type TestApi } from "./support/api.ts";
import { asRequest, claimsFor } from "./support/asRequest.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import type { Mailbox } from "./support/mailbox.ts";
import { refusal } from "./support/refusal.ts";
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
/** The same link but for one bit. */
const forge = (token: string, at: number) => {
  const bytes = Buffer.from(token, "base64url");
  bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
  return bytes.toString("base64url");
};
const actionsOf = async (userId: string) =>
  (
    await database.owner.query("select action from audit_logs where resource_id = $1 order by id", [userId])
  ).rows.map(({ action }) => action);
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
  expect(await actionsOf(id)).toContain("user.invitation_resent");
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

it("neither sends again nor withdraws an invitation that was accepted", async () => {
  for (const [field, selection] of [
    ["resendInvitation", "user { id }"],
    ["revokeInvitation", "userId"],
  ] as const)
    expect(error(await call(field, { userId: acme.users.viewer.id }, selection, admin))).toEqual({
      code: "CONFLICT",
    });
});

it("refuses tokens that are forged, of another purpose, or of a suspended tenant", async () => {
  await invite("forged@acme.test");
  const token = await mailbox.token("forged@acme.test", "invitation");
  for (const bad of [
    "",
    "abc",
    token.slice(0, -1),
    `${token}A`,
    ...[0, 16, 32, 63].map((at) => forge(token, at)),
  ])
    expect([bad, error(await accept(bad))]).toEqual([bad, LINK]);
  expect(error(await call("resetPassword", { token, newPassword: GOOD }, "done"))).toEqual(LINK);
  expect(error(await call("confirmEmail", { token }, "email"))).toEqual(LINK);
  await database.owner.query("update tenants set status = 'SUSPENDED' where id = $1", [acme.id]);
  expect(error(await accept(token))).toEqual({ code: "FORBIDDEN", reason: "tenant_closed" });
  await database.owner.query("update tenants set status = 'ACTIVE' where id = $1", [acme.id]);
  // Also in a browser that is signed in as somebody else.
  const accepted = await call("acceptInvitation", { token, password: GOOD }, "user { email }", admin);
  expect(accepted.data.acceptInvitation.user.email).toBe("forged@acme.test");
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
  expect(await actionsOf(acme.users.viewer.id)).toContain("user.password_reset_requested");
  expect(error(await call("confirmEmail", { token }, "email"))).toEqual(LINK);
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
  const { rows } = await database.owner.query("select email_verified from users where id = $1", [
    acme.users.viewer.id,
  ]);
  expect(rows).toEqual([{ email_verified: true }]);
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
    `select email, expires_at - created_at = interval '1 hour' as for_an_hour
       from app_private.one_time_tokens where purpose = 'password_reset' and used_at is null`,
  );
  expect(rows).toEqual([{ email: "user@acme.test", for_an_hour: true }]);
  expect(error(await ask({ email: "user@acme.test" }))).toEqual({ code: "INVALID_INPUT" });
});

it("mails no link to reset the password of a closed account, and takes none that is under way", async () => {
  const start = async (tenant: string) => {
    const sql = "select app_hidden.start_password_reset($1, null, 'user@acme.test') as mailed";
    return (await database.worker.query(sql, [tenant])).rows[0].mailed;
  };
  expect(await start("nowhere")).toBe(false);
  for (const [close, reopen] of [
    [
      "update users set status = 'SUSPENDED' where id = $1",
      "update users set status = 'ACTIVE' where id = $1",
    ],
    [
      "update tenants set status = 'SUSPENDED' where id = (select tenant_id from users where id = $1)",
      "update tenants set status = 'ACTIVE' where id = (select tenant_id from users where id = $1)",
    ],
  ] as const) {
    await database.owner.query(close, [acme.users.user.id]);
    const mailed = await start("acme");
    await database.owner.query(reopen, [acme.users.user.id]);
    expect([close, mailed]).toEqual([close, false]);
  }
  const token = await mailbox.token("user@acme.test", "password_reset");
  for (const [change, back] of [
    [
      "update users set status = 'SUSPENDED' where id = $1",
      "update users set status = 'ACTIVE' where id = $1",
    ],
    [
      "update users set email = 'x@acme.test' where id = $1",
      "update users set email = 'user@acme.test' where id = $1",
    ],
  ] as const) {
    await database.owner.query(change, [acme.users.user.id]);
    const reset = await call("resetPassword", { token, newPassword: GOOD }, "done");
    await database.owner.query(back, [acme.users.user.id]);
    expect([change, error(reset)]).toEqual([change, LINK]);
  }
});

it("limits how often one address asks for links", async () => {
  const asked = await Promise.all(
    Array.from({ length: 30 }, (_, index) =>
      call("requestPasswordReset", { tenant: "nowhere", email: `${index}@acme.test` }, "clientMutationId"),
    ),
  );
  expect(asked.some((answer) => error(answer)?.code === "RATE_LIMITED")).toBe(true);
});

it("changes one's own password, which ends the other sessions and not this one", async () => {
  const here = (await login("user@acme.test", PASSWORD)).data.login.accessToken;
  const there = (await login("user@acme.test", PASSWORD)).data.login.accessToken;
  const change = (currentPassword: string, newPassword: string) =>
    call("changePassword", { currentPassword, newPassword }, "done", here);
  expect(error(await change("wrong", GOOD))).toEqual({ code: "FORBIDDEN", reason: "wrong_password" });
  expect(error(await change(PASSWORD, "aaaaaaaaaaaa"))).toMatchObject({ reason: "weak_password" });
  const newEmail = { currentPassword: PASSWORD, newEmail: "elsewhere@acme.test" };
  expect((await call("changeEmail", newEmail, "done", here)).errors).toBeUndefined();
  expect(await actionsOf(acme.users.user.id)).toContain("user.email_change_requested");
  expect((await change(PASSWORD, GOOD)).data.changePassword.done).toBe(true);
  const me = (token: string) => api.query("{ currentUser { id } }", { token });
  expect((await me(here)).errors).toBeUndefined();
  expect(error(await me(there))).toMatchObject({ reason: "revoked" });
  // Whoever knew the old password may have asked for a link: none outlives it.
  const link = await mailbox.token("elsewhere@acme.test", "email_change");
  expect(error(await call("confirmEmail", { token: link }, "email"))).toEqual(LINK);
  const tries = await Promise.all(Array.from({ length: 15 }, () => change("wrong", GOOD)));
  expect(tries.some((answer) => error(answer).code === "RATE_LIMITED")).toBe(true);
});

it("changes nothing by a password that was itself changed since it was checked", async () => {
  const claims = await claimsFor(database.owner, acme, "viewer");
  for (const sql of [
    "select app_hidden.change_password($1, 'another hash', 'new hash')",
    "select app_hidden.request_email_change($1, 'another hash', 'new@acme.test')",
  ])
    expect(
      await asRequest(database.authenticator, claims, (client) => refusal(client.query(sql, [acme.id]))),
    ).toBe("EA409");
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
    "accessToken user { emailVerified }",
  );
  expect(again.data.login.user.emailVerified).toBe(true);
  // Followed where one is signed in, it ends the others alone.
  const here = again.data.login.accessToken;
  await call("changeEmail", { ...input, newEmail: "uma2@globex.test" }, "done", here);
  const next = await mailbox.token("uma2@globex.test", "email_change");
  expect((await call("confirmEmail", { token: next }, "email", here)).errors).toBeUndefined();
  expect((await api.query("{ currentUser { email } }", { token: here })).data.currentUser.email).toBe(
    "uma2@globex.test",
  );
});

it("proves an e-mail address on request", async () => {
  const token = await api.signIn("globex", "viewer");
  const ask = () => call("requestEmailVerification", {}, "clientMutationId", token);
  expect((await ask()).errors).toBeUndefined();
  const link = await mailbox.token("viewer@globex.test", "email_verification");
  expect(error(await call("resetPassword", { token: link, newPassword: GOOD }, "done"))).toEqual(LINK);
  const confirm = (given = link) => call("confirmEmail", { token: given }, "email");
  expect(error(await confirm(forge(link, 63)))).toEqual(LINK);
  for (const [change, back] of [
    ["update users set status = 'SUSPENDED'", "update users set status = 'ACTIVE'"],
    ["update users set email = 'v@globex.test'", "update users set email = 'viewer@globex.test'"],
    [
      "update app_private.one_time_tokens set expires_at = now()",
      "update app_private.one_time_tokens set expires_at = now() + interval '1 day'",
    ],
  ] as const) {
    const whose = change.includes("users set")
      ? " where email in ('viewer@globex.test', 'v@globex.test')"
      : " where email = 'viewer@globex.test'";
    await database.owner.query(change + whose);
    const refused = await confirm();
    await database.owner.query(back + whose);
    expect([change, error(refused)]).toEqual([change, LINK]);
  }
  expect((await call("confirmEmail", { token: link }, "email", token)).data.confirmEmail.email).toBe(
    "viewer@globex.test",
  );
  expect(error(await confirm())).toEqual(LINK);
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
