import { createPublicKey } from "node:crypto";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "@jest/globals";
import jwt from "jsonwebtoken";
import {
  ensureTokenKey,
  openTokenKeys,
  revokeTokenKey,
  rotateTokenKey,
  type TokenKeyStore,
} from "../src/auth/tokenKeys.ts";
import { makeTokenService } from "../src/auth/tokens.ts";
import { startApi, testKey, testKeyRing, testTokens } from "./support/api.ts";
import { createTestDatabase, silent, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";

let database: TestDatabase;
const stores: TokenKeyStore[] = [];

beforeAll(async () => {
  database = await createTestDatabase();
});
beforeEach(() => database.owner.query("delete from app_private.token_keys"));
afterEach(() => {
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
/** An instance: its store, and the service on it. */
async function instance() {
  const store = await openTokenKeys({ pool: database.authenticator, keyRing: testKeyRing, log: silent });
  stores.push(store);
  return { store, tokens: makeTokenService(store, NAMES) };
}
const kidOf = (token: string) => jwt.decode(token, { complete: true })?.header.kid;

it("makes one first key, however many start at once", async () => {
  await Promise.all(Array.from({ length: 5 }, () => ensureTokenKey(database.owner, testKeyRing)));
  const { rowCount } = await database.owner.query("select from app_private.token_keys");
  expect(rowCount).toBe(1);
});

it("says what is wrong where there is no key, or none that can be unwrapped", async () => {
  await expect(instance()).rejects.toThrow("no key that signs");
  await ensureTokenKey(database.owner, testKeyRing);
  await database.owner.query("update app_private.token_keys set kek_id = 'lost'");
  await expect(instance()).rejects.toThrow('no key "lost": add it to ENCRYPTION_KEYS');
});

it("rotates without signing anyone out: the new key is known everywhere before it signs", async () => {
  await ensureTokenKey(database.owner, testKeyRing);
  const [one, two] = [await instance(), await instance()];
  const before = one.tokens.sign(claims).token;
  const { kid } = await rotateTokenKey(database.owner, testKeyRing);
  await Promise.all([one.store.reload(), two.store.reload()]);
  expect(kidOf(one.tokens.sign(claims).token)).toBe(kidOf(before));
  expect(one.tokens.jwks().keys.map((key) => key.kid)).toContain(kid);

  // Ten minutes later.
  await database.owner.query(
    "update app_private.token_keys set signs_from = signs_from - interval '10 minutes', retired_at = retired_at - interval '10 minutes'",
  );
  await Promise.all([one.store.reload(), two.store.reload()]);
  const after = one.tokens.sign(claims).token;
  expect(kidOf(after)).toBe(kid);
  for (const { tokens } of [one, two])
    for (const token of [before, after]) expect(await tokens.verify(token)).toEqual(claims);

  // When the last token of the old key has expired.
  await database.owner.query(
    "update app_private.token_keys set retired_at = retired_at - interval '20 minutes' where retired_at is not null",
  );
  await one.store.reload();
  expect(one.tokens.jwks().keys.map((key) => key.kid)).toEqual([kid]);
  expect(await one.tokens.verify(before)).toBeUndefined();
});

it("looks once for a key that it does not know, and finds the one that another instance signs with", async () => {
  await ensureTokenKey(database.owner, testKeyRing);
  const [one, two] = [await instance(), await instance()];
  await rotateTokenKey(database.owner, testKeyRing, { now: true });
  await one.store.reload();
  const { token } = one.tokens.sign(claims);
  let loads = 0;
  const counting = await openTokenKeys({
    pool: Object.assign(Object.create(database.authenticator), {
      query: (text: string) => {
        loads++;
        return database.authenticator.query(text);
      },
    }),
    keyRing: testKeyRing,
    log: silent,
  });
  stores.push(counting);
  // Just loaded: an unknown key is not worth another look.
  expect(await counting.find("unknown")).toBeUndefined();
  expect(loads).toBe(1);
  await two.store.reload();
  expect(await two.tokens.verify(token)).toEqual(claims);
});

it("ends a key that somebody else may have, with its tokens, and signs with another", async () => {
  await ensureTokenKey(database.owner, testKeyRing);
  const { store, tokens } = await instance();
  const { token } = tokens.sign(claims);
  expect(await revokeTokenKey(database.owner, testKeyRing, "unknown")).toBe(false);
  expect(await revokeTokenKey(database.owner, testKeyRing, kidOf(token) ?? "")).toBe(true);
  await store.reload();
  expect(await tokens.verify(token)).toBeUndefined();
  expect(await tokens.verify(tokens.sign(claims).token)).toEqual(claims);
});

it("lets the authenticator neither read the table nor add a key, and keeps the private key wrapped", async () => {
  await ensureTokenKey(database.owner, testKeyRing);
  expect(await refusal(database.authenticator.query("select from app_private.token_keys"))).toBe("42501");
  expect(
    await refusal(
      database.authenticator.query(
        "insert into app_private.token_keys values ('x', '{}', 'k', '', now(), now())",
      ),
    ),
  ).toBe("42501");
  const { rows } = await database.authenticator.query("select * from app_hidden.token_keys()");
  expect(() =>
    createPublicKey({ key: rows[0].wrapped_private_key, format: "der", type: "pkcs8" } as never),
  ).toThrow();
  expect(JSON.stringify(rows[0].public_jwk)).not.toContain('"d"');
});

it("publishes what a stranger needs to verify a token", async () => {
  const api = await startApi(database);
  try {
    const response = await fetch(`${api.url}/.well-known/jwks.json`);
    expect(response.headers.get("cache-control")).toBe("public, max-age=300");
    const { keys } = (await response.json()) as { keys: { kid: string }[] };
    const { token } = api.tokens.sign(claims);
    const key = keys.find(({ kid }) => kid === kidOf(token));
    const publicKey = createPublicKey({ key: key as never, format: "jwk" });
    expect(jwt.verify(token, publicKey, { algorithms: ["ES256"] })).toMatchObject({ sub: claims.sub });
  } finally {
    await api.close();
  }
});

it("cannot be built without an issuer and an audience", () => {
  const keys = { signer: () => testKey, find: async () => testKey, all: () => [testKey] };
  for (const names of [{ ...NAMES, issuer: "" }, { ...NAMES, audience: "" }, { audience: "a" } as never])
    expect(() => makeTokenService(keys, names)).toThrow("issuer and an audience");
});

it("takes no token that lives longer than ours do, or hides when it was made", async () => {
  const sign = (more: object, options: jwt.SignOptions = {}) =>
    jwt.sign({ ...claims, ...more }, testKey.privateKey, {
      ...{ algorithm: "ES256", keyid: testKey.kid, issuer: NAMES.issuer, audience: NAMES.audience },
      ...options,
    });
  const now = Math.floor(Date.now() / 1000);
  const tokens = testTokens();
  expect(await tokens.verify(sign({ exp: now + 900, iat: now }))).toEqual(claims);
  expect(await tokens.verify(sign({ exp: now + 901, iat: now }))).toBeUndefined();
  expect(await tokens.verify(sign({ exp: now + 900 }, { noTimestamp: true }))).toBeUndefined();
  for (const missing of ["sub", "tenant_id", "role", "sid"])
    expect(await tokens.verify(sign({ exp: now + 900, [missing]: undefined }))).toBeUndefined();
});
