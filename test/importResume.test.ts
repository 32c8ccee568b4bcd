import { readFile, rm, stat, truncate, utimes } from "node:fs/promises";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { counts, csvLine, HEADER, type ImportFolder, makeImportFolder } from "./support/imports.ts";

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

const LONG = "x".repeat(1_000);
/** Without ids: nothing but the place in the file keeps them from being counted twice. */
const body = (count: number, more: (index: number) => Record<string, string> = () => ({})) =>
  `${HEADER}\n${Array.from({ length: count }, (_, index) => `${csvLine(index, { sourceId: "", ...more(index) })}\n`).join("")}`;
const badAt = (place: number) => (index: number) => (index % 1_000 === place ? { value: "x" } : {});

it("takes a file that was corrected in place for another, however little changed", async () => {
  const wrong = body(1_500, (index) => ({ note: LONG, sourceId: `o${index}`, value: "10" }));
  await files.write("a.csv", wrong);
  expect(counts(await files.run("a.csv"))).toEqual([1_500, 0, 0, 0]);
  const { mtime, size } = await stat(files.path("a.csv"));
  expect(size).toBeGreaterThan(1024 * 1024);
  const at = wrong.lastIndexOf(",10,");
  await files.write("a.csv", `${wrong.slice(0, at)},99,${wrong.slice(at + 4)}`);
  await utimes(files.path("a.csv"), mtime, mtime);
  expect(counts(await files.run("a.csv"))).toEqual([0, 1, 1_499, 0]);
  expect(files.said.at(-1)).toContain("imported before with other content");
});

it("says when it was imported already, and imports it again when it shall", async () => {
  await files.write("a.csv", body(10, badAt(3)));
  const first = await files.run("a.csv");
  expect(first.doneAt).toBeUndefined();
  await rm(await files.reportOf("a.csv"));
  const again = await files.run("a.csv");
  expect(again.doneAt).toBeInstanceOf(Date);
  expect(counts(again)).toEqual([9, 0, 0, 1]);
  expect(await files.stored()).toHaveLength(9);
  const anew = await files.run("a.csv", { restart: true });
  expect(anew.doneAt).toBeUndefined();
  expect(await files.stored()).toHaveLength(18);
  expect(await files.rejected("a.csv")).toHaveLength(1);
});

it("reads what ends in empty lines to its end", async () => {
  await files.write("a.csv", `${body(3)}\r\n\n\n`);
  expect((await files.run("a.csv")).doneAt).toBeUndefined();
  expect((await files.run("a.csv")).doneAt).toBeInstanceOf(Date);
  await files.write("b.ndjson", '{"eventType":"a","eventName":"b"}\n\n  \n');
  await files.run("b.ndjson");
  expect((await files.run("b.ndjson")).doneAt).toBeInstanceOf(Date);
});

it.each<[string, (path: string) => Promise<void>]>([
  ["is gone", (path) => rm(path)],
  ["was cut", (path) => truncate(path, 5)],
])("goes on when the report %s, and says so", async (_what, spoil) => {
  await files.write("a.csv", body(2_500, badAt(3)));
  expect(counts(await files.run("a.csv", { stopAfter: 1 }))).toEqual([999, 0, 0, 1]);
  await spoil(await files.reportOf("a.csv"));
  expect(counts(await files.run("a.csv", { stopAfter: 1 }))).toEqual([1_998, 0, 0, 2]);
  expect(files.said.filter((sentence) => sentence.includes("gone, or was cut"))).toHaveLength(1);
  expect(counts(await files.run("a.csv"))).toEqual([2_497, 0, 0, 3]);
  expect((await files.rejected("a.csv")).map(({ line }) => line)).toEqual([1_005, 2_005]);
  expect(await readFile(await files.reportOf("a.csv"), "utf8")).not.toContain("\0");
  expect(await files.stored()).toHaveLength(2_497);
});

it("keeps the reports of two tenants' imports of a file apart", async () => {
  const other = await makeImportFolder(database);
  try {
    await files.write("a.csv", body(2_500, badAt(3)));
    await files.run("a.csv", { stopAfter: 2 });
    const options = { tenant: other.tenant, onConflict: "reject" } as const;
    expect(counts(await files.run("a.csv", { ...options, stopAfter: 1 }))).toEqual([999, 0, 0, 1]);
    expect(counts(await files.run("a.csv"))).toEqual([2_497, 0, 0, 3]);
    expect(counts(await files.run("a.csv", options))).toEqual([2_497, 0, 0, 3]);
    const lists = await Promise.all(
      [files.tenant, other.tenant].map(async (tenant) =>
        readFile(await files.reportOf("a.csv", tenant), "utf8"),
      ),
    );
    expect(lists.map((list) => list.trimEnd().split("\n").length)).toEqual([3, 3]);
  } finally {
    await other.remove();
  }
});

it("keeps the reports of a file that is imported in two ways apart", async () => {
  await files.write("a.csv", body(2_500, badAt(3)));
  const ways = [{}, { defaults: { source: "other" } }];
  for (const way of ways) await files.run("a.csv", { ...way, stopAfter: 2 });
  const reports = [];
  for (const way of ways) reports.push((await files.run("a.csv", way)).reportPath);
  const lists = await Promise.all(reports.map((path) => readFile(path, "utf8")));
  expect(lists.map((list) => list.trimEnd().split("\n").length)).toEqual([3, 3]);
  expect(reports[0]).not.toBe(reports[1]);
  expect(files.said.filter((sentence) => sentence.includes("gone, or was cut"))).toEqual([]);
});

it("refuses a file that grows while it is read", async () => {
  await files.write("a.csv", body(2_500));
  const client = await database.owner.connect();
  await client.query("begin");
  await client.query("lock table app_private.event_imports in share mode");
  const importing = files.run("a.csv");
  importing.catch(() => {});
  await database.owner.query("select pg_sleep(0.3)");
  await files.write("a.csv", body(2_600));
  await client.query("rollback");
  client.release();
  await expect(importing).rejects.toThrow("was changed while it was read");
  expect(await files.stored()).toEqual([]);
});

it.each([
  ["CRLF", "\r\n", "\uFEFF"],
  ["LF", "\n", ""],
])("goes on in the middle of a file of %s with quoted lines", async (_name, newline, mark) => {
  const lines = Array.from({ length: 4_000 }, (_, index) =>
    csvLine(index, {
      sourceId: "",
      note: `"${index}${newline}""${"y".repeat(index % 700)}"`,
      ...(index % 500 === 7 ? { value: "x" } : {}),
    }),
  );
  await files.write("a.csv", `${mark}${[HEADER, ...lines].join(newline)}`);
  for (let batches = 0; batches < 3; batches++) await files.run("a.csv", { stopAfter: 1 });
  expect(counts(await files.run("a.csv"))).toEqual([3_992, 0, 0, 8]);
  const notes = (await files.stored()).map(({ properties }) => properties);
  const notesOf = lines.flatMap((_, index) =>
    index % 500 === 7
      ? []
      : [{ store: "Hauptstraße", note: `${index}${newline}"${"y".repeat(index % 700)}` }],
  );
  expect(new Set(notes.map((each) => JSON.stringify(each)))).toEqual(
    new Set(notesOf.map(({ store, note }) => JSON.stringify({ note, store }))),
  );
  expect((await files.rejected("a.csv")).map(({ line }) => line)).toEqual(
    Array.from({ length: 8 }, (_, index) => 2 + 2 * (7 + 500 * index)),
  );
});

it("counts what a batch deletes as updated", async () => {
  const own = await createTestDatabase();
  const folder = await makeImportFolder(own);
  try {
    // One event of three was deleted.
    await own.owner.query(
      `create or replace function app_hidden.write_events(p_tenant_id uuid, p_events jsonb, p_on_conflict text default 'update', p_atomic boolean default false)
       returns setof app_hidden.event_receipt language sql as $$
         select o.ordinal, o.outcome, null::uuid, null::timestamptz, null, null, null, null
           from (values (1, 'accepted'), (2, 'deleted'), (3, 'updated')) as o (ordinal, outcome) $$`,
    );
    await folder.write("a.csv", body(3));
    expect(counts(await folder.run("a.csv"))).toEqual([1, 2, 0, 0]);
    expect(counts(await folder.run("a.csv"))).toEqual([1, 2, 0, 0]);
  } finally {
    await folder.remove();
    await own.drop();
  }
});
