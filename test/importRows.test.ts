import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "@jest/globals";
import { parse } from "csv-parse/sync";
import { stringify } from "csv-stringify/sync";
import fc from "fast-check";
import { csvReader, readHeader } from "../src/events/import/csv.ts";
import { openImportFile } from "../src/events/import/file.ts";
import { readLines } from "../src/events/import/lines.ts";
import type { Encoding, FileRecord, Place } from "../src/events/import/records.ts";

let folder: string;
let path: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "erp-rows-"));
  path = join(folder, "a.csv");
});
afterEach(() => rm(folder, { recursive: true }));

async function read(
  body: string | Buffer,
  {
    encoding = "utf8",
    delimiter = ",",
    from,
  }: { encoding?: Encoding; delimiter?: string; from?: Place } = {},
) {
  await writeFile(path, body);
  const file = await openImportFile(path, encoding);
  try {
    const { columns, start } = await readHeader(file, delimiter);
    const reader = csvReader(columns, delimiter);
    const records: FileRecord[] = [];
    for await (const lines of readLines(file, from ?? start))
      for (const line of lines) records.push(...reader.add(line));
    return [...records, ...reader.finish()];
  } finally {
    await file.handle.close();
  }
}
const problems = (records: FileRecord[]) =>
  records.flatMap((record) => ("problem" in record ? [[record.line, record.problem.reason]] : []));
const properties = (records: FileRecord[]) =>
  records.flatMap((record) => ("event" in record ? [record.event] : []));

const MANY = 30_000;
/** 2 MB, more than any reader holds at a time. */
const rows = (spoilt: Record<number, string>) =>
  Array.from({ length: MANY }, (_, index) => spoilt[index] ?? `${index},${"n".repeat(60)},end`);

it.each<[string, string]>([
  ["an open quote and no other", '7,"open,end'],
  ["an open quote in the last cell", '7,n,"end'],
  ["a quote that closes too early", '7,"n"n,end'],
  ["too many cells", "7,n,end,more"],
  ["too few cells", "7,n"],
])("rejects one line alone for %s, wherever it is in a large file", async (_what, line) => {
  for (const place of [0, 15_000, MANY - 1]) {
    const records = await read(`a,b,c\n${rows({ [place]: line }).join("\n")}\n`);
    expect(problems(records)).toEqual([[place + 2, "not_csv"]]);
    expect(records).toHaveLength(MANY);
    expect(records[place]?.text).toBe(line);
    expect(records.map((record) => record.line)).toEqual(records.map((_, index) => index + 2));
  }
});

it("finds an open quote out by any quote behind it that cannot close it", async () => {
  for (const [later, wrong] of [
    ['8,"a ""good"" one, quoted",end', [2]],
    ['8,"",end', [2]],
    ['8,5" screen,end', [2]],
    // Closes the open one, so that the cells are too many.
    ['8,",comma first",end', [2]],
    ['8,"two\nlines",end', [2]],
  ] as const) {
    const records = await read(`a,b,c\n${rows({ 0: '7,"open,end', 500: later }).join("\n")}`);
    expect(problems(records)).toEqual(wrong.map((line) => [line, "not_csv"]));
    expect(records).toHaveLength(MANY);
  }
});

it("rejects a record of several lines with too many cells as one", async () => {
  const records = await read('a,b,c\n1,"two\nlines",x,more\n2,n,end\n');
  expect(records).toMatchObject([
    { line: 2, text: '1,"two\nlines",x,more', problem: { reason: "not_csv" } },
    { line: 4, event: { properties: { a: "2", b: "n", c: "end" } } },
  ]);
});

it("rejects open quotes in many lines one by one, in bearable time", async () => {
  const records = await read(`a,b,c\n${'b","c\n'.repeat(3_000)}1,2,3\n`);
  expect(problems(records)).toHaveLength(3_000);
  expect(records).toHaveLength(3_001);
});

it("keeps of a line that is too long its head, and reads on behind it", async () => {
  for (const length of [300_000, 600_000, 1_100_000]) {
    const records = await read(`a,b\n1,2\n${"ä".repeat(length)}\n3,4\n"5,${"x".repeat(length)}"\n6,7`);
    expect(problems(records)).toEqual([
      [3, "too_large"],
      [5, "too_large"],
    ]);
    expect(records[1]?.text).toMatch(/^ä{2000}…$/);
    expect(properties(records)).toHaveLength(3);
  }
});

it("reads any cells as they were written, whatever the chunks, the newline and the encoding", async () => {
  const cell = fc.oneof(
    fc.string({ unit: fc.constantFrom("a", '"', ",", ";", "\n", "\r\n", "ä", "€", " "), maxLength: 12 }),
    fc.nat(30_000).map((length) => "y".repeat(length)),
  );
  const quoted = (text: string) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(cell, cell), { maxLength: 30 }),
      fc.constantFrom("\n", "\r\n"),
      fc.constantFrom<Encoding>("utf8", "utf16le"),
      fc.boolean(),
      async (cells, newline, encoding, ends) => {
        const text = [["a", "b"], ...cells.map((pair) => pair.map(quoted))]
          .map((pair) => pair.join(","))
          .join(newline);
        const body = Buffer.from(`\uFEFF${text}${ends ? newline : ""}`, encoding);
        const records = await read(body, { encoding });
        const expected = cells.map(([a, b]) => ({ ...(a && { a }), ...(b && { b }) }));
        expect(properties(records)).toEqual(
          expected.map((each) => (Object.keys(each).length > 0 ? { properties: each } : {})),
        );
        // Going on behind any record finds the same ones.
        const middle = records[Math.floor(records.length / 2)];
        if (!middle) return;
        const rest = await read(body, { encoding, from: middle.end });
        expect(rest).toEqual(records.slice(records.indexOf(middle) + 1));
      },
    ),
    { numRuns: 40 },
  );
});

it("rejects what is not UTF-8 record by record, unless the encoding is told", async () => {
  const body = Buffer.from('a,b\n1,Stra\xdfe\n2,"two\nStra\xdfen"\n3,\x80\n4,d\n', "latin1");
  const records = await read(body);
  expect(problems(records)).toEqual([
    [2, "not_utf8"],
    [3, "not_utf8"],
    [5, "not_utf8"],
  ]);
  expect(properties(records)).toEqual([{ properties: { a: "4", b: "d" } }]);
  expect(properties(await read(body, { encoding: "latin1" }))).toEqual([
    { properties: { a: "1", b: "Straße" } },
    { properties: { a: "2", b: "two\nStraßen" } },
    { properties: { a: "3", b: "€" } },
    { properties: { a: "4", b: "d" } },
  ]);
});

it("rejects half a character of UTF-16 alone", async () => {
  const text = "a,b\n1,\ud800\n2,ok\n";
  const records = await read(Buffer.concat([Buffer.from(text, "utf16le"), Buffer.from("x")]), {
    encoding: "utf16le",
  });
  expect(problems(records)).toEqual([
    [2, "not_utf16le"],
    [4, "not_utf16le"],
  ]);
});

it.each<[string, Buffer, Encoding]>([
  ["add --encoding utf16le", Buffer.from("\uFEFFa,b\n", "utf16le"), "utf8"],
  ["leave out --encoding", Buffer.from("\uFEFFa,b\n"), "latin1"],
  ["end in CR alone", Buffer.from("a,b\r1,2\r"), "utf8"],
  ["The header cannot be read", Buffer.from('a,"b\n1,2\n'), "utf8"],
  ["The header cannot be read", Buffer.from("a,\xff\n1,2\n", "latin1"), "utf8"],
])("says %j of a file that cannot be meant so", async (sentence, body, encoding) => {
  await expect(read(body, { encoding })).rejects.toThrow(sentence);
});

it("keeps a column of any name", async () => {
  const [record] = await read("__proto__,constructor,toString\n1,2,3\n");
  expect(JSON.stringify(record && "event" in record ? record.event : null)).toBe(
    '{"properties":{"__proto__":"1","constructor":"2","toString":"3"}}',
  );
});

it("reads what csv-parse reads, of whatever cells", async () => {
  const cell = fc.oneof(
    fc.string(),
    fc.constantFrom("", '"', ",", "a,b", 'say "hi"', "two\nlines", "two\r\nlines", " x "),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(cell, cell, cell), { minLength: 1, maxLength: 20 }),
      fc.constantFrom("\n", "\r\n"),
      async (cells, newline) => {
        const body = stringify([["one", "two", "three"], ...cells], {
          record_delimiter: newline,
          quoted: true,
        });
        const expected: Record<string, string>[] = parse(body, { columns: true });
        const records = await read(body);
        const told = (row: Record<string, string>) =>
          Object.fromEntries(Object.entries(row).filter(([, text]) => text !== ""));
        expect(problems(records)).toEqual([]);
        expect(properties(records).map((event) => ({ properties: {}, ...Object(event) }))).toEqual(
          expected.map((row) => ({ properties: told(row) })),
        );
      },
    ),
    { numRuns: 200 },
  );
});
