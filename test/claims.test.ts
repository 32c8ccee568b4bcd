import { afterAll, beforeAll, expect, it } from "@jest/globals";
import jwt from "jsonwebtoken";
import type pg from "pg";
import { makePool } from "../src/db/pools.ts";
import { startApi, type TestApi, testKey } from "./support/api.ts";
import { asRequest, claimsFor } from "./support/asRequest.ts";
import { createTestDatabase, silent, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
/** The one connection that all requests of this file share, one after the other. */
let only: pg.Pool;
let api: TestApi;
let acme: TestTenant;
let globex: TestTenant;

beforeAll(async () => {
  database = await createTestDatabase();
  only = makePool(database.urls.authenticator, { name: "test", max: 1, log: silent, pipeline: true });
  api = await startApi({ ...database, authenticator: only });
  acme = await createTenant(database.owner, "acme");
  globex = await createTenant(database.owner, "globex");
  await database.owner.query(
    "insert into api_keys (id, tenant_id, name, scopes) values (gen_random_uuid(), $1, 'Till', '{events:write}')",
    [acme.id],
  );
});
afterAll(async () => {
  await api.close();
  await only.end();
  await database.drop();
});

const SETTINGS = [
  ...[
    "tenant_id",
    "home_tenant_id",
    "user_id",
    "session_id",
    "api_key_id",
    "impersonator_id",
    "impersonator_name",
  ],
  ...["role", "actor_name", "permissions", "ip_address", "user_agent", "request_id"],
].map((name) => `app.${name}`);

it("sets every setting for every request: none keeps what the connection had before", async () => {
  const poison = (setting: string) =>
    setting.endsWith("_id") ? globex.users.admin.id : setting === "app.permissions" ? "audit:read" : "ADMIN";
  for (const setting of SETTINGS)
    await only.query("select set_config($1, $2, false)", [setting, poison(setting)]);
  await only.query("select set_config('app.tenant_id', $1, false)", [globex.id]);
  const read = async () => {
    const client = await only.connect();
    try {
      const { rows } = await client.query(
        `select ${SETTINGS.map((setting, index) => `current_setting('${setting}', true) as s${index}`).join(", ")}`,
      );
      return Object.values(rows[0]);
    } finally {
      client.release();
    }
  };
  const poisoned = await read();
  expect(poisoned).not.toContain("");

  const anonymous = await api.query("{ users { nodes { id } } }");
  expect(anonymous.errors?.[0].extensions.code).toBe("UNAUTHENTICATED");
  const token = api.tokens.sign(await claimsFor(database.owner, acme, "viewer")).token;
  const { data } = await api.query(
    "{ tenants { nodes { slug } } users { nodes { email } } currentUser { email } }",
    {
      token,
    },
  );
  expect(data.tenants.nodes).toEqual([{ slug: "acme" }]);
  expect(data.currentUser.email).toBe("viewer@acme.test");
  const log = await api.query("{ auditLogs(first: 1) { nodes { id } } }", { token });
  expect(log.errors?.[0].extensions).toEqual({ code: "FORBIDDEN", reason: "audit:read" });
  // The settings of each request ended with it.
  expect(await read()).toEqual(poisoned);
  const viewer = await claimsFor(database.owner, acme, "viewer");
  for (const claims of [undefined, viewer])
    await asRequest(only, claims, async (client) => {
      const settings = Object.fromEntries(
        await Promise.all(
          SETTINGS.map(async (name) => {
            const { rows } = await client.query("select current_setting($1, true) as value", [name]);
            return [name.slice("app.".length), rows[0].value];
          }),
        ),
      );
      expect(settings).toEqual({
        tenant_id: claims?.tenant_id ?? "",
        home_tenant_id: "",
        user_id: claims?.sub ?? "",
        session_id: claims?.sid ?? "",
        api_key_id: "",
        impersonator_id: "",
        impersonator_name: "",
        role: claims?.role ?? "",
        actor_name: claims ? "viewer@acme.test" : "",
        permissions: "",
        ip_address: "192.0.2.1",
        user_agent: "test",
        request_id: "",
      });
    });
  await only.query("reset all");
});

it("reads nothing on a connection on which no request was opened", async () => {
  for (const table of [
    "tenants",
    "users",
    "sessions",
    "api_keys",
    "integrations",
    "analytics_events",
    "audit_logs",
  ])
    expect(await refusal(only.query(`select from public.${table}`))).toBe("42501");
});

it("prepares a statement for one role, and still refuses it to the next on the same connection", async () => {
  const tokenOf = async (role: "admin" | "viewer") =>
    api.tokens.sign(await claimsFor(database.owner, acme, role)).token;
  const [admin, viewer] = [await tokenOf("admin"), await tokenOf("viewer")];
  for (const document of [
    "{ auditLogs(first: 1) { nodes { id } } }",
    "{ apiKeys(first: 1) { nodes { id } } }",
  ])
    for (let round = 0; round < 7; round++) {
      expect((await api.query(document, { token: admin })).errors).toBeUndefined();
      expect((await api.query(document, { token: viewer })).errors?.[0].extensions.code).toBe("FORBIDDEN");
    }
});

it("answers 401 to a token of ours whose claims are of any other form", async () => {
  const claims = { ...(await claimsFor(database.owner, acme, "viewer")) };
  const sign = (changed: object) =>
    jwt.sign({ ...claims, ...changed }, testKey.privateKey, {
      ...{ algorithm: "ES256", keyid: testKey.kid, issuer: "erp-analytics", audience: "erp-analytics" },
      expiresIn: "5m",
    });
  const ask = async (token: string) => (await api.query("{ currentUser { id } }", { token })).status;
  expect(await ask(sign({}))).toBe(200);
  const odd = [
    null,
    "",
    [],
    {},
    [acme.id],
    { id: acme.id },
    7,
    true,
    `${acme.id} `,
    "' or true --",
    "\u0000",
    "Ä",
  ];
  for (const claim of ["sub", "tenant_id", "role", "sid", "home_tenant_id"])
    for (const value of odd)
      expect([claim, value, await ask(sign({ [claim]: value }))]).toEqual([claim, value, 401]);
});

it("refuses claims that do not belong together, though each is well formed", async () => {
  const mine = await claimsFor(database.owner, acme, "viewer");
  const theirs = await claimsFor(database.owner, globex, "admin");
  for (const mixed of [
    { ...mine, tenant_id: globex.id },
    { ...mine, sid: theirs.sid },
    { ...mine, sub: theirs.sub },
    { ...mine, role: "ADMIN" as const },
    { ...mine, role: "SUPER_ADMIN" as const },
    { ...mine, home_tenant_id: acme.id },
    { ...mine, tenant_id: globex.id, home_tenant_id: acme.id },
    { ...mine, tenant_id: globex.id, role: "ADMIN" as const, home_tenant_id: acme.id },
  ]) {
    const { errors, data } = await api.query("{ users { nodes { id } } }", {
      token: api.tokens.sign(mixed).token,
    });
    expect(data).toEqual({ users: null });
    expect(errors?.[0].extensions.code).toBe("UNAUTHENTICATED");
  }
});

it("has no function in the API that sets settings or runs SQL that it is given", async () => {
  const { rows } = await database.owner.query(
    `select proname from pg_proc
      where pronamespace = 'public'::regnamespace and prosrc ~* '\\m(set_config|execute|set\\s+(local\\s+)?role)\\M'`,
  );
  expect(rows).toEqual([]);
});
