import { afterAll, beforeAll, beforeEach, describe, expect, it } from "@jest/globals";
import { withTenant } from "../src/worker/withTenant.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { asRequest, claimsFor } from "./support/asRequest.ts";
import { emptyAuditLog } from "./support/audit.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let admin: string;
let viewer: string;
let now = 0;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database, { clock: () => now });
  await createTenant(database.owner, "platform");
  acme = await createTenant(database.owner, "acme");
  await database.owner.query("update tenants set features = '{api_keys}' where id = $1", [acme.id]);
  admin = await api.signIn("acme", "admin");
  viewer = await api.signIn("acme", "viewer");
});
afterAll(async () => {
  await api.close();
  await database.drop();
});
beforeEach(() => emptyAuditLog(database));

const log = async (action?: string) => {
  const { rows } = await database.owner.query(
    "select l.*, t.slug from audit_logs l join tenants t on t.id = l.tenant_id where $1::text is null or action = $1 order by l.id",
    [action ?? null],
  );
  return rows;
};
const actions = async () => (await log()).map(({ action }) => action);
const sql = (text: string, ...values: unknown[]) => database.owner.query(text, values);

describe("words", () => {
  const user = () => acme.users.user.id;
  it.each<[string, string]>([
    ["user.role_changed", "update users set role = 'VIEWER', first_name = 'V' where id = $1"],
    ["user.permissions_changed", "update users set permissions = '{audit:read}' where id = $1"],
    ["user.suspended", "update users set status = 'SUSPENDED' where id = $1"],
    ["user.activated", "update users set status = 'ACTIVE' where id = $1"],
    ["user.email_changed", "update users set email = 'other@acme.test' where id = $1"],
    ["user.updated", "update users set last_name = 'L' where id = $1"],
    [
      "user.password_changed",
      "update app_private.user_passwords set password_hash = '$argon2id$x' where user_id = $1",
    ],
    [
      "session.created",
      "insert into sessions (tenant_id, user_id, expires_at) select tenant_id, id, now() from users where id = $1",
    ],
    ["session.revoked", "update sessions set revoked_at = now() where user_id = $1"],
  ])("%s", async (action, statement) => {
    await sql(statement, user());
    expect(new Set(await actions())).toEqual(new Set([action]));
  });

  it("of tenants and integrations", async () => {
    await sql('update tenants set settings = \'{"currency": "EUR"}\' where id = $1', acme.id);
    await sql("update integrations set enabled = true where id = $1", acme.integrationId);
    await sql("update integrations set enabled = false where id = $1", acme.integrationId);
    await sql(
      "insert into app_private.tenant_keys (tenant_id, version, kek_id, wrapped_key) values ($1, 1, 'k', 'wrapped')",
      acme.id,
    );
    await sql(
      "insert into app_private.integration_credentials (tenant_id, integration_id, key_version, ciphertext) values ($1, $2, 1, 'sealed')",
      acme.id,
      acme.integrationId,
    );
    expect(await actions()).toEqual([
      "tenant.settings_changed",
      "integration.enabled",
      "integration.disabled",
      "tenant_key.created",
      "integration.credentials_set",
    ]);
    expect((await log()).at(-1)).toMatchObject({ resource: "integration", resource_id: acme.integrationId });
  });

  it("puts keys of the whole installation into the operator's log", async () => {
    await sql(
      "insert into app_private.token_keys (kid, public_jwk, kek_id, wrapped_private_key, signs_from) values ('k', '{}', 'k', 'canary', now())",
    );
    await sql("update app_private.token_keys set retired_at = now() where kid = 'k'");
    const rows = await log();
    expect(rows.map(({ slug, action }) => [slug, action])).toEqual([
      ["platform", "token_key.created"],
      ["platform", "token_key.retired"],
    ]);
    expect(rows[0].changes.after.wrapped_private_key).toBe("***");
  });

  it("names the credentials that a job opens", async () => {
    const { rows } = await database.owner.query(
      `with s as (insert into integration_streams (tenant_id, integration_id, name) values ($1, $2, 'orders') returning id)
       insert into integration_runs (tenant_id, integration_id, stream_id, trigger) select $1, $2, id, 'manual' from s returning id`,
      [acme.id, acme.integrationId],
    );
    await withTenant(database.worker, acme.id, "sync_stream", (client) =>
      client.query("select app_hidden.begin_run($1, $2, uuidv7())", [acme.id, rows[0].id]),
    );
    expect(await log("integration.credentials_used")).toEqual([
      expect.objectContaining({
        actor_kind: "job",
        actor_name: "sync_stream",
        resource_id: acme.integrationId,
      }),
    ]);
  });
});

describe("events", () => {
  const event = (sourceId: string, timestamp: string) => ({
    eventType: "order",
    eventName: "o",
    source: "shop",
    sourceId,
    timestamp,
  });
  it("are one row for each batch that is written, with its sources and times", async () => {
    const batch = [
      event("1", "2026-01-01T00:00:00Z"),
      event("2", "2026-02-01T00:00:00Z"),
      { ...event("3", "2026-01-15T00:00:00Z"), source: "till" },
    ];
    await sql("select app_hidden.write_events($1, $2)", acme.id, JSON.stringify(batch));
    await sql("select app_hidden.write_events($1, $2)", acme.id, JSON.stringify(batch));
    expect((await log()).map(({ action, changes }) => [action, changes])).toEqual([
      [
        "events.written",
        {
          accepted: 3,
          updated: 0,
          sources: ["shop", "till"],
          from: "2026-01-01T00:00:00+00:00",
          to: "2026-02-01T00:00:00+00:00",
        },
      ],
    ]);
  });

  it("that plain SQL changes are one row for each statement and tenant", async () => {
    await sql(
      "update analytics_events set value = value + 1 where tenant_id = $1 and source = 'test'",
      acme.id,
    );
    await sql("delete from analytics_events where source = 'test'");
    const found = (await log()).map(({ slug, action, changes }) => `${action} ${slug} ${changes.count}`);
    expect(found.sort()).toEqual([
      "events.deleted acme 10",
      "events.deleted platform 10",
      "events.updated acme 10",
    ]);
  });

  it("leave no way around it for plain SQL that names write_events", async () => {
    await sql(
      `do $$ begin
         insert into analytics_events (tenant_id, event_type, event_name, timestamp)
         values ('${acme.id}', 'x', 'PL/pgSQL function app_private.write_event_list(', now());
       end $$`,
    );
    expect(await actions()).toEqual(["events.inserted"]);
  });
});

describe("secrets", () => {
  const CANARY = "canary5f3a";
  const leaks = async () => (await sql("select from audit_logs l where l::text ~ $1", CANARY)).rowCount;
  const secretKeys = [
    "password",
    "clientSecret",
    "access_token",
    "apiKey",
    "Authorization",
    "private-key",
    "refreshToken",
    "webhook_secret",
    "credentials",
    "pin",
    "cookie",
  ];
  const hidden = (depth: number): unknown =>
    depth === 0
      ? CANARY
      : Object.fromEntries(
          secretKeys.map((key) => [key, depth % 2 ? CANARY : [{ [key]: { deeper: CANARY } }]]),
        );

  it("stand in no record, in whatever JSON column and however deep", async () => {
    const { rows: columns } = await sql(
      `select distinct c.oid::regclass::text as table_name, a.attname as column_name
         from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_attribute a on a.attrelid = c.oid
        where t.tgfoid = 'app_private.tg_audit'::regproc and a.atttypid = 'jsonb'::regtype and not a.attisdropped order by 1, 2`,
    );
    expect(columns.length).toBeGreaterThanOrEqual(5);
    let planted = 0;
    for (const { table_name, column_name } of columns)
      for (const value of [
        hidden(1),
        hidden(2),
        {
          settings: {
            nested: [
              hidden(1),
              { url: `https://me:${CANARY}@example.com/x`, header: `Bearer ${CANARY}${CANARY}` },
            ],
          },
        },
      ]) {
        const client = await database.owner.connect();
        try {
          await client.query("begin");
          // What else a table checks is not what is tested.
          await client.query(
            `alter table ${table_name} disable trigger user; alter table ${table_name} enable trigger _900_audit`,
          );
          const { rowCount } = await client
            .query(`update ${table_name} set ${column_name} = $1`, [JSON.stringify(value)])
            .catch((error) => {
              if (error.code === "23514") return { rowCount: 0 };
              throw error;
            });
          if (rowCount) {
            planted++;
            const found = await client.query("select from audit_logs l where l::text ~ $1", [CANARY]);
            expect([table_name, column_name, found.rowCount]).toEqual([table_name, column_name, 0]);
            expect(
              (await client.query("select from audit_logs l where changes::text ~ '\\*\\*\\*'")).rowCount,
            ).toBeGreaterThan(0);
          }
        } finally {
          await client.query("rollback");
          client.release();
        }
      }
    expect(planted).toBeGreaterThan(5);
  });

  it("stand in no record of a column that holds them", async () => {
    await sql(
      "insert into app_private.tenant_keys (tenant_id, version, kek_id, wrapped_key) values ($1, 7, 'k', convert_to($2, 'UTF8'))",
      acme.id,
      CANARY,
    );
    await sql(
      "update app_private.integration_credentials set ciphertext = convert_to($2, 'UTF8') where tenant_id = $1",
      acme.id,
      CANARY,
    );
    await sql(
      "update app_private.user_passwords set password_hash = '$argon2id$' || $2 where tenant_id = $1",
      acme.id,
      CANARY,
    );
    await sql(
      "update app_private.refresh_tokens set token_hash = convert_to($2 || session_id::text, 'UTF8') where tenant_id = $1",
      acme.id,
      CANARY,
    );
    const hex = Buffer.from(CANARY).toString("hex");
    expect((await log()).length).toBeGreaterThan(3);
    expect(
      (await sql("select from audit_logs l where l::text ~ $1 or l::text ~ $2", CANARY, hex)).rowCount,
    ).toBe(0);
  });

  it("that somebody types where they do not belong are not kept", async () => {
    const bad = { variables: { input: { tenant: "acme", email: CANARY, password: CANARY } } };
    await api.query("mutation ($input: LoginInput!) { login(input: $input) { accessToken } }", bad);
    await sql(
      "update integrations set description = $2 where id = $1",
      acme.integrationId,
      `use sk_live_${CANARY} or postgres://u:p@${CANARY}@db/x`,
    );
    expect((await log()).length).toBe(2);
    expect(await leaks()).toBe(0);
  });

  it("are hidden at declared paths, whatever their keys", async () => {
    const { rows } = await sql(
      `select app_private.redact('{"config": {"a": [{"x": 1}, {"x": 2}], "b": {"x": 3}}, "name": "n"}', '{config.a.*.x,config.b}') as value`,
    );
    expect(rows[0].value).toEqual({ config: { a: [{ x: "***" }, { x: "***" }], b: "***" }, name: "n" });
  });

  it("are not seen where there are none", async () => {
    const plain = {
      key: "value",
      monkey: 1,
      features: ["api_keys"],
      passed: true,
      primary_key: "id",
      tokenise: null,
    };
    const { rows } = await sql("select app_private.redact($1, '{}') as value", JSON.stringify(plain));
    expect(rows[0].value).toEqual({ ...plain, passed: true });
  });
});

describe("denials", () => {
  const rename = (token: string, alias = "a") =>
    api.query(
      `mutation ($id: UUID!) { ${alias}: updateTenant(input: { id: $id, patch: { name: "Mine" } }) { tenant { name } } }`,
      { token, variables: { id: acme.id } },
    );

  it("are recorded though nothing else is, and name the field, whatever its alias", async () => {
    const { errors } = await rename(viewer, "innocent");
    expect(errors?.[0].extensions.code).toBe("FORBIDDEN");
    expect(await log()).toEqual([
      expect.objectContaining({
        action: "access.denied",
        actor_kind: "user",
        actor_name: "viewer@acme.test",
        resource: "operation",
        resource_id: "updateTenant",
        changes: { reason: "tenant:settings", count: 1 },
        ip_address: "127.0.0.1",
      }),
    ]);
  });

  it("of one kind are one record a minute, with their count", async () => {
    now += 3_600_000;
    for (let index = 0; index < 5; index++) await rename(viewer);
    expect((await log("access.denied")).map(({ changes }) => changes.count)).toEqual([1]);
    now += 61_000;
    await rename(viewer);
    expect((await log("access.denied")).map(({ changes }) => changes.count)).toEqual([1, 5]);
  });

  it("are recorded of API keys without the scope", async () => {
    now += 3_600_000;
    const make = await api.query(
      `mutation { createApiKey(input: { name: "Till", scopes: ["analytics:read"] }) { secret } }`,
      { token: admin },
    );
    await emptyAuditLog(database);
    const response = await fetch(`${api.url}/v1/events`, {
      method: "POST",
      headers: {
        authorization: `Bearer ${make.data.createApiKey.secret}`,
        "content-type": "application/json",
      },
      body: "[]",
    });
    expect(response.status).toBe(403);
    expect(await log("access.denied")).toEqual([
      expect.objectContaining({ actor_kind: "api_key", actor_name: "Till", resource_id: "events.authorize" }),
    ]);
  });

  it("are not recorded of whoever is nobody", async () => {
    const { errors } = await rename("");
    expect(errors?.[0].extensions.code).toBe("UNAUTHENTICATED");
    expect(await log()).toEqual([]);
  });
});

describe("reading the log", () => {
  const LOGS = `query ($action: String!) { auditLogs(first: 5, filter: { action: { equalTo: $action } }) { nodes { action } } }`;
  const read = (token = admin, document = LOGS) =>
    api.query(document, { token, variables: { action: "user.created" } });

  it("is on record before anything is read, with what was asked for", async () => {
    const { errors } = await read();
    expect(errors).toBeUndefined();
    expect(await log()).toEqual([
      expect.objectContaining({
        action: "audit_log.read",
        actor_name: "admin@acme.test",
        resource: "audit_log",
        changes: {
          request: [
            { field: "auditLogs", arguments: { first: 5, filter: { action: { equalTo: "user.created" } } } },
          ],
        },
      }),
    ]);
  });

  it("of an operator who entered the tenant is in that tenant's log", async () => {
    await sql(
      "update users set role = 'SUPER_ADMIN' where id = (select id from users where email = 'admin@platform.test')",
    );
    const operator = await api.signIn("platform", "admin");
    const { data } = await api.query(
      `mutation ($id: UUID!) { enterTenant(input: { tenantId: $id, role: ADMIN, reason: "Ticket 7", minutes: 5 }) { accessToken } }`,
      { token: operator, variables: { id: acme.id } },
    );
    await emptyAuditLog(database);
    expect((await read(data.enterTenant.accessToken)).errors).toBeUndefined();
    expect(await log()).toEqual([
      expect.objectContaining({
        slug: "acme",
        action: "audit_log.read",
        actor_kind: "impersonator",
        impersonator_name: "admin@platform.test",
      }),
    ]);
  });

  it("is refused when that cannot be recorded", async () => {
    const { rows } = await sql("select pg_get_functiondef('app_private.write_audit'::regproc) as definition");
    await sql(rows[0].definition.replace(/begin[\s\S]*end/, "begin raise exception 'no room'; end"));
    try {
      const { data, errors } = await read();
      expect([data, errors?.[0].extensions.code]).toEqual([null, "INTERNAL"]);
    } finally {
      await sql(rows[0].definition);
    }
    expect((await read()).errors).toBeUndefined();
  });

  it("needs the record by whatever way it is read: row security asks for it", async () => {
    const claims = await claimsFor(database.owner, acme, "admin");
    const rows = (readsLog: boolean) =>
      asRequest(database.authenticator, claims, (client) => client.query("select from audit_logs"), {
        readsLog,
      });
    expect(await refusal(rows(false))).toBe("EA403");
    expect((await rows(true)).rowCount).toBeGreaterThan(0);
    // The record of another request is none.
    const others = await sql(
      "select to_jsonb(created_at) ->> 0 || ' ' || id as record from audit_logs where action = 'audit_log.read' limit 1",
    );
    const stolen = asRequest(database.authenticator, claims, async (client) => {
      await client.query(
        "select set_config('app.audit_read', $1, true), set_config('app.request_id', 'another', true)",
        [others.rows[0].record],
      );
      return client.query("select from audit_logs");
    });
    expect(await refusal(stolen)).toBe("EA403");
  });

  it("is denied, and that recorded, to whoever lacks the right", async () => {
    now += 3_600_000;
    const { errors } = await read(viewer);
    expect(errors?.[0].extensions).toMatchObject({ code: "FORBIDDEN", reason: "audit:read" });
    expect((await log()).map(({ action, changes }) => [action, changes.reason])).toEqual([
      ["access.denied", "audit:read"],
    ]);
  });

  it("in a fragment, under an alias, is no other thing", async () => {
    await read(
      admin,
      `query { x: auditLogs(first: 1) { ...f } } fragment f on AuditLogConnection { nodes { id } }`.replace(
        "AuditLogConnection",
        await connectionType(),
      ),
    );
    expect(await actions()).toEqual(["audit_log.read"]);
  });
  const connectionType = async () => {
    const { data } = await api.query(
      `{ __schema { queryType { fields { name type { name ofType { name } } } } } }`,
      { token: admin },
    );
    const field = data.__schema.queryType.fields.find(({ name }: { name: string }) => name === "auditLogs");
    return field.type.name ?? field.type.ofType.name;
  };
});

it("leaves nothing of a mutation that is taken back, but its denial", async () => {
  now += 3_600_000;
  const { errors } = await api.query(
    `mutation ($id: UUID!, $user: UUID!) {
       updateUser(input: { id: $user, patch: { firstName: "Kept" } }) { user { id } }
       updateTenant(input: { id: $id, patch: { name: "Mine" } }) { tenant { name } }
     }`,
    { token: viewer, variables: { id: acme.id, user: acme.users.viewer.id } },
  );
  expect(errors).toBeDefined();
  expect((await actions()).toSorted()).not.toContain("tenant.updated");
  expect(await actions()).toContain("access.denied");
});
