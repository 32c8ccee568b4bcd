import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { Ajv2020 } from "ajv/dist/2020.js";
import { pino } from "pino";
import { openCredentials, sealed } from "../src/crypto/sealed.ts";
import { connectors } from "../tasks/connectors/index.ts";
import { type Answer, startApi, type TestApi, testKeyRing } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, SQUARE_CONFIG, type TestTenant } from "./support/tenants.ts";

const SECRET = "EAAAEsecret/of+acme==";
const CONFIG = { environment: "simulator", locationIds: ["L1"] };
let database: TestDatabase;
let api: TestApi;
let provider: Server;
/** How the provider answers next; what it was asked. */
let answer: "well" | "never" | "echo" = "well";
const asked: (string | undefined)[] = [];
const logged: string[] = [];
let acme: TestTenant;
let globex: TestTenant;
let admin: string;

beforeAll(async () => {
  database = await createTestDatabase();
  provider = createServer((request, response) => {
    const { authorization } = request.headers;
    asked.push(authorization);
    if (answer === "never") return;
    const say = (status: number, body: object) => response.writeHead(status).end(JSON.stringify(body));
    const error = (code: string, detail: string) => ({ errors: [{ category: "AUTH", code, detail }] });
    if (answer === "echo")
      return say(400, error("BAD", `What is ${authorization}, ${encodeURIComponent(SECRET)}?`));
    if (authorization !== `Bearer ${SECRET}`) return say(401, error("UNAUTHORIZED", "This token is unknown"));
    say(200, { locations: [{ id: "L1", name: "Downtown" }] });
  });
  await new Promise<void>((listening) => provider.listen(0, "127.0.0.1", listening));
  api = await startApi(database, {
    simulatorUrl: `http://127.0.0.1:${(provider.address() as AddressInfo).port}`,
    log: pino({ level: "trace" }, { write: (line) => logged.push(line) }),
  });
  acme = await createTenant(database.owner, "acme");
  globex = await createTenant(database.owner, "globex");
  await owner("update tenants set max_integrations = 100");
  admin = await api.signIn("acme", "admin");
});
afterAll(async () => {
  await api.close();
  provider.closeAllConnections();
  provider.close();
  await database.drop();
});
beforeEach(async () => {
  answer = "well";
  await database.owner.query("truncate app_private.rate_limits");
});

const mutate = (name: string, input: object, payload: string, token = admin) => {
  const type = `${name[0]?.toUpperCase()}${name.slice(1)}Input`;
  return api.query(`mutation ($input: ${type}!) { ${name}(input: $input) { ${payload} } }`, {
    token,
    variables: { input },
  });
};
const refusal = ({ errors }: Answer) => ({ message: errors?.[0].message, ...errors?.[0].extensions });
const create = (config: unknown, others: object = {}, token = admin) =>
  mutate(
    "createIntegration",
    { integration: { name: "Till", provider: "square", config, ...others } },
    "integration { id config status credentialsSetAt }",
    token,
  );
const setCredentials = (integrationId: string, credentials: unknown, token = admin) =>
  mutate(
    "setIntegrationCredentials",
    { integrationId, credentials },
    "integration { id status syncError credentialsSetAt }",
    token,
  );
const test = (input: object, token = admin) =>
  mutate(
    "testIntegrationConnection",
    { provider: "square", config: CONFIG, ...input },
    "ok account errorClass error",
    token,
  );
const owner = async (sql: string, values: unknown[] = []) => (await database.owner.query(sql, values)).rows;
const keptOf = async (integrationId: string, table = "integration_credentials") =>
  sealed.array().parse(
    await owner(
      `select c.version, c.key_version, c.ciphertext, k.kek_id, k.wrapped_key from app_private.${table} c
           join app_private.tenant_keys k on k.tenant_id = c.tenant_id and k.version = c.key_version
          where c.integration_id = $1 order by c.version`,
      [integrationId],
    ),
  );

// --- Providers

const PROVIDERS = /* GraphQL */ `
  { availableProviders {
      provider name configSchema credentialsSchema environments webhooks streams { name description } } }
`;

it("shows nobody providers who is not signed in, or no longer", async () => {
  expect(refusal(await api.query(PROVIDERS)).code).toBe("UNAUTHENTICATED");
  const viewer = await api.signIn("globex", "viewer");
  expect((await api.query(PROVIDERS, { token: viewer })).errors).toBeUndefined();
  await owner("update users set status = 'SUSPENDED' where id = $1", [globex.users.viewer.id]);
  expect(refusal(await api.query(PROVIDERS, { token: viewer })).reason).toBe("revoked");
});

it("lists every connector with JSON Schemas that fill a form", async () => {
  const { data } = await api.query(PROVIDERS, { token: admin });
  expect(data.availableProviders.map((one: { provider: string }) => one.provider)).toEqual(
    connectors.map((connector) => connector.provider),
  );
  const ajv = new Ajv2020({ strict: false, validateFormats: false });
  for (const { configSchema, credentialsSchema } of data.availableProviders)
    for (const schema of [configSchema, credentialsSchema]) {
      expect(schema.$schema).toBe("https://json-schema.org/draft/2020-12/schema");
      ajv.compile(schema);
      for (const [field, { title, description }] of Object.entries<Record<string, unknown>>(
        schema.properties,
      ))
        expect({ field, title, description }).toEqual({
          field,
          title: expect.stringMatching(/^[A-Z]/),
          description: expect.stringMatching(/\.$/),
        });
    }
});

it("says of Square what its connector takes", async () => {
  const { data } = await api.query(PROVIDERS, { token: admin });
  const square = data.availableProviders.find((one: { provider: string }) => one.provider === "square");
  expect(square).toMatchObject({
    name: "Square",
    environments: ["production", "sandbox", "simulator"],
    credentialsSchema: {
      properties: { accessToken: { type: "string", writeOnly: true, format: "password" } },
    },
    streams: expect.arrayContaining([expect.objectContaining({ name: "orders" })]),
  });
  const validate = new Ajv2020({ strict: false, validateFormats: false }).compile(square.configSchema);
  expect([
    validate(CONFIG),
    validate({ ...CONFIG, backfillDays: 5 }),
    validate({ ...CONFIG, accessToken: "x" }),
    validate({ environment: "sandbox" }),
  ]).toEqual([true, true, false, false]);
});

it("offers the simulator only where there is one", async () => {
  const without = await startApi(database);
  try {
    const { data } = await without.query(PROVIDERS, { token: admin });
    const square = data.availableProviders.find((one: { provider: string }) => one.provider === "square");
    expect(square.environments).toEqual(["production", "sandbox"]);
    expect(square.configSchema.properties.environment.enum).toEqual(["production", "sandbox"]);
    const refused = await without.query(
      'mutation ($config: JSON!) { createIntegration(input: { integration: { name: "T", provider: "square", config: $config } }) { integration { id } } }',
      { token: admin, variables: { config: CONFIG } },
    );
    expect(refusal(refused).message).toBe(
      "config.environment: is not available here; there are: production, sandbox.",
    );
  } finally {
    await without.close();
  }
});

// --- Settings

it.each([
  ["no settings", {}, "config.environment"],
  ["no object", [], "config"],
  ["an unknown environment", { ...CONFIG, environment: "mars" }, "config.environment"],
  ["a number for a location", { ...CONFIG, locationIds: [7] }, "config.locationIds[0]"],
  ["an unknown field", { ...CONFIG, pagesize: 7 }, "config.pagesize"],
  ["an unknown field beside a missing one", { locationIds: ["L1"], pagesize: 7 }, "config.pagesize"],
  ["a credential", { ...CONFIG, accessToken: SECRET }, "config.accessToken"],
  ["a number out of range", { ...CONFIG, backfillDays: 0 }, "config.backfillDays"],
  ["a name of the prototype", { ...CONFIG, constructor: 1 }, "config.constructor"],
  ["a character that cannot be stored", { ...CONFIG, locationIds: ["L1", "a\0b"] }, "config.locationIds[1]"],
])("refuses settings with %s", async (_case, config, field) => {
  const answered = await create(config);
  expect(refusal(answered)).toMatchObject({ code: "INVALID_INPUT", reason: "misfit" });
  expect(refusal(answered).fields).toContain(field);
  expect(refusal(answered).message).toContain(`${field}: `);
  expect(JSON.stringify(answered)).not.toContain(SECRET);
});

it.each([
  [{ eventType: { column: "" } }, "config.eventType.column"],
  [{ eventType: { column: "a", valves: {} } }, "config.eventType.valves"],
  [{ eventType: { constant: 7 } }, "config.eventType.constant"],
])("names the place within a part that has several forms: %j", async (part, field) => {
  const answered = await create(part, { provider: "csv" });
  expect(refusal(answered).fields).toContain(field);
});

it("refuses a provider that nobody can pull from, and names those that there are", async () => {
  expect(refusal(await create(CONFIG, { provider: "squire" }))).toMatchObject({
    code: "INVALID_INPUT",
    reason: "unknown_provider",
    field: "provider",
    message: expect.stringMatching(/no connector for "squire"\. There are: .*square/),
  });
});

it("stores settings as they were given, without what is left to defaults", async () => {
  const config = { ...CONFIG, backfillDays: 15 };
  const { data } = await create(config);
  expect(data.createIntegration.integration).toMatchObject({
    config,
    status: "PENDING",
    credentialsSetAt: null,
  });
});

it("checks settings again when they change, and only then", async () => {
  const { data } = await create(SQUARE_CONFIG);
  const { id } = data.createIntegration.integration;
  const update = (patch: object, of = id) =>
    mutate("updateIntegration", { id: of, patch }, "integration { name config }");
  expect(refusal(await update({ config: { environment: "sandbox" } }))).toMatchObject({
    code: "INVALID_INPUT",
    fields: ["config.locationIds"],
  });
  expect((await update({ config: CONFIG, name: "Kiosk" })).data.updateIntegration.integration).toEqual({
    name: "Kiosk",
    config: CONFIG,
  });
  // What a DBA stored is checked when it is used.
  await owner("update integrations set config = '{}', provider = 'old-shop' where id = $1", [id]);
  expect((await update({ name: "Old" })).errors).toBeUndefined();
  expect(refusal(await update({ config: CONFIG })).reason).toBe("unknown_provider");
  expect(refusal(await update({ config: {} }, globex.integrationId)).code).toBe("NOT_FOUND");
});

// --- Credentials

it("lets nobody set credentials without the permission, or of another tenant", async () => {
  const viewer = await api.signIn("acme", "viewer");
  expect(refusal(await setCredentials(acme.integrationId, { accessToken: SECRET }, viewer))).toMatchObject({
    code: "FORBIDDEN",
    reason: "integrations:manage",
  });
  const there = await owner("select from integrations where id = $1", [globex.integrationId]);
  expect(there).toHaveLength(1);
  expect(refusal(await setCredentials(globex.integrationId, { accessToken: SECRET })).code).toBe("NOT_FOUND");
  expect(await owner("select from app_private.integration_credentials")).toEqual([]);
  await owner("update users set permissions = '{integrations:manage}' where id = $1", [acme.users.viewer.id]);
  const granted = await api.signIn("acme", "viewer");
  expect((await setCredentials(acme.integrationId, { accessToken: SECRET }, granted)).errors).toBeUndefined();
});

it("seals credentials under the tenant's key, keeps the last ones for webhooks, and says when they were set", async () => {
  const { data } = await create(CONFIG);
  const { id: integrationId } = data.createIntegration.integration;
  await owner("update integrations set status = 'ERROR', sync_error = 'Revoked.' where id = $1", [
    integrationId,
  ]);
  const { data: first, errors } = await setCredentials(integrationId, { accessToken: SECRET });
  expect(errors).toBeUndefined();
  expect(first.setIntegrationCredentials.integration).toEqual({
    id: integrationId,
    status: "PENDING",
    syncError: null,
    credentialsSetAt: expect.stringMatching(/^20/),
  });
  await setCredentials(integrationId, { accessToken: "the second one" });

  const place = { tenantId: acme.id, integrationId };
  const [now] = await keptOf(integrationId);
  const [before] = await keptOf(integrationId, "retired_credentials");
  if (!now || !before) throw new Error("Nothing was kept.");
  expect([now.version, before.version]).toEqual([2, 1]);
  expect(JSON.parse(openCredentials(testKeyRing, place, now))).toEqual({ accessToken: "the second one" });
  expect(JSON.parse(openCredentials(testKeyRing, place, before))).toEqual({ accessToken: SECRET });
  expect(() => openCredentials(testKeyRing, { ...place, tenantId: globex.id }, now)).toThrow();

  const log = await owner(
    "select action, actor_id, changes from audit_logs where resource_id = $1 and action = 'integration.credentials_set' order by created_at, id",
    [integrationId],
  );
  expect(log).toEqual([
    {
      action: "integration.credentials_set",
      actor_id: acme.users.admin.id,
      changes: expect.objectContaining({ after: expect.objectContaining({ version: 1, ciphertext: "***" }) }),
    },
    {
      action: "integration.credentials_set",
      actor_id: acme.users.admin.id,
      changes: { before: { version: 1, ciphertext: "***" }, after: { version: 2, ciphertext: "***" } },
    },
  ]);
});

it("leaves a disabled integration disabled, and an active one active", async () => {
  for (const status of ["DISABLED", "ACTIVE"]) {
    const { data } = await create(CONFIG);
    const { id } = data.createIntegration.integration;
    await owner("update integrations set status = $2 where id = $1", [id, status]);
    const set = await setCredentials(id, { accessToken: SECRET });
    expect(set.data.setIntegrationCredentials.integration.status).toBe(status);
  }
});

it("makes a tenant's first key once, whoever comes first", async () => {
  const integrations = await Promise.all(
    Array.from({ length: 6 }, async (_, index) => {
      const [row] = await owner(
        "insert into integrations (tenant_id, name, provider, config) values ($1, $2, 'square', $3) returning id",
        [globex.id, `Till ${index}`, CONFIG],
      );
      return row.id as string;
    }),
  );
  const globexAdmin = await api.signIn("globex", "admin");
  const answers = await Promise.all(
    integrations.map((id, index) => setCredentials(id, { accessToken: `token of ${index}` }, globexAdmin)),
  );
  expect(answers.map(({ errors }) => errors)).toEqual(Array(6).fill(undefined));
  expect(
    await owner("select version from app_private.tenant_keys where tenant_id = $1", [globex.id]),
  ).toEqual([{ version: 1 }]);
  for (const [index, integrationId] of integrations.entries())
    for (const kept of await keptOf(integrationId))
      expect(openCredentials(testKeyRing, { tenantId: globex.id, integrationId }, kept)).toContain(
        `of ${index}`,
      );
});

it("keeps the later of two that set credentials at once, and both versions", async () => {
  const { data } = await create(CONFIG);
  const { id } = data.createIntegration.integration;
  const tokens = Array.from({ length: 5 }, (_, index) => `token number ${index}`);
  const answers = await Promise.all(tokens.map((accessToken) => setCredentials(id, { accessToken })));
  expect(answers.map(({ errors }) => errors)).toEqual(Array(5).fill(undefined));
  const kept = [...(await keptOf(id, "retired_credentials")), ...(await keptOf(id))];
  expect(kept.map(({ version }) => version)).toEqual([1, 2, 3, 4, 5]);
  const opened = kept.map((one) =>
    openCredentials(testKeyRing, { tenantId: acme.id, integrationId: id }, one),
  );
  expect(opened.map((text) => JSON.parse(text).accessToken).sort()).toEqual(tokens);
});

it.each([
  ["no object", SECRET, "credentials"],
  ["nothing", {}, "credentials.accessToken"],
  ["a number", { accessToken: 7 }, "credentials.accessToken"],
  ["an unknown field", { accessToken: SECRET, [SECRET]: SECRET }, "credentials"],
  ["settings", { accessToken: SECRET, environment: "sandbox" }, "credentials"],
])("refuses credentials with %s, by the place and not the value", async (_case, credentials, field) => {
  const answered = await setCredentials(acme.integrationId, credentials);
  expect(refusal(answered)).toMatchObject({ code: "INVALID_INPUT", reason: "misfit" });
  expect(refusal(answered).fields).toEqual([field]);
  expect(JSON.stringify(answered)).not.toContain(SECRET);
});

it("quotes no credentials when the input around them is wrong", async () => {
  const inputs = [
    { integrationId: acme.integrationId, credentials: { accessToken: SECRET }, bogus: 1 },
    { integrationId: "no uuid", credentials: { accessToken: SECRET } },
    { credentials: { accessToken: SECRET } },
    [{ integrationId: acme.integrationId, credentials: { accessToken: SECRET } }, 1],
  ];
  for (const input of inputs) {
    const answered = await mutate("setIntegrationCredentials", input, "integration { id }");
    expect(refusal(answered).code).toBe("INVALID_INPUT");
    expect(JSON.stringify(answered)).not.toContain(SECRET);
  }
});

// --- Tests of a connection

it("lets nobody try connections without the permission, or with another tenant's credentials", async () => {
  const user = await api.signIn("acme", "user");
  asked.length = 0;
  expect(refusal(await test({ credentials: { accessToken: SECRET } }, user)).code).toBe("FORBIDDEN");
  expect(refusal(await test({ integrationId: globex.integrationId })).code).toBe("NOT_FOUND");
  expect(asked).toEqual([]);
});

it("tries settings and credentials before they are kept", async () => {
  const { data } = await test({ credentials: { accessToken: SECRET } });
  expect(data.testIntegrationConnection).toEqual({
    ok: true,
    account: "Downtown",
    errorClass: null,
    error: null,
  });
  const wrong = await test({ credentials: { accessToken: "another token" } });
  expect(wrong.data.testIntegrationConnection).toMatchObject({
    ok: false,
    account: null,
    errorClass: "needs_reauth",
    error: expect.stringContaining("This token is unknown"),
  });
  const elsewhere = await test({
    config: { ...CONFIG, locationIds: ["L9"] },
    credentials: { accessToken: SECRET },
  });
  expect(elsewhere.data.testIntegrationConnection).toMatchObject({ ok: false, errorClass: "refused" });
});

it("tries the credentials that an integration has", async () => {
  const { data } = await create(CONFIG);
  const integrationId = data.createIntegration.integration.id;
  expect(refusal(await test({ integrationId })).fields).toEqual(["credentials.accessToken"]);
  await setCredentials(integrationId, { accessToken: SECRET });
  expect((await test({ integrationId })).data.testIntegrationConnection.ok).toBe(true);
  expect(asked.at(-1)).toBe(`Bearer ${SECRET}`);
});

it("says nothing of a secret that a provider sends back", async () => {
  answer = "echo";
  const { data } = await test({ credentials: { accessToken: SECRET } });
  expect(data.testIntegrationConnection).toMatchObject({
    ok: false,
    error: expect.stringContaining("What is Bearer ***, ***?"),
  });
});

it("refuses a test without credentials, and one that is not alone", async () => {
  expect(refusal(await test({})).fields).toEqual(["credentials.accessToken"]);
  const { errors } = await api.query(
    "mutation ($i: TestIntegrationConnectionInput!) { a: testIntegrationConnection(input: $i) { ok } logout(input: {}) { sessionId } }",
    { token: admin, variables: { i: { provider: "square", config: CONFIG } } },
  );
  expect(errors?.[0].message).toMatch(/must be the only field/);
});

it("waits for a provider only so long, with no transaction open", async () => {
  answer = "never";
  const waiting = test({ credentials: { accessToken: SECRET } });
  asked.length = 0;
  while (asked.length === 0) await new Promise((soon) => setTimeout(soon, 20));
  const open = await owner(
    "select query from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'",
  );
  expect(open).toEqual([]);
  expect((await waiting).data.testIntegrationConnection).toMatchObject({
    ok: false,
    errorClass: "unreachable",
  });
});

it("holds a tenant to 20 tests in five minutes", async () => {
  for (let index = 0; index < 20; index++)
    expect((await test({ credentials: { accessToken: SECRET } })).errors).toBeUndefined();
  const refused = refusal(await test({ credentials: { accessToken: SECRET } }));
  expect(refused).toMatchObject({ code: "RATE_LIMITED", retryAfterSeconds: expect.any(Number) });
  const other = await api.signIn("globex", "admin");
  expect((await test({ credentials: { accessToken: SECRET } }, other)).errors).toBeUndefined();
});

// --- After all of the above

it("has left no secret in a table or in the log", async () => {
  const tables = await owner(
    "select format('%I.%I', schemaname, tablename) as name from pg_tables where schemaname not in ('pg_catalog', 'information_schema')",
  );
  const forms = (text: string) => [
    text,
    Buffer.from(text).toString("base64"),
    Buffer.from(text).toString("hex"),
  ];
  const places = async (text: string) => {
    const found: string[] = [];
    for (const { name } of tables) {
      const [{ hits }] = await owner(
        `select count(*)::integer as hits from ${name} t where exists (select from unnest($1::text[]) f where t::text ilike '%' || f || '%')`,
        [forms(text)],
      );
      if (hits > 0) found.push(name);
    }
    return found;
  };
  await owner("update integrations set description = $2 where id = $1", [
    acme.integrationId,
    "planted canary",
  ]);
  expect(await places("planted canary")).toContain("public.integrations");
  expect(await places(SECRET)).toEqual([]);
  expect(logged.join("")).toMatch(/graphql/);
  for (const form of [...forms(SECRET), encodeURIComponent(SECRET)])
    expect(logged.join("")).not.toContain(form);
});
