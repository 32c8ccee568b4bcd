import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { ENUMS, SECRETS, TABLES } from "./support/specification.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());

async function strings(sql: string, ...values: string[]): Promise<string[]> {
  const { rows } = await database.owner.query<{ value: string }>(sql, values);
  return rows.map(({ value }) => value);
}

const columnsOf = (relation: string) =>
  strings(
    `select concat_ws(
              ' ', attname, format_type(atttypid, atttypmod), case when not attnotnull then 'optional' end,
              'default ' || regexp_replace(pg_get_expr(adbin, adrelid), '^''(.*)''::.*$', '\\1')
            ) as value
       from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
      where attrelid = to_regclass($1) and attnum > 0 and not attisdropped`,
    relation,
  );

/** The columns of each index, in order. Of conditions, only one that leaves out nulls keeps an index useful. */
async function indexesOf(relation: string, which: "all" | "unique" = "all"): Promise<string[][]> {
  const lists = await strings(
    `select string_agg(a.attname, ',' order by k.place) as value
       from pg_index i
      cross join unnest(i.indkey::smallint[]) with ordinality k (attnum, place)
       join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
      where i.indrelid = to_regclass($1) and i.indisvalid and (i.indisunique or $2 = 'all')
        and (i.indpred is null or pg_get_expr(i.indpred, i.indrelid) ~ '^[(][a-z_]+ IS NOT NULL[)]$')
      group by i.indexrelid`,
    relation,
    which,
  );
  return lists.map((list) => list.split(","));
}

const sameColumns = (one: string[], other: string[]) => one.toSorted().join() === other.toSorted().join();

it.each(Object.entries(ENUMS))("the enum %s has its values, in order", async (name, values) => {
  const labels =
    "select enumlabel as value from pg_enum where enumtypid = to_regtype($1) order by enumsortorder";
  expect(await strings(labels, `public.${name}`)).toEqual(values);
});

describe.each(Object.entries(TABLES))("%s", (table, expected) => {
  const promised = expected.columns
    .trim()
    .split("\n")
    .map((line) => line.trim().replaceAll(/\s+/g, " "));

  it.each(promised)("has the column %s", async (column) => {
    const [name] = column.split(" ");
    const found = (await columnsOf(`public.${table}`)).find((candidate) => candidate.startsWith(`${name} `));
    expect(column.includes(" default ") ? found : found?.replace(/ default .*/, "")).toBe(column);
  });

  for (const columns of expected.unique)
    it(`is unique by ${columns.join(", ")}`, async () => {
      const found = await indexesOf(`public.${table}`, "unique");
      expect(found.filter((index) => sameColumns(index, columns))).not.toEqual([]);
    });

  for (const columns of expected.indexes)
    it(`has an index on ${columns.join(", ")}`, async () => {
      const found = await indexesOf(`public.${table}`);
      const leads = (index: string[]) => sameColumns(index.slice(0, columns.length), columns);
      expect(
        found.filter((index) => leads(index) || (index[0] === "tenant_id" && leads(index.slice(1)))),
      ).not.toEqual([]);
    });

  it("refers to others with its delete actions", async () => {
    const keys =
      "select pg_get_constraintdef(oid) as value from pg_constraint where contype = 'f' and conrelid = to_regclass($1)";
    expect(await strings(keys, `public.${table}`)).toEqual(expect.arrayContaining(expected.references));
  });
});

describe.each(SECRETS)("$column", ({ column, kept, key }) => {
  const [table = "", secret = ""] = column.split(".");
  const [privateTable = "", privateColumn = ""] = kept.split(".");

  it("is no column of the public table", async () => {
    const names = (await columnsOf(`public.${table}`)).map((found) => found.split(" ")[0]);
    expect(names).toContain("id");
    // When one was set may be known.
    const suspicious = (name = "") =>
      (name.includes(secret) && !name.endsWith("_set_at")) || name === privateColumn;
    expect(names.filter(suspicious)).toEqual([]);
  });

  it(`is app_private.${kept}, which goes with its row`, async () => {
    expect(await columnsOf(`app_private.${privateTable}`)).toContainEqual(
      expect.stringMatching(`^${privateColumn} (text|bytea)$`),
    );
    expect(await indexesOf(`app_private.${privateTable}`, "unique")).toContainEqual(key);
    const deletions = `select confdeltype::text as value from pg_constraint
                        where contype = 'f' and conrelid = to_regclass($1) and confrelid = to_regclass($2)`;
    expect(await strings(deletions, `app_private.${privateTable}`, `public.${table}`)).toEqual(["c"]);
  });
});
