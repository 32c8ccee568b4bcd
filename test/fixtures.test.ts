import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { describePrivileges } from "../src/db/catalogue/describePrivileges.ts";
import { describeSchema } from "../src/db/catalogue/describeSchema.ts";
import { withClient } from "../src/db/pools.ts";
import { paths } from "../src/paths.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());

it("replaying the fixtures leaves a migrated database as it is", async () => {
  const folder = join(paths.migrations, "fixtures");
  const files = (await readdir(folder, { recursive: true })).filter((name) => name.endsWith(".sql")).sort();
  expect(files.length).toBeGreaterThan(10);
  await withClient(database.urls.owner, async (client) => {
    const describe = async () => ({
      schema: await describeSchema(client),
      privileges: await describePrivileges(client),
    });
    const before = await describe();
    for (const file of files) await client.query(await readFile(join(folder, file), "utf8"));
    expect(await describe()).toEqual(before);
  });
});
