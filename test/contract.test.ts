import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { type Contract, makeContracts, UPDATE_COMMAND } from "../scripts/support/contracts.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";

let database: TestDatabase;
let contracts: Contract[];

beforeAll(async () => {
  database = await createTestDatabase();
  contracts = await makeContracts(database.urls);
});
afterAll(() => database.drop());

it.each(["test/contract/schema.json", "test/contract/privileges.txt", "schema.graphql"])(
  "%s is what the migrations make",
  async (name) => {
    const contract = contracts.find((candidate) => candidate.name === name);
    const committed = await readFile(contract?.file ?? name, "utf8");
    try {
      expect(contract?.text).toBe(committed);
    } catch (difference) {
      const sentence = `${name} is not what the migrations make. If that is intended: ${UPDATE_COMMAND}, and commit the difference.`;
      throw new Error(`${sentence}\n\n${difference instanceof Error ? difference.message : difference}`);
    }
  },
);
