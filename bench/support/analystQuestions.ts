/** A year in America/New_York, with both changes of clocks. */
export const YEAR = { from: "2025-01-01T05:00:00Z", to: "2026-01-01T05:00:00Z" };
const ZONE = "America/New_York";

export type Question = {
  name: string;
  /** What eventSeries is asked with. */
  asked: Record<string, unknown>;
  graphql: string;
  /** The same on analytics_events: $1 tenant, $2 from, $3 to. */
  byHand: string;
  /** The same through groupedAggregates, where it can ask. */
  stock?: string;
};

const enums = new Set(["granularity", "aggregate", "field", "of", "compare"]);
const literal = (value: unknown, key = ""): string => {
  if (Array.isArray(value)) return `[${value.map((one) => literal(one, key)).join(", ")}]`;
  if (typeof value === "object" && value !== null)
    return `{${Object.entries(value)
      .map(([name, one]) => `${name}: ${literal(one, name)}`)
      .join(", ")}}`;
  return enums.has(key) ? String(value) : JSON.stringify(value);
};
const question = (name: string, asked: Record<string, unknown>, byHand: string, stock?: string): Question => {
  const full = { ...YEAR, ...asked };
  const args = Object.entries(full)
    .map(([key, value]) => `${key}: ${literal(value, key)}`)
    .join(", ");
  return {
    name,
    asked: full,
    byHand,
    graphql: `{ eventSeries(${args}) { rows(first: 10000) { label dimensions values } } }`,
    ...(stock ? { stock } : {}),
  };
};
const WITHIN = `tenant_id = $1 and "timestamp" >= $2 and "timestamp" < $3`;
const range = `timestamp: {greaterThanOrEqualTo: "${YEAR.from}", lessThan: "${YEAR.to}"}`;
const grouped = (filter: string, groupBy: string, measures: string) =>
  `{ analyticsEvents(filter: {${range}${filter}}) { groupedAggregates(groupBy: [${groupBy}]) { keys ${measures} } } }`;
const revenue = { name: "revenue", aggregate: "SUM" };
const orders = { types: ["order"], names: ["order_completed"] };
const ORDERS = "event_type = 'order' and event_name = 'order_completed'";

export const questions: Question[] = [
  question(
    "a year by day, own zone",
    { granularity: "DAY", filter: orders, measures: [revenue, { name: "n", aggregate: "COUNT" }] },
    `select date_trunc('day', "timestamp", '${ZONE}'), sum(value), count(*) from analytics_events where ${WITHIN} and ${ORDERS} group by 1 order by 1`,
    grouped(
      ', eventType: {equalTo: "order"}, eventName: {equalTo: "order_completed"}',
      "TIMESTAMP_TRUNCATED_TO_DAY",
      "sum { value } distinctCount { id }",
    ),
  ),
  question(
    "a year by day and type, own zone",
    {
      granularity: "DAY",
      dimensions: [{ field: "TYPE" }],
      measures: [revenue, { name: "n", aggregate: "COUNT" }],
    },
    `select date_trunc('day', "timestamp", '${ZONE}'), event_type, sum(value), count(*) from analytics_events where ${WITHIN} group by 1, 2 order by 1, 2`,
  ),
  question(
    "a year by day, another zone",
    { granularity: "DAY", timeZone: "Asia/Kolkata", filter: orders, measures: [revenue] },
    `select date_trunc('day', "timestamp", 'Asia/Kolkata'), sum(value) from analytics_events where ${WITHIN} and ${ORDERS} group by 1 order by 1`,
  ),
  question(
    "a year by month and type, own zone",
    {
      granularity: "MONTH",
      dimensions: [{ field: "TYPE" }],
      measures: [revenue, { name: "n", aggregate: "COUNT" }],
    },
    `select date_trunc('month', "timestamp", '${ZONE}'), event_type, sum(value), count(*) from analytics_events where ${WITHIN} group by 1, 2 order by 1, 2`,
  ),
  question(
    "a year by week, compared with the year before",
    { granularity: "WEEK", compare: "PREVIOUS_YEAR", filter: orders, measures: [revenue] },
    `select date_trunc('week', "timestamp", '${ZONE}'), sum(value) from analytics_events
      where tenant_id = $1 and "timestamp" >= $2::timestamptz - interval '364 days' and "timestamp" < $3 and ${ORDERS} group by 1 order by 1`,
  ),
  question(
    "a year by source",
    { granularity: "ALL", dimensions: [{ field: "SOURCE" }], filter: orders, measures: [revenue] },
    `select source, sum(value) from analytics_events where ${WITHIN} and ${ORDERS} group by 1 order by 2 desc`,
  ),
  question(
    "a year by hour of day",
    { granularity: "HOUR_OF_DAY", filter: orders, measures: [{ name: "n", aggregate: "COUNT" }] },
    `select extract(hour from "timestamp" at time zone '${ZONE}'), count(*) from analytics_events where ${WITHIN} and ${ORDERS} group by 1 order by 1`,
  ),
  question(
    "a month by hour",
    { from: "2025-11-01T04:00:00Z", to: "2025-12-01T05:00:00Z", granularity: "HOUR", measures: [revenue] },
    `select date_trunc('hour', "timestamp", '${ZONE}'), sum(value) from analytics_events
      where tenant_id = $1 and "timestamp" >= '2025-11-01T04:00:00Z' and "timestamp" < '2025-12-01T05:00:00Z' and $2::timestamptz < $3::timestamptz group by 1 order by 1`,
  ),
  question(
    "a year, top channels with the rest (events)",
    {
      granularity: "ALL",
      dimensions: [{ property: "channel" }],
      top: { first: 3 },
      filter: orders,
      measures: [revenue],
    },
    `select properties ->> 'channel', sum(value) from analytics_events where ${WITHIN} and ${ORDERS} group by 1 order by 2 desc`,
  ),
  question(
    "a year by month, distinct customers (events)",
    {
      granularity: "MONTH",
      filter: orders,
      measures: [{ name: "customers", aggregate: "DISTINCT_COUNT", of: "SUBJECT" }],
    },
    `select date_trunc('month', "timestamp", '${ZONE}'), count(distinct subject) from analytics_events where ${WITHIN} and ${ORDERS} group by 1 order by 1`,
  ),
  question(
    "a year, 90th percentile of orders by week (events)",
    {
      granularity: "WEEK",
      filter: orders,
      measures: [{ name: "p90", aggregate: "PERCENTILE", percentile: 90 }],
    },
    `select date_trunc('week', "timestamp", '${ZONE}'), percentile_disc(0.9) within group (order by value) from analytics_events where ${WITHIN} and ${ORDERS} group by 1 order by 1`,
  ),
];
