import { readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { insertEvents } from "./support/events.ts";
import { createTenant } from "./support/tenants.ts";

const blocks = [
  ...readFileSync(new URL("../docs/aggregates.md", import.meta.url), "utf8").matchAll(/```(\w+)\n(.*?)```/gs),
].map(([, language, text = ""]) => ({ language, text }));
const [events, ...examples] = blocks;
const pairs = examples.flatMap(({ language, text }, index) =>
  language === "graphql" ? [[text, examples[index + 1]?.text ?? ""] as const] : [],
);

let database: TestDatabase;
let api: TestApi;
let token: string;
beforeAll(async () => {
  database = await createTestDatabase();
  const acme = await createTenant(database.owner, "acme");
  await database.owner.query("delete from analytics_events");
  await insertEvents(database.owner, acme.id, JSON.parse(events?.text ?? "[]"));
  api = await startApi(database);
  token = await api.signIn("acme", "viewer");
});
afterAll(async () => {
  await api.close();
  await database.drop();
});

it("has examples", () => {
  expect(pairs).toHaveLength(3);
});

it.each(pairs.map((pair, index) => [index + 1, ...pair] as const))(
  "answers example %i as docs/aggregates.md says",
  async (_, document, answer) => {
    const { data, errors } = await api.query(document, { token });
    expect(errors).toBeUndefined();
    expect(data.analyticsEvents).toEqual(JSON.parse(answer));
  },
);
