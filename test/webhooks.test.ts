import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { pino } from "pino";
import { startApi, type TestApi, testKeyRing } from "./support/api.ts";
import { setCredentials } from "./support/credentials.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { echo, echoSignature } from "./support/echo.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { createEcho, deliver, PUBLIC_URL, SECRET, VERIFY_TOKEN, webhookUrl } from "./support/webhooks.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
const lines: string[] = [];

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database, {
    connectors: [echo],
    publicUrl: `${PUBLIC_URL}/`,
    log: pino({ level: "debug" }, { write: (line: string) => lines.push(line) }),
  });
});
afterAll(async () => {
  await api.close();
  await database.drop();
});
let count = 0;
beforeEach(async () => {
  await database.owner.query("delete from app_private.rate_limits");
  lines.length = 0;
  acme = await createEcho(database.owner, `acme${++count}`);
});

const order = (id = "1", more: object = {}) => ({
  id: `delivery-${id}`,
  things: [{ id, version: 1, value: "12.50" }],
  ...more,
});
const kept = async (integrationId = acme.integrationId) => {
  const { rows } = await database.owner.query(
    "select * from app_private.webhook_deliveries where integration_id = $1 order by received_at",
    [integrationId],
  );
  return rows;
};
const jobs = async () =>
  (await database.owner.query("select from graphile_worker.jobs where task_identifier = 'process_webhook'"))
    .rowCount;
/** What a sender can tell one refusal from another by, but for the request's own id. */
const seen = ({ status, headers, problem }: Awaited<ReturnType<typeof deliver>>) => {
  const { requestId, ...others } = problem;
  const named = [...headers.keys()].filter((name) => !["date", "x-request-id"].includes(name));
  return { status, others, named, type: headers.get("content-type") };
};

it("keeps a delivery as it came, with its job, and answers 200 within a second", async () => {
  const before = await jobs();
  const body = `${JSON.stringify(order())}\n `;
  const answer = await deliver(api, acme.integrationId, body, {
    headers: { "x-echo-topic": "things", authorization: "Basic c2VjcmV0", "x-forwarded-for": "1.2.3.4" },
  });
  expect(answer).toMatchObject({ status: 200, text: "" });
  const rows = await kept();
  expect(rows).toEqual([
    expect.objectContaining({ tenant_id: acme.id, delivery_id: "delivery-1", state: "pending" }),
  ]);
  expect(rows[0].body.toString()).toBe(body);
  expect(rows[0].headers).toEqual([
    ["content-type", "application/json"],
    ["x-echo-topic", "things"],
  ]);
  expect(await jobs()).toBe((before ?? 0) + 1);
  const times = [];
  for (const id of ["2", "3", "4", "5", "6"])
    times.push((await deliver(api, acme.integrationId, { id })).milliseconds);
  // Other tests have the machine, too.
  expect(Math.min(...times)).toBeLessThan(1_000);
});

it("refuses an address that cannot be read", async () => {
  for (const path of ["/v1/webhooks/%E0%A4%A", "/v1/integrations/%E0%A4%A/files"]) {
    const response = await fetch(`${api.url}${path}`, { method: "POST" });
    expect([response.status, await response.json()]).toEqual([
      400,
      expect.objectContaining({ code: "INVALID_INPUT" }),
    ]);
  }
});

it("keeps the same delivery once, however often it comes at a time, and answers 200 each time", async () => {
  const before = await jobs();
  const answers = await Promise.all(
    Array.from({ length: 8 }, () => deliver(api, acme.integrationId, order())),
  );
  expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 8 }, () => 200));
  expect((await deliver(api, acme.integrationId, order())).status).toBe(200);
  expect(await kept()).toHaveLength(1);
  expect(await jobs()).toBe((before ?? 0) + 1);
});

it("keeps deliveries whose ids PostgreSQL cannot, under a hash, and the same once", async () => {
  for (const id of ["x".repeat(300), "nul\0", "x".repeat(300)])
    expect((await deliver(api, acme.integrationId, { id })).status).toBe(200);
  const rows = await kept();
  expect(rows.map(({ delivery_id }) => delivery_id)).toEqual([
    expect.stringMatching(/^[0-9a-f]{64}$/),
    expect.stringMatching(/^[0-9a-f]{64}$/),
  ]);
});

it("answers whoever may not send in one way, in the same time, and keeps nothing", async () => {
  const globex = await createTenant(database.owner, `globex${count}`, { events: [] });
  const closed = await createEcho(database.owner, `closed${count}`);
  const shut = await createEcho(database.owner, `shut${count}`);
  await database.owner.query("update integrations set status = 'DISABLED' where id = $1", [
    closed.integrationId,
  ]);
  await database.owner.query("update tenants set status = 'SUSPENDED' where id = $1", [shut.id]);
  const text = JSON.stringify(order());
  const refused = {
    unknown: await deliver(api, "019a0000-0000-7000-8000-000000000001", text),
    "no id": await deliver(api, "nobody", text),
    "without webhooks": await deliver(api, globex.integrationId, text),
    disabled: await deliver(api, closed.integrationId, text),
    suspended: await deliver(api, shut.integrationId, text),
    "another secret": await deliver(api, acme.integrationId, text, { secret: "another" }),
    "another address": await deliver(api, acme.integrationId, text, {
      signedUrl: `${api.url}/v1/webhooks/${acme.integrationId}`,
    }),
    "a changed byte": await deliver(api, acme.integrationId, text.replace("12.50", "12.51"), {
      signed: text,
    }),
    "no signature": await deliver(api, acme.integrationId, text, { headers: { "x-echo-signature": "" } }),
  };
  const [first] = Object.values(refused);
  expect(first && seen(first)).toMatchObject({
    status: 404,
    type: expect.stringContaining("application/problem+json"),
    others: { code: "NOT_FOUND" },
  });
  for (const [name, answer] of Object.entries(refused)) {
    expect({ name, ...seen(answer) }).toEqual({ name, ...(first && seen(first)) });
    expect(answer.milliseconds).toBeGreaterThan(95);
  }
  for (const { integrationId } of [acme, globex, closed, shut]) expect(await kept(integrationId)).toEqual([]);
  // Each of them was refused for its own reason: signed rightly, this one is kept.
  expect((await deliver(api, acme.integrationId, text)).status).toBe(200);
});

it("takes the secret before for a day, whichever of the two signs", async () => {
  const place = { tenantId: acme.id, integrationId: acme.integrationId };
  await setCredentials(database.owner, testKeyRing, place, { secret: "new", verifyToken: "new" });
  const send = async (id: string, secret: string) =>
    (await deliver(api, acme.integrationId, { id }, { secret })).status;
  expect([await send("1", SECRET), await send("2", "new"), await send("3", "neither")]).toEqual([
    200, 200, 404,
  ]);
  await database.owner.query(
    "update app_private.retired_credentials set retired_at = now() - interval '25 hours' where tenant_id = $1",
    [acme.id],
  );
  expect([await send("4", SECRET), await send("5", "new")]).toEqual([404, 200]);
});

it.each([
  ["5 minutes ago", -4.9, 200],
  ["in 5 minutes", 4.9, 200],
  ["too long ago", -5.2, 400],
  ["too far ahead", 5.2, 400],
])("of what says when it was sent, %s: %d minutes, %d", async (_case, minutes, status) => {
  const sentAt = new Date(Date.now() + minutes * 60_000).toISOString();
  const answer = await deliver(api, acme.integrationId, order("1", { sentAt }));
  expect(answer.status).toBe(status);
  expect(answer.problem.reason).toBe(status === 400 ? "not_now" : undefined);
  expect(await kept()).toHaveLength(status === 200 ? 1 : 0);
});

it("refuses what is signed but not readable, and quotes nothing of it", async () => {
  const answer = await deliver(api, acme.integrationId, '{"card": "canary-4111');
  expect(answer).toMatchObject({ status: 400, problem: { code: "INVALID_INPUT", reason: "unreadable" } });
  expect(answer.text + lines.join()).not.toContain("canary-4111");
});

it("answers the provider that asks whether the address is ours, and no other", async () => {
  const ask = async (token: string, id = acme.integrationId) => {
    const query = new URLSearchParams({
      "hub.mode": "subscribe",
      "hub.verify_token": token,
      "hub.challenge": "<b>1158201444</b>",
    });
    const response = await fetch(`${api.url}/v1/webhooks/${id}?${query}`);
    return {
      status: response.status,
      type: response.headers.get("content-type"),
      text: await response.text(),
    };
  };
  expect(await ask(VERIFY_TOKEN)).toEqual({
    status: 200,
    type: "text/plain; charset=utf-8",
    text: "<b>1158201444</b>",
  });
  expect((await ask("wrong")).status).toBe(404);
  expect((await ask(VERIFY_TOKEN, "019a0000-0000-7000-8000-000000000001")).status).toBe(404);
  // Requests are logged here, and the token is in their address.
  expect(lines.join()).toContain(`/v1/webhooks/${acme.integrationId}`);
  expect(lines.join()).not.toContain(VERIFY_TOKEN);
});

it("takes a MiB and no more, as it was sent, by POST", async () => {
  const big = (length: number) => {
    const body = { id: "big", pad: "" };
    return JSON.stringify({ ...body, pad: "x".repeat(length - JSON.stringify(body).length) });
  };
  expect((await deliver(api, acme.integrationId, big(2 ** 20))).status).toBe(200);
  expect(await deliver(api, acme.integrationId, big(2 ** 20 + 1))).toMatchObject({
    status: 413,
    problem: { code: "INVALID_INPUT", reason: "too_large" },
  });
  const packed = await deliver(api, acme.integrationId, "{}", { headers: { "content-encoding": "gzip" } });
  expect(packed).toMatchObject({ status: 415, problem: { code: "INVALID_INPUT" } });
  const put = await fetch(`${api.url}/v1/webhooks/${acme.integrationId}`, { method: "PUT" });
  expect([put.status, put.headers.get("allow")]).toEqual([405, "GET, POST"]);
});

it("counts what it refuses against an address, and what it keeps against the integration", async () => {
  // Far beyond the limit: buckets refill while the test runs.
  const fill = (bucket: string) =>
    database.owner.query(
      `insert into app_private.rate_limits as r values (sha256(convert_to($1, 'UTF8')), 1e5, clock_timestamp())
       on conflict (bucket) do update set used = 1e5`,
      [bucket],
    );
  const used = async (bucket: string) => {
    const { rows } = await database.owner.query(
      "select used from app_private.rate_limits where bucket = sha256(convert_to($1, 'UTF8'))",
      [bucket],
    );
    return rows[0]?.used;
  };
  const address = "webhooks from 127.0.0.1";
  for (const id of ["1", "2", "3"]) await deliver(api, acme.integrationId, { id });
  expect(await used(address)).toBeLessThan(0.1);
  await deliver(api, acme.integrationId, { id: "4" }, { secret: "wrong" });
  expect(await used(address)).toBeGreaterThan(0.9);
  await fill(address);
  const refused = await deliver(api, acme.integrationId, { id: "5" });
  expect(refused).toMatchObject({ status: 429, problem: { code: "RATE_LIMITED" } });
  expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);

  await database.owner.query("delete from app_private.rate_limits");
  await fill(`webhooks of ${acme.integrationId}`);
  expect((await deliver(api, acme.integrationId, { id: "6" })).status).toBe(429);
  expect((await kept()).map(({ delivery_id }) => delivery_id)).toEqual(["1", "2", "3"]);
});

it("refuses a ciphertext that was copied from another integration or tenant", async () => {
  const globex = await createEcho(database.owner, `globex${count}`);
  const place = { tenantId: globex.id, integrationId: globex.integrationId };
  await setCredentials(database.owner, testKeyRing, place, { secret: "globex", verifyToken: "globex" });
  await setCredentials(
    database.owner,
    testKeyRing,
    { tenantId: acme.id, integrationId: acme.integrationId },
    { secret: "acme", verifyToken: "acme" },
  );
  const copy = (column: string) =>
    database.owner.query(
      `update app_private.integration_credentials a set ${column} = g.${column}
         from app_private.integration_credentials g where a.tenant_id = $1 and g.tenant_id = $2`,
      [acme.id, globex.id],
    );
  const send = async (secret: string) =>
    (await deliver(api, acme.integrationId, { id: secret }, { secret })).status;
  expect(await send("acme")).toBe(200);
  await copy("ciphertext");
  expect([await send("acme"), await send("globex")]).toEqual([404, 404]);
  // Not with the other tenant's key, either.
  await database.owner.query(
    `update app_private.tenant_keys a set kek_id = g.kek_id, wrapped_key = g.wrapped_key
       from app_private.tenant_keys g where a.tenant_id = $1 and g.tenant_id = $2`,
    [acme.id, globex.id],
  );
  expect([await send("acme"), await send("globex")]).toEqual([404, 404]);
  expect(lines.join()).toContain("webhook not verified");
});

it("tells an integration's address in GraphQL, null where the provider sends no webhooks", async () => {
  await database.owner.query(
    "insert into integrations (tenant_id, name, provider) values ($1, 'Till', 'square')",
    [acme.id],
  );
  const token = await api.signIn(acme.slug, "viewer");
  const { data } = await api.query("{ integrations(orderBy: NAME_ASC) { nodes { name webhookUrl } } }", {
    token,
  });
  expect(data.integrations.nodes).toEqual([
    { name: "Shop", webhookUrl: webhookUrl(acme.integrationId) },
    { name: "Till", webhookUrl: null },
  ]);
});

it("takes no webhooks where nobody said how it is reached", async () => {
  const alone = await startApi(database, { connectors: [echo] });
  try {
    const text = "{}";
    const headers = { "x-echo-signature": echoSignature(SECRET, "", text) };
    expect((await deliver(alone, acme.integrationId, text, { headers })).status).toBe(404);
  } finally {
    await alone.close();
  }
});

it("is described: every status that it answers with", async () => {
  // biome-ignore lint/suspicious/noExplicitAny: OpenAPI
  const openApi: any = await (await fetch(`${api.url}/v1/openapi.json`)).json();
  const { get, post } = openApi.paths["/v1/webhooks/{integrationId}"];
  expect(Object.keys(post.responses)).toEqual([
    "200",
    "400",
    "404",
    "405",
    "408",
    "413",
    "415",
    "429",
    "503",
  ]);
  expect(Object.keys(get.responses)).toEqual(["200", "404", "405", "429", "503"]);
});

it("is the authenticator's only way in: it reads no table, and requests cannot call it", async () => {
  for (const table of ["webhook_deliveries", "retired_credentials"])
    await expect(database.authenticator.query(`select from app_private.${table}`)).rejects.toMatchObject({
      code: "42501",
    });
  for (const role of ["api_anonymous", "api_viewer", "api_admin", "api_super_admin", "api_job"]) {
    const { rows } = await database.owner.query(
      `select has_function_privilege($1, 'app_hidden.webhook_target(uuid, text)', 'execute')
           or has_function_privilege($1, 'app_hidden.receive_webhook(uuid, text, jsonb, bytea, text)', 'execute') as may`,
      [role],
    );
    expect({ role, ...rows[0] }).toEqual({ role, may: false });
  }
});
