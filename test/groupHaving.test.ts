import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { type Groups, startGroups } from "./support/groups.ts";

let on: Groups;
beforeAll(async () => {
  on = await startGroups();
});
afterAll(() => on.close());

describe("having", () => {
  it.each([
    ['count: { greaterThan: "6" }', "count(*) > 6"],
    [
      'sum: { value: { lessThan: "300", greaterThan: "0" } }',
      "coalesce(sum(value), 0) < 300 and sum(value) > 0",
    ],
    ['count: { greaterThanOrEqualTo: "9" }', "count(*) >= 9"],
    ['count: { lessThanOrEqualTo: "4" }', "count(*) <= 4"],
    [
      'AND: [{ count: { greaterThan: "4" }, sum: { value: { lessThan: "200" } } }]',
      "count(*) > 4 and coalesce(sum(value), 0) < 200",
    ],
    ['average: { value: { greaterThanOrEqualTo: "10.5" } }', "avg(value) >= 10.5"],
    ['median: { value: { greaterThan: "20" } }', "percentile_cont(0.5) within group (order by value) > 20"],
    [
      'p90: { value: { lessThanOrEqualTo: "88.25" } }',
      "percentile_disc(0.9) within group (order by value) <= 88.25",
    ],
    ['distinctCount: { eventType: { equalTo: "2" } }', "count(distinct event_type) = 2"],
    ['distinctCount: { timestamp: { notEqualTo: "9" } }', "count(distinct timestamp) <> 9"],
    ['max: { timestamp: { lessThan: "2025-01-09T00:00:00Z" } }', "max(timestamp) < '2025-01-09T00:00:00Z'"],
    ['min: { eventType: { equalTo: "order" } }', "min(event_type) = 'order'"],
    [
      'OR: [{ sum: { value: { greaterThan: "100" } }, count: { lessThan: "14" } }, { count: { equalTo: "7" } }]',
      "(sum(value) > 100 and count(*) < 14) or count(*) = 7",
    ],
    [
      'AND: [{ count: { greaterThan: "5" } }, { sum: { value: { lessThan: "400" } } }]',
      "count(*) > 5 and coalesce(sum(value), 0) < 400",
    ],
    [
      'OR: [{ AND: [{ count: { greaterThan: "5" } }, { sum: { value: { lessThan: "100" } } }] }, { count: { lessThan: "8" } }]',
      "(count(*) > 5 and coalesce(sum(value), 0) < 100) or count(*) < 8",
    ],
  ])("%s", async (having, condition) => {
    const rest = "group by 1, 2 order by 1, 2";
    const expected = await on.plain(
      "source, properties ->> 'channel'",
      rest.replace("order", `having ${condition} order`),
    );
    const all = await on.plain("source, properties ->> 'channel'", rest);
    expect(expected.length).toBeGreaterThan(0);
    expect(expected.length).toBeLessThan(all.length);
    expect(await on.keys(`groupBy: [SOURCE, PROPERTIES_CHANNEL], having: { ${having} }`)).toEqual(expected);
  });

  it("takes booleans", async () => {
    const answer = async (value: boolean) =>
      (
        await on.api.query(
          `{ integrations { groupedAggregates(groupBy: [PROVIDER], having: { any: { enabled: { equalTo: ${value} } } }) { keys } } }`,
          { token: on.token },
        )
      ).data.integrations.groupedAggregates;
    expect(await answer(false)).toEqual([{ keys: ["square"] }]);
    expect(await answer(true)).toEqual([]);
  });

  it("has no average of times, and no conditions that PostgreSQL could not follow", async () => {
    for (const condition of [
      "average: { timestamp",
      "sum: { timestamp",
      "median: { eventType",
      "p90: { source",
    ]) {
      const { status, errors } = await on.ask(
        `{ groupedAggregates(groupBy: [SOURCE], having: { ${condition}: { equalTo: "1" } } }) { keys } }`,
      );
      expect([status, errors?.[0].extensions.code]).toEqual([400, "INVALID_INPUT"]);
    }
  });

  it("asks for nothing when it is null or empty", async () => {
    const all = await on.keys("groupBy: [SOURCE]");
    expect(all).toHaveLength(5);
    for (const having of [
      "null",
      "{}",
      "{ count: null }",
      "{ count: { greaterThan: null } }",
      "{ OR: [] }",
      "{ sum: { value: {} } }",
    ])
      expect(await on.keys(`groupBy: [SOURCE], having: ${having}`)).toEqual(all);
  });
});
