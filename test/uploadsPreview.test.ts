import { afterAll, beforeAll, beforeEach, describe, expect, it } from "@jest/globals";
import Ajv2020 from "ajv/dist/2020.js";
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
let admin: string;
let user: string;
let integration: string;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  acme = await createTenant(database.owner, "acme", {
    settings: { timeZone: "Europe/Berlin", currency: "EUR" },
  });
  admin = await api.signIn("acme", "admin");
  user = await api.signIn("acme", "user");
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
