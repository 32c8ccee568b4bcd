import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { UserError } from "../src/config.ts";
import { type ImportOptions, importEvents, type Progress } from "../src/events/import/importer.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";

let database: TestDatabase;
let folder: string;
let tenant: string;
let count = 0;

beforeAll(async () => {
  database = await createTestDatabase();
});
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "erp-import-"));
  tenant = `t${++count}`;
  await database.owner.query("insert into tenants (name, slug, status) values ('T', $1, 'ACTIVE')", [tenant]);
});
afterEach(() => rm(folder, { recursive: true }));
afterAll(() => database.drop());

const path = (name: string) => join(folder, name);
async function run(
  name: string,
  options: Partial<ImportOptions> = {},
  { stopAfter }: { stopAfter?: number } = {},
): Promise<Progress> {
  const stop = new AbortController();
  let batches = 0;
  return importEvents(
    database.owner,
    {
      tenant,
      path: path(name),
      format: name.endsWith("csv") ? "csv" : "ndjson",
      delimiter: ",",
      onConflict: "update",
      defaults: {},
      restart: false,
      ...options,
    },
    {
      signal: stop.signal,
      onProgress() {
        if (++batches === stopAfter) stop.abort();
      },
    },
  );
}
const counts = ({ accepted, updated, duplicate, rejected }: Progress) => [
  accepted,
  updated,
  duplicate,
  rejected,
];
const rejected = async (name: string) =>
  (await readFile(`${path(name)}.rejected.ndjson`, "utf8"))
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));
const stored = async () => {
  const { rows } = await database.owner.query(
    `select e.source_id, e.value::text, e.properties, e.tableoid::regclass::text as partition
       from analytics_events e join tenants t on t.id = e.tenant_id where t.slug = $1 order by e.timestamp, e.source_id`,
    [tenant],
  );
  return rows;
};
const HEADER = "eventType,eventName,timestamp,value,currency,source,sourceId,store,note";
const line = (index: number, more: Record<string, string> = {}) =>
  [
    "order",
    "order_completed",
    more.timestamp ?? `2026-01-${String(1 + (index % 28)).padStart(2, "0")}T00:00:00Z`,
    more.value ?? `${index}.50`,
    "EUR",
    "legacy",
    more.sourceId ?? `o${index}`,
    "Hauptstraße",
    more.note ?? "",
  ].join(",");

it("reads CSV: columns that are no field are properties, empty cells are left out, quotes may hold lines", async () => {
  await writeFile(
    path("a.csv"),
    `\uFEFF${HEADER}\r\n${line(1, { note: '"two\nlines, ""quoted"""' })}\r\n${line(2)}\r\n`,
  );
  expect(counts(await run("a.csv"))).toEqual([2, 0, 0, 0]);
  expect(await stored()).toEqual([
    {
      source_id: "o1",
      value: "1.50",
      properties: { store: "Hauptstraße", note: 'two\nlines, "quoted"' },
      partition: "partitions.analytics_events_202601",
    },
    expect.objectContaining({ source_id: "o2", properties: { store: "Hauptstraße" } }),
  ]);
});

it("lists what is rejected, with its line, and takes the rest", async () => {
  const lines = [
    line(1),
    line(2, { value: "n/a" }),
    "too,few",
    line(3, { note: '5" screen' }),
    line(4, { timestamp: "03.01.2026" }),
    line(5),
  ];
  await writeFile(path("a.csv"), `${HEADER}\n${lines.join("\n")}\n`);
  const progress = await run("a.csv");
  expect(counts(progress)).toEqual([3, 0, 0, 3]);
  const report = await rejected("a.csv");
  expect(report.map(({ line, reason, pointer }) => [line, reason, pointer])).toEqual([
    [3, "not_a_number", "/value"],
    [4, "not_csv", ""],
    [6, "not_a_time", "/timestamp"],
  ]);
  expect(report[0].text).toBe(lines[1]);
  expect((await stored()).map(({ source_id }) => source_id)).toEqual(["o1", "o3", "o5"]);
});

it("takes nothing behind a quote that nobody closes, and says so once", async () => {
  await writeFile(path("a.csv"), `${HEADER}\n${line(1)}\n${line(2, { note: '"open' })}\n${line(3)}\n`);
  for (let times = 0; times < 2; times++) {
    expect(counts(await run("a.csv"))).toEqual([1, 0, 0, 1]);
    expect(await rejected("a.csv")).toMatchObject([{ line: 3, reason: "not_csv" }]);
  }
});

it("reads NDJSON of any bytes: a bad line is rejected alone, a long one, too", async () => {
  const event = (index: number) =>
    JSON.stringify({
      eventType: "visit",
      eventName: "v",
      sourceId: `v${index}`,
      value: "12345678901234567890.5",
    });
  const lines = [
    event(1),
    "{",
    "",
    Buffer.from('{"eventType":"\xff"}', "latin1"),
    `{"eventType":"${"x".repeat(1_100_000)}"}`,
    '{"eventType":"a","eventName":"b","properties":{"t":"\\u0000"}}',
    "7",
    event(2),
  ];
  await writeFile(
    path("a.ndjson"),
    Buffer.concat(lines.flatMap((each) => [Buffer.from(each), Buffer.from("\n")])),
  );
  expect(counts(await run("a.ndjson"))).toEqual([2, 0, 0, 5]);
  expect((await rejected("a.ndjson")).map(({ line, reason }) => [line, reason])).toEqual([
    [2, "not_json"],
    [4, "not_utf8"],
    [5, "too_large"],
    [6, "not_storable"],
    [7, "not_an_object"],
  ]);
  expect(await stored()).toMatchObject([{ value: "12345678901234567890.5" }, { source_id: "v2" }]);
});

it.each(["csv", "ndjson"])("goes on where it was interrupted: %s", async (format) => {
  const name = `a.${format}`;
  // Without ids: nothing but the place in the file keeps them from being counted twice.
  const lines = Array.from({ length: 3_500 }, (_, index) => {
    const value = index % 100 === 7 ? "x" : `${index}`;
    if (format === "csv") return line(index, { sourceId: "", value });
    const timestamp = "2026-02-01T00:00:00Z";
    return JSON.stringify({ eventType: "order", eventName: "o", timestamp, value });
  });
  await writeFile(path(name), `${format === "csv" ? `${HEADER}\n` : ""}${lines.join("\n")}\n`);
  const first = await run(name, {}, { stopAfter: 1 });
  expect(counts(first)).toEqual([990, 0, 0, 10]);
  // What a crash left behind: lines of a batch that was not committed.
  await writeFile(`${path(name)}.rejected.ndjson`, "{}\n", { flag: "a" });
  const second = await run(name);
  expect(counts(second)).toEqual([3_465, 0, 0, 35]);
  expect(await stored()).toHaveLength(3_465);
  expect(await rejected(name)).toHaveLength(35);
  expect(counts(await run(name))).toEqual([3_465, 0, 0, 35]);
  expect(await stored()).toHaveLength(3_465);
});

it("counts a file that is imported anew, or another with the same records, once", async () => {
  const body = `${HEADER}\n${line(1)}\n${line(2)}\n`;
  await writeFile(path("a.csv"), body);
  await run("a.csv");
  expect(counts(await run("a.csv", { restart: true }))).toEqual([0, 0, 2, 0]);
  await writeFile(path("b.csv"), `${body}${line(1, { value: "7" })}\n`);
  expect(counts(await run("b.csv", { onConflict: "reject" }))).toEqual([0, 0, 2, 1]);
  expect(await rejected("b.csv")).toMatchObject([{ line: 4, code: "CONFLICT" }]);
});

it("fills in what the file does not say", async () => {
  await writeFile(path("a.csv"), "timestamp;total;sourceId\n2026-01-01T00:00:00Z;5;1\n");
  const defaults = { eventType: "order", eventName: "order_completed", source: "till" };
  expect(counts(await run("a.csv", { delimiter: ";", defaults }))).toEqual([1, 0, 0, 0]);
  expect(await stored()).toMatchObject([{ properties: { total: "5" } }]);
});

it("makes the months of old events beforehand", async () => {
  const lines = Array.from({ length: 24 }, (_, index) =>
    line(index, {
      timestamp: `${2020 + Math.floor(index / 12)}-${String(1 + (index % 12)).padStart(2, "0")}-03T00:00:00Z`,
    }),
  );
  await writeFile(path("a.csv"), `${HEADER}\n${lines.join("\n")}\n`);
  expect(counts(await run("a.csv"))).toEqual([24, 0, 0, 0]);
  expect((await stored()).filter(({ partition }) => partition.endsWith("default"))).toEqual([]);
});

it.each<[string, string, string]>([
  ["an empty file", "", "is empty"],
  ["a header that names a column twice", "value,value\n", 'names "value" twice'],
  ["a column without a name", "value,\n", "without a name"],
])("refuses %s", async (_case, body, sentence) => {
  await writeFile(path("a.csv"), body);
  const importing = run("a.csv");
  await expect(importing).rejects.toThrow(UserError);
  await expect(importing).rejects.toThrow(sentence);
});

it("refuses an unknown tenant, and a file that is not there", async () => {
  await expect(run("none.csv")).rejects.toThrow(UserError);
  await writeFile(path("a.csv"), `${HEADER}\n`);
  await expect(run("a.csv", { tenant: "nowhere" })).rejects.toThrow('no tenant "nowhere"');
});

it("lets one of two imports of a file at a time win", async () => {
  const lines = Array.from({ length: 3_000 }, (_, index) => line(index, { sourceId: "" }));
  await writeFile(path("a.csv"), `${HEADER}\n${lines.join("\n")}\n`);
  const outcomes = await Promise.allSettled([run("a.csv"), run("a.csv")]);
  expect(outcomes.filter(({ status }) => status === "rejected").length).toBeLessThan(2);
  expect(await stored()).toHaveLength(3_000);
});
