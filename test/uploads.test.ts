import { afterAll, beforeAll, beforeEach, describe, expect, it } from "@jest/globals";
import Ajv2020 from "ajv/dist/2020.js";
import { connectors } from "../tasks/connectors/index.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";
import {
  createCsvIntegration,
  csvOf,
  csvOfCount,
  line,
  mapping,
  type Sent,
  send,
} from "./support/uploads.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let globex: TestTenant;
let admin: string;
let user: string;
let viewer: string;
let integration: string;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database, { uploadLimits: { stallMs: 500, perTenant: 1 } });
  acme = await createTenant(database.owner, "acme", {
    settings: { timeZone: "Europe/Berlin", currency: "EUR" },
  });
  globex = await createTenant(database.owner, "globex");
  await database.owner.query("update tenants set features = '{api_keys}'");
  [admin, user, viewer] = await Promise.all([
    api.signIn("acme", "admin"),
    api.signIn("acme", "user"),
    api.signIn("acme", "viewer"),
  ]);
});
beforeEach(async () => {
  await database.owner.query("delete from integrations where provider = 'csv'");
  integration = await createCsvIntegration(database, acme.id);
});
afterAll(async () => {
  await api.close();
  await database.drop();
});

const path = (id = integration) => `/integrations/${id}/files`;
const upload = (file: string | Buffer | ReadableStream, sent: Sent = {}) =>
  send(api, path(), file, { token: user, ...sent });
const rowsOf = async (text: string) => (await database.owner.query(text)).rows;
const uploads = () =>
  rowsOf("select id, file_name, byte_length::integer, state from app_private.uploads order by id");
const chunks = () =>
  rowsOf("select position, octet_length(bytes) as length from app_private.upload_chunks order by 1");
const queued = () => rowsOf(`select key from graphile_worker.jobs where key = 'sync:${integration}'`);
const nothingStays = async () => {
  expect(await until(uploads, (found) => found.length === 0)).toEqual([]);
  expect(await chunks()).toEqual([]);
};
const makeKey = async (scopes: string[]): Promise<string> => {
  const { data, errors } = await api.query(
    "mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret } }",
    { token: admin, variables: { input: { name: "Till", scopes } } },
  );
  expect(errors).toBeUndefined();
  return data.createApiKey.secret;
};

describe("an upload", () => {
  it("is stored in chunks, audited, and its integration synced soon", async () => {
    const file = csvOfCount(20_000);
    const answer = await upload(file, { query: "?name=M%C3%A4rz.csv" });
    expect(answer).toMatchObject({
      status: 202,
      body: { fileName: "März.csv", bytes: file.length, columns: ["Belegnr", "Datum", "Betrag", "Filiale"] },
    });
    expect(await uploads()).toEqual([
      { id: answer.body.id, file_name: "März.csv", byte_length: file.length, state: "ready" },
    ]);
    expect(await chunks()).toEqual([
      { position: 0, length: 524_288 },
      { position: 1, length: file.length - 524_288 },
    ]);
    expect(await queued()).toHaveLength(1);
    const [audit] = await rowsOf(
      "select actor_name, resource_id, changes from audit_logs where action = 'file.uploaded'",
    );
    expect(audit).toMatchObject({
      actor_name: "user@acme.test",
      resource_id: integration,
      changes: { file: "März.csv", bytes: file.length },
    });
  });

  it("may be packed, as its type or its encoding says", async () => {
    const packed = await upload(csvOf(line(1)), { isPacked: true });
    expect(packed).toMatchObject({ status: 202, body: { bytes: csvOf(line(1)).length } });
    const { gzipSync } = await import("node:zlib");
    const gzip = await upload(gzipSync(csvOf(line(1))), { type: "application/gzip" });
    expect(gzip).toMatchObject({ status: 202, body: { bytes: csvOf(line(1)).length } });
  });

  it("can be listed and deleted, by whoever may send files", async () => {
    const { body } = await upload(csvOf(line(1)));
    const call = async (method: string, token: string, more = "") => {
      const headers = { authorization: `Bearer ${token}` };
      const response = await fetch(`${api.url}/v1${path()}${more}`, { method, headers });
      return { status: response.status, text: await response.text() };
    };
    const list = await call("GET", user);
    expect(JSON.parse(list.text).files).toMatchObject([
      { id: body.id, fileName: "upload.csv", state: "ready" },
    ]);
    expect((await call("GET", viewer)).status).toBe(403);
    expect((await call("DELETE", viewer, `/${body.id}`)).status).toBe(403);
    expect((await call("DELETE", await api.signIn("globex", "admin"), `/${body.id}`)).status).toBe(404);
    expect((await call("DELETE", user, `/${body.id}`)).status).toBe(204);
    expect((await call("DELETE", user, `/${body.id}`)).status).toBe(404);
    await nothingStays();
  });

  it("that is cut off leaves nothing behind", async () => {
    const stop = new AbortController();
    const file = new ReadableStream({
      start: (controller) => controller.enqueue(Buffer.from(csvOfCount(30_000))),
    });
    const sending = fetch(`${api.url}/v1${path()}`, {
      method: "POST",
      headers: { "content-type": "text/csv", authorization: `Bearer ${user}` },
      body: file,
      duplex: "half",
      signal: stop.signal,
    });
    sending.catch(() => {});
    await until(chunks, (found) => found.length > 0);
    stop.abort();
    await expect(sending).rejects.toThrow();
    await nothingStays();
    expect(await queued()).toEqual([]);
  });

  it("that stalls is refused, and leaves nothing behind", async () => {
    const file = new ReadableStream({
      start: (controller) => controller.enqueue(Buffer.from(csvOf(line(1)))),
    });
    expect(await upload(file)).toMatchObject({
      status: 408,
      body: { code: "INVALID_INPUT", reason: "too_slow" },
    });
    await nothingStays();
  });

  it("whose instance died is given up, and one under way is not", async () => {
    await database.owner.query(
      `insert into app_private.uploads (tenant_id, integration_id, file_name, config, touched_at)
       values ($1, $2, 'dead', '{}', now() - interval '11 minutes'), ($1, $2, 'alive', '{}', now() - interval '9 minutes')`,
      [acme.id, integration],
    );
    const tended = await database.worker.query("select app_hidden.tend_uploads() as count");
    expect(tended.rows).toEqual([{ count: 1 }]);
    expect(await uploads()).toMatchObject([{ file_name: "alive" }]);
  });

  it("that came when a sync had just looked for the last time is read nevertheless", async () => {
    await upload(csvOf(line(1)));
    const forget = () =>
      database.worker.query(
        "select graphile_worker.complete_jobs(array(select id from graphile_worker.jobs)::bigint[])",
      );
    await forget();
    const state = (status: string) =>
      database.owner.query("update integrations set sync_status = $2 where id = $1", [integration, status]);
    await state("failed");
    await database.worker.query("select app_hidden.tend_uploads()");
    expect(await queued()).toEqual([]);
    await state("succeeded");
    await database.worker.query("select app_hidden.tend_uploads()");
    expect(await queued()).toHaveLength(1);
  });

  it("is one of a tenant's at a time here, and the next is told to wait", async () => {
    let end = () => {};
    const file = new ReadableStream({
      start(controller) {
        controller.enqueue(Buffer.from(csvOf(line(1))));
        end = () => controller.close();
      },
    });
    const first = upload(file);
    // The turn is taken before the first byte is asked for.
    const second = await until(
      () => upload(csvOf(line(2))),
      ({ status }) => status === 429,
    );
    expect(second).toMatchObject({ body: { code: "RATE_LIMITED" } });
    expect(second.headers.get("retry-after")).toBe("10");
    end();
    expect((await first).status).toBe(202);
  });
});

describe("limits", () => {
  const limitTo = (bytes: number) =>
    database.owner.query("update app_private.plans set upload_bytes = $1 where name = 'trial'", [bytes]);
  beforeEach(() => limitTo(600_000));

  it("a file is as large as the plan permits, unpacked, and no larger", async () => {
    const exact = csvOf(line(1)).padEnd(600_000, "\n");
    expect((await upload(exact, { isPacked: true })).status).toBe(202);
    await database.owner.query("delete from app_private.uploads");
    const answer = await upload(`${exact}\n`, { isPacked: true });
    expect(answer).toMatchObject({ status: 403, body: { code: "LIMIT_EXCEEDED", reason: "upload_bytes" } });
    await nothingStays();
  });

  it("all files that wait have at most twice that", async () => {
    const file = csvOf(line(1)).padEnd(600_000, "\n");
    expect([(await upload(file)).status, (await upload(file)).status]).toEqual([202, 202]);
    expect(await upload(csvOf(line(1)))).toMatchObject({ status: 403, body: { reason: "waiting_bytes" } });
    expect(await uploads()).toHaveLength(2);
    const [{ id }] = await uploads();
    const client = await database.worker.connect();
    await client.query("begin");
    await client.query("select app_hidden.begin_job($1, 'test')", [acme.id]);
    await client.query("select app_hidden.release_upload($1, $2)", [acme.id, id]);
    await client.query("commit");
    client.release();
    expect((await upload(csvOf(line(1)))).status).toBe(202);
  });

  it("at most 20 files wait", async () => {
    await database.owner.query(
      `insert into app_private.uploads (tenant_id, integration_id, file_name, config, state)
       select $1, $2, 'f', '{}', 'ready' from generate_series(1, 20)`,
      [acme.id, integration],
    );
    expect(await upload(csvOf(line(1)))).toMatchObject({
      status: 403,
      body: { code: "LIMIT_EXCEEDED", reason: "waiting_uploads" },
    });
  });
});

describe("rights", () => {
  it.each([
    ["a viewer", async () => viewer, 403, "FORBIDDEN", "integrations:sync"],
    ["nobody", async () => undefined, 401, "UNAUTHENTICATED", undefined],
    ["a key that only reads", () => makeKey(["analytics:read"]), 403, "FORBIDDEN", "integrations:sync"],
    ["another tenant's admin", () => api.signIn("globex", "admin"), 404, "NOT_FOUND", undefined],
  ])("%s sends nothing", async (_who, token, status, code, reason) => {
    expect((await upload(csvOf(line(1)))).status).toBe(202);
    for (const query of ["", "?preview=true"]) {
      const answer = await upload(csvOf(line(2)), { token: await token(), query });
      expect(answer).toMatchObject({ status, body: { code } });
      if (reason) expect(answer.body.reason).toBe(reason);
    }
    expect(await uploads()).toHaveLength(1);
  });

  it("a key with integrations:sync sends files", async () => {
    const token = await makeKey(["analytics:read", "integrations:sync"]);
    expect((await upload(csvOf(line(1)), { token })).status).toBe(202);
  });

  it("whoever may only manage integrations looks, and sends nothing", async () => {
    await database.owner.query("update users set permissions = '{integrations:manage}' where id = $1", [
      acme.users.viewer.id,
    ]);
    try {
      const token = await api.signIn("acme", "viewer");
      expect((await upload(csvOf(line(1)), { token, query: "?preview=true" })).status).toBe(200);
      expect(await upload(csvOf(line(1)), { token })).toMatchObject({
        status: 403,
        body: { reason: "integrations:sync" },
      });
    } finally {
      await database.owner.query("update users set permissions = '{}' where id = $1", [acme.users.viewer.id]);
    }
  });

  it("whoever is suspended meanwhile is stopped at the next chunk", async () => {
    const file = Buffer.from(csvOfCount(40_000));
    let more = () => {};
    const slow = new ReadableStream({
      start(controller) {
        controller.enqueue(file.subarray(0, 600_000));
        more = () => {
          controller.enqueue(file.subarray(600_000));
          controller.close();
        };
      },
    });
    const answer = upload(slow);
    await until(chunks, (found) => found.length === 1);
    await database.owner.query("update users set status = 'SUSPENDED' where id = $1", [acme.users.user.id]);
    try {
      more();
      expect(await answer).toMatchObject({ status: 401, body: { reason: "revoked" } });
      expect(await uploads()).toMatchObject([{ state: "receiving" }]);
    } finally {
      await database.owner.query("update users set status = 'ACTIVE' where id = $1", [acme.users.user.id]);
      user = await api.signIn("acme", "user");
    }
  });
});

describe("is refused:", () => {
  it.each<[string, number, string, string | undefined, string | Buffer, Sent]>([
    ["an empty file", 422, "INVALID_INPUT", "empty", "", {}],
    ["a header alone of other columns", 422, "INVALID_INPUT", "mapping", "a;b\n1;2\n", {}],
    ["a workbook", 422, "INVALID_INPUT", "unreadable", Buffer.from("PK\x03\x04rest"), {}],
    [
      "what is packed and does not say so",
      422,
      "INVALID_INPUT",
      "unreadable",
      Buffer.from([0x1f, 0x8b, 8, 0]),
      {},
    ],
    [
      "UTF-16 that the mapping does not name",
      422,
      "INVALID_INPUT",
      "unreadable",
      Buffer.from("\uFEFFa;b\n", "utf16le"),
      {},
    ],
    [
      "what is not packed as it says",
      400,
      "INVALID_INPUT",
      "not_packed",
      "Belegnr",
      { headers: { "content-encoding": "gzip" } },
    ],
    ["a form", 415, "INVALID_INPUT", undefined, "x", { type: "multipart/form-data; boundary=x" }],
    ["another encoding", 415, "INVALID_INPUT", undefined, "x", { headers: { "content-encoding": "zstd" } }],
    ["a nameless file", 400, "INVALID_INPUT", undefined, "x", { query: "?name=%20" }],
    ["a name with a control character", 400, "INVALID_INPUT", undefined, "x", { query: "?name=a%0Ab" }],
    ["an unknown parameter", 400, "INVALID_INPUT", undefined, "x", { query: "?mode=fast" }],
    ["a config with an upload", 400, "INVALID_INPUT", undefined, "x", { query: "?config={}" }],
    ["a config that is no JSON", 400, "INVALID_INPUT", "not_json", "x", { query: "?preview=true&config={" }],
    [
      "a config that cannot be used",
      422,
      "INVALID_INPUT",
      "mapping",
      "x",
      { query: "?preview=true&config={}" },
    ],
  ])("%s", async (_case, status, code, reason, file, sent) => {
    const answer = await upload(file, sent);
    expect({ status: answer.status, type: answer.headers.get("content-type") }).toEqual({
      status,
      type: expect.stringContaining("application/problem+json"),
    });
    expect(answer.body).toMatchObject({ code, ...(reason ? { reason } : {}) });
    await nothingStays();
    // biome-ignore lint/suspicious/noExplicitAny: a document of any shape
    const openApi: any = await (await fetch(`${api.url}/v1/openapi.json`)).json();
    const { responses } = openApi.paths["/v1/integrations/{id}/files"].post;
    expect(responses).toHaveProperty(String(status));
    const ajv = new Ajv2020.default({ strict: false, validateFormats: false });
    ajv.addSchema({ $id: "api", components: openApi.components });
    const { schema } = responses[status].content["application/problem+json"];
    expect(ajv.compile({ $ref: `api${schema.$ref}` })(answer.body)).toBe(true);
  });

  it("columns that the file does not have, by name and place", async () => {
    const { body } = await upload("Belegnr;Datum;betrag;Filiale\n");
    expect(body.detail).toContain('The file has no column "Betrag". Did you mean "betrag"?');
    expect(body.problems).toEqual([
      { pointer: "/value/column", column: "Betrag", detail: expect.any(String) },
    ]);
  });

  it("an integration that takes no files, is disabled, or is none", async () => {
    expect(await send(api, path(acme.integrationId), csvOf(line(1)), { token: user })).toMatchObject({
      status: 400,
      body: { reason: "provider" },
    });
    expect((await send(api, path("00000000-0000-7000-8000-000000000000"), "x", { token: user })).status).toBe(
      404,
    );
    expect((await send(api, path("x"), "x", { token: user })).status).toBe(404);
    await database.owner.query("update integrations set status = 'DISABLED' where id = $1", [integration]);
    expect(await upload(csvOf(line(1)))).toMatchObject({ status: 409, body: { code: "CONFLICT" } });
  });

  it("a file for an integration whose config is no mapping", async () => {
    await database.owner.query("update integrations set config = '{}' where id = $1", [integration]);
    const { status, body } = await upload(csvOf(line(1)));
    expect([status, body.reason]).toEqual([422, "mapping"]);
    expect(body.problems).toContainEqual({ pointer: "/timestamp", detail: expect.any(String) });
  });

  it("other methods", async () => {
    const put = await fetch(`${api.url}/v1${path()}`, { method: "PUT" });
    expect([put.status, put.headers.get("allow")]).toEqual([405, "GET, POST"]);
  });
});

describe("a preview", () => {
  const stored = () => rowsOf("select count(*)::integer from analytics_events where source like 'csv:%'");

  it("shows the rows as the events they would become, and what is wrong with others; nothing is stored", async () => {
    const file = csvOf(
      line(1),
      line(2, "zwölf"),
      "3;x",
      ...Array.from({ length: 40 }, (_, index) => line(index + 4)),
    );
    const { status, body } = await upload(file, { query: "?preview=true" });
    expect([status, body.isProposed, body.problems, body.rows.length]).toEqual([200, false, [], 20]);
    expect(body.rows[0]).toEqual({
      line: 2,
      outcome: "accepted",
      event: {
        eventType: "order",
        eventName: "order_completed",
        timestamp: "2026-03-02T09:30:00Z",
        value: "1000.01",
        currency: "EUR",
        sourceId: "order:1",
        properties: { locationId: "Mitte" },
      },
    });
    expect(body.rows[1]).toMatchObject({
      line: 3,
      problem: { column: "Betrag", sentence: expect.stringContaining('Line 3, column "Betrag": "zwölf"') },
      text: line(2, "zwölf"),
    });
    expect(body.rows[2]).toMatchObject({
      line: 4,
      problem: { detail: "This record has 2 cells, and the header 4." },
    });
    expect(await stored()).toEqual([{ count: 0 }]);
    await nothingStays();
    expect(await queued()).toEqual([]);
  });

  it("says what is there already, and what the database would refuse", async () => {
    const event = (index: number, value: string) => ({
      ...{
        eventType: "order",
        eventName: "order_completed",
        source: `csv:${integration}`,
        sourceId: `order:${index}`,
      },
      ...{
        timestamp: `2026-03-0${index + 1}T09:30:00Z`,
        value,
        currency: "EUR",
        properties: { locationId: "Mitte" },
      },
    });
    await database.owner.query("select app_hidden.write_events($1, $2)", [
      acme.id,
      JSON.stringify([event(1, "1000.01"), event(2, "7")]),
    ]);
    const old = line(4).replace("2026", "1999");
    const { body } = await upload(csvOf(line(1), line(2), line(3), old), { query: "?preview=true" });
    expect(body.rows.map((row: { outcome: string }) => row.outcome)).toEqual([
      "duplicate",
      "updated",
      "accepted",
      "rejected",
    ]);
    expect(body.rows[3].rejection).toMatchObject({ reason: "too_old", pointer: "/timestamp" });
    const [{ value }] = await rowsOf(
      "select value::text from analytics_events where source_id = 'order:2' and source like 'csv:%'",
    );
    expect(value).toBe("7");
    await database.owner.query("delete from analytics_events where source like 'csv:%'");
  });

  it("tries another mapping than the stored one", async () => {
    const config = JSON.stringify({ ...mapping, value: { column: "Summe" } });
    const { body } = await upload(csvOf(line(1)), {
      query: `?preview=true&config=${encodeURIComponent(config)}`,
    });
    expect(body).toMatchObject({ problems: [{ pointer: "/value/column", column: "Summe" }], rows: [] });
  });

  it.each([
    [
      "German, of Windows",
      Buffer.from(
        `Belegnr;Datum;Betrag;Größe\n1;05.03.2026 10:30;1.234,50;L\n2;06.03.2026 10:30;-3,20;M\n`,
        "latin1",
      ),
      { encoding: "latin1", delimiter: ";", decimalSeparator: "," },
      {
        timestamp: { column: "Datum", format: "dd.MM.yyyy HH:mm", timeZone: "Europe/Berlin" },
        value: { column: "Betrag" },
      },
      { value: "1234.50", currency: "EUR", sourceId: "order:1", properties: { größe: "L" } },
    ],
    [
      "American, with a byte order mark and a currency",
      '\uFEFFOrder ID,Created,Total,Cur\nA1,7/14/2026 9:05 AM,"1,234.50",USD\nA2,7/15/2026 1:05 PM,3.20,USD\n',
      { encoding: "utf8", delimiter: ",", decimalSeparator: "." },
      { timestamp: { column: "Created", format: "M/d/yyyy h:mm a" }, sourceId: { columns: ["Order ID"] } },
      { value: "1234.50", currency: "USD", sourceId: "order:A1", properties: {} },
    ],
    [
      "Excel's, which names its delimiter first",
      "\uFEFFsep=;\r\nDate;Qty\r\n2026-03-05;1,5\r\n",
      { delimiter: ";", decimalSeparator: "," },
      { value: { column: "Qty" } },
      { timestamp: "2026-03-04T23:00:00Z", value: "1.5" },
    ],
    [
      "tabs, without a header",
      "2026-03-05T10:00:00Z\t12.50\n2026-03-06T10:00:00Z\t12.50\n",
      { delimiter: "\t", hasHeader: false },
      { timestamp: { column: "1", format: "iso" }, value: { column: "2" } },
      { value: "12.50", sourceId: expect.stringContaining("order:row-") },
    ],
  ])("proposes a mapping without an integration: %s", async (_case, file, reading, fields, event) => {
    const { status, body } = await send(api, "/csv/preview", file, { token: admin });
    expect([status, body.isProposed]).toEqual([200, true]);
    expect(body.config).toMatchObject({ ...reading, ...fields });
    expect(body.rows[0]).toMatchObject({ outcome: "accepted", event });
  });

  it("says of every column what it holds", async () => {
    const file =
      "id,at,n,amount,cur,ok,plz,nothing\n1,2026-01-01,5,1.5,EUR,yes,01067,\n2,2026-01-02,5,2,USD,no,01099,\n";
    const { body } = await send(api, "/csv/preview", file, { token: admin });
    expect(body.columns.map(({ name, kind }: { name: string; kind: string }) => `${name} ${kind}`)).toEqual([
      ...["id integer", "at time", "n integer", "amount decimal", "cur currency", "ok boolean", "plz text"],
      "nothing empty",
    ]);
    expect(body.columns[1]).toMatchObject({
      format: "iso",
      isUnique: true,
      examples: ["2026-01-01", "2026-01-02"],
    });
  });

  it("without a column of times proposes nothing", async () => {
    const { body } = await send(api, "/csv/preview", "a,b\n1,2\n", { token: admin });
    expect(body).toMatchObject({ config: null, rows: [], columns: [{ name: "a" }, { name: "b" }] });
  });

  it("reads no more than the beginning of a large file", async () => {
    const file = csvOfCount(200_000);
    const { status, body } = await upload(file, { query: "?preview=true" });
    expect([status, body.rows.length]).toEqual([200, 20]);
  });
});

it("SQL knows which providers need no credentials", async () => {
  for (const { provider, needsCredentials = true } of connectors) {
    const { rows } = await database.owner.query("select app_private.needs_credentials($1) as needs", [
      provider,
    ]);
    expect([provider, rows[0].needs]).toEqual([provider, needsCredentials]);
  }
  expect(globex.id).not.toBe(acme.id);
});
