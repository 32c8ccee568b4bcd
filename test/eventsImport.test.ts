import { writeFile } from "node:fs/promises";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { UserError } from "../src/config.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { counts, HEADER, type ImportFolder, csvLine as line, makeImportFolder } from "./support/imports.ts";
import { untilBlocked } from "./support/until.ts";

let database: TestDatabase;
let files: ImportFolder;

beforeAll(async () => {
  database = await createTestDatabase();
});
beforeEach(async () => {
  files = await makeImportFolder(database);
});
afterEach(() => files.remove());
afterAll(() => database.drop());

it("reads CSV: columns that are no field are properties, empty cells are left out, quotes may hold lines", async () => {
  await files.write(
    "a.csv",
    `\uFEFF${HEADER}\r\n${line(1, { note: '"two\nlines, ""quoted"""' })}\r\n${line(2)}\r\n`,
  );
  expect(counts(await files.run("a.csv"))).toEqual([2, 0, 0, 0]);
  expect(await files.stored()).toEqual([
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
  await files.write("a.csv", `${HEADER}\n${lines.join("\n")}\n`);
  const progress = await files.run("a.csv");
  expect(counts(progress)).toEqual([3, 0, 0, 3]);
  const report = await files.rejected("a.csv");
  expect(report.map(({ line, reason, pointer }) => [line, reason, pointer])).toEqual([
    [3, "not_a_number", "/value"],
    [4, "not_csv", ""],
    [6, "not_a_time", "/timestamp"],
  ]);
  expect(report[0]?.text).toBe(lines[1]);
  expect((await files.stored()).map(({ source_id }) => source_id)).toEqual(["o1", "o3", "o5"]);
});

it("rejects the line of a quote that nobody closes alone, and reads on behind it", async () => {
  await files.write("a.csv", `${HEADER}\n${line(1)}\n${line(2, { note: '"open' })}\n${line(3)}\n`);
  for (let times = 0; times < 2; times++) {
    expect(counts(await files.run("a.csv"))).toEqual([2, 0, 0, 1]);
    expect(await files.rejected("a.csv")).toMatchObject([
      { line: 3, reason: "not_csv", text: line(2, { note: '"open' }) },
    ]);
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
  await files.write(
    "a.ndjson",
    Buffer.concat(lines.flatMap((each) => [Buffer.from(each), Buffer.from("\n")])),
  );
  expect(counts(await files.run("a.ndjson"))).toEqual([2, 0, 0, 5]);
  expect((await files.rejected("a.ndjson")).map(({ line, reason }) => [line, reason])).toEqual([
    [2, "not_json"],
    [4, "not_utf8"],
    [5, "too_large"],
    [6, "not_storable"],
    [7, "not_an_object"],
  ]);
  expect(await files.stored()).toMatchObject([{ value: "12345678901234567890.5" }, { source_id: "v2" }]);
});

it("deletes what a column of CSV says is deleted", async () => {
  await files.write("a.csv", `${HEADER}\n${line(1)}\n${line(2)}\n${line(3)}\n`);
  await files.run("a.csv");
  await files.write("b.csv", "source,sourceId,deleted\nlegacy,o1,TRUE\nlegacy,o2,false\nlegacy,o3,yes\n");
  expect(counts(await files.run("b.csv"))).toEqual([0, 1, 1, 1]);
  expect((await files.stored()).map(({ source_id }) => source_id)).toEqual(["o2", "o3"]);
  expect(await files.rejected("b.csv")).toMatchObject([{ line: 4, reason: "not_a_boolean" }]);
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
  await files.write(name, `${format === "csv" ? `${HEADER}\n` : ""}${lines.join("\n")}\n`);
  const first = await files.run(name, { stopAfter: 1 });
  expect(counts(first)).toEqual([990, 0, 0, 10]);
  // What a crash left behind: lines of a batch that was not committed.
  await writeFile(await files.reportOf(name), "{}\n", { flag: "a" });
  const second = await files.run(name);
  expect(counts(second)).toEqual([3_465, 0, 0, 35]);
  expect(await files.stored()).toHaveLength(3_465);
  expect(await files.rejected(name)).toHaveLength(35);
  expect(counts(await files.run(name))).toEqual([3_465, 0, 0, 35]);
  expect(await files.stored()).toHaveLength(3_465);
});

it("counts a file that is imported anew, or another with the same records, once", async () => {
  const body = `${HEADER}\n${line(1)}\n${line(2)}\n`;
  await files.write("a.csv", body);
  await files.run("a.csv");
  expect(counts(await files.run("a.csv", { restart: true }))).toEqual([0, 0, 2, 0]);
  await files.write("b.csv", `${body}${line(1, { value: "7" })}\n`);
  expect(counts(await files.run("b.csv", { onConflict: "reject" }))).toEqual([0, 0, 2, 1]);
  expect(await files.rejected("b.csv")).toMatchObject([{ line: 4, code: "CONFLICT" }]);
});

it("fills in what the file does not say", async () => {
  await files.write("a.csv", "timestamp;total;sourceId\n2026-01-01T00:00:00Z;5;1\n");
  const defaults = { eventType: "order", eventName: "order_completed", source: "till" };
  expect(counts(await files.run("a.csv", { delimiter: ";", defaults }))).toEqual([1, 0, 0, 0]);
  expect(await files.stored()).toMatchObject([{ properties: { total: "5" } }]);
});

it("makes the months of old events beforehand", async () => {
  const lines = Array.from({ length: 24 }, (_, index) =>
    line(index, {
      timestamp: `${2020 + Math.floor(index / 12)}-${String(1 + (index % 12)).padStart(2, "0")}-03T00:00:00Z`,
    }),
  );
  await files.write("a.csv", `${HEADER}\n${lines.join("\n")}\n`);
  expect(counts(await files.run("a.csv"))).toEqual([24, 0, 0, 0]);
  expect((await files.stored()).filter(({ partition }) => String(partition).endsWith("default"))).toEqual([]);
});

it.each<[string, string, string]>([
  ["an empty file", "", "is empty"],
  ["a header that names a column twice", "value,value\n", 'names "value" twice'],
  ["a column without a name", "value,\n", "without a name"],
])("refuses %s", async (_case, body, sentence) => {
  await files.write("a.csv", body);
  const importing = files.run("a.csv");
  await expect(importing).rejects.toThrow(UserError);
  await expect(importing).rejects.toThrow(sentence);
});

it("refuses an unknown tenant, and a file that is not there", async () => {
  await expect(files.run("none.csv")).rejects.toThrow(UserError);
  await files.write("a.csv", `${HEADER}\n`);
  await expect(files.run("a.csv", { tenant: "nowhere" })).rejects.toThrow('no tenant "nowhere"');
});

it("lets one of two imports of a file at a time win, and tells the other", async () => {
  await files.write("month.csv", `${HEADER}\n${line(0)}\n`);
  await files.run("month.csv");
  const lines = Array.from({ length: 2_500 }, (_, index) => line(index, { sourceId: "" }));
  await files.write("a.csv", `${HEADER}\n${lines.join("\n")}\n`);
  const client = await database.owner.connect();
  await client.query("begin");
  await client.query("lock table analytics_events in share mode");
  const importing = Promise.allSettled([files.run("a.csv"), files.run("a.csv")]);
  // One waits to write its first batch, the other for the first.
  await untilBlocked(database, 2);
  await client.query("rollback");
  client.release();
  const outcomes = await importing;
  expect(outcomes.flatMap((each) => (each.status === "fulfilled" ? [counts(each.value)] : []))).toEqual([
    [2_500, 0, 0, 0],
  ]);
  const [failed, ...others] = outcomes.flatMap((each) => (each.status === "rejected" ? [each.reason] : []));
  expect(others).toEqual([]);
  expect(failed).toBeInstanceOf(UserError);
  expect(failed).toMatchObject({
    message: expect.stringContaining("Another import of this file is running"),
  });
  expect(await files.stored()).toHaveLength(2_501);
});
