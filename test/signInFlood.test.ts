import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { networkOf } from "../src/auth/networks.ts";
import { makeRefusals } from "../src/auth/refusals.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { codes, type Input, loginAt, right, times, wrong } from "./support/logins.ts";
import { createTenant } from "./support/tenants.ts";
import { untilBlocked } from "./support/until.ts";

let database: TestDatabase;
let api: TestApi;
let passed = 0;
const clock = () => performance.now() + passed;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database, { clock, config: { TRUST_PROXY: ["loopback"] } });
  await createTenant(database.owner, "acme");
});
beforeEach(async () => {
  passed += 3_600_000;
  await database.owner.query("truncate app_private.rate_limits");
});
afterAll(async () => {
  await api.close();
  await database.drop();
});

const login = (input: Input, address: string) => loginAt(api, input, { "x-forwarded-for": address });

/** Whatever needs what this statement locks waits until `work` has ended. */
async function holding<Result>(statement: string, work: () => Promise<Result>): Promise<Result> {
  const holder = await database.owner.connect();
  try {
    await holder.query("begin");
    await holder.query(statement);
    return await work();
  } finally {
    await holder.query("rollback");
    holder.release();
  }
}

it("lets others sign in while one address has hundreds of sign-ins under way", async () => {
  const bucket = `insert into app_private.rate_limits values (sha256('sign-in from 198.51.100.1'), 1, now())`;
  const flood: ReturnType<typeof login>[] = [];
  await holding(bucket, async () => {
    for (let index = 0; index < 400; index++)
      flood.push(login({ ...wrong, email: `victim${index}@acme.test` }, "198.51.100.1"));
    await untilBlocked(database, 2);
    const signIns = await times(10, (index) => login(right, `203.0.113.${index}`));
    expect(codes(signIns)).toEqual({ "signed in": 10 });
  });
  const counted = codes(await Promise.all(flood));
  expect(counted["signed in"]).toBeUndefined();
  expect(counted.RATE_LIMITED).toBeGreaterThan(300);
}, 60_000);

it("refuses again without asking the database whom it has refused, until the time is over", async () => {
  const here = "198.51.100.1";
  await times(10, () => login(wrong, here));
  const first = await login(wrong, here);
  expect(first.error.code).toBe("RATE_LIMITED");
  await holding("lock table app_private.rate_limits in access exclusive mode", async () => {
    const again = await login({ ...wrong, email: "VIEWER@acme.test" }, here);
    expect(again.error.code).toBe("RATE_LIMITED");
    expect(again.error.retryAfterSeconds).toBeGreaterThan(0);
    expect(again.error.retryAfterSeconds).toBeLessThanOrEqual(first.error.retryAfterSeconds);
    expect(again.message).toMatch(/^Too many attempts\. Try again in \d seconds\.$/);
  });
  // Only there, only this account, and no longer than it was told.
  expect((await login(right, "198.51.100.2")).user).toBeDefined();
  expect((await login({ ...right, email: "user@acme.test" }, here)).user).toBeDefined();
  passed += first.error.retryAfterSeconds * 1_000;
  await database.owner.query("truncate app_private.rate_limits");
  expect((await login(right, here)).user).toBeDefined();

  for (let wave = 0; wave < 8; wave++)
    await times(10, (index) => login({ ...wrong, email: `${wave}.${index}@acme.test` }, here));
  await holding("lock table app_private.rate_limits in access exclusive mode", async () => {
    expect((await login({ ...right, email: "admin@acme.test" }, here)).error.code).toBe("RATE_LIMITED");
  });
});

it("forgets the oldest refusal rather than remember more than so many", () => {
  let now = 0;
  const refusals = makeRefusals(() => now, 3);
  for (const key of ["a", "b", "c", "a", "d"]) refusals.note(key, 10);
  expect(["a", "b", "c", "d", "e"].map(refusals.secondsLeft)).toEqual([10, 0, 10, 10, 0]);
  now = 9_001;
  expect(refusals.secondsLeft("a")).toBe(1);
  now = 10_000;
  expect(refusals.secondsLeft("a")).toBe(0);
});

it("takes two addresses for one network where PostgreSQL does", async () => {
  const addresses = [
    undefined,
    "192.0.2.1",
    "192.0.2.2",
    "2001:db8::1",
    "2001:DB8:0:0:ffff::",
    "2001:db8:0:1::1",
    "2001:db8:0:1:2:3:4:5",
    "::1",
    "::",
    "1::",
    "0:0:0:1::",
    "::1:2:3:4:5:6:7",
    "::ffff:192.0.2.9",
    "::ffff:c000:209",
    "::ffff:192.0.2.8",
    "fe80::1",
    "fe80::2",
  ];
  const { rows } = await database.owner.query(
    "select app_private.network_of(a) as network from unnest($1::text[]) with ordinality u (a, n) order by n",
    [addresses.map((address) => address ?? null)],
  );
  const theirs = rows.map(({ network }) => network);
  const ours = addresses.map(networkOf);
  const places = (networks: string[]) => networks.map((network) => networks.indexOf(network));
  expect(places(ours)).toEqual(places(theirs));
});

it("leaves connections to others while a flood of sign-ins waits for its rows", async () => {
  const token = await api.signIn("acme", "admin");
  const holder = await database.owner.connect();
  await holder.query("begin");
  await holder.query("lock table app_private.rate_limits in access exclusive mode");
  let settled = 0;
  const flood = times(30, async (index) => {
    const answer = await login({ ...wrong, email: `flood${index}@acme.test` }, `198.51.100.${index}`);
    settled++;
    return answer;
  });
  try {
    await untilBlocked(database, 5);
    const reads = await times(20, () => api.query("{ currentUser { email } }", { token }));
    expect(reads.filter(({ errors }) => errors)).toEqual([]);
    expect(settled).toBe(0);
  } finally {
    await holder.query("rollback");
    holder.release();
  }
  expect(codes(await flood)).toEqual({ UNAUTHENTICATED: 30 });
});

it("throttles a thousand sign-ins from one address, whatever accounts they try, while others read on", async () => {
  const token = await api.signIn("acme", "admin");
  const started = Date.now();
  // A hundred at a time: more connections at once than a socket's queue takes would be reset, and never tried.
  const flood = (async () => {
    const answers: Awaited<ReturnType<typeof login>>[] = [];
    for (let wave = 0; wave < 10; wave++)
      answers.push(
        ...(await times(100, (index) =>
          login({ ...wrong, email: `victim${wave}.${index}@acme.test` }, "198.51.100.1"),
        )),
      );
    return answers;
  })();
  const reads = await times(20, () => api.query("{ currentUser { email } }", { token }));
  expect(reads.filter(({ errors }) => errors)).toEqual([]);
  const counted = codes(await flood);
  expect((counted.UNAUTHENTICATED ?? 0) + (counted.RATE_LIMITED ?? 0)).toBe(1_000);
  // 60, and what trickles back in while it lasts.
  expect(counted.UNAUTHENTICATED).toBeLessThan(60 + 40 + (Date.now() - started) / 1_000);
}, 120_000);
