import { expect, jest } from "@jest/globals";
import pg from "pg";
import { startApi } from "./api.ts";
import { createTestDatabase } from "./database.ts";
import { type Event, insertEvents } from "./events.ts";
import { createTenant } from "./tenants.ts";

const sources = ["a", "b", "c", "d", null];
/** Sums and counts of sources differ, and c has no value at all. */
const events: Event[] = Array.from({ length: 60 }, (_, index) => {
  const source = sources[Math.floor(Math.sqrt(index)) % sources.length] ?? null;
  return {
    timestamp: new Date(Date.UTC(2025, 0, 1 + (index % 9), index % 24)).toISOString(),
    eventType: index % 3 === 0 ? "refund" : "order",
    source,
    value: source === "c" ? null : `${index % 3 === 0 ? "-" : ""}${(index * 37) % 100}.25`,
    properties: { channel: index % 4 === 0 ? "online" : "in_store" },
  };
});

export type Groups = Awaited<ReturnType<typeof startGroups>>;

/** An API with 60 events of acme and 61 of globex, and ways to ask about acme's. */
export async function startGroups() {
  const database = await createTestDatabase();
  const acme = await createTenant(database.owner, "acme");
  const globex = await createTenant(database.owner, "globex");
  await database.owner.query("delete from analytics_events");
  await insertEvents(database.owner, acme.id, events);
  await insertEvents(database.owner, globex.id, [
    ...events,
    { timestamp: "2025-01-01T00:00:00Z", source: "e" },
  ]);
  const api = await startApi(database);
  const token = await api.signIn("acme", "viewer");
  const ask = (selection: string, variables: Record<string, unknown> = {}, definitions = "") =>
    api.query(`query ${definitions} { analyticsEvents ${selection} }`, { token, variables });
  const groups = async (args: string, fields = "keys count") => {
    const { data, errors } = await ask(`{ groupedAggregates(${args}) { ${fields} } }`);
    expect(errors).toBeUndefined();
    return data.analyticsEvents.groupedAggregates;
  };
  /** Of acme's events, or another's, as the owner reads them. */
  const plain = async (columns: string, rest: string, tenant = acme) => {
    const { rows } = await database.owner.query({
      text: `with e as (select * from analytics_events where tenant_id = $1) select ${columns} from e ${rest}`,
      values: [tenant.id],
      rowMode: "array",
    });
    return rows;
  };
  return {
    database,
    api,
    acme,
    globex,
    token,
    ask,
    groups,
    keys: async (args: string): Promise<string[][]> =>
      (await groups(args)).map((group: { keys: string[] }) => group.keys),
    plain,
    countOf: async (tenant = acme): Promise<string> => (await plain("count(*)::text", "", tenant))[0]?.[0],
    async close() {
      await api.close();
      await database.drop();
    },
  };
}

/** How many rows PostgreSQL sent at most for one statement, while this ran. */
export async function mostRowsSent(run: () => Promise<unknown>): Promise<number> {
  const queries = jest.spyOn(pg.Client.prototype, "query");
  await run();
  const results: unknown[] = await Promise.all(queries.mock.results.map(({ value }) => value));
  queries.mockRestore();
  return Math.max(...results.map((result) => (result instanceof pg.Result ? result.rows.length : 0)));
}
