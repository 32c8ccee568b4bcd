import { createSign } from "node:crypto";
import { expect, it } from "@jest/globals";
import jwt from "jsonwebtoken";
import { tokenKeysOf } from "../src/auth/tokenKeys.ts";
import { makeTokenService } from "../src/auth/tokens.ts";
import { testKey, testTokens } from "./support/api.ts";

const claims = {
  sub: "019a0000-0000-7000-8000-000000000001",
  tenant_id: "019a0000-0000-7000-8000-000000000002",
  role: "VIEWER" as const,
  sid: "019a0000-0000-7000-8000-000000000003",
};
const NAMES = { issuer: "erp-analytics", audience: "erp-analytics" };
const MINUTE = 60_000;

it("cannot be built without an issuer and an audience", () => {
  const keys = tokenKeysOf(() => [testKey]);
  const { issuer: _issuer, ...nameless } = NAMES;
  for (const names of [{ ...NAMES, issuer: "" }, { ...NAMES, audience: "" }, nameless as typeof NAMES])
    expect(() => makeTokenService(keys, names)).toThrow("issuer and an audience");
});

it("signs for 15 minutes, or until the visit to a tenant ends, and says whose visit it is", async () => {
  let now = new Date("2026-01-01T12:00:00Z");
  const after = (minutes: number) => new Date(Date.parse("2026-01-01T12:00:00Z") + minutes * MINUTE);
  const tokens = makeTokenService(
    tokenKeysOf(() => [testKey]),
    { ...NAMES, now: () => now },
  );
  const visit = { ...claims, home_tenant_id: "019a0000-0000-7000-8000-000000000004" };
  const long = tokens.sign(claims, { notAfter: after(60) });
  const short = tokens.sign(visit, { notAfter: after(5) });
  expect([long.expiresAt, short.expiresAt]).toEqual([after(15), after(5)]);
  expect(await tokens.verify(short.token)).toEqual(visit);
  now = after(5);
  expect(await tokens.verify(short.token)).toBeUndefined();
  expect(await tokens.verify(long.token)).toEqual(claims);
  now = after(15);
  expect(await tokens.verify(long.token)).toBeUndefined();
});

it("takes no token that lives longer than ours do, hides when it was made, or is of another type", async () => {
  const sign = (more: object, options: jwt.SignOptions = {}) =>
    jwt.sign({ ...claims, ...more }, testKey.privateKey, {
      ...{ algorithm: "ES256", keyid: testKey.kid, issuer: NAMES.issuer, audience: NAMES.audience },
      ...options,
    });
  /** As no library would sign it: claims of any type. */
  const signRaw = (more: object) => {
    const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const { issuer: iss, audience: aud } = NAMES;
    const header = { alg: "ES256", typ: "JWT", kid: testKey.kid };
    const body = `${encode(header)}.${encode({ ...claims, iss, aud, ...more })}`;
    const signature = createSign("sha256")
      .update(body)
      .sign({ key: testKey.privateKey, dsaEncoding: "ieee-p1363" }, "base64url");
    return `${body}.${signature}`;
  };
  const now = Math.floor(Date.now() / 1000);
  const tokens = testTokens();
  const good = { exp: now + 900, iat: now };
  expect(await tokens.verify(sign(good))).toEqual(claims);
  expect(await tokens.verify(signRaw(good))).toEqual(claims);
  expect(await tokens.verify(sign({ ...good, exp: now + 901 }))).toBeUndefined();
  expect(await tokens.verify(sign({ exp: now + 900 }, { noTimestamp: true }))).toBeUndefined();
  expect(await tokens.verify(sign({ iat: now }))).toBeUndefined();
  expect(await tokens.verify(signRaw({ ...good, exp: now + 90_000, iat: "long ago" }))).toBeUndefined();
  const header = { alg: "ES256", kid: testKey.kid };
  for (const typ of ["at+jwt", undefined])
    expect(await tokens.verify(sign(good, { header: { ...header, typ } }))).toBeUndefined();
  for (const missing of ["sub", "tenant_id", "role", "sid"])
    expect(await tokens.verify(sign({ ...good, [missing]: undefined }))).toBeUndefined();
});
