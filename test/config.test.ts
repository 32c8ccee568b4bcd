import { expect, it } from "@jest/globals";
import { loadConfig, UserError } from "../src/config.ts";
import { keyRingOf } from "../src/crypto/keyRing.ts";

const complaint = (environment: Record<string, string>): string => {
  try {
    loadConfig(environment);
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return String(error);
  }
  return "";
};

it("names every bad or misspelt setting at once, and tells what is secret to nobody", () => {
  const said = complaint({ PORT: "http", SMTP_UR: "x", DATABASE_URL: "mysql://u:hunter2@h/d", PATH: "/bin" });
  expect(said).toContain('PORT is "http": must be a port number');
  expect(said).toContain("SMTP_UR is not a setting (did you mean SMTP_URL?)");
  expect(said).toContain("DATABASE_URL must be a URL such as postgresql://");
  expect(said).not.toMatch(/hunter2|PATH/);
});

it("counts an empty setting as unset, and takes the host's own variables for none of ours", () => {
  expect(loadConfig({ PORT: "", HOST: "0.0.0.0", HOME: "/h", POST: "1" })).toMatchObject({
    PORT: 4000,
    HOST: "0.0.0.0",
  });
});

it.each([
  "smtps://user:password@mail.example:465",
  "smtp://mail.example",
  "smtp://mail.example:587/?requireTLS=true",
])("takes %s as SMTP_URL", (SMTP_URL) => expect(loadConfig({ SMTP_URL }).SMTP_URL).toBe(SMTP_URL));

it.each([
  "mail.example",
  "https://mail.example",
  "smtp://",
  "smtp:mail.example",
  "smtps://mail.example/?logger=true",
  "smtps://mail.example/?debug=true",
  "smtps://mail.example/?tls.rejectUnauthorized=false",
  "smtp://mail.example/?requireTLS=false",
])("refuses %s as SMTP_URL", (SMTP_URL) =>
  expect(complaint({ SMTP_URL })).toContain("SMTP_URL must be a URL such as smtps://"),
);

it.each([
  ["no pair", "AAAA", /id:base64 pairs/],
  ["a short key", "a:AAAA", /"a" has 3 bytes instead of 32/],
  ["one id twice", ["a", "a"].map((id) => `${id}:${Buffer.alloc(32).toString("base64")}`).join(), /same id/],
])("refuses ENCRYPTION_KEYS with %s", (_case, keys, reason) =>
  expect(() => keyRingOf(keys, [])).toThrow(reason),
);
