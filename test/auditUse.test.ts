import { afterAll, beforeAll, beforeEach, describe, expect, it } from "@jest/globals";
import { differencesOf, sentenceOf } from "../src/audit/readable.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { makeSealer, type TestSealer, tamper } from "./support/audit.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { askFor, readCsv, readLines } from "./support/exports.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";
import { startTestWorker } from "./support/worker.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let globex: TestTenant;
let admin: string;
let sealer: TestSealer;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  acme = await createTenant(database.owner, "acme");
  globex = await createTenant(database.owner, "globex");
  admin = await api.signIn("acme", "admin");
  sealer = await makeSealer(database);
});
afterAll(async () => {
  await sealer.remove();
  await api.close();
  await database.drop();
});

const log = async (tenant: TestTenant, changes: object, more: { at?: string; action?: string } = {}) =>
  database.owner.query(
    `insert into audit_logs (tenant_id, actor_kind, actor_name, action, resource, resource_id, changes, created_at)
     values ($1, 'database', 'test', $2, 'thing', '7', $3, coalesce($4, now()))`,
    [tenant.id, more.action ?? "thing.changed", JSON.stringify(changes), more.at ?? null],
  );
const SEARCH = `query ($search: String!, $since: Datetime, $until: Datetime, $filter: AuditLogFilter) {
  searchAuditLogs(search: $search, since: $since, until: $until, filter: $filter, first: 100) { nodes { action changes } }
}`;
const search = async (words: string, variables: object = {}, token = admin) => {
  const { data, errors } = await api.query(SEARCH, { token, variables: { search: words, ...variables } });
  return errors ? errors[0] : data.searchAuditLogs.nodes;
};
const found = async (...asked: Parameters<typeof search>) =>
  (await search(...asked)).map(({ changes }: { changes: { after: { n: number } } }) => changes.after.n);

describe("searchAuditLogs", () => {
  beforeAll(async () => {
    await log(
      acme,
      { after: { n: 1, note: "Delivered to the Hauptstraße, by courier" } },
      { at: "2026-03-05T10:00:00Z" },
    );
    await log(acme, { after: { n: 2, note: "courier was late" } }, { at: "2026-04-05T10:00:00Z" });
    await log(acme, { after: { n: 3, courier: { phone: 4711 } } }, { action: "thing.made" });
    await log(globex, { after: { n: 4, note: "courier" } });
  });

  it.each([
    ["courier", [3, 2, 1]],
    ["COURIER hauptstraße", [1]],
    ['"was late"', [2]],
    ['"late was"', []],
    ["courier -late", [3, 1]],
    ["late or 4711", [3, 2]],
    ["phone", [3]],
    ["cour", []],
  ])("finds %s in keys and values, the newest first, of the own tenant alone", async (words, wanted) => {
    expect(await found(words)).toEqual(wanted);
  });

  it("looks at a time, and takes the filters of auditLogs", async () => {
    const since = "2026-03-05T10:00:00Z";
    expect(await found("courier", { since, until: "2026-04-05T10:00:00Z" })).toEqual([1]);
    expect(await found("courier", { filter: { action: { equalTo: "thing.made" } } })).toEqual([3]);
    expect(await found("courier", { since: "2027-01-01T00:00:00Z" })).toEqual([]);
  });

  it.each(["", "  ", "-courier", "!?"])("refuses a search without a word: %j", async (words) => {
    expect(await search(words)).toMatchObject({
      message: "search has no word to look for.",
      extensions: { code: "INVALID_INPUT" },
    });
  });

  it("is refused to whoever may not read the log", async () => {
    expect(await search("courier", {}, await api.signIn("acme", "viewer"))).toMatchObject({
      extensions: { code: "FORBIDDEN" },
    });
  });

  it("is on record, with its words", async () => {
    await search("courier hunt");
    const { rows } = await database.owner.query(
      "select changes -> 'request' as request from audit_logs where action = 'audit_log.read' order by id desc limit 1",
    );
    expect(rows).toEqual([
      {
        request: [
          { field: "searchAuditLogs", arguments: expect.objectContaining({ search: "courier hunt" }) },
        ],
      },
    ]);
  });

  it("records a request of any depth and length so that it can be sealed and read, and hides nothing", async () => {
    let filter: object = { action: { equalTo: "thing.made" } };
    for (let depth = 0; depth < 60; depth++) filter = { and: [filter] };
    const asked = {
      or: [{ action: { equalTo: "x".repeat(30_000) } }, { actorName: { equalTo: "hidden" } }, filter],
    };
    const { errors } = await api.query(
      "query ($filter: AuditLogFilter) { auditLogs(filter: $filter, first: 1) { nodes { sentence differences { path } } } }",
      { token: admin, variables: { filter: asked } },
    );
    expect(errors).toBeUndefined();
    const { rows } = await database.owner.query(
      "select changes::text as said from audit_logs where action = 'audit_log.read' order by id desc limit 1",
    );
    expect(rows[0].said).toContain('"hidden"');
    expect(rows[0].said.length).toBeLessThan(2_000);
    const nested = `${'{"a":'.repeat(150)}1${"}".repeat(150)}`;
    await database.owner.query("update tenants set metadata = $2 where id = $1", [globex.id, nested]);
    await sealer.seal();
    expect(await sealer.complaints()).toEqual([]);
  });

  it("is the only way to ask for rows of the log, beside auditLogs", async () => {
    const { data } = await api.query(
      "{ __schema { types { name kind inputFields { type { name ofType { name ofType { name } } } } } } }",
      { token: admin },
    );
    const ways = data.__schema.types.filter(
      ({ name, inputFields }: { name: string; inputFields: object[] | null }) =>
        !name.startsWith("AuditLog") && JSON.stringify(inputFields ?? []).includes("AuditLog"),
    );
    expect(ways.map(({ name }: { name: string }) => name)).toEqual([]);
  });

  it("gives the newest 1,000, and takes rows of any size", async () => {
    await database.owner.query(
      `insert into audit_logs (tenant_id, actor_kind, action, resource, changes, created_at)
       select $1, 'database', 'x', 'x', '{"word": "plentiful"}', '2026-05-01T00:00:00Z'::timestamptz + n * interval '1 hour' from generate_series(1, 1200) n`,
      [acme.id],
    );
    await log(acme, { after: { list: Array.from({ length: 60_000 }, (_, index) => `word${index}`) } });
    const { data } = await api.query(
      '{ searchAuditLogs(search: "plentiful") { totalCount nodes { createdAt } } }',
      { token: admin },
    );
    expect(data.searchAuditLogs.totalCount).toBe(1_000);
    expect(data.searchAuditLogs.nodes[0].createdAt).toMatch(/^2026-06-20T00:00:00/);
    expect(await search("word17")).toHaveLength(1);
  });
});

describe("a row", () => {
  it("tells in a sentence who changed what, key by key", async () => {
    await database.owner.query(
      'update tenants set metadata = \'{"big": 123456789012345678.10, "a": {"b": 1}}\' where id = $1',
      [acme.id],
    );
    await api.query(
      'mutation ($id: UUID!) { updateUser(input: {id: $id, patch: {lastName: "Straße"}}) { user { id } } }',
      { token: admin, variables: { id: acme.users.admin.id } },
    );
    const { data, errors } = await api.query(
      `query ($id: String!) {
         of: auditLogs(filter: {resourceId: {equalTo: $id}, action: {equalTo: "tenant.updated"}}, orderBy: CREATED_AT_DESC, first: 1) { nodes { sentence differences { path before after } } }
         by: auditLogs(filter: {action: {equalTo: "user.updated"}}, orderBy: CREATED_AT_DESC, first: 1) { nodes { sentence } }
       }`,
      { token: admin, variables: { id: acme.id } },
    );
    expect(errors).toBeUndefined();
    const [{ sentence, differences }] = data.of.nodes;
    expect(differences).toEqual(
      expect.arrayContaining([
        { path: "metadata.big", before: null, after: "123456789012345678.10" },
        { path: "metadata.a.b", before: null, after: "1" },
      ]),
    );
    expect(sentence).toContain("SQL as erp_user: tenant.updated");
    expect(data.by.nodes[0].sentence).toMatch(
      /^admin@acme\.test: user\.updated \S{36} \(last_name: Straße\)$/,
    );
  });

  const row = {
    action: "user.role_changed",
    actorKind: "user",
    actorName: "a@acme.test",
    impersonatorName: null,
    resource: "user",
    resourceId: "7",
    changes: '{"before": {"role": "USER"}, "after": {"role": "ADMIN"}}',
  };
  it.each([
    ["a@acme.test: user.role_changed 7 (role: USER → ADMIN)", {}],
    [
      "op@platform.test as ADMIN of acme: user.role_changed 7 (role: USER → ADMIN)",
      { actorKind: "impersonator", actorName: "ADMIN of acme", impersonatorName: "op@platform.test" },
    ],
    [
      'API key "Till": events.written analytics_event (accepted: 3; sources: ["till"])',
      {
        actorKind: "api_key",
        actorName: "Till",
        action: "events.written",
        resource: "analytics_event",
        resourceId: null,
        changes: '{"accepted": 3, "sources": ["till"]}',
      },
    ],
    [
      'a@acme.test: api_key.created 7 (name: Till; scopes: ["events:write"])',
      {
        action: "api_key.created",
        resource: "api_key",
        changes:
          '{"before": {}, "after": {"id": "7", "name": "Till", "scopes": ["events:write"], "tenant_id": "8", "created_at": "x"}}',
      },
    ],
    [
      "somebody who is not signed in: user.role_changed 7",
      { actorKind: "anonymous", actorName: null, changes: "{}" },
    ],
    [
      "job sync: user.role_changed 7 (note: gone → nothing)",
      {
        actorKind: "job",
        actorName: "sync",
        changes: '{"before": {"note": "gone"}, "after": {"note": null}}',
      },
    ],
    [
      "a@acme.test: integration.updated 7 (config.apiKey: *** → ***)",
      {
        action: "integration.updated",
        resource: "integration",
        changes: '{"before": {"config": {"apiKey": "***"}}, "after": {"config": {"apiKey": "***"}}}',
      },
    ],
    ["\uFFFDevil: user.role_changed 7", { actorName: "\u202Eevil", changes: "{}" }],
  ])("%s", (sentence, more) => {
    expect(sentenceOf({ ...row, ...more })).toBe(sentence);
  });

  it.each([
    ['{"before": {"a": {"b": 1, "c": [1]}}, "after": {"a": {"b": 2.0, "c": [1]}}}', [["a.b", "1", "2.0"]]],
    ['{"before": {"a": {"b": 1}}, "after": {"a": "x"}}', [["a", '{"b":1}', "x"]]],
    ['{"before": {"a": {}}, "after": {"a": {"b": ""}}}', [["a.b", null, ""]]],
    ['{"after": {"a": {"b": "x", "d": null}}}', [["a.b", null, "x"]]],
    ["{}", []],
  ])("of %s, the differences", (changes, wanted) => {
    expect(differencesOf(changes).map(({ path, before, after }) => [path, before, after])).toEqual(wanted);
  });
});

describe("POST /v1/exports/audit_log", () => {
  const ask = async (body: object, accept: string, token = admin) => {
    const response = await askFor(api, "audit_log", body, { token, accept });
    return { status: response.status, text: await response.text() };
  };
  const sealed = async () => {
    const { rows } = await database.owner.query(
      "select sum(row_count)::integer as count from app_private.audit_seals where tenant_id = $1",
      [acme.id],
    );
    return rows[0].count;
  };
  beforeAll(() => sealer.seal({ rowsAtOnce: 100 }));

  it("has every sealed row of the tenant, by number, in both formats, and is on record before", async () => {
    const ndjson = readLines((await ask({}, "application/x-ndjson")).text);
    expect(ndjson).toHaveLength(await sealed());
    expect(ndjson.map(({ sequence }) => sequence)).toEqual(ndjson.map((_, index) => index + 1));
    expect(new Set(ndjson.map(({ tenantId }) => tenantId))).toEqual(new Set([acme.id]));
    const csv = readCsv((await ask({}, "text/csv")).text);
    expect(csv.map(({ sequence, action }) => [Number(sequence), action])).toEqual(
      ndjson.map(({ sequence, action }) => [sequence, action]),
    );
    expect(JSON.parse(csv[0]?.changes ?? "")).toEqual(ndjson[0].changes);
    const { rows } = await database.owner.query(
      "select actor_name, changes -> 'request' ->> 'format' as format from audit_logs where action = 'audit_log.exported' order by id",
    );
    expect(rows).toEqual(["ndjson", "csv"].map((format) => ({ actor_name: "admin@acme.test", format })));
  });

  it("has the rows of a time alone, to the microsecond", async () => {
    const range = (from: string, to: string) => ({ from: `2026-03-05T${from}Z`, to: `2026-03-05T${to}Z` });
    for (const [from, to, count] of [
      ["10:00:00.000000", "10:00:00.000001", 1],
      ["10:00:00.000001", "10:00:00.000900", 0],
      ["09:59:59.999999", "10:00:00", 0],
    ] as const)
      expect(readLines((await ask(range(from, to), "application/x-ndjson")).text)).toHaveLength(count);
  });

  it("has the rows of a time alone when it shall", async () => {
    const lines = readLines(
      (await ask({ from: "2026-03-05T10:00:00Z", to: "2026-04-05T10:00:00Z" }, "application/x-ndjson")).text,
    );
    expect(lines.map(({ changes }) => changes.after.n)).toEqual([1]);
  });

  it("is refused to whoever may not read the log, and for a time that ends before it begins", async () => {
    const viewer = await api.signIn("acme", "viewer");
    expect((await ask({}, "text/csv", viewer)).status).toBe(403);
    const { status, text } = await ask(
      { from: "2026-02-01T00:00:00Z", to: "2026-01-01T00:00:00Z" },
      "text/csv",
    );
    expect([status, JSON.parse(text).detail]).toEqual([400, "from must be before to."]);
  });
});

describe("purge_audit", () => {
  let old: TestTenant;
  beforeEach(async () => {
    old = await createTenant(database.owner, `old${Date.now()}`);
    await tamper(database, "delete from audit_logs where tenant_id = $1", [old.id]);
    for (const day of ["2024-01-01", "2024-01-02"]) await log(old, {}, { at: `${day}T00:00:00Z` });
    await sealer.seal({ now: new Date("2024-06-01T00:00:00Z") });
  });
  const ages = async () =>
    (
      await database.owner.query("select action from audit_logs where tenant_id = $1 order by created_at", [
        old.id,
      ])
    ).rows.map(({ action }) => action);

  it("takes what a tenant says that it does not keep, with a record of it, and nothing from others", async () => {
    await database.owner.query("update tenants set settings = '{\"auditRetentionDays\": 90}' where id = $1", [
      old.id,
    ]);
    const others = await database.owner.query(
      "select count(*)::integer from audit_logs where tenant_id <> $1",
      [old.id],
    );
    const worker = await startTestWorker(database, {});
    try {
      await database.owner.query("select graphile_worker.add_job('purge_audit')");
      await until(ages, (actions) => !actions.includes("thing.changed"));
    } finally {
      await worker.stop();
    }
    expect(await ages()).toContain("audit_log.purged");
    const after = await database.owner.query(
      "select count(*)::integer from audit_logs where tenant_id <> $1",
      [old.id],
    );
    expect(after.rows).toEqual(others.rows);
    await sealer.seal();
    expect(await sealer.complaints({ slug: old.slug })).toEqual([]);
  });

  it("leaves a tenant that says nothing its whole log", async () => {
    const { rows } = await database.worker.query(
      "select * from app_hidden.audit_retention() where tenant_id = $1",
      [old.id],
    );
    expect(rows).toEqual([]);
  });

  it.each([89, "90", 36_501, 90.5])("refuses to keep it for %j days", async (auditRetentionDays) => {
    await expect(
      database.owner.query("update tenants set settings = $2 where id = $1", [
        old.id,
        JSON.stringify({ auditRetentionDays }),
      ]),
    ).rejects.toThrow("it must be a number of days from 90 to 36500");
  });
});
