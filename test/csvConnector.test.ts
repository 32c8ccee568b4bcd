import type { ChildProcess } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { passAMinute } from "./support/passAMinute.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";
import { createCsvIntegration, csvOf, csvOfCount, line, mapping, send } from "./support/uploads.ts";
import { startTestWorker } from "./support/worker.ts";
import { killProcess, spawnWorker } from "./support/workerProcess.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let admin: string;
let integration: string;
let dataDir: string;
const children: ChildProcess[] = [];
let worker: Awaited<ReturnType<typeof startTestWorker>> | undefined;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  dataDir = await mkdtemp(join(tmpdir(), "erp-csv-"));
});
let count = 0;
beforeEach(async () => {
  acme = await createTenant(database.owner, `acme${++count}`, { events: [] });
  admin = await api.signIn(acme.slug, "admin");
  integration = await createCsvIntegration(database, acme.id);
});
afterEach(async () => {
  await worker?.stop();
  worker = undefined;
  await Promise.all(children.splice(0).map(killProcess));
});
afterAll(async () => {
  await api.close();
  await database.drop();
  await rm(dataDir, { recursive: true });
});

const work = async () => {
  worker = await startTestWorker(database);
};
const upload = async (file: string | Buffer, query = "") => {
  const answer = await send(api, `/integrations/${integration}/files`, file, {
    token: admin,
    query,
    isPacked: true,
  });
  expect(answer).toMatchObject({ status: 202 });
};
const state = async () =>
  (
    await database.owner.query("select status, sync_status, sync_error from integrations where id = $1", [
      integration,
    ])
  ).rows[0];
const uploads = async () =>
  (
    await database.owner.query(
      `select u.state, (select count(*)::integer from app_private.upload_chunks c where c.upload_id = u.id) as chunks
         from app_private.uploads u where u.integration_id = $1 order by u.id`,
      [integration],
    )
  ).rows;
/** All files were read, and the sync has ended. */
const ended = async (timeoutMs?: number) => {
  await until(uploads, (rows) => rows.every((row) => row.state === "done"), timeoutMs);
  return until(state, ({ sync_status }) => ["succeeded", "failed"].includes(sync_status), timeoutMs);
};
const events = async () =>
  (
    await database.owner.query(
      `select source, source_id, event_name, to_char("timestamp" at time zone 'UTC', 'MM-DD HH24:MI') as at, value::text, currency, properties
         from analytics_events where tenant_id = $1 order by source_id`,
      [acme.id],
    )
  ).rows;
const tally = async () =>
  (
    await database.owner.query(
      "select count(*)::integer as events, count(distinct source_id)::integer as records, sum(value)::text from analytics_events where tenant_id = $1",
      [acme.id],
    )
  ).rows[0];
const unparsable = async () =>
  (
    await database.owner.query(
      "select stream, reason, record from rejected_records where integration_id = $1 order by id",
      [integration],
    )
  ).rows;

it("reads a file into events, keeps bad rows aside with line and column, and lets the bytes go", async () => {
  await work();
  await upload(
    csvOf(line(1), line(2, "zwölf"), "3;04.03.2026 10:30;1,50", line(4), line(5).replace("2026", "1999")),
    "?name=a.csv",
  );
  expect(await ended()).toEqual({ status: "ACTIVE", sync_status: "succeeded", sync_error: null });
  const common = {
    source: `csv:${integration}`,
    event_name: "order_completed",
    currency: "EUR",
    properties: { locationId: "Mitte" },
  };
  expect(await events()).toEqual([
    { ...common, source_id: "order:1", at: "03-02 09:30", value: "1000.01" },
    { ...common, source_id: "order:4", at: "03-05 09:30", value: "1000.04" },
  ]);
  expect(await unparsable()).toEqual([
    {
      stream: "files",
      reason: 'Line 3, column "Betrag": "zwölf" is no number with the decimal separator ",".',
      record: { file: "a.csv", line: 3, text: line(2, "zwölf") },
    },
    {
      stream: "files",
      reason: "Line 4: This record has 3 cells, and the header 4.",
      record: expect.objectContaining({ line: 4 }),
    },
    {
      stream: "files",
      reason: expect.stringMatching(/^Line 6, column "Datum": 1999-.* is too long ago/),
      record: expect.anything(),
    },
  ]);
  expect(await uploads()).toEqual([{ state: "done", chunks: 0 }]);
});

it("a file that comes twice adds nothing, and a corrected one updates", async () => {
  await work();
  await upload(csvOf(line(1), line(2)));
  await ended();
  const first = await events();
  expect(first).toHaveLength(2);
  await upload(csvOf(line(1), line(2)));
  await ended();
  expect(await events()).toEqual(first);
  await upload(csvOf(line(2, "7,00"), line(3)));
  await ended();
  expect((await events()).map(({ source_id, value }) => [source_id, value])).toEqual([
    ["order:1", "1000.01"],
    ["order:2", "7.00"],
    ["order:3", "1000.03"],
  ]);
});

it.each([
  ["utf8", Buffer.from('\uFEFFNr;Ort\r\n1;Köln\r\n2;"Bad\n""Tölz"""')],
  ["latin1", Buffer.from('Nr;Ort\r\n1;Köln\r\n2;"Bad\n""Tölz"""\r\n', "latin1")],
  ["utf16le", Buffer.from('\uFEFFNr;Ort\n1;Köln\n2;"Bad\n""Tölz"""\n', "utf16le")],
] as const)("reads %s", async (encoding, file) => {
  const config = {
    ...{
      encoding,
      delimiter: ";",
      eventType: { constant: "signup" },
      eventName: { constant: "signup_completed" },
    },
    ...{
      timestamp: { column: "Nr", format: "unix" },
      sourceId: { columns: ["Nr"] },
      properties: { city: { column: "Ort" } },
    },
  };
  await database.owner.query("update integrations set config = $2 where id = $1", [
    integration,
    JSON.stringify(config),
  ]);
  await database.owner.query("update app_private.event_limits set max_age = interval '100 years'");
  await database.owner.query("update app_private.plans set retention_days = null where name = 'trial'");
  await work();
  await upload(file);
  await ended();
  expect((await events()).map(({ properties, value, currency }) => [properties, value, currency])).toEqual([
    [{ city: "Köln" }, null, null],
    [{ city: 'Bad\n"Tölz"' }, null, null],
  ]);
});

it("reads a file as its integration said when it came, whatever that says since", async () => {
  await upload(csvOf(line(1)));
  const changed = { ...mapping, value: { column: "Summe" }, eventName: { constant: "order_opened" } };
  await database.owner.query("update integrations set config = $2 where id = $1", [
    integration,
    JSON.stringify(changed),
  ]);
  await work();
  expect((await ended()).sync_status).toBe("succeeded");
  expect(await events()).toMatchObject([{ event_name: "order_completed", value: "1000.01" }]);
});

it("a file that cannot be read stops none behind it", async () => {
  await upload(csvOf(line(1)));
  await upload(csvOf(line(2)));
  await database.owner.query(
    `update app_private.uploads set config = '{"delimiter": 1}' where integration_id = $1 and id = (
       select id from app_private.uploads where integration_id = $1 order by ready_at limit 1)`,
    [integration],
  );
  await work();
  expect((await ended()).sync_status).toBe("succeeded");
  expect(await events()).toMatchObject([{ source_id: "order:2" }]);
  expect(await unparsable()).toEqual([
    expect.objectContaining({ reason: expect.stringContaining('The file "upload.csv" cannot be read.') }),
  ]);
});

it("goes on where it was when its worker is killed between pages; nothing is lost or doubled", async () => {
  const start = () => {
    const encryptionKeys = `test:${Buffer.alloc(32, 1).toString("base64")}`;
    const child = spawnWorker(database, { dataDir, encryptionKeys });
    children.push(child);
    return child;
  };
  await upload(csvOfCount(30_000));
  const doomed = start();
  await until(tally, ({ events }) => events >= 4_000, 60_000);
  await killProcess(doomed);
  const { events: before } = await tally();
  expect(before).toBeLessThan(30_000);
  await passAMinute(database.owner);
  start();
  await ended(110_000);
  expect(await tally()).toMatchObject({ events: 30_000, records: 30_000 });
  // Every page but the one in which it died was read once.
  const { rows } = await database.owner.query(
    "select records_duplicate::integer as duplicates from integration_streams where integration_id = $1",
    [integration],
  );
  expect(rows).toEqual([{ duplicates: 0 }]);
}, 150_000);

setFlagsFromString("--expose-gc");
const collect: () => void = runInNewContext("gc");
/** Bytes that are in use, without what is only waiting to be collected. */
const held = () => {
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
};

const ROWS = process.env.ERP_TEST_LONG ? 100_000 : 60_000;
it(`takes and reads ${ROWS.toLocaleString("en")} rows in flat memory`, async () => {
  await work();
  // What the first file takes stays: code, buffers, connections.
  await upload(csvOfCount(10_000));
  await ended(60_000);
  const file = csvOfCount(ROWS);
  const before = held();
  let most = before;
  const watch = setInterval(() => {
    most = Math.max(most, held());
  }, 1_000);
  try {
    await upload(file);
    expect((await ended(110_000)).sync_status).toBe("succeeded");
  } finally {
    clearInterval(watch);
  }
  expect(await tally()).toMatchObject({ events: ROWS, records: ROWS });
  // Client, server and worker are all in this process; the events alone take a third of a kilobyte each.
  expect((most - before) / 1024 / 1024).toBeLessThan(ROWS / 5_000);
}, 240_000);
