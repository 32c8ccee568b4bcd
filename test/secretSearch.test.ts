import { Readable } from "node:stream";
import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { encodingsOf, SecretSearch } from "./support/secretSearch.ts";
import { MARK } from "./support/secrets.ts";

// Not one of the run's: what is planted here is thrown away before the run's own search.
const planted = `${MARK}planted-by-this-test`;
const other = { name: "an unmarked one", bytes: Buffer.from('Pass/word+"1"') };

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());

const searchText = async (text: string | Buffer, cutAt = 3) => {
  const search = new SecretSearch([other]);
  const bytes = Buffer.from(text);
  await search.stream("text", Readable.from([bytes.subarray(0, cutAt), bytes.subarray(cutAt)]));
  return search;
};

it.each([
  ["as it is", (secret: string) => secret],
  ["in lower hex", (secret: string) => Buffer.from(secret).toString("hex")],
  ["in upper hex", (secret: string) => Buffer.from(secret).toString("hex").toUpperCase()],
  ["in base64", (secret: string) => Buffer.from(secret).toString("base64")],
  ["in base64, one byte in", (secret: string) => Buffer.from(`:${secret}`).toString("base64")],
  ["in base64, two bytes in", (secret: string) => Buffer.from(`ab${secret}xyz`).toString("base64")],
  ["in base64url", (secret: string) => Buffer.from(`~~${secret}`).toString("base64url")],
  ["in a URL", (secret: string) => `https://a.test/?token=${encodeURIComponent(secret)}`],
  ["in a URL in lower case", (secret: string) => encodeURIComponent(secret).toLowerCase()],
  ["in JSON", (secret: string) => JSON.stringify({ secret })],
])("finds a secret %s, wherever a chunk ends", async (_title, write) => {
  for (const secret of [planted, other.bytes.toString()]) {
    const text = `before ${write(secret)} behind`;
    // What lower case makes of its letters is no longer the secret.
    if (text.includes("%2f") && secret !== planted) continue;
    for (let cut = 0; cut < text.length; cut += 5)
      expect((await searchText(text, cut)).findings).not.toEqual([]);
  }
});

it("finds what is left of a secret that was cut off, and nothing where nothing is", async () => {
  expect((await searchText(`token ${planted.slice(0, 12)}…`)).findings).toHaveLength(1);
  expect((await searchText("nothing to see")).findings).toEqual([]);
});

it("says where, and does not repeat the secret", async () => {
  const search = await searchText(`{"column": "${other.bytes}"}`, 0);
  expect(() => search.report()).toThrow(/an unmarked one \(plain\) in text: .*column/);
  expect(() => search.report()).not.toThrow(other.bytes.toString());
  expect(encodingsOf(other.bytes).size).toBeGreaterThan(8);
});

const leak = (value: string) => `create table app_private.leak as select ${value} as leaked`;

it.each([
  ["a text", leak("$1::text")],
  ["JSON", leak("jsonb_build_object('a', jsonb_build_array($1::text))")],
  ["bytes", leak("convert_to($1::text, 'UTF8')")],
  ["a long text, which is stored in pieces", leak("repeat(md5('x'), 10000) || $1::text")],
  ["a job", "select graphile_worker.add_job('leak', json_build_object('token', $1::text))"],
])("finds it in %s", async (_title, statement) => {
  await database.owner.query(statement, [planted]);
  try {
    const search = new SecretSearch([]);
    await search.database(database.urls.root);
    expect(search.findings).toHaveLength(1);
    expect(search.tables).toBeGreaterThan(50);
  } finally {
    await database.owner.query("drop table if exists app_private.leak");
    await database.owner.query(
      "delete from graphile_worker._private_jobs where payload::text like '%' || $1 || '%'",
      [MARK],
    );
  }
});
