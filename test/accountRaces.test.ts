import { randomBytes } from "node:crypto";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "@jest/globals";
import type pg from "pg";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { untilBlocked } from "./support/until.ts";

let database: TestDatabase;
let acme: TestTenant;
let user: string;
/** In a transaction, which is committed while the other waits. */
let one: pg.PoolClient;
let two: pg.PoolClient;
const [OLD, NEW, STRONGER] = ["$argon2id$old", "$argon2id$new", "$argon2id$old, with today's parameters"];

beforeAll(async () => {
  database = await createTestDatabase();
});
let count = 0;
beforeEach(async () => {
  acme = await createTenant(database.owner, `acme${++count}`);
  user = acme.users.user.id;
  await database.owner.query("update app_private.user_passwords set password_hash = $2 where user_id = $1", [
    user,
    OLD,
  ]);
  [one, two] = [await database.owner.connect(), await database.owner.connect()];
  for (const client of [one, two]) await act(client, user, "USER");
  await one.query("begin");
});
afterEach(async () => {
  await one.query("rollback");
  // With the settings of their sessions.
  for (const client of [one, two]) client.release(true);
});
afterAll(() => database.drop());

const act = (client: pg.PoolClient, userId: string, role: string, permissions = "") =>
  client.query(
    `select set_config('app.tenant_id', $1, false), set_config('app.user_id', $2, false),
            set_config('app.role', $3, false), set_config('app.permissions', $4, false)`,
    [acme.id, userId, role, permissions],
  );
/** What finds the token of a link: it was mailed already. */
async function mailed(purpose: string, userId = user): Promise<[string, string, Buffer]> {
  const hash = randomBytes(32);
  const { rows } = await database.owner.query(
    `insert into app_private.one_time_tokens (tenant_id, user_id, purpose, email, token_hash, expires_at)
     select tenant_id, id, $2, email, $3, now() + interval '1 hour' from users where id = $1 returning id`,
    [userId, purpose, hash],
  );
  return [acme.id, rows[0].id, hash];
}
/** The SQLSTATE of what had to wait for `one`, which does `first` before and `last` while it waits. */
async function outcomeBehind(
  first: () => Promise<unknown>,
  second: () => Promise<unknown>,
  last: () => Promise<unknown> = async () => {},
) {
  await first();
  const outcome = refusal(second());
  await untilBlocked(database);
  await last();
  await one.query("commit");
  return outcome;
}
const change = (client: pg.PoolClient) =>
  client.query("select app_hidden.change_password($1, $2, $3)", [acme.id, OLD, NEW]);
const open = (newHash: string | null = null, client = two) =>
  client.query("select app_hidden.open_session($1, $2, $3, $4, $5)", [
    acme.id,
    user,
    randomBytes(32),
    OLD,
    newHash,
  ]);
const requestEmailChange = (client: pg.PoolClient) =>
  client.query("select app_hidden.request_email_change($1, $2, 'eve@evil.test')", [acme.id, OLD]);
const stored = async () => {
  const sql = "select password_hash from app_private.user_passwords where user_id = $1";
  return (await database.owner.query(sql, [user])).rows[0].password_hash;
};
const sessions = async () => {
  const sql = "select from sessions where user_id = $1 and revoked_at is null";
  return (await database.owner.query(sql, [user])).rowCount;
};
const pending = async () => {
  const sql =
    "select purpose from app_private.one_time_tokens where user_id = $1 and used_at is null order by purpose";
  return (await database.owner.query(sql, [user])).rows.map(({ purpose }) => purpose);
};

it.each(["reset", "changed"])(
  "opens no session for a password that is being %s, nor brings it back under stronger parameters",
  async (how) => {
    const link = await mailed("password_reset");
    const first = () =>
      how === "changed"
        ? change(one)
        : one.query("select app_hidden.reset_password($1, $2, $3, $4)", [...link, NEW]);
    expect(await outcomeBehind(first, () => open(STRONGER))).toBe("EA401");
    expect(await stored()).toBe(NEW);
    expect(await sessions()).toBe(0);
  },
);

it("ends the session that is being opened, too, when the password is changed", async () => {
  const outcome = await outcomeBehind(
    () => open(null, one),
    () => change(two),
  );
  expect(outcome).toBe("no error");
  expect(await sessions()).toBe(0);
});

it("begins no change of e-mail with a password that is being changed", async () => {
  const outcome = await outcomeBehind(
    () => change(one),
    () => requestEmailChange(two),
  );
  expect(outcome).toBe("EA409");
  expect(await pending()).toEqual([]);
});

it("ends a change of e-mail that is being asked for with the password that is changed behind it", async () => {
  const outcome = await outcomeBehind(
    () => requestEmailChange(one),
    () => change(two),
  );
  expect(outcome).toBe("no error");
  expect(await pending()).toEqual([]);
});

it("refuses an invitation that is being sent again, without a deadlock", async () => {
  const { rows } = await database.owner.query(
    "insert into users (tenant_id, email, status) values ($1, 'nora@acme.test', 'INVITED') returning id",
    [acme.id],
  );
  const invited = rows[0].id;
  const link = await mailed("invitation", invited);
  await act(one, acme.users.admin.id, "ADMIN", "users:manage");
  const outcome = await outcomeBehind(
    () => one.query("select app_private.managed_user($1, $2)", [acme.id, invited]),
    () =>
      two.query("select app_hidden.accept_invitation($1, $2, $3, $4, null, null, $5)", [
        ...link,
        NEW,
        randomBytes(32),
      ]),
    () => one.query("select app_hidden.resend_invitation($1, $2)", [acme.id, invited]),
  );
  expect(outcome).toBe("EA400");
});

it.each<[string, () => Promise<unknown>, string]>([
  ["signs in", () => open(), "EA401"],
  ["changes it", () => change(two), "EA409"],
  [
    "logs out everywhere",
    () => two.query("select app_hidden.revoke_own_sessions($1)", [acme.id]),
    "no error",
  ],
])("resets a password under whoever %s meanwhile, without a deadlock", async (_who, second, expected) => {
  await mailed("email_change");
  const link = await mailed("password_reset");
  const outcome = await outcomeBehind(
    () => one.query("select app_private.use_token($1, $2, $3, '{password_reset}')", link),
    second,
    () =>
      one.query("select app_private.store_password($1, $2, $3, 'user@acme.test', null)", [
        acme.id,
        user,
        NEW,
      ]),
  );
  expect(outcome).toBe(expected);
  expect(await stored()).toBe(NEW);
  expect(await pending()).toEqual([]);
});
