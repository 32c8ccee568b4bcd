import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { pino } from "pino";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, PASSWORD } from "./support/tenants.ts";

let database: TestDatabase;
let api: TestApi;
const warnings: { address?: string; msg: string }[] = [];

beforeAll(async () => {
  database = await createTestDatabase();
  const log = pino({ level: "warn" }, { write: (line) => void warnings.push(JSON.parse(line)) });
  api = await startApi(database, { config: { TRUST_PROXY: ["loopback", "10.0.0.0/8"] }, log });
  await createTenant(database.owner, "acme");
});
afterAll(async () => {
  await api.close();
  await database.drop();
});

/** The address that a sign-in behind these proxies is written down with. */
async function addressOf(forwardedFor: string): Promise<string | null> {
  await database.owner.query("truncate app_private.rate_limits");
  const query = "mutation ($input: LoginInput!) { login(input: $input) { accessToken } }";
  const input = { tenant: "acme", email: "admin@acme.test", password: PASSWORD };
  const response = await fetch(`${api.url}/graphql`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-forwarded-for": forwardedFor },
    body: JSON.stringify({ query, variables: { input } }),
  });
  expect(await response.json()).not.toHaveProperty("errors");
  const { rows } = await database.owner.query("select ip_address from sessions order by id desc limit 1");
  return rows[0].ip_address;
}

it.each([
  ["9.9.9.9", "9.9.9.9"],
  ["9.9.9.9:1234", "9.9.9.9"],
  ["[2001:db8::1]:443", "2001:db8::1"],
  ["[2001:db8::1]", "2001:db8::1"],
  ["2001:db8::1", "2001:db8::1"],
  ["::ffff:9.9.9.9", "9.9.9.9"],
  ["[::ffff:9.9.9.9]:443", "9.9.9.9"],
  ["9.9.9.9:1234, 10.0.0.5:8080", "9.9.9.9"],
  ["1.1.1.1, 9.9.9.9:1234", "9.9.9.9"],
])("takes %s in X-Forwarded-For for %s", async (forwardedFor, address) => {
  expect(await addressOf(forwardedFor)).toBe(address);
  expect(warnings).toEqual([]);
});

it("says once that a proxy sends something that is no address", async () => {
  for (const forwardedFor of ["_hidden", "unknown", "9.9.9.9:1234:5"])
    expect(await addressOf(forwardedFor)).toBeNull();
  expect(warnings).toEqual([
    expect.objectContaining({ level: 40, address: "_hidden", msg: expect.stringContaining("TRUST_PROXY") }),
  ]);
});
