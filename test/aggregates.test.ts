import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { type Event, insertEvents } from "./support/events.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { readVocabulary } from "./support/vocabulary.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let globex: TestTenant;
let token: string;

/** Around clock changes, and ends of hours, days, ISO weeks, quarters and years. */
const instants = [
  // New York goes back at 06:00Z on 2 November: 01:30 comes twice, and the day has 25 hours.
  ...["2025-11-02T03:59:59.999Z", "2025-11-02T04:00:00Z", "2025-11-02T05:31:00Z", "2025-11-02T06:31:00Z"],
  ...["2025-11-02T06:44:59Z", "2025-11-03T04:59:59.999Z", "2025-11-03T05:00:00Z"],
  ...["2025-03-09T06:59:59Z", "2025-03-09T07:00:00Z", "2025-03-10T03:59:59Z"],
  // Kathmandu is 05:45 ahead.
  ...["2025-06-30T18:14:59.999Z", "2025-06-30T18:15:00Z", "2025-06-30T18:29:59Z"],
  // Lord Howe goes back by half an hour at 15:00Z on 5 April: 01:45 comes twice; and forth at 15:30Z on 4 October.
  ...["2025-04-05T14:44:00Z", "2025-04-05T14:46:00Z", "2025-04-05T15:16:00Z", "2025-04-05T15:31:00Z"],
  ...["2025-10-04T15:29:59Z", "2025-10-04T15:30:00Z", "2025-10-04T15:46:00Z"],
  ...["2024-12-29T23:59:59Z", "2024-12-30T00:00:00Z", "2024-12-31T23:59:59Z", "2025-01-01T00:00:00Z"],
  ...["2025-12-28T12:00:00Z", "2025-12-29T12:00:00Z", "2025-12-31T12:00:00Z", "2026-01-01T12:00:00Z"],
];
const types = ["order", "payment", "refund"];
const values = [
  "-12.50",
  "0",
  null,
  "999999999999999999999999999999.99",
  "0.000000000000000000000000000001",
  "7.10",
];
const channels = [
  { channel: "online" },
  { channel: "in_store" },
  {},
  { channel: null },
  { channel: "o\"'; --" },
];
const events: Event[] = instants.map((timestamp, index) => ({
  timestamp,
  eventType: types[index % types.length] ?? "",
  value: values[index % values.length] ?? null,
  currency: index % 4 === 0 ? null : index % 2 === 0 ? "EUR" : "USD",
  properties: channels[index % channels.length] ?? {},
}));

beforeAll(async () => {
  database = await createTestDatabase();
  acme = await createTenant(database.owner, "acme");
  globex = await createTenant(database.owner, "globex");
  await insertEvents(database.owner, acme.id, events);
  await insertEvents(database.owner, globex.id, [...events, ...events]);
  api = await startApi(database);
  token = await api.signIn("acme", "viewer");
});
afterAll(async () => {
  await api.close();
  await database.drop();
});

const ask = async (selection: string, variables: Record<string, unknown> = {}, definitions = "") => {
  const { data, errors } = await api.query(`query ${definitions} { analyticsEvents ${selection} }`, {
    token,
    variables,
  });
  expect(errors).toBeUndefined();
  return data.analyticsEvents;
};
/** Of acme's events, as the owner reads them; each column a text. */
const plain = async (columns: string, rest = "", ...parameters: unknown[]) => {
  const { rows } = await database.owner.query({
    text: `with e as (select * from analytics_events where tenant_id = $1) select ${columns} from e ${rest}`,
    values: [acme.id, ...parameters],
    rowMode: "array",
  });
  return rows;
};
const text = (instant: string) =>
  `to_char((${instant}) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US') || '+00:00'`;
/** The n-th of the sorted values, counted by hand; n may use c, how many there are. */
const ranked = async (...ranks: string[]) => {
  const { rows } = await database.owner.query(
    `with v as (select value, row_number() over (order by value) as n, count(*) over () as c
                  from analytics_events where tenant_id = $1 and value is not null)
     select trim_scale(sum(value) / count(*))::text as value from v where n in (${ranks.join(", ")})`,
    [acme.id],
  );
  return rows[0].value;
};
const trimmed = (number: string) => number.replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");

describe("of all rows", () => {
  it("counts them, and knows the first and the last of times and texts", async () => {
    const { aggregates } = await ask(
      "{ aggregates { count keys group { eventType } min { timestamp eventType currency } max { timestamp eventType value } } }",
    );
    const [row] = await plain(
      `count(*)::text, ${text("min(timestamp)")}, min(event_type), min(currency), ${text("max(timestamp)")}, max(event_type), max(value)::text`,
    );
    expect([
      aggregates.count,
      aggregates.min.timestamp,
      aggregates.min.eventType,
      aggregates.min.currency,
      aggregates.max.timestamp,
      aggregates.max.eventType,
      aggregates.max.value,
    ]).toEqual(row);
    expect(aggregates.count).toBe(String(events.length + 10));
    expect(aggregates).toMatchObject({ keys: null, group: null });
  });

  it.each([[0], [1], [4], [11]])(
    "finds median and percentiles exactly, with %i values more",
    async (more) => {
      await insertEvents(
        database.owner,
        acme.id,
        Array.from({ length: more }, (_, index) => ({
          timestamp: "2025-05-05T05:05:05Z",
          eventName: "percentile",
          value: `${(index * 7919) % 101}.0${index % 9}1`,
        })),
      );
      try {
        const { aggregates } = await ask(
          "{ aggregates { median { value } p75 { value } p90 { value } p95 { value } p99 { value } } }",
        );
        const got = Object.values<{ value: string }>(aggregates).map(({ value }) => trimmed(value));
        expect(got).toEqual([
          await ranked("(c + 1) / 2", "c / 2 + 1"),
          await ranked("ceil(0.75 * c)"),
          await ranked("ceil(0.90 * c)"),
          await ranked("ceil(0.95 * c)"),
          await ranked("ceil(0.99 * c)"),
        ]);
      } finally {
        await database.owner.query("delete from analytics_events where tenant_id = $1 and event_name = $2", [
          acme.id,
          "percentile",
        ]);
      }
    },
  );

  it("keeps every digit of huge, tiny and negative values", async () => {
    const { aggregates } = await ask("{ aggregates { sum { value } min { value } max { value } } }");
    const [row] = await plain("sum(value)::text, min(value)::text, max(value)::text");
    expect([aggregates.sum.value, aggregates.min.value, aggregates.max.value]).toEqual(row);
    const huge = "999999999999999999999999999999.99";
    expect(aggregates.max.value).toBe(huge);
    const { data } = await api.query(
      `query ($huge: BigFloat) { analyticsEvents(filter: { value: { greaterThanOrEqualTo: $huge } }) {
         groupedAggregates(groupBy: [EVENT_TYPE], having: { max: { value: { equalTo: $huge } } }) { median { value } p99 { value } } } }`,
      { token, variables: { huge } },
    );
    const groups = data.analyticsEvents.groupedAggregates;
    expect(groups.length).toBeGreaterThan(0);
    for (const group of groups) expect(group).toEqual({ median: { value: huge }, p99: { value: huge } });
  });

  it("answers nulls, and a count of 0, for no rows", async () => {
    const { data } = await api.query(
      `{ analyticsEvents(filter: { eventType: { equalTo: "no such" } }) {
           aggregates { count sum { value } median { value } p95 { value } min { timestamp eventType } }
           groupedAggregates(groupBy: [TIMESTAMP_TRUNCATED_TO_DAY]) { keys } } }`,
      { token },
    );
    expect(data.analyticsEvents).toEqual({
      aggregates: {
        count: "0",
        sum: { value: "0" },
        median: { value: null },
        p95: { value: null },
        min: { timestamp: null, eventType: null },
      },
      groupedAggregates: [],
    });
  });
});

describe("in buckets of time", () => {
  const zones = ["UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"];
  const quarter =
    "date_trunc('hour', timestamp, $2) + floor(extract(minute from timestamp at time zone $2) / 15) * interval '15 minutes'";
  const unit = (name: string) => `(date_trunc('${name}', timestamp at time zone $2) at time zone $2)`;
  const buckets: [string, string, string][] = [
    ["TIMESTAMP_TRUNCATED_TO_15_MINUTES", "timestampTruncatedTo15Minutes", text(quarter)],
    ["TIMESTAMP_TRUNCATED_TO_HOUR", "timestampTruncatedToHour", text("date_trunc('hour', timestamp, $2)")],
    ...["day", "week", "month", "quarter", "year"].map((name): [string, string, string] => [
      `TIMESTAMP_TRUNCATED_TO_${name.toUpperCase()}`,
      `timestampTruncatedTo${name[0]?.toUpperCase()}${name.slice(1)}`,
      text(unit(name)),
    ]),
    ["TIMESTAMP_HOUR_OF_DAY", "timestampHourOfDay", "to_char(timestamp at time zone $2, 'FMHH24')"],
    ["TIMESTAMP_DAY_OF_WEEK", "timestampDayOfWeek", "to_char(timestamp at time zone $2, 'ID')"],
  ];

  it.each(zones.flatMap((zone) => buckets.map((bucket) => [zone, ...bucket] as const)))(
    "in %s, %s is what the clocks there say",
    async (zone, name, fieldName, expression) => {
      const { groupedAggregates } = await ask(
        `{ groupedAggregates(groupBy: [${name}], timeZone: "${zone}") { keys group { ${fieldName} } count sum { value } } }`,
      );
      const expected = await plain(
        `${expression} as key, count(*)::text, coalesce(sum(value), 0)::text`,
        "group by 1",
        zone,
      );
      const got = groupedAggregates.map(
        (group: { keys: string[]; count: string; sum: { value: string } }) => [
          group.keys[0],
          group.count,
          group.sum.value,
        ],
      );
      expect(new Map(got.map((row: string[]) => [row[0], row]))).toEqual(
        new Map(expected.map((row: string[]) => [row[0], row])),
      );
      expect(got).toHaveLength(expected.length);
      for (const { keys, group } of groupedAggregates) expect(String(group[fieldName])).toBe(keys[0]);
    },
  );

  it("are those of UTC where no zone is given", async () => {
    const { none, utc, empty } = await ask(
      `{ none: groupedAggregates(groupBy: [TIMESTAMP_TRUNCATED_TO_DAY]) { keys count }
         utc: groupedAggregates(groupBy: [TIMESTAMP_TRUNCATED_TO_DAY], timeZone: "UTC") { keys count }
         empty: groupedAggregates(groupBy: [TIMESTAMP_TRUNCATED_TO_DAY], timeZone: $zone) { keys count } }`,
      { zone: null },
      "($zone: String)",
    );
    expect(none.length).toBeGreaterThan(10);
    expect(none).toEqual(utc);
    expect(empty).toEqual(utc);
  });

  it("keep the hour apart that New York has twice, and count 25 hours into its day", async () => {
    const { hours, days } = await ask(`{
      hours: groupedAggregates(groupBy: [TIMESTAMP_TRUNCATED_TO_HOUR], timeZone: "America/New_York") { keys count }
      days: groupedAggregates(groupBy: [TIMESTAMP_TRUNCATED_TO_DAY], timeZone: "America/New_York") { keys count } }`);
    expect(hours).toContainEqual({ keys: ["2025-11-02T05:00:00.000000+00:00"], count: "1" });
    expect(hours).toContainEqual({ keys: ["2025-11-02T06:00:00.000000+00:00"], count: "2" });
    expect(days).toContainEqual({ keys: ["2025-11-02T04:00:00.000000+00:00"], count: "5" });
    expect(days).toContainEqual({ keys: ["2025-11-03T05:00:00.000000+00:00"], count: "1" });
  });
});

describe("by properties", () => {
  it("takes their text, and null where there is none", async () => {
    const { groupedAggregates } = await ask(
      "{ groupedAggregates(groupBy: [PROPERTIES_CHANNEL, CURRENCY]) { keys group { propertiesChannel currency eventType } count } }",
    );
    const expected = await plain(
      "properties ->> 'channel', currency, count(*)::text",
      "group by 1, 2 order by 1, 2",
    );
    expect(
      groupedAggregates.map(
        ({ keys, group, count }: { keys: string[]; group: Record<string, string>; count: string }) => {
          expect(group).toEqual({ propertiesChannel: keys[0], currency: keys[1], eventType: null });
          return [...keys, count];
        },
      ),
    ).toEqual(expected);
  });

  it("knows all texts of docs/events.md, and nothing else", async () => {
    const { data } = await api.query('{ __type(name: "AnalyticsEventGroupKeys") { fields { name } } }', {
      token,
    });
    const declared = data.__type.fields
      .map(({ name }: { name: string }) => name)
      .filter((name: string) => name.startsWith("properties"));
    const texts = [...readVocabulary().values()].flatMap(({ properties }) =>
      [...properties].filter(([, kind]) => kind === "text").map(([name]) => name),
    );
    const fields = texts.map((name) => `properties${name[0]?.toUpperCase()}${name.slice(1)}`);
    expect(declared.sort()).toEqual([...new Set(fields)].sort());
  });
});
