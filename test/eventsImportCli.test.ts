import { open } from "node:fs/promises";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { type Ended, startImport } from "./support/importCli.ts";
import { csvLine, HEADER, type ImportFolder, makeImportFolder } from "./support/imports.ts";
import { until } from "./support/until.ts";

const MINUTES = 60_000;
const PEAK_MEGABYTES = 300;
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

const start = (name: string, ...more: string[]) =>
  startImport(database, ["--tenant", files.tenant, files.path(name), ...more]);
const run = (name: string, ...more: string[]) => start(name, ...more).ended;
/** Ends the import when it has written about `share` of the file. */
async function interrupt(name: string, signal: NodeJS.Signals, share: number): Promise<Ended> {
  const { child, ended } = start(name);
  await until(
    async () => {
      const { rows } = await database.owner.query(
        "select max(byte_offset)::float8 as place from app_private.event_imports where file_name = $1",
        [files.path(name)],
      );
      return rows[0]?.place ?? 0;
    },
    (place) => place > share * (sizes[name] ?? 0),
  );
  child.kill(signal);
  return ended;
}
const sizes: Record<string, number> = {};
/** Written piece by piece: jest needs no gigabyte for it. */
async function write(name: string, count: number, line: (index: number) => string, header = "") {
  const file = await open(files.path(name), "w");
  await file.write(header);
  for (let from = 0; from < count; from += 500)
    await file.write(
      Array.from({ length: Math.min(500, count - from) }, (_, index) => `${line(from + index)}\n`).join(""),
    );
  sizes[name] = (await file.stat()).size;
  await file.close();
}
/** How many events there are, and how many different ones. */
async function stored(): Promise<[number, number]> {
  const { rows } = await database.owner.query(
    `select count(*)::integer as all, count(distinct properties)::integer as different
       from analytics_events e join tenants t on t.id = e.tenant_id where t.slug = $1`,
    [files.tenant],
  );
  return [rows[0].all, rows[0].different];
}
const isLong = process.env.ERP_TEST_LONG !== undefined;
const PROGRESS = /% \| [\d,]+ events \| [\d,]+\/s \| \d+ s left \| [\d,]+ rejected/;

it.each<[format: string, count: number, interruptions: [NodeJS.Signals, number | null][]]>([
  [
    "csv",
    isLong ? 200_000 : 60_000,
    [
      ["SIGINT", 130],
      ["SIGKILL", null],
    ],
  ],
  [
    "ndjson",
    isLong ? 40_000 : 20_000,
    [
      ["SIGKILL", null],
      ["SIGTERM", 143],
    ],
  ],
])(
  "loses and doubles nothing when it is interrupted, and stays small: %s",
  async (format, count, interruptions) => {
    const name = `a.${format}`;
    const isBad = (index: number) => index % 100 === 7;
    // Without ids: nothing but the place in the file keeps them from being counted twice.
    const line = (index: number) => {
      const value = isBad(index) ? "x" : `${index}`;
      if (format === "csv") return csvLine(index, { sourceId: "", value, note: `n${index}` });
      const [timestamp, properties] = ["2026-02-01T00:00:00Z", { n: index }];
      return JSON.stringify({ eventType: "order", eventName: "o", timestamp, value, properties });
    };
    await write(name, count, line, format === "csv" ? `${HEADER}\n` : "");
    for (const [index, [signal, expected]] of interruptions.entries()) {
      const { code, out, peakMegabytes } = await interrupt(name, signal, 0.2 + 0.3 * index);
      expect(code).toBe(expected);
      expect(out.includes("Interrupted. So far, ")).toBe(signal !== "SIGKILL");
      expect(peakMegabytes).toBeLessThan(PEAK_MEGABYTES);
      const [all, different] = await stored();
      expect(all).toBeGreaterThan(0);
      expect(all).toBeLessThan(0.99 * count);
      expect(different).toBe(all);
    }
    const { code, out, err, peakMegabytes } = await run(name);
    expect(code).toBe(0);
    expect(out).toContain("An earlier import of this file got to line ");
    expect(out).toContain(
      `${count} events: ${0.99 * count} accepted, 0 updated, 0 duplicates, ${0.01 * count} rejected.`,
    );
    expect(err).toMatch(PROGRESS);
    expect(peakMegabytes).toBeLessThan(PEAK_MEGABYTES);
    expect(await stored()).toEqual([0.99 * count, 0.99 * count]);
    const first = format === "csv" ? 2 : 1;
    expect((await files.rejected(name)).map(({ line }) => line)).toEqual(
      Array.from({ length: count / 100 }, (_, index) => first + 7 + 100 * index),
    );
    const again = await run(name);
    expect([again.code, again.out]).toEqual([0, expect.stringMatching(/imported already, on 20.*--restart/)]);
    expect(await stored()).toEqual([0.99 * count, 0.99 * count]);
  },
  4 * MINUTES,
);

it.each<[what: string, count: number, bytes: number, accepted: number]>([
  ["30 KB that are welcome", 4_000, 30_000, 4_000],
  ["900 KB that are not", 200, 900_000, 0],
])(
  "keeps within its memory with events of %s",
  async (_what, count, bytes, accepted) => {
    const filler = "ä".repeat(bytes / 2);
    await write("a.ndjson", count, (index) =>
      JSON.stringify({ eventType: "e", eventName: "n", properties: { index, filler } }),
    );
    const { code, out, err, peakMegabytes } = await run("a.ndjson");
    expect([code, err.includes("heap")]).toEqual([0, false]);
    expect(out).toContain(
      `${count} events: ${accepted} accepted, 0 updated, 0 duplicates, ${count - accepted} rejected.`,
    );
    expect(peakMegabytes).toBeLessThan(PEAK_MEGABYTES);
    const rejected = await files.rejected("a.ndjson");
    expect(new Set(rejected.map(({ reason }) => reason))).toEqual(new Set(accepted ? [] : ["too_large"]));
    expect(Math.max(0, ...rejected.map(({ text }) => String(text).length))).toBeLessThan(2_010);
  },
  4 * MINUTES,
);

it("rejects the line of an open quote alone in a file of megabytes", async () => {
  const lines = (index: number) =>
    csvLine(index, {
      note: index === 5 ? '"open' : "n".repeat(200),
      sourceId: index === 9 ? "" : `o${index}`,
    });
  await write("a.csv", 9_000, lines, `${HEADER}\n`);
  const { code, out } = await run("a.csv");
  expect([code, out]).toEqual([0, expect.stringContaining("9000 events: 8999 accepted")]);
  expect(await files.rejected("a.csv")).toMatchObject([{ line: 7, reason: "not_csv", text: lines(5) }]);
  expect((await stored())[0]).toBe(8_999);
});

it("takes the encoding that it is told", async () => {
  await files.write("a.csv", Buffer.from(`${HEADER}\n${csvLine(1)}\n`, "latin1"));
  expect((await run("a.csv")).out).toContain("1 events: 0 accepted, 0 updated, 0 duplicates, 1 rejected.");
  expect(await files.rejected("a.csv")).toMatchObject([{ line: 2, reason: "not_utf8" }]);
  const { out } = await run("a.csv", "--encoding", "latin1");
  expect(out).toContain("imported before with other content, or read in another way");
  expect(out).toContain("1 events: 1 accepted");
  expect(await files.stored()).toMatchObject([{ properties: { store: "Hauptstraße" } }]);
});

it("keeps a column whose name is __proto__", async () => {
  await files.write("a.csv", "eventType,eventName,__proto__\na,b,c\n");
  expect((await run("a.csv")).code).toBe(0);
  const [event] = await files.stored();
  expect(JSON.stringify(event?.properties)).toBe('{"__proto__":"c"}');
});

it.each<[sentence: string, args: string[]]>([
  ['There is no tenant "nowhere"', ["--tenant", "nowhere", "a.csv"]],
  ["Cannot read", ["--tenant", "t", "none.csv"]],
  ["is not a file", ["--tenant", "t", "--format", "csv", ""]],
  ["A tenant and one file are needed", []],
  ["it may be csv or ndjson", ["--tenant", "t", "a.txt"]],
  ["it may be utf8, latin1, utf16le", ["--tenant", "t", "a.csv", "--encoding", "ebcdic"]],
  ["--delimiter must be one character", ["--tenant", "t", "a.csv", "--delimiter", '"']],
  ["Unknown option '--resume'", ["--tenant", "t", "a.csv", "--resume"]],
])("says %j, and exits with 1", async (sentence, [flag, tenant = "", ...rest]) => {
  await files.write("a.csv", `${HEADER}\n`);
  const args = rest.map((each) => (/^$|\./.test(each) ? files.path(each) : each));
  const { code, err } = await startImport(
    database,
    flag ? [flag, tenant === "t" ? files.tenant : tenant, ...args] : [],
  ).ended;
  expect([code, err]).toEqual([1, expect.stringContaining(sentence)]);
  expect(err).not.toContain("    at ");
});
