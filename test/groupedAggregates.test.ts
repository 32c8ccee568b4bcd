import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { type Groups, startGroups } from "./support/groups.ts";
import type { TestTenant } from "./support/tenants.ts";

let on: Groups;
beforeAll(async () => {
  on = await startGroups();
});
afterAll(() => on.close());

describe("orderBy and first", () => {
  it.each([
    ["", "1 nulls last, 2 nulls last"],
    ["orderBy: [COUNT_DESC]", "count(*) desc, 1 nulls last, 2 nulls last"],
    ["orderBy: [SUM_VALUE_DESC]", "coalesce(sum(value), 0) desc, 1 nulls last, 2"],
    [
      "orderBy: [MEDIAN_VALUE_DESC]",
      "percentile_cont(0.5) within group (order by value) desc nulls last, 1, 2",
    ],
    ["orderBy: [AVERAGE_VALUE_ASC]", "avg(value) nulls last, 1, 2"],
    ["orderBy: [SOURCE_DESC, EVENT_TYPE_ASC]", "1 desc nulls last, 2"],
    ["orderBy: [EVENT_TYPE_DESC, COUNT_ASC]", "2 desc, count(*), 1 nulls last"],
    [
      "orderBy: [MAX_TIMESTAMP_ASC, P75_VALUE_DESC]",
      "max(timestamp), percentile_disc(0.75) within group (order by value) desc nulls last, 1, 2",
    ],
  ])("%s", async (order, expression) => {
    const expected = await on.plain("source, event_type", `group by 1, 2 order by ${expression}`);
    expect(await on.keys(`groupBy: [SOURCE, EVENT_TYPE] ${order}`)).toEqual(expected);
    expect(await on.keys(`groupBy: [SOURCE, EVENT_TYPE] ${order} first: 3`)).toEqual(expected.slice(0, 3));
  });

  it("orders by buckets in the given zone, with variables as with literals", async () => {
    const literal = `groupBy: [TIMESTAMP_TRUNCATED_TO_DAY], timeZone: "Asia/Kathmandu", orderBy: [TIMESTAMP_TRUNCATED_TO_DAY_DESC], first: 4, having: { count: { greaterThan: "1" } }`;
    const variables = {
      groupBy: ["TIMESTAMP_TRUNCATED_TO_DAY"],
      zone: "Asia/Kathmandu",
      orderBy: ["TIMESTAMP_TRUNCATED_TO_DAY_DESC"],
      first: 4,
      having: { count: { greaterThan: "1" } },
    };
    const { data, errors } = await on.ask(
      `{ variables: groupedAggregates(groupBy: $groupBy, timeZone: $zone, orderBy: $orderBy, first: $first, having: $having) { keys count }
         mixed: groupedAggregates(groupBy: [TIMESTAMP_TRUNCATED_TO_DAY], timeZone: $zone, orderBy: $orderBy, first: 4, having: { count: { greaterThan: $count } }) { keys count }
         literal: groupedAggregates(${literal}) { keys count }
         other: groupedAggregates(groupBy: $groupBy, timeZone: "America/New_York", orderBy: $orderBy, first: $first, having: $having) { keys count } }`,
      { ...variables, count: "1" },
      "($groupBy: [AnalyticsEventGroupBy!]!, $zone: String, $orderBy: [AnalyticsEventGroupOrderBy!], $first: Int, $having: AnalyticsEventHavingInput, $count: BigInt)",
    );
    expect(errors).toBeUndefined();
    const day = (zone: string) => `date_trunc('day', timestamp, '${zone}')`;
    const expected = async (zone: string) =>
      (
        await on.plain(
          `to_char(${day(zone)} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US') || '+00:00', count(*)::text`,
          `group by ${day(zone)} having count(*) > 1 order by ${day(zone)} desc limit 4`,
        )
      ).map(([key, count]) => ({ keys: [key], count }));
    const { variables: byVariables, mixed, literal: byLiteral, other } = data.analyticsEvents;
    expect(byLiteral).toEqual(await expected("Asia/Kathmandu"));
    expect(byVariables).toEqual(byLiteral);
    expect(mixed).toEqual(byLiteral);
    expect(other).toEqual(await expected("America/New_York"));
    expect(other).not.toEqual(byLiteral);
  });

  it("goes with a filter, and leaves the connection's own page and order alone", async () => {
    const { data } = await on.api.query(
      `{ analyticsEvents(first: 1, orderBy: VALUE_DESC, filter: { eventType: { equalTo: "refund" }, value: { lessThan: "-50" } }) {
           nodes { value } aggregates { count } groupedAggregates(groupBy: [SOURCE], orderBy: [COUNT_DESC], first: 2) { keys count } } }`,
      { token: on.token },
    );
    const where = "where event_type = 'refund' and value < -50";
    expect(data.analyticsEvents.nodes).toHaveLength(1);
    expect([[data.analyticsEvents.aggregates.count]]).toEqual(await on.plain("count(*)::text", where));
    expect(data.analyticsEvents.groupedAggregates).toEqual(
      (await on.plain("source, count(*)::text", `${where} group by 1 order by count(*) desc, 1 limit 2`)).map(
        ([key, count]) => ({ keys: [key], count }),
      ),
    );
  });

  it("answers one group where there is no key, and none for a first of 0", async () => {
    const count = await on.countOf();
    expect(await on.groups("groupBy: []", "keys count group { source }")).toEqual([
      { keys: null, count, group: null },
    ]);
    expect(await on.groups("groupBy: [SOURCE], first: 0")).toEqual([]);
    expect(await on.groups("groupBy: []", "__typename")).toHaveLength(1);
  });
});

it("takes all keys and all orders at once", async () => {
  const { data: types } = await on.api.query(
    `{ keys: __type(name: "AnalyticsEventGroupBy") { enumValues { name } }
       orders: __type(name: "AnalyticsEventGroupOrderBy") { enumValues { name } } }`,
    { token: on.token },
  );
  const names = (values: { name: string }[]) => values.map(({ name }) => name);
  const { data, errors } = await on.ask(
    "{ groupedAggregates(groupBy: $groupBy, orderBy: $orderBy) { keys count } }",
    { groupBy: names(types.keys.enumValues), orderBy: names(types.orders.enumValues) },
    "($groupBy: [AnalyticsEventGroupBy!]!, $orderBy: [AnalyticsEventGroupOrderBy!])",
  );
  expect(errors).toBeUndefined();
  const counts = data.analyticsEvents.groupedAggregates.map(({ count }: { count: string }) => Number(count));
  const total = counts.reduce((sum: number, count: number) => sum + count, 0);
  expect(String(total)).toBe(await on.countOf());
});

it("counts only the rows of one's own tenant", async () => {
  const [own, others] = [await on.countOf(), await on.countOf(on.globex)];
  expect(others).not.toBe(own);
  const answers = async (who: string) =>
    (
      await on.api.query(
        "{ analyticsEvents { aggregates { count } groupedAggregates(groupBy: [SOURCE]) { keys count } } }",
        { token: who },
      )
    ).data.analyticsEvents;
  const ofAcme = await answers(on.token);
  const ofGlobex = await answers(await on.api.signIn("globex", "viewer"));
  expect([ofAcme.aggregates.count, ofGlobex.aggregates.count]).toEqual([own, others]);
  const of = async (tenant: TestTenant) =>
    (await on.plain("source, count(*)::text", "group by 1 order by 1", tenant)).map(([key, count]) => ({
      keys: [key],
      count,
    }));
  expect(ofAcme.groupedAggregates).toEqual(await of(on.acme));
  expect(ofGlobex.groupedAggregates).toEqual(await of(on.globex));
  expect(ofGlobex.groupedAggregates).toContainEqual({ keys: ["e"], count: "1" });
});

it("says whether any and whether all are true", async () => {
  const enabled = () =>
    on.api.query("{ integrations { aggregates { count any { enabled } every { enabled } } } }", {
      token: on.token,
    });
  const insert = (name: string, isOn: boolean) =>
    on.database.owner.query(
      "insert into integrations (tenant_id, name, provider, enabled) values ($1, $2, 'square', $3)",
      [on.acme.id, name, isOn],
    );
  expect((await enabled()).data.integrations.aggregates).toEqual({
    count: "1",
    any: { enabled: false },
    every: { enabled: false },
  });
  await insert("on", true);
  expect((await enabled()).data.integrations.aggregates).toMatchObject({
    count: "2",
    any: { enabled: true },
    every: { enabled: false },
  });
  await on.database.owner.query("update integrations set enabled = true where tenant_id = $1", [on.acme.id]);
  expect((await enabled()).data.integrations.aggregates.every).toEqual({ enabled: true });
  await on.database.owner.query("delete from integrations where name = 'on'");
});

it("works below every row of a list, each with its own groups and its own end", async () => {
  for (const [index, tenant] of [on.acme, on.acme, on.acme, on.globex].entries())
    await on.database.owner.query(
      "insert into integrations (tenant_id, name, provider, status) values ($1, $2, $3, $4)",
      [tenant.id, `i${index}`, index % 2 ? "meta-ads" : "square", index === 2 ? "ERROR" : "ACTIVE"],
    );
  const admin = await on.api.signIn("acme", "admin");
  const document = `query ($first: Int, $orderBy: [IntegrationGroupOrderBy!]) {
    integrations(orderBy: NAME_ASC) { nodes { name tenant { integrations {
      aggregates { count any { enabled } max { createdAt } }
      groupedAggregates(groupBy: [PROVIDER, STATUS], orderBy: $orderBy, first: $first) { keys group { provider status } count }
    } } } } }`;
  const { data, errors } = await on.api.query(document, {
    token: admin,
    variables: { first: 2, orderBy: ["COUNT_DESC", "STATUS_DESC"] },
  });
  expect(errors).toBeUndefined();
  const { rows } = await on.database.owner.query(
    `select provider, status::text, count(*)::text from integrations where tenant_id = $1
      group by provider, status order by count(*) desc, integrations.status desc, provider limit 2`,
    [on.acme.id],
  );
  expect(data.integrations.nodes).toHaveLength(4);
  for (const { tenant } of data.integrations.nodes) {
    expect(tenant.integrations.aggregates).toMatchObject({ count: "4", any: { enabled: true } });
    expect(tenant.integrations.groupedAggregates).toEqual(
      rows.map(({ provider, status, count }) => ({
        keys: [provider, status],
        group: { provider, status },
        count,
      })),
    );
  }
  const refused = await on.api.query(document, { token: admin, variables: { first: 1001 } });
  expect(refused.errors?.[0].extensions.code).toBe("INVALID_INPUT");
});
