import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { deriveOneTimeToken } from "../src/auth/oneTimeTokens.ts";
import { startApi, type TestApi, testKeyRing } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { codes, type Input, loginAt, right, times, wrong } from "./support/logins.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let passed = 0;
const clock = () => performance.now() + passed;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database, { clock, config: { TRUST_PROXY: ["loopback"] } });
  acme = await createTenant(database.owner, "acme");
  await createTenant(database.owner, "platform");
});
beforeEach(async () => {
  passed += 3_600_000;
  await database.owner.query("truncate app_private.rate_limits");
  await database.owner.query("delete from sessions");
});
afterAll(async () => {
  await api.close();
  await database.drop();
});

const login = (input: Input, address: string) => loginAt(api, input, { "x-forwarded-for": address });
/** As if so much time had passed, for what is counted in the database and what is remembered in memory. */
async function later(seconds: number) {
  passed += seconds * 1_000;
  await database.owner.query(
    "update app_private.rate_limits set counted_at = counted_at - make_interval(secs => $1)",
    [seconds],
  );
}

/** Thirty networks: two attempts of each are its own, two count for the account. */
const attack = async () => {
  const answers = await times(30, (index) => times(4, () => login(wrong, `198.51.100.${index}`)));
  return answers.flat();
};
/** As an attack leaves the account's own bucket: empty. */
const exhaust = ({ email }: { email: string } = right) =>
  database.owner.query(
    "select app_private.take_attempts(app_private.sign_in_bucket($1, null, $2), 50, 50, '1 hour')",
    [acme.id, email],
  );
/** Uses up what a network may try outside of the account's bucket. */
const tryTwice = (address: string, input = wrong) => times(2, () => login(input, address));

it("stops an attack from many addresses, and still lets in the user from where they were before", async () => {
  expect((await login(right, "203.0.113.7")).user).toBeDefined();
  expect(codes(await attack())).toEqual({ UNAUTHENTICATED: 110, RATE_LIMITED: 10 });
  await tryTwice("192.0.2.200");
  expect((await login(right, "192.0.2.200")).error.code).toBe("RATE_LIMITED");
  for (let index = 0; index < 5; index++) expect((await login(right, "203.0.113.7")).user).toBeDefined();
  // Signing in from there freed no guess.
  await tryTwice("198.51.100.100");
  expect((await login(wrong, "198.51.100.100")).error.code).toBe("RATE_LIMITED");
});

it("lets the user in from a new place, too, while the attack goes on", async () => {
  await exhaust();
  expect(codes([await login(wrong, "192.0.2.1")])).toEqual({ UNAUTHENTICATED: 1 });
  expect((await login(right, "192.0.2.1")).user).toBeDefined();
});

it("gives a /48 of IPv6 two attempts, not each of its networks", async () => {
  await exhaust();
  const answers = await times(6, (index) => login(wrong, `2001:db8:7:${index}::1`));
  expect(codes(answers)).toEqual({ UNAUTHENTICATED: 2, RATE_LIMITED: 4 });
  expect(codes([await login(wrong, "2001:db8:8::1")])).toEqual({ UNAUTHENTICATED: 1 });
});

it("treats a user and an unknown e-mail alike, from where somebody of the tenant was and from elsewhere", async () => {
  const outcomes = async (email: string, address: string) =>
    codes(await times(8, () => login({ ...wrong, email }, address)));
  await login({ ...right, email: "user@acme.test" }, "203.0.113.8");
  await login(right, "203.0.113.7");
  for (const email of ["viewer@acme.test", "nobody@acme.test"]) {
    await exhaust({ email });
    expect([email, await outcomes(email, "203.0.113.7")]).toEqual([email, { UNAUTHENTICATED: 8 }]);
    expect([email, await outcomes(email, "203.0.113.8")]).toEqual([email, { UNAUTHENTICATED: 8 }]);
    expect([email, await outcomes(email, "203.0.113.9")]).toEqual([
      email,
      { UNAUTHENTICATED: 2, RATE_LIMITED: 6 },
    ]);
  }
});

it("stops guessing from a known network, too, after fifty attempts an hour", async () => {
  await login(right, "203.0.113.8");
  for (const email of ["viewer@acme.test", "nobody@acme.test"]) {
    const answers = [];
    // Ten a minute, so that only the hour stops it.
    for (let minute = 0; minute < 6; minute++) {
      answers.push(...(await times(10, () => login({ ...wrong, email }, "203.0.113.8"))));
      await later(60);
    }
    const counted = codes(answers);
    expect(counted.RATE_LIMITED).toBeGreaterThan(2);
    expect(counted.UNAUTHENTICATED).toBeGreaterThanOrEqual(50);
  }
  // From elsewhere it is as open as before.
  expect(codes([await login(right, "192.0.2.200")])).toEqual({ "signed in": 1 });
});

it("knows a network again by the /64 of IPv6, and by when a session was last used there", async () => {
  await login(right, "2001:db8:1:1::aaaa");
  await exhaust();
  const enters = async (address: string) => {
    await tryTwice(address);
    return (await login(right, address)).user !== undefined;
  };
  expect(await enters("2001:db8:1:2::aaaa")).toBe(false);
  expect(await enters("2001:db8:1:1::bbbb")).toBe(true);
  await database.owner.query("update sessions set created_at = now() - interval '40 days'");
  expect(await enters("2001:db8:1:1::cccc")).toBe(true);
  await database.owner.query("update sessions set last_used_at = now() - interval '31 days'");
  expect(await enters("2001:db8:1:1::dddd")).toBe(false);
});

it("forgets what was guessed of a password when it is reset", async () => {
  const user = { ...right, email: "user@acme.test" };
  await exhaust(user);
  await tryTwice("192.0.2.200", { ...user, password: "wrong" });
  expect((await login(user, "192.0.2.200")).error.code).toBe("RATE_LIMITED");
  const tokenId = randomUUID();
  const { token, hash: tokenHash } = deriveOneTimeToken(testKeyRing, { tenantId: acme.id, tokenId });
  await database.owner.query(
    `insert into app_private.one_time_tokens (tenant_id, id, user_id, purpose, email, token_hash, expires_at)
     values ($1, $2, $3, 'password_reset', 'user@acme.test', $4, now() + interval '1 hour')`,
    [acme.id, tokenId, acme.users.user.id, tokenHash],
  );
  const password = "seven purple otters dancing";
  const reset = await api.query(
    "mutation ($input: ResetPasswordInput!) { resetPassword(input: $input) { done } }",
    { variables: { input: { token, newPassword: password } } },
  );
  expect(reset.errors).toBeUndefined();
  expect((await login({ ...user, password }, "192.0.2.200")).user.email).toBe("user@acme.test");
});
