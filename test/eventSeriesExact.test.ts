import { setImmediate as yieldTurn } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { type Random, random } from "../scripts/demo/random.ts";
import { beginRequest } from "../src/auth/requests.ts";
import type { Claims } from "../src/auth/tokens.ts";
import { rollUpTenant } from "../src/rollups/rollUp.ts";
import { granularities, seriesRequest } from "../src/series/request.ts";
import { readSeries } from "../src/series/series.ts";
import { claimsFor } from "./support/asRequest.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { plainSeries } from "./support/plainSeries.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

/** Zones, each about a moment at which its clocks do something. */
const PLACES = [
  ["Asia/Kathmandu", "1985-12-31T18:30:00Z"],
  ["Australia/Lord_Howe", "2026-04-04T15:00:00Z"],
  ["Africa/Casablanca", "2026-02-15T02:00:00Z"],
  ["America/St_Johns", "2010-11-07T02:31:00Z"],
  ["Africa/Monrovia", "1972-01-07T00:44:30Z"],
  ["America/New_York", "2026-03-08T07:00:00Z"],
  ["America/New_York", "2025-12-31T23:30:00Z"],
  ["Pacific/Apia", "2011-12-30T10:00:00Z"],
  ["Australia/Lord_Howe", "2026-10-03T15:30:00Z"],
  ["America/Havana", "2025-11-02T05:00:00Z"],
  ["Asia/Pyongyang", "2015-08-14T15:00:00Z"],
  ["Asia/Kolkata", "2026-01-01T00:00:00Z"],
] as const;
const TYPES = ["order", "refund", "visit"] as const;
const SOURCES = ["shop:1", "shop:2", null] as const;
const VALUES = ["12.50", "-3.10", "0", "99999999999999999999999999.123456789", null] as const;
const SECONDS = Number(process.env.ERP_TEST_LONG ? 120 : 12);

let database: TestDatabase;
let tenant: TestTenant;
let other: TestTenant;
let claims: Claims;

beforeAll(async () => {
  database = await createTestDatabase();
  tenant = await createTenant(database.owner, "acme");
  other = await createTenant(database.owner, "globex");
  claims = await claimsFor(database.owner, tenant, "viewer");
  await database.owner.query("update app_private.event_limits set max_age = '200 years'");
});
afterAll(() => database.drop());

const momentOf = (chance: Random, around: string, grain = 1) => {
  const spread = chance.pick([3_600, 86_400, 40 * 86_400, 500 * 86_400]) * 1000;
  const time = Date.parse(around) + chance.integer(-spread, spread);
  return new Date(Math.floor(time / grain) * grain);
};

/** Writes, restates, moves and deletes at random, in its own connection. */
async function disturb(chance: Random, around: string) {
  const events = Array.from({ length: chance.integer(1, 30) }, () => ({
    eventType: chance.pick(TYPES),
    eventName: chance.pick(["a", "b"]),
    source: chance.pick(SOURCES),
    ...(chance.chance(0.8) ? { sourceId: `r${chance.integer(1, 150)}` } : {}),
    timestamp: momentOf(chance, around).toISOString(),
    value: chance.pick(VALUES),
    currency: chance.pick(["USD", "EUR", null]),
    properties: { channel: chance.pick(["web", "shop"]), clicks: chance.integer(0, 9) },
  }));
  const tenantId = chance.chance(0.9) ? tenant.id : other.id;
  const act = chance.weighted([8, 1, 1]);
  if (act === 0)
    await database.owner.query("select app_hidden.write_events($1, $2)", [tenantId, JSON.stringify(events)]);
  else if (act === 1)
    await database.owner.query(
      `delete from analytics_events where (tenant_id, "timestamp", id) in
         (select tenant_id, "timestamp", id from analytics_events where tenant_id = $1 order by id desc limit 3)`,
      [tenantId],
    );
  else
    await database.owner.query(
      `update analytics_events set "timestamp" = "timestamp" + interval '7 hours', value = value + 1
        where (tenant_id, "timestamp", id) in
          (select tenant_id, "timestamp", id from analytics_events where tenant_id = $1 order by id limit 2)`,
      [tenantId],
    );
}

/** One random question, answered by readSeries and by plain SQL in one snapshot. */
async function compare(chance: Random, zone: string, around: string) {
  const grain = chance.pick([1, 900_000]);
  const [from, to] = [momentOf(chance, around, grain), momentOf(chance, around, grain)].sort(
    (a, b) => +a - +b,
  );
  if (!from || !to || +from === +to) return "none";
  const granularity = chance.pick(granularities);
  const days = (+to - +from) / 86_400_000;
  if (days * (granularity === "QUARTER_HOUR" ? 96 : granularity === "HOUR" ? 24 : 1) > 2_000) return "none";
  const [weekStart, fiscalYearStart] = [chance.integer(0, 6), chance.integer(1, 12)];
  const dimensions = chance.pick([
    [],
    [],
    ["event_type"],
    ["source", "currency"],
    ["properties ->> 'channel'"],
  ]);
  const byField: Record<string, object> = {
    event_type: { field: "TYPE" },
    source: { field: "SOURCE" },
    currency: { field: "CURRENCY" },
    "properties ->> 'channel'": { property: "channel" },
  };
  const rolled = [
    [{ name: "m1", aggregate: "COUNT" }, "count(*)"],
    [{ name: "m2", aggregate: "SUM" }, "coalesce(sum(value), 0)"],
    [
      { name: "m3", aggregate: "AVERAGE" },
      "trim_scale(round(sum(value) / nullif(count(value), 0)::numeric(40, 20), 10))",
    ],
    [{ name: "m4", aggregate: "MIN" }, "min(value)"],
    [
      { name: "m5", aggregate: "MAX", filter: { types: ["order"] } },
      "max(value) filter (where event_type = 'order')",
    ],
    [
      { name: "m6", aggregate: "SUM", filter: { sources: ["shop:1", null] } },
      "coalesce(sum(value) filter (where source = 'shop:1' or source is null), 0)",
    ],
  ] as const;
  const others = [
    [{ name: "r1", aggregate: "MEDIAN" }, "median(value)"],
    [
      { name: "r2", aggregate: "PERCENTILE", percentile: 90 },
      "percentile_disc(0.9) within group (order by value)",
    ],
    [
      { name: "r3", aggregate: "SUM", property: "clicks" },
      "coalesce(sum((properties ->> 'clicks')::numeric), 0)",
    ],
    [
      { name: "r4", aggregate: "DISTINCT_COUNT", property: "channel" },
      "count(distinct properties ->> 'channel')",
    ],
  ] as const;
  const measures = [
    ...rolled.slice(0, chance.integer(1, rolled.length)),
    ...(chance.chance(0.2) ? others.slice(1) : []),
  ];
  const filter = chance.pick([
    [undefined, "true"],
    [{ types: ["order", "refund"] }, "event_type in ('order', 'refund')"],
    [
      { currencies: ["USD", null], names: ["a"] },
      "(currency = 'USD' or currency is null) and event_name = 'a'",
    ],
  ] as const);
  const client = await database.authenticator.connect();
  try {
    await client.query("begin isolation level repeatable read read only");
    await client.query(beginRequest({ claims, origin: { ipAddress: "192.0.2.1", userAgent: "test" } }));
    const request = seriesRequest.parse({
      from: from.toISOString(),
      to: to.toISOString(),
      granularity,
      timeZone: zone,
      weekStart,
      fiscalYearStart,
      filter: filter[0],
      dimensions: dimensions.map((one) => byField[one]),
      measures: measures.map(([measure]) => measure),
      fillGaps: false,
      mixCurrencies: true,
    });
    const series = await readSeries((query) => client.query(query), tenant.id, request);
    const timed = series.rows.every(({ start }) => start !== null);
    const answer = new Map(
      series.rows.map((row) => [JSON.stringify([timed ? row.start : row.label, row.dimensions]), row.values]),
    );
    const expected = await plainSeries(client, {
      tenantId: tenant.id,
      from: from.toISOString(),
      to: to.toISOString(),
      zone,
      granularity,
      weekStart,
      fiscalYearStart,
      dimensions,
      where: filter[1],
      measures: measures.map(([, sql]) => sql),
    });
    const question = {
      from,
      to,
      granularity,
      zone,
      weekStart,
      fiscalYearStart,
      dimensions,
      filter,
      measures,
    };
    expect({ question, answer: [...answer].sort() }).toEqual({ question, answer: [...expected].sort() });
    return series.freshness.source;
  } finally {
    await client.query("rollback");
    client.release();
  }
}

describe("a series", () => {
  it("is what plain SQL says, while events come, change, move and go, and rollups run", async () => {
    const seed = process.env.ERP_TEST_SEED ?? String(Date.now());
    const read = new Map<string, number>();
    const deadline = Date.now() + SECONDS * 1000;
    let ended = false;
    for (let round = 0; Date.now() < deadline; round++) {
      const chance = random(`${seed} ${round}`);
      const [zone, around] = PLACES[round % PLACES.length] ?? PLACES[0];
      // The days of the second level are this zone's, every other time.
      if (chance.chance(0.5))
        await database.owner.query(
          "update tenants set settings = jsonb_build_object('timeZone', $2::text) where id = $1",
          [tenant.id, zone],
        );
      ended = false;
      const writer = async (name: string) => {
        const own = random(`${seed} ${round} ${name}`);
        for (let act = 0; act < 8 && !ended; act++) await disturb(own, around);
      };
      const roller = async () => {
        const own = random(`${seed} ${round} roller`);
        while (!ended) {
          if (own.chance(0.6))
            await rollUpTenant(database.worker, tenant.id, { maxSteps: own.integer(1, 4) });
          await yieldTurn();
        }
      };
      const reader = async (name: string) => {
        const own = random(`${seed} ${round} ${name}`);
        for (let question = 0; question < 12; question++) {
          const source = await compare(own, zone, around);
          read.set(source, (read.get(source) ?? 0) + 1);
        }
      };
      try {
        const rolling = roller();
        await Promise.all([writer("w1"), writer("w2"), reader("r1"), reader("r2")]).finally(() => {
          ended = true;
        });
        await rolling;
        await rollUpTenant(database.worker, tenant.id);
        for (let question = 0; question < 12; question++) {
          const source = await compare(chance, zone, around);
          read.set(source, (read.get(source) ?? 0) + 1);
        }
      } catch (error) {
        throw new Error(
          `ERP_TEST_SEED=${JSON.stringify(seed)}, round ${round}: ${error instanceof Error ? error.message : error}`,
          {
            cause: error,
          },
        );
      }
    }
    console.info(`Seed ${seed}: ${JSON.stringify(Object.fromEntries(read))}`);
    for (const source of ["ROLLUPS", "EVENTS", "BOTH"]) expect(read.get(source)).toBeGreaterThan(5);
  }, 300_000);
});
