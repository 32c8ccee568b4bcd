import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { insertEvents } from "./support/events.ts";
import { type Groups, mostRowsSent, startGroups } from "./support/groups.ts";

let on: Groups;
beforeAll(async () => {
  on = await startGroups();
});
afterAll(() => on.close());

const refusal = async (args: string, variables = {}, definitions = "") => {
  const { errors } = await on.ask(`{ groupedAggregates(${args}) { keys } }`, variables, definitions);
  expect(errors).toHaveLength(1);
  expect(errors?.[0].extensions.code).toBe("INVALID_INPUT");
  return errors?.[0].message;
};

describe("refuses", () => {
  it.each([
    "Nowhere/Land",
    "",
    "EST5EDT4,M3.2.0,M11.1.0",
    "Foo+3",
    "+05:30",
    "utc",
    "Factory",
    "UTC'; select 1; --",
  ])("the time zone %j, and names the argument", async (zone) => {
    expect(await refusal(`groupBy: [SOURCE], timeZone: ${JSON.stringify(zone)}`)).toMatch(/^"timeZone" is /);
    const definitions = "($zone: String)";
    expect(
      await refusal("groupBy: [TIMESTAMP_TRUNCATED_TO_DAY], timeZone: $zone", { zone }, definitions),
    ).toContain(JSON.stringify(zone));
  });

  it("keys and orders that are given twice or do not fit together", async () => {
    expect(await refusal("groupBy: [SOURCE, CURRENCY, SOURCE]")).toMatch(
      /^"groupBy" has SOURCE more than once/,
    );
    expect(await refusal("groupBy: [SOURCE], orderBy: [COUNT_ASC, COUNT_ASC]")).toMatch(
      /^"orderBy" has COUNT_ASC/,
    );
    expect(await refusal("groupBy: [SOURCE], orderBy: [EVENT_TYPE_ASC]")).toMatch(/EVENT_TYPE in "groupBy"/);
  });

  it.each([-1, 1001, 2_000_000_000])("a first of %i", async (first) => {
    expect(await refusal(`groupBy: [SOURCE], first: ${first}`)).toMatch(/^"first" is /);
  });

  it("more than 1,000 groups, of which PostgreSQL sends 1,001 at most", async () => {
    const token = await on.api.signIn("globex", "viewer");
    const run = (args: string) =>
      on.api.query(
        `{ analyticsEvents { groupedAggregates(groupBy: [PROPERTIES_CUSTOMER_ID] ${args}) { keys count } } }`,
        { token },
      );
    const add = (from: number, to: number) =>
      insertEvents(
        on.database.owner,
        on.globex.id,
        Array.from({ length: to - from }, (_, index) => ({
          timestamp: "2025-02-01T00:00:00Z",
          properties: { customerId: `customer ${from + index}` },
        })),
      );
    // Beside these, the rows without one are a group.
    await add(0, 999);
    const most = await run("");
    expect(most.errors).toBeUndefined();
    expect(most.data.analyticsEvents.groupedAggregates).toHaveLength(1000);
    await add(999, 1500);
    expect(await mostRowsSent(() => run(""))).toBe(1001);
    const { data, errors } = await run("");
    expect(data.analyticsEvents.groupedAggregates).toBeNull();
    expect(errors).toEqual([
      expect.objectContaining({
        path: ["analyticsEvents", "groupedAggregates"],
        message: expect.stringMatching(/1000 groups.*Narrow.*"first"/),
        extensions: { code: "QUERY_TOO_EXPENSIVE" },
      }),
    ]);
    const top = await run("first: 1000, orderBy: [COUNT_DESC]");
    expect(top.errors).toBeUndefined();
    expect(top.data.analyticsEvents.groupedAggregates).toHaveLength(1000);
    expect(top.data.analyticsEvents.groupedAggregates[0].keys).toEqual([null]);
  });
});

it("sends no row for each event where nothing of them is asked for", async () => {
  // The connection's own page is 50 rows.
  expect(Number(await on.countOf())).toBeGreaterThan(50);
  const run = () => on.ask("{ aggregates { __typename } groupedAggregates(groupBy: []) { __typename } }");
  expect(await mostRowsSent(run)).toBeLessThanOrEqual(50);
  expect((await run()).data.analyticsEvents.groupedAggregates).toHaveLength(1);
});
