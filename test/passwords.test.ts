import { setImmediate as turn } from "node:timers/promises";
import { expect, it, jest } from "@jest/globals";
import { hash } from "@node-rs/argon2";
import * as strength from "../src/auth/passwordStrength.ts";
import { assertAcceptable, hashPassword, needsRehash, verifyPassword } from "../src/auth/passwords.ts";
import * as errors from "../src/graphql/errors.ts";

const reasonOf = async (password: string, about: string[] = []): Promise<unknown> => {
  try {
    await assertAcceptable(password, about);
    return "accepted";
  } catch (error) {
    return (error as { extensions: { reason: string } }).extensions.reason;
  }
};

const GLOBEX = ["admin@globex.test", "Gita", "Rao", "Globex Foods", "globex"];

it.each([
  "correct horse battery staple",
  "correct-horse-battery-staple-42",
  "seven purple otters dancing",
  "Zq7#vT9!mLp2",
  "das Nilpferd tanzt um Mitternacht",
  "mustard-tripod-velvet",
  "blue-window-7-cactus",
  "gita plants seven cedars",
  // Random, with so many symbols that it is short without them.
  "Z#7!v$9&m*L2",
  "<_b8sEc))q3S",
  "🦦🦑🐙🦀🐡🐠🐟🐬🐳🐋🦈🐊",
  "एक नीला हाथी नाचता है",
])("accepts %s", async (password) => {
  expect(await reasonOf(password)).toBe("accepted");
  expect(await reasonOf(password, GLOBEX)).toBe("accepted");
});

it.each([
  ["aaaaaaaaaaaa", []],
  ["123456789012", []],
  ["qwertyuiop[]", []],
  ["password1234", []],
  ["Password1234!", []],
  ["nora@acme.test", ["nora@acme.test"]],
  ["acmeretail2026", ["Acme Retail", "acme"]],
  ["acme-retail-2026", ["Acme Retail", "acme"]],
  ["acme_retail_2026", ["Acme Retail", "acme"]],
  ["acme.retail.2026", ["Acme Retail", "acme"]],
  ["P4$$w0rd!2026", []],
  ["Globex-globex-1", GLOBEX],
  ["globex-admin-1", GLOBEX],
  ["admin-globex-2026", GLOBEX],
  ["Globex-2026-admin", GLOBEX],
  ["globex-globex", GLOBEX],
  ["G.l.o.b.e.x.admin", GLOBEX],
  ["gita_rao!globex?foods-admin.2026", GLOBEX],
  ["Welcome-globex-1", GLOBEX],
  ["example-boss-1", ["boss@example.com"]],
])("refuses %s, which is easy to guess", async (password, about) => {
  expect(await reasonOf(password, about)).toBe("weak_password");
});

it("says what makes a password easy to guess", async () => {
  await expect(assertAcceptable("aaaaaaaaaaaa", [])).rejects.toThrow(
    /^This password is easy to guess\. .*repeat/i,
  );
  await expect(assertAcceptable("qwertyuiop[]", [])).rejects.toThrow(/keyboard|row of keys/i);
});

it("counts characters, not bytes, from 12 to 1,000", async () => {
  expect(await reasonOf("Zq7#vT9!mLp")).toBe("password_length");
  expect(await reasonOf("🦦🦑🐙🦀🐡🐠🐟🐬🐳🐋🦈")).toBe("password_length");
  expect(await reasonOf(`${"Zq7#vT9!mLp2 ".repeat(76)}xxxxxxxxxxxx`)).toBe("accepted");
  expect(await reasonOf("Zq7#vT9!mLp2 ".repeat(77))).toBe("password_length");
  expect(await reasonOf("x".repeat(10_000_000))).toBe("password_length");
  expect(await reasonOf("Zq7#vT9!mLp2\0")).toBe("password_characters");
  expect(await reasonOf("Zq7#vT9!mLp2\ud800")).toBe("password_characters");
});

it("knows a password however its letters are composed", async () => {
  const stored = await hashPassword("se\u00f1or ping\u00fcino");
  expect(await verifyPassword(stored, "sen\u0303or pingu\u0308ino")).toBe(true);
  expect(await verifyPassword(stored, "senor pinguino")).toBe(false);
});

it("counts and knows a long one however it is composed", async () => {
  const longest = "\ud55c\uae00".repeat(500);
  const decomposed = longest.normalize("NFD");
  expect(decomposed).toHaveLength(3_000);
  expect(await verifyPassword(await hashPassword(longest), decomposed)).toBe(true);
  expect(await reasonOf(decomposed)).not.toBe("password_length");
  expect(await reasonOf(`${decomposed}x`)).toBe("password_length");
});

it("matches nothing for nobody, and nothing far too long", async () => {
  expect(await verifyPassword(undefined, "nobody's password")).toBe(false);
  const stored = await hashPassword("");
  expect(await verifyPassword(stored, "")).toBe(true);
  expect(await verifyPassword(stored, "x".repeat(10_000_000))).toBe(false);
});

it("matches nothing that is no text, and hashes none", async () => {
  const stored = await hashPassword("half a \ufffd character");
  expect(await verifyPassword(stored, "half a \ufffd character")).toBe(true);
  expect(await verifyPassword(stored, "half a \ud800 character")).toBe(false);
  const withNul = await hash("a\0b", { memoryCost: 4_096, timeCost: 1, parallelism: 1 });
  expect(await verifyPassword(withNul, "a\0b")).toBe(false);
  const refused = (reason: string) => ({ code: "INVALID_INPUT", extensions: { reason } });
  await expect(hashPassword("half a \ud800")).rejects.toMatchObject(refused("password_characters"));
  await expect(hashPassword("a\0b")).rejects.toMatchObject(refused("password_characters"));
  await expect(hashPassword("x".repeat(10_000_000))).rejects.toMatchObject(refused("password_length"));
});

it("still takes a hash of smaller parameters, and wants it made anew", async () => {
  const old = await hash("an old password", { memoryCost: 4_096, timeCost: 1, parallelism: 1 });
  expect(await verifyPassword(old, "an old password")).toBe(true);
  expect(needsRehash(old)).toBe(true);
  expect(needsRehash(await hashPassword("a new password"))).toBe(false);
  expect(needsRehash("$argon2i$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA")).toBe(true);
});

/** The module anew, on an argon2 that only counts. */
async function withCountingArgon() {
  const asked: string[] = [];
  const running = { now: 0, most: 0 };
  const work = async (call: string) => {
    asked.push(call);
    running.most = Math.max(running.most, ++running.now);
    await turn();
    running.now--;
  };
  jest.resetModules();
  jest.unstable_mockModule("../src/graphql/errors.ts", () => errors);
  jest.unstable_mockModule("../src/auth/passwordStrength.ts", () => strength);
  jest.unstable_mockModule("@node-rs/argon2", () => ({
    hash: async () => {
      await work("hash");
      return "$argon2id$";
    },
    verify: async (against: string) => {
      await work(against.slice(0, against.lastIndexOf("p=1$") + 4));
      return true;
    },
  }));
  return { asked, running, fresh: await import("../src/auth/passwords.ts") };
}

it("asks argon2 once, for the same work, whether there is a hash or not, from the first sign-in on", async () => {
  const dear = "$argon2id$v=19$m=19456,t=2,p=1$";
  for (const stored of [undefined, `${dear}c2FsdA$aGFzaA`]) {
    const { asked, fresh } = await withCountingArgon();
    expect(await fresh.verifyPassword(stored, "some password")).toBe(stored !== undefined);
    expect(await fresh.verifyPassword(stored, "half a \ud800")).toBe(false);
    expect(asked).toEqual([dear, dear]);
  }
});

it("hashes two at once and keeps 200 waiting, then says when to come back; afterwards all is as before", async () => {
  const { running, fresh } = await withCountingArgon();
  const flood = Array.from({ length: 300 }, () => fresh.hashPassword("x"));
  const tooMany = { code: "RATE_LIMITED", extensions: { retryAfterSeconds: 1 } };
  const refusedUser = expect(fresh.verifyPassword("$argon2id$", "x")).rejects.toMatchObject(tooMany);
  const refusedNobody = expect(fresh.verifyPassword(undefined, "x")).rejects.toMatchObject(tooMany);
  const outcomes = await Promise.allSettled(flood);
  await Promise.all([refusedUser, refusedNobody]);
  const refused = outcomes.filter((outcome) => outcome.status === "rejected");
  expect(refused).toHaveLength(98);
  for (const { reason } of refused) expect(reason).toMatchObject(tooMany);
  expect(running).toEqual({ now: 0, most: 2 });
  expect(await fresh.verifyPassword(undefined, "x")).toBe(false);
  expect(await fresh.verifyPassword("$argon2id$", "x")).toBe(true);
});
