import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { rollUpTenant } from "../src/rollups/rollUp.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let api: TestApi;
let tenant: TestTenant;
let token: string;
let daily: TestTenant;

beforeAll(async () => {
  database = await createTestDatabase();
  tenant = await createTenant(database.owner, "acme");
  await createTenant(database.owner, "globex");
  daily = await createTenant(database.owner, "daily", {
    settings: { timeZone: "UTC", weekStart: 0 },
    // The first hundred days of 2026, worth 1 to 100.
    events: Array.from({ length: 100 }, (_, index) => ({
      eventType: "order",
      eventName: "order_completed",
      timestamp: new Date(Date.UTC(2026, 0, 1 + index, 12)).toISOString(),
      value: String(index + 1),
      currency: "USD",
    })),
  });
  api = await startApi(database);
  token = await api.signIn("acme", "viewer");
});
afterAll(async () => {
  await api.close();
  await database.drop();
});

const SELECTION = `{
  columns { name unit format }
  rows { start label dimensions isOther values }
  timeZone freshness { source pendingQuarterHours }
}`;
const ask = (args: string, selection = SELECTION) =>
  api.query(`{ eventSeries(${args}) ${selection} }`, { token });
const refusal = async (args: string) => {
  const { errors } = await ask(args);
  return [errors?.[0].extensions.code, errors?.[0].message];
};
const write = (...events: object[]) =>
  database.owner.query("select app_hidden.write_events($1, $2)", [tenant.id, JSON.stringify(events)]);
const JANUARY = 'from: "2026-01-01T00:00:00Z", to: "2026-02-01T00:00:00Z", timeZone: "UTC"';
const SUM = 'measures: [{name: "revenue", aggregate: SUM}, {name: "orders", aggregate: COUNT}]';

describe("eventSeries", () => {
  it("answers days, gaps filled, from the events and from rollups alike", async () => {
    const raw = await ask(`${JANUARY}, granularity: DAY, ${SUM}`);
    expect(raw.errors).toBeUndefined();
    const { rows, columns, freshness } = raw.data.eventSeries;
    expect(freshness.source).toBe("EVENTS");
    expect(columns.map(({ name }: { name: string }) => name)).toEqual(["revenue", "orders"]);
    expect(rows).toHaveLength(31);
    expect(rows[2]).toEqual({
      start: "2026-01-03T00:00:00.000000Z",
      label: "2026-01-03",
      dimensions: [],
      isOther: false,
      values: ["3", "1"],
    });
    expect(rows[20].values).toEqual(["0", "0"]);
    expect(await rollUpTenant(database.worker, tenant.id)).toBe(true);
    const rolled = await ask(`${JANUARY}, granularity: DAY, ${SUM}`);
    expect(rolled.data.eventSeries.freshness).toEqual({ source: "ROLLUPS", pendingQuarterHours: 0 });
    expect(rolled.data.eventSeries.rows).toEqual(rows);
  });

  it("takes what changed since from the events, and says so", async () => {
    await write({
      eventType: "order",
      eventName: "order_completed",
      timestamp: "2026-01-03T12:01:00Z",
      value: 40,
      currency: "USD",
    });
    const { data } = await ask(`${JANUARY}, granularity: DAY, ${SUM}`);
    expect(data.eventSeries.rows[2].values).toEqual(["43", "2"]);
    expect(data.eventSeries.freshness).toEqual({ source: "BOTH", pendingQuarterHours: 1 });
  });

  it("names values by measure, pages rows, and totals them", async () => {
    const { data, errors } = await ask(
      `${JANUARY}, granularity: WEEK, weekStart: 0, filter: {types: ["order"]}, ${SUM}`,
      `{ rowCount rows(first: 2, offset: 1) { label orders: value(of: "orders") } total(of: "revenue") }`,
    );
    expect(errors).toBeUndefined();
    expect(data.eventSeries).toEqual({
      rowCount: 5,
      rows: [
        { label: "2026-01-04", orders: "7" },
        { label: "2026-01-11", orders: "0" },
      ],
      total: "95",
    });
  });

  it("does not add currencies unless it is told to", async () => {
    await write({
      eventType: "tip",
      eventName: "tip",
      timestamp: "2026-01-06T10:00:00Z",
      value: 5,
      currency: "EUR",
    });
    await write({
      eventType: "tip",
      eventName: "tip",
      timestamp: "2026-01-06T11:00:00Z",
      value: 7,
      currency: "USD",
    });
    const tips = `${JANUARY}, granularity: ALL, filter: {types: ["tip"]}, measures: [{name: "tips", aggregate: SUM}]`;
    expect(await refusal(tips)).toEqual([
      "INVALID_INPUT",
      '"tips" would add EUR and USD: add the dimension CURRENCY, filter by one currency, or ask for mixCurrencies.',
    ]);
    const values = async (more: string) =>
      (await ask(`${tips}, ${more}`, `{ rows { dimensions values } total(of: "tips") }`)).data.eventSeries;
    expect(await values("mixCurrencies: true")).toEqual({
      rows: [{ dimensions: [], values: ["12"] }],
      total: "12",
    });
    expect(await values("dimensions: [{field: CURRENCY}]")).toEqual({
      rows: [
        { dimensions: ["EUR"], values: ["5"] },
        { dimensions: ["USD"], values: ["7"] },
      ],
      total: null,
    });
  });

  it("ranks groups, and sums up the rest", async () => {
    for (const [channel, value] of [
      ["web", 50],
      ["shop", 30],
      ["fair", 20],
      [null, 10],
    ] as const)
      await write({
        eventType: "sale",
        eventName: "sale",
        timestamp: "2026-01-07T10:00:00Z",
        value,
        currency: "USD",
        properties: channel ? { channel } : {},
      });
    const sales = `${JANUARY}, granularity: ALL, filter: {types: ["sale"]}, dimensions: [{property: "channel"}], measures: [{name: "sold", aggregate: SUM}]`;
    const { data, errors } = await ask(`${sales}, top: {first: 2}`, "{ rows { dimensions isOther values } }");
    expect(errors).toBeUndefined();
    expect(data.eventSeries.rows).toEqual([
      { dimensions: ["web"], isOther: false, values: ["50"] },
      { dimensions: ["shop"], isOther: false, values: ["30"] },
      { dimensions: [null], isOther: true, values: ["30"] },
    ]);
    const alone = await ask(`${sales}, top: {first: 2, others: false}`, "{ rows { dimensions values } }");
    expect(alone.data.eventSeries.rows).toHaveLength(2);
  });

  it("ranks no groups by amounts of several currencies, or of none", async () => {
    const gift = { eventType: "gift", eventName: "gift" };
    await write(
      { ...gift, timestamp: "2026-01-10T10:00:00Z", value: 60, currency: "USD", properties: { to: "a" } },
      { ...gift, timestamp: "2026-01-11T10:00:00Z", value: 60, currency: "JPY", properties: { to: "a" } },
      { ...gift, timestamp: "2026-01-10T10:00:00Z", value: 100, currency: "USD", properties: { to: "b" } },
    );
    const gifts = `${JANUARY}, granularity: DAY, filter: {types: ["gift"]}, dimensions: [{property: "to"}], measures: [{name: "given", aggregate: SUM}]`;
    const [code, message] = await refusal(`${gifts}, top: {first: 1, others: false}`);
    expect([code, message]).toEqual(["INVALID_INPUT", expect.stringContaining("JPY and USD")]);
    await write({ ...gift, eventType: "voucher", timestamp: "2026-01-10T10:00:00Z", value: 1 });
    await write({
      ...gift,
      eventType: "voucher",
      timestamp: "2026-01-10T10:00:00Z",
      value: 2,
      currency: "USD",
    });
    const [, without] = await refusal(
      `${JANUARY}, granularity: ALL, filter: {types: ["voucher"]}, measures: [{name: "given", aggregate: SUM}]`,
    );
    expect(without).toContain("amounts without a currency and USD");
  });

  it("keeps the order of the top when it compares", async () => {
    const hit = { eventType: "hit", eventName: "hit", currency: "USD" };
    await write(
      { ...hit, timestamp: "2026-01-10T10:00:00Z", value: 1, properties: { of: "b" } },
      { ...hit, timestamp: "2026-01-11T10:00:00Z", value: 100, properties: { of: "a" } },
      { ...hit, timestamp: "2025-12-11T10:00:00Z", value: 1, properties: { of: "a" } },
      { ...hit, timestamp: "2025-12-11T10:00:00Z", value: 2, properties: { of: "b" } },
    );
    const { data, errors } = await ask(
      `${JANUARY}, granularity: MONTH, filter: {types: ["hit"]}, dimensions: [{property: "of"}], measures: [{name: "n", aggregate: SUM}], top: {first: 2}, compare: PREVIOUS_PERIOD`,
      `{ rows { dimensions value(of: "n") compared(of: "n") } }`,
    );
    expect(errors).toBeUndefined();
    expect(data.eventSeries.rows).toEqual([
      { dimensions: ["a"], value: "100", compared: "1" },
      { dimensions: ["b"], value: "1", compared: "2" },
    ]);
  });

  it.each([
    ["2026-11-01T05:30:00Z", "2026-11-01T06:15:00Z", "2026-11-01T05:00:00Z"],
    ["2026-11-01T05:00:00Z", "2026-11-01T07:00:00Z", "2026-11-01T04:00:00Z"],
    ["2026-03-08T06:30:00Z", "2026-03-08T08:00:00Z", "2026-03-08T06:00:00Z"],
  ])("compares %s to %s with as long a time before, though the clocks change", async (from, to, before) => {
    const beat = { eventType: `beat ${from}`, eventName: "beat", timestamp: before };
    await database.owner.query("update app_private.event_limits set max_ahead = '10 years'");
    await write(beat);
    for (const granularity of ["QUARTER_HOUR", "HOUR"]) {
      const { data, errors } = await ask(
        `from: "${from}", to: "${to}", timeZone: "America/New_York", granularity: ${granularity}, filter: {types: ["${beat.eventType}"]}, measures: [{name: "n", aggregate: COUNT}], compare: PREVIOUS_PERIOD`,
        `{ comparedTotal(of: "n") }`,
      );
      expect([errors, data.eventSeries]).toEqual([undefined, { comparedTotal: "1" }]);
    }
    const year = await ask(
      `from: "${from}", to: "${to}", timeZone: "America/New_York", granularity: QUARTER_HOUR, measures: [{name: "n", aggregate: COUNT}], compare: PREVIOUS_YEAR`,
      `{ comparedTotal(of: "n") }`,
    );
    expect(year.errors).toBeUndefined();
  });

  it("compares with the period before, and with the year before", async () => {
    await write({
      eventType: "rent",
      eventName: "rent",
      timestamp: "2025-12-15T10:00:00Z",
      value: 100,
      currency: "USD",
    });
    await write({
      eventType: "rent",
      eventName: "rent",
      timestamp: "2025-01-15T10:00:00Z",
      value: 90,
      currency: "USD",
    });
    await write({
      eventType: "rent",
      eventName: "rent",
      timestamp: "2026-01-15T10:00:00Z",
      value: 110,
      currency: "USD",
    });
    const rent = (compare: string) =>
      ask(
        `${JANUARY}, granularity: MONTH, filter: {types: ["rent"]}, measures: [{name: "rent", aggregate: SUM}], compare: ${compare}`,
        `{ rows { label value(of: "rent") compared(of: "rent") } comparedTotal(of: "rent") }`,
      ).then(({ data }) => data.eventSeries);
    expect(await rent("PREVIOUS_PERIOD")).toEqual({
      rows: [{ label: "2026-01", value: "110", compared: "100" }],
      comparedTotal: "100",
    });
    expect(await rent("PREVIOUS_YEAR")).toEqual({
      rows: [{ label: "2026-01", value: "110", compared: "90" }],
      comparedTotal: "90",
    });
  });

  it("takes events by their value", async () => {
    await rollUpTenant(database.worker, tenant.id);
    const { data, errors } = await ask(
      `${JANUARY}, granularity: ALL, filter: {types: ["order"], value: {atLeast: "4", below: "6.5"}}, ${SUM}`,
      "{ rows { values } freshness { source } }",
    );
    expect(errors).toBeUndefined();
    expect(data.eventSeries).toEqual({ rows: [{ values: ["15", "3"] }], freshness: { source: "EVENTS" } });
  });

  it("sees nothing of another tenant", async () => {
    const other = await api.signIn("globex", "viewer");
    const { data } = await api.query(
      `{ eventSeries(${JANUARY}, granularity: ALL, filter: {types: ["rent", "sale", "tip"]}, ${SUM}) { rows { values } } }`,
      { token: other },
    );
    expect(data.eventSeries.rows).toEqual([{ values: ["0", "0"] }]);
  });

  it("is for whoever is signed in", async () => {
    const { errors } = await api.query(`{ eventSeries(${JANUARY}, granularity: ALL, ${SUM}) { rowCount } }`);
    expect(errors?.[0].extensions.code).toBe("UNAUTHENTICATED");
  });

  it.each([
    ['from: "2026-01-01T00:00:00Z", to: "2026-01-01T00:00:00Z"', "from must be before to."],
    ['from: "2026-02-01T00:00:00Z", to: "2026-01-01T00:00:00Z"', "from must be before to."],
    ['from: "2026-02-01", to: "2026-03-01T00:00:00Z"', "from must be an RFC 3339"],
    [
      'from: "2026-01-01T00:00:00-23:59", to: "2026-03-01T00:00:00Z"',
      "from has an offset of 15 hours or more.",
    ],
    ['from: "0001-02-01T00:00:00Z", to: "2026-03-01T00:00:00Z"', "from must lie between 1900 and 2200."],
    ['from: "1950-02-01T00:00:00Z", to: "2026-03-01T00:00:00Z"', "at most 25 years"],
  ])("refuses the range %s", async (range, sentence) => {
    const [code, message] = await refusal(`${range}, granularity: YEAR, ${SUM}`);
    expect(code).toBe("INVALID_INPUT");
    expect(message).toContain(sentence);
  });

  it.each([
    [`timeZone: "Mars/Olympus", ${SUM}`, 'timeZone "Mars/Olympus" is unknown'],
    [`timeZone: "+05:30", ${SUM}`, 'timeZone "+05:30" is unknown'],
    [`timeZone: "IST", ${SUM}`, 'timeZone "IST" is unknown'],
    [`timeZone: "AET", ${SUM}`, 'timeZone "AET" is unknown'],
    [`weekStart: 7, ${SUM}`, "weekStart is a day"],
    [`fiscalYearStart: 0, ${SUM}`, "fiscalYearStart is a month"],
    ["fillGaps: true", "A series needs measures or metrics."],
    ['measures: [{name: "Über", aggregate: COUNT}]', '"Über" cannot name a measure'],
    ['measures: [{name: "a", aggregate: COUNT}, {name: "a", aggregate: SUM}]', '"a" names two'],
    ['measures: [{name: "a", aggregate: COUNT, property: "x"}]', '"a" counts events'],
    ['measures: [{name: "a", aggregate: PERCENTILE}]', "percentile goes with"],
    ['measures: [{name: "a", aggregate: PERCENTILE, percentile: 100}]', "above 0 and below 100"],
    ['measures: [{name: "a", aggregate: DISTINCT_COUNT}]', "needs a property"],
    ['measures: [{name: "a", aggregate: SUM, property: "x", of: VALUE}]', "both of and property"],
    ['metrics: ["nothing"]', 'There is no metric "nothing".'],
    [`dimensions: [{field: TYPE, property: "x"}], ${SUM}`, "either a field or a property"],
    [`top: {first: 3}, ${SUM}`, "top ranks groups: it needs dimensions."],
    [`top: {first: 3, by: "x"}, dimensions: [{field: TYPE}], ${SUM}`, 'top.by is "x"'],
    [
      `filter: {properties: [{name: "x", atLeast: "ten"}]}, ${SUM}`,
      "filter.properties.atLeast must be a number",
    ],
  ])("refuses %s", async (args, sentence) => {
    const [code, message] = await refusal(
      `${JANUARY.replace(/, timeZone.*/, "")}, granularity: DAY, ${args}`,
    );
    expect(code).toBe("INVALID_INPUT");
    expect(message).toContain(sentence);
  });

  it("refuses more buckets, and more rows, than anybody reads", async () => {
    const range = 'from: "2024-01-01T00:00:00Z", to: "2026-01-01T00:00:00Z", timeZone: "UTC"';
    for (const args of [`${range}, granularity: QUARTER_HOUR`, `${range}, granularity: HOUR`]) {
      const [code, message] = await refusal(`${args}, ${SUM}`);
      expect([code, message]).toEqual(["QUERY_TOO_EXPENSIVE", expect.stringContaining("take a coarser")]);
    }
    await write(
      ...Array.from({ length: 300 }, (_, index) => ({
        eventType: "click",
        eventName: "click",
        timestamp: "2026-01-08T00:00:00Z",
        properties: { page: `p${index}` },
      })),
    );
    const clicks = `granularity: HOUR, filter: {types: ["click"]}, dimensions: [{property: "page"}], measures: [{name: "n", aggregate: COUNT}]`;
    const [code, message] = await refusal(`${JANUARY}, ${clicks}`);
    expect([code, message]).toEqual(["QUERY_TOO_EXPENSIVE", expect.stringContaining("or top")]);
    const some = await ask(`${JANUARY}, ${clicks}, fillGaps: false`, "{ rowCount }");
    expect(some.data.eventSeries.rowCount).toBe(300);
  });

  it("refuses more rows of a comparison, too, than it would show", async () => {
    await write(
      ...Array.from({ length: 4_000 }, (_, index) => ({
        eventType: "view",
        eventName: "view",
        timestamp: new Date(Date.UTC(2025, 6, 1 + (index % 4))).toISOString(),
        properties: { page: `p${index}` },
      })),
    );
    const views = (from: string, to: string) =>
      `from: "${from}", to: "${to}", timeZone: "UTC", granularity: DAY, filter: {types: ["view"]}, dimensions: [{property: "page"}], measures: [{name: "n", aggregate: COUNT}], compare: PREVIOUS_YEAR, fillGaps: false`;
    const few = await ask(
      views("2026-07-01T00:00:00Z", "2026-07-03T00:00:00Z"),
      '{ rowCount comparedTotal(of: "n") }',
    );
    expect(few.data.eventSeries).toEqual({ rowCount: 2_000, comparedTotal: "2000" });
    for (let more = 0; more < 2; more++)
      await write(
        ...Array.from({ length: 4_000 }, (_, index) => ({
          eventType: "view",
          eventName: "view",
          timestamp: "2025-07-01T00:00:00Z",
          properties: { page: `q${more}${index}` },
        })),
      );
    const [code] = await refusal(views("2026-07-01T00:00:00Z", "2026-07-05T00:00:00Z"));
    expect(code).toBe("QUERY_TOO_EXPENSIVE");
  });

  it("takes 10,000 hours", async () => {
    const hours = await ask(
      `from: "2026-10-15T00:00:00Z", to: "2027-07-01T00:00:00Z", timeZone: "UTC", granularity: HOUR, ${SUM}`,
      "{ rowCount }",
    );
    expect(hours.data.eventSeries.rowCount).toBe(6_216);
  });

  it.each([
    [
      "Australia/Lord_Howe",
      "HOUR",
      "2026-10-03T15:45:00Z",
      "2026-10-03T15:30:00.000000Z",
      "2026-10-04T02:30",
    ],
    [
      "Australia/Lord_Howe",
      "HOUR",
      "2026-04-04T15:10:00Z",
      "2026-04-04T15:00:00.000000Z",
      "2026-04-05T01:30",
    ],
    [
      "America/St_Johns",
      "QUARTER_HOUR",
      "2010-11-07T02:35:00Z",
      "2010-11-07T02:31:00.000000Z",
      "2010-11-06T23:01",
    ],
    ["America/Havana", "DAY", "2025-11-02T04:30:00Z", "2025-11-02T04:00:00.000000Z", "2025-11-02"],
    ["America/Havana", "DAY", "2025-11-02T05:30:00Z", "2025-11-02T04:00:00.000000Z", "2025-11-02"],
    ["America/New_York", "HOUR", "2025-11-02T06:30:00Z", "2025-11-02T06:00:00.000000Z", "2025-11-02T01:00"],
  ])(
    "begins a bucket of %s (%s) at the moment at which it begins",
    async (zone, granularity, at, start, label) => {
      await database.owner.query("update app_private.event_limits set max_age = '30 years'");
      await write({ eventType: "tick", eventName: "tick", timestamp: at, sourceId: `${zone}${granularity}` });
      const [from, to] = [-2, 2].map((days) => new Date(Date.parse(at) + days * 86_400_000).toISOString());
      const { data } = await ask(
        `from: "${from}", to: "${to}", timeZone: "${zone}", granularity: ${granularity}, filter: {types: ["tick"]}, fillGaps: false, measures: [{name: "n", aggregate: COUNT}]`,
      );
      expect(data.eventSeries.rows).toContainEqual(expect.objectContaining({ start, label }));
    },
  );

  it("meets no day of the year before on 29 February", async () => {
    for (const day of ["2023-02-28", "2023-03-01"])
      await write({ eventType: "leap", eventName: "leap", timestamp: `${day}T12:00:00Z` });
    const leap = (from: string, to: string, granularity = "DAY") =>
      ask(
        `from: "${from}", to: "${to}", timeZone: "UTC", granularity: ${granularity}, filter: {types: ["leap"]}, compare: PREVIOUS_YEAR, measures: [{name: "n", aggregate: COUNT}]`,
        '{ rows { label compared(of: "n") } comparedTotal(of: "n") }',
      ).then(({ data }) => data.eventSeries);
    expect(await leap("2024-02-29T00:00:00Z", "2024-03-02T00:00:00Z")).toEqual({
      rows: [
        { label: "2024-02-29", compared: "0" },
        { label: "2024-03-01", compared: "1" },
      ],
      comparedTotal: "1",
    });
    expect(await leap("2024-02-28T00:00:00Z", "2024-02-29T00:00:00Z")).toMatchObject({ comparedTotal: "1" });
    expect(await leap("2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z", "ALL")).toMatchObject({
      comparedTotal: "0",
    });
  });

  it("looks at less than a millisecond", async () => {
    const tick = (fraction: string) => `2026-06-01T00:00:00.${fraction}Z`;
    await write({ eventType: "brief", eventName: "brief", timestamp: tick("0005") });
    const { data } = await ask(
      `from: "${tick("0004")}", to: "${tick("0009")}", timeZone: "UTC", granularity: ALL, filter: {types: ["brief"]}, measures: [{name: "n", aggregate: COUNT}]`,
      '{ total(of: "n") }',
    );
    expect(data.eventSeries.total).toBe("1");
    const [, message] = await refusal(
      `from: "${tick("0009")}", to: "${tick("0004")}", granularity: ALL, ${SUM}`,
    );
    expect(message).toContain("from must be before to");
  });

  it("refuses a level of more fields than anybody reads, which each row would repeat", async () => {
    const rows = Array.from({ length: 61 }, (_, index) => `a${index}: values`).join(" ");
    const { status, errors } = await ask(`${JANUARY}, granularity: DAY, ${SUM}`, `{ rows { ${rows} } }`);
    expect([status, errors?.[0].extensions.code]).toEqual([400, "QUERY_TOO_EXPENSIVE"]);
  });

  it("takes quotes, backslashes and percent signs in names as what they are", async () => {
    const name = `it's "100 %" \\ $1; drop table users --`;
    await write({
      eventType: name,
      eventName: name,
      timestamp: "2026-01-09T00:00:00Z",
      value: 4,
      properties: { [name]: name },
    });
    const quoted = JSON.stringify(name);
    const { data, errors } = await ask(
      `${JANUARY}, granularity: ALL, filter: {types: [${quoted}], properties: [{name: ${quoted}, in: [${quoted}]}]}, dimensions: [{property: ${quoted}}], measures: [{name: "n", aggregate: SUM}]`,
      "{ rows { dimensions values } }",
    );
    expect(errors).toBeUndefined();
    expect(data.eventSeries.rows).toEqual([{ dimensions: [name], values: ["4"] }]);
  });

  it("answers several series of one request, of which one fails", async () => {
    const { data, errors } = await api.query(
      `{ good: eventSeries(${JANUARY}, granularity: ALL, filter: {types: ["rent"]}, ${SUM}) { rows { values } }
         bad: eventSeries(${JANUARY}, granularity: ALL, metrics: ["nothing"]) { rowCount } }`,
      { token },
    );
    expect(data).toEqual({ good: { rows: [{ values: ["110", "1"] }] }, bad: null });
    expect(errors).toHaveLength(1);
  });

  it("takes the percentile of exactly that rank", async () => {
    const measures = [1, 7, 14, 28, 29, 55, 56, 57, 90, 99].map(
      (share) => `{name: "p${share}", aggregate: PERCENTILE, percentile: ${share}}`,
    );
    const { data } = await api.query(
      `{ eventSeries(from: "2026-01-01T00:00:00Z", to: "2026-05-01T00:00:00Z", granularity: ALL, measures: [${measures}]) { rows { values } } }`,
      { token: await api.signIn("daily", "viewer") },
    );
    expect(data.eventSeries.rows).toEqual([
      { values: ["1", "7", "14", "28", "29", "55", "56", "57", "90", "99"] },
    ]);
  });

  it("compares days with as many days, weekdays with the same weekdays, and whole months with whole months", async () => {
    const february =
      'from: "2026-02-01T00:00:00Z", to: "2026-03-01T00:00:00Z", compare: PREVIOUS_PERIOD, measures: [{name: "n", aggregate: COUNT}, {name: "worth", aggregate: SUM}]';
    const asked = async () => {
      const { data } = await api.query(
        `{ days: eventSeries(${february}, granularity: DAY) { rows { label before: compared(of: "worth") } }
           weeks: eventSeries(${february}, granularity: WEEK) { rows { label before: compared(of: "n") } }
           weekdays: eventSeries(${february}, granularity: DAY_OF_WEEK) { rows { label before: compared(of: "n") } }
           month: eventSeries(${february}, granularity: MONTH) { rows { label before: compared(of: "n") } } }`,
        { token: await api.signIn("daily", "viewer") },
      );
      expect(data.days.rows).toHaveLength(28);
      // 28 days before 1 February is 4 January, and before the 28th is the 31st.
      expect(data.days.rows[0]).toEqual({ label: "2026-02-01", before: "4" });
      expect(data.days.rows[27]).toEqual({ label: "2026-02-28", before: "31" });
      expect(data.weeks.rows.map(({ before }: { before: string }) => before)).toEqual(["7", "7", "7", "7"]);
      // January began on a Thursday and has 31 days.
      expect(Object.fromEntries(data.weekdays.rows.map(Object.values))).toEqual({
        ...{ SUNDAY: "4", MONDAY: "4", TUESDAY: "4", WEDNESDAY: "4", THURSDAY: "5", FRIDAY: "5" },
        SATURDAY: "5",
      });
      expect(data.month.rows).toEqual([{ label: "2026-02", before: "31" }]);
    };
    await asked();
    expect(await rollUpTenant(database.worker, daily.id)).toBe(true);
    await asked();
  });
});
