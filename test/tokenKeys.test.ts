import { createPrivateKey, createPublicKey, randomBytes } from "node:crypto";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it, jest } from "@jest/globals";
import jwt from "jsonwebtoken";
import { pino } from "pino";
import { z } from "zod";
import { ensureTokenKey, revokeTokenKey, rotateTokenKey } from "../src/auth/tokenKeyRotation.ts";
import { generateTokenKey, openTokenKeys, type TokenKeyStore } from "../src/auth/tokenKeys.ts";
import { makeTokenService } from "../src/auth/tokens.ts";
import { makeKeyRing } from "../src/crypto/keyRing.ts";
import { makePool, withTransaction } from "../src/db/pools.ts";
import { startApi, testKeyRing } from "./support/api.ts";
import { createTestDatabase, silent, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";
import { until } from "./support/until.ts";

let database: TestDatabase;
const stores: TokenKeyStore[] = [];

beforeAll(async () => {
  database = await createTestDatabase();
});
beforeEach(() => database.owner.query("delete from app_private.token_keys"));
afterEach(() => {
  jest.restoreAllMocks();
  for (const store of stores.splice(0)) store.close();
});
afterAll(() => database.drop());

const claims = {
  sub: "019a0000-0000-7000-8000-000000000001",
  tenant_id: "019a0000-0000-7000-8000-000000000002",
  role: "VIEWER" as const,
  sid: "019a0000-0000-7000-8000-000000000003",
};
const NAMES = { issuer: "erp-analytics", audience: "erp-analytics" };
const MINUTE = 60_000;
const strangersRing = makeKeyRing([{ id: "stranger", key: randomBytes(32).toString("base64") }]);

/** An instance: its store, and the service on it. */
async function instance(options: Partial<Parameters<typeof openTokenKeys>[0]> = {}) {
  const defaults = { pool: database.authenticator, keyRing: testKeyRing, log: silent };
  const store = await openTokenKeys({ ...defaults, ...options });
  stores.push(store);
  return {
    store,
    tokens: makeTokenService(store, { ...NAMES, ...(options.now ? { now: options.now } : {}) }),
  };
}
/** As if so many minutes had passed since the keys were made. */
const pass = (minutes: number) =>
  database.owner.query(
    `update app_private.token_keys
        set signs_from = signs_from - make_interval(mins => $1), retired_at = retired_at - make_interval(mins => $1)`,
    [minutes],
  );
const kidOf = (token: string) => jwt.decode(token, { complete: true })?.header.kid ?? "";
const kidsOf = ({ tokens }: Awaited<ReturnType<typeof instance>>) => tokens.jwks().keys.map(({ kid }) => kid);
const ensure = () => ensureTokenKey(database.owner, testKeyRing);
const rotate = (options?: { now?: boolean }) => rotateTokenKey(database.owner, testKeyRing, options);
const revoke = (kid: string) => revokeTokenKey(database.owner, testKeyRing, kid);

it("makes one first key, however many start at once", async () => {
  const five = (start: () => Promise<unknown>) => Promise.all(Array.from({ length: 5 }, start));
  // Connected beforehand, or one is done before the next has a connection.
  await five(() => database.owner.query("select pg_sleep(0.05)"));
  await five(ensure);
  const { rowCount } = await database.owner.query("select from app_private.token_keys");
  expect(rowCount).toBe(1);
});

it("makes none where another starter, which began later, was first", async () => {
  let starting: Promise<void> | undefined;
  await withTransaction(database.owner, async (first) => {
    await first.query("select pg_advisory_xact_lock(hashtextextended('app_private.token_keys', 0))");
    starting = ensure();
    await until(
      () => first.query("select from pg_locks where locktype = 'advisory' and not granted"),
      ({ rowCount }) => rowCount === 1,
    );
    const { kid, publicJwk } = generateTokenKey();
    await first.query(
      "insert into app_private.token_keys values ($1, $2, 'k', '', now(), clock_timestamp())",
      [kid, publicJwk],
    );
  });
  await starting;
  const { rowCount } = await database.owner.query("select from app_private.token_keys");
  expect(rowCount).toBe(1);
});

it("says what is wrong where there is no key, or none that can be unwrapped", async () => {
  await expect(instance()).rejects.toThrow("no key that signs access tokens: `npm run tokens:rotate");
  await ensure();
  await expect(instance({ keyRing: strangersRing })).rejects.toThrow(
    'no key "test": add it to ENCRYPTION_KEYS',
  );
});

it("rotates without signing anyone out: the new key is known everywhere before it signs", async () => {
  await ensure();
  const [one, two] = [await instance(), await instance()];
  const reload = () => Promise.all([one.store.reload(), two.store.reload()]);
  const before = one.tokens.sign(claims).token;
  const { kid } = await rotate();
  await reload();
  expect(kidOf(one.tokens.sign(claims).token)).toBe(kidOf(before));
  expect(kidsOf(one)).toEqual(expect.arrayContaining([kid, kidOf(before)]));

  await pass(10);
  await reload();
  const after = one.tokens.sign(claims).token;
  expect(kidOf(after)).toBe(kid);
  for (const { tokens } of [one, two])
    for (const token of [before, after]) expect(await tokens.verify(token)).toEqual(claims);

  // The last token of the old key has expired by now.
  await pass(20);
  await reload();
  expect(kidsOf(one)).toEqual([kid]);
  expect(await one.tokens.verify(before)).toBeUndefined();
});

it("never lets a key sign that another overtook: it would retire with its tokens still in use", async () => {
  await ensure();
  const { kid: overtaken } = await rotate();
  await pass(1);
  const { kid, signsFrom } = await rotate({ now: true });
  let now = new Date();
  const { store, tokens } = await instance({ now: () => now });
  const { token } = tokens.sign(claims);
  expect(kidOf(token)).toBe(kid);
  now = new Date(signsFrom.getTime() + 12 * MINUTE);
  expect(kidOf(tokens.sign(claims).token)).toBe(kid);
  expect(await store.find(overtaken)).toBeUndefined();
  expect(await tokens.verify(token)).toEqual(claims);
});

it("lets the first key sign where PostgreSQL's clock is ahead", async () => {
  await ensure();
  const now = new Date(Date.now() - MINUTE);
  const { tokens } = await instance({ now: () => now });
  expect(await tokens.verify(tokens.sign(claims).token)).toEqual(claims);
});

it("forgets a key a month after it retired", async () => {
  await ensure();
  await rotate({ now: true });
  await pass(29 * 24 * 60);
  await rotate();
  const kept = async () => (await database.owner.query("select from app_private.token_keys")).rowCount;
  expect(await kept()).toBe(3);
  await pass(2 * 24 * 60);
  await rotate();
  expect(await kept()).toBe(3);
});

it("looks at once for a key that it does not know, but once in five seconds", async () => {
  await ensure();
  let now = new Date();
  const [one, two] = [await instance(), await instance({ now: () => now })];
  await rotate({ now: true });
  await one.store.reload();
  const looks = jest.spyOn(database.authenticator, "query");
  const { token } = one.tokens.sign(claims);
  expect(await Promise.all([two.tokens.verify(token), two.tokens.verify(token)])).toEqual([claims, claims]);
  expect(looks).toHaveBeenCalledTimes(1);
  for (const kid of ["unknown", "another"]) expect(await two.store.find(kid)).toBeUndefined();
  expect(looks).toHaveBeenCalledTimes(1);
  now = new Date(now.getTime() + 5_000);
  await Promise.all(["unknown", "another"].map((kid) => two.store.find(kid)));
  await two.store.find("unknown");
  expect(looks).toHaveBeenCalledTimes(2);
});

it("ends a key that somebody else may have on every instance, with its tokens, and signs with another", async () => {
  await ensure();
  const both = [await instance(), await instance()];
  const { token } = both[0]?.tokens.sign(claims) ?? { token: "" };
  for (const { tokens } of both) expect(await tokens.verify(token)).toEqual(claims);
  expect(await revoke("unknown")).toBeUndefined();
  const revoked = await revoke(kidOf(token));
  expect(await revoke(kidOf(token))).toBeUndefined();
  for (const { store, tokens } of both) {
    await store.reload();
    expect(await tokens.verify(token)).toBeUndefined();
    const next = tokens.sign(claims).token;
    expect(kidOf(next)).toBe(revoked?.successor?.kid);
    expect(await tokens.verify(next)).toEqual(claims);
  }
});

it("replaces a revoked key that was yet to sign, so that the one that signs does not retire alone", async () => {
  await ensure();
  const one = await instance();
  const { kid } = await rotate();
  await pass(9);
  const revoked = await revoke(kid);
  await one.store.reload();
  const { token } = one.tokens.sign(claims);
  expect(kidsOf(one)).toEqual(expect.arrayContaining([kidOf(token), revoked?.successor?.kid]));
  expect(kidsOf(one)).not.toContain(kid);
  await pass(24);
  await one.store.reload();
  expect(kidOf(one.tokens.sign(claims).token)).toBe(revoked?.successor?.kid);
  expect(await one.tokens.verify(token)).toEqual(claims);
});

it("hears of a revocation though it cannot unwrap another key, whose tokens it verifies all the same", async () => {
  await ensure();
  const lines: string[] = [];
  const log = pino({ level: "warn" }, { write: (line: string) => lines.push(line) });
  const one = await instance({ log });
  const { token } = one.tokens.sign(claims);
  await rotateTokenKey(database.owner, strangersRing, { now: true });
  const ring = {
    unwrap: (...key: Parameters<typeof testKeyRing.unwrap>) =>
      (key[1] === "test" ? testKeyRing : strangersRing).unwrap(...key),
  };
  const foreign = (await instance({ keyRing: ring })).tokens.sign(claims).token;
  await one.store.reload();
  expect(lines.join()).toContain("ENCRYPTION_KEYS");
  expect(kidOf(one.tokens.sign(claims).token)).toBe(kidOf(token));
  expect(await one.tokens.verify(foreign)).toEqual(claims);
  await revoke(kidOf(token));
  await one.store.reload();
  expect(await one.tokens.verify(token)).toBeUndefined();
});

it("goes on with the keys that it knows while the database is out of reach, but not when all were retired", async () => {
  await ensure();
  const lines: string[] = [];
  const log = pino({ level: "warn" }, { write: (line: string) => lines.push(line) });
  const pool = makePool(database.urls.authenticator, { name: "test", max: 1, log: silent });
  const [cut, one] = [await instance({ pool, log }), await instance()];
  await pool.end();
  await cut.store.reload();
  const { token } = cut.tokens.sign(claims);
  expect(await cut.tokens.verify(token)).toEqual(claims);
  expect(lines.join()).toContain("could not read the token keys");
  expect(await one.tokens.verify(token)).toEqual(claims);
  await database.owner.query("update app_private.token_keys set retired_at = now()");
  await one.store.reload();
  expect(await one.tokens.verify(token)).toBeUndefined();
});

it("lets the authenticator neither read the table nor add a key", async () => {
  await ensure();
  const { rowCount } = await database.owner.query("select from app_private.token_keys");
  expect(rowCount).toBe(1);
  for (const statement of [
    "select from app_private.token_keys",
    "insert into app_private.token_keys values ('x', '{}', 'k', '', now(), now())",
    "update app_private.token_keys set retired_at = now()",
  ])
    expect(await refusal(database.authenticator.query(statement))).toBe("42501");
});

it("keeps the private key wrapped, and bound to its id", async () => {
  await ensure();
  const { rows } = await database.authenticator.query("select * from app_hidden.token_keys()");
  const { kid, kek_id, wrapped_private_key: wrapped } = rows[0];
  const open = (der: Buffer) => createPrivateKey({ key: der, format: "der", type: "pkcs8" });
  const der = testKeyRing.unwrap(wrapped, kek_id, { tokenKey: kid });
  expect(createPublicKey(open(der)).export({ format: "jwk" })).toMatchObject({ x: rows[0].public_jwk.x });
  expect(() => open(wrapped)).toThrow();
  expect(() => open(wrapped.subarray(12, -16))).toThrow();
  const { d } = open(der).export({ format: "jwk" });
  for (const plain of [der, Buffer.from(d ?? "", "base64url")]) expect(wrapped.includes(plain)).toBe(false);
  expect(Object.keys(rows[0].public_jwk).sort()).toEqual(["alg", "crv", "kid", "kty", "use", "x", "y"]);
  const sameId = makeKeyRing([{ id: kek_id, key: randomBytes(32).toString("base64") }]);
  await expect(instance({ keyRing: sameId })).rejects.toThrow("ENCRYPTION_KEYS");
  await database.owner.query("update app_private.token_keys set kid = 'moved'");
  await expect(instance()).rejects.toThrow('Cannot unwrap token key "moved"');
});

it("publishes what a stranger needs to verify a token", async () => {
  const api = await startApi(database);
  try {
    const response = await fetch(`${api.url}/.well-known/jwks.json`);
    expect(response.headers.get("cache-control")).toBe("public, max-age=300");
    const jwks = z.object({ keys: z.array(z.looseObject({ kid: z.string(), kty: z.string() })) });
    const { keys } = jwks.parse(await response.json());
    expect(keys.filter((key) => "d" in key)).toEqual([]);
    const { token } = api.tokens.sign(claims);
    const key = keys.find(({ kid }) => kid === kidOf(token)) ?? {};
    const publicKey = createPublicKey({ key, format: "jwk" });
    expect(jwt.verify(token, publicKey, { algorithms: ["ES256"] })).toMatchObject({ sub: claims.sub });
  } finally {
    await api.close();
  }
});
