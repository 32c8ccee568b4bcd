import { expect, it } from "@jest/globals";
import { hash } from "@node-rs/argon2";
import { assertAcceptable, hashPassword, needsRehash, verifyPassword } from "../src/auth/passwords.ts";

const reasonOf = (password: string, about: string[] = []): unknown => {
  try {
    assertAcceptable(password, about);
    return "accepted";
  } catch (error) {
    return (error as { extensions: { reason: string } }).extensions.reason;
  }
};

it.each([
  "correct-horse-battery-staple-42",
  "seven purple otters dancing",
  "Zq7#vT9!mLp2",
  "das Nilpferd tanzt um Mitternacht",
])("accepts %s", (password) => {
  expect(reasonOf(password)).toBe("accepted");
});

it.each([
  ["aaaaaaaaaaaa", []],
  ["123456789012", []],
  ["qwertyuiop[]", []],
  ["password1234", []],
  ["Password1234!", []],
  ["nora@acme.test", ["nora@acme.test"]],
  ["acmeretail2026", ["Acme Retail", "acme"]],
])("refuses %s, which is easy to guess", (password, about) => {
  expect(reasonOf(password, about)).toBe("weak_password");
});

it("counts characters, not bytes, from 12 to 1,000", () => {
  expect(reasonOf("Zq7#vT9!mLp")).toBe("password_length");
  expect(reasonOf("🦦🦑🐙🦀🐡🐠🐟🐬🐳🐋🦈")).toBe("password_length");
  expect(reasonOf(`${"Zq7#vT9!mLp2 ".repeat(76)}xxxxxxxxxxxx`)).toBe("accepted");
  expect(reasonOf("Zq7#vT9!mLp2 ".repeat(77))).toBe("password_length");
  expect(reasonOf("x".repeat(10_000_000))).toBe("password_length");
  expect(reasonOf("Zq7#vT9!mLp2\0")).toBe("password_characters");
  expect(reasonOf("Zq7#vT9!mLp2\ud800")).toBe("password_characters");
});

it("knows a password however its letters are composed", async () => {
  const stored = await hashPassword("se\u00f1or ping\u00fcino");
  expect(await verifyPassword(stored, "sen\u0303or pingu\u0308ino")).toBe(true);
  expect(await verifyPassword(stored, "senor pinguino")).toBe(false);
});

it("matches nothing for nobody, and nothing far too long", async () => {
  expect(await verifyPassword(undefined, "nobody's password")).toBe(false);
  const stored = await hashPassword("");
  expect(await verifyPassword(stored, "x".repeat(10_000_000))).toBe(false);
});

it("still takes a hash of smaller parameters, and wants it made anew", async () => {
  const old = await hash("an old password", { memoryCost: 4_096, timeCost: 1, parallelism: 1 });
  expect(await verifyPassword(old, "an old password")).toBe(true);
  expect(needsRehash(old)).toBe(true);
  expect(needsRehash(await hashPassword("a new password"))).toBe(false);
  expect(needsRehash("$argon2i$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA")).toBe(true);
});

it("keeps a queue of hashes that ends, and says when to come back", async () => {
  const outcomes = await Promise.allSettled(Array.from({ length: 300 }, () => hashPassword("x")));
  const refused = outcomes.filter((outcome) => outcome.status === "rejected");
  expect(refused.length).toBeGreaterThan(50);
  for (const { reason } of refused)
    expect(reason).toMatchObject({ code: "RATE_LIMITED", extensions: { retryAfterSeconds: 1 } });
});
