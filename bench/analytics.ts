import { parseArgs } from "node:util";
import type pg from "pg";
import { pino } from "pino";
import { makeMigratedDatabase, startTemporaryCluster } from "../scripts/support/temporaryCluster.ts";
import { beginRequest } from "../src/auth/requests.ts";
import { makePool } from "../src/db/pools.ts";
import { rollUpTenant } from "../src/rollups/rollUp.ts";
import { seriesRequest } from "../src/series/request.ts";
import { readSeries } from "../src/series/series.ts";
import { questions, YEAR } from "./support/analystQuestions.ts";
import { serveApi } from "./support/servedApi.ts";
import { fillEvents } from "./support/skewedEvents.ts";

/*
 * Ten questions of an analyst of the largest of 100 tenants (a fifth of all events): our GraphQL request over HTTP, the
 * statements behind it alone (readSeries, in a transaction of the request), the best SQL by hand on analytics_events
 * with the tenant as a parameter and no row security, and stock pg-aggregates where it can ask. In turn, so that a noisy
 * machine disturbs all alike: read the ratios.
 *
 * npm run bench:analytics [-- --events 2000000,10000000 --rounds 7]
 */
const { values } = parseArgs({
  options: {
    events: { type: "string", default: "2000000,10000000" },
    rounds: { type: "string", default: "7" },
  },
});
const SIZES = values.events.split(",").map(Number);
const ROUNDS = Number(values.rounds);
const log = pino({ level: "silent" });

const medians = new Map<string, number[]>();
for (const size of SIZES) await measure(size);
if (SIZES.length > 1) {
  console.log(`\nFrom ${SIZES.join(" to ")} events, the statements take (times as long):`);
  for (const [name, times] of medians)
    console.log(`${name.padEnd(52)} ${((times.at(-1) ?? 0) / (times[0] ?? 1)).toFixed(2)}`);
}

async function measure(size: number) {
  const cluster = await startTemporaryCluster();
  const pools: pg.Pool[] = [];
  const closers: (() => Promise<void>)[] = [];
  try {
    const urls = await makeMigratedDatabase(cluster);
    const pool = (url: string, pipeline = false) => {
      const made = makePool(url, { name: "bench", max: 10, log, pipeline, patienceMs: 60_000 });
      pools.push(made);
      return made;
    };
    const [owner, root] = [pool(urls.owner), pool(cluster.url("postgres", "erp_analytics"))];
    const began = Date.now();
    const { largest, claims } = await fillEvents(owner, size);
    const filled = Date.now();
    const { rows } = await owner.query("select id from tenants");
    for (const { id } of rows) while (!(await rollUpTenant(owner, id)));
    await root.query("vacuum analyze");
    const rolled = await owner.query(
      `select (select count(*) from analytics_events where tenant_id = $1) as events,
              (select count(*) from app_hidden.event_rollups where tenant_id = $1) as quarters,
              (select count(*) from app_hidden.event_rollups_by_day where tenant_id = $1) as days`,
      [largest],
    );
    const { events, quarters, days } = rolled.rows[0];
    console.log(
      `\n${size.toLocaleString("en")} events of 100 tenants, filled in ${((filled - began) / 1000).toFixed(0)} s, rolled up in ${((Date.now() - filled) / 1000).toFixed(0)} s. ` +
        `The largest: ${events} events, ${quarters} quarters of an hour, ${days} days. ${ROUNDS} rounds; milliseconds, medians.\n`,
    );

    const authenticator = pool(urls.authenticator, true);
    const api = await serveApi(authenticator, urls.authenticator, claims);
    const { post } = api;
    closers.push(api.close);
    const statements = async (asked: object) => {
      const client = await authenticator.connect();
      try {
        await client.query("begin isolation level repeatable read read only");
        await client.query(beginRequest({ claims, origin: { ipAddress: "127.0.0.1", userAgent: "bench" } }));
        const request = seriesRequest.parse(asked);
        const start = performance.now();
        await readSeries((query) => client.query(query), largest, request);
        return performance.now() - start;
      } finally {
        await client.query("rollback");
        client.release();
      }
    };
    const timed = async (work: () => Promise<unknown>) => {
      const start = performance.now();
      await work();
      return performance.now() - start;
    };
    console.log(
      `${"question".padEnd(52)} ${"GraphQL".padStart(9)} ${"statements".padStart(11)} ${"by hand".padStart(9)} ${"aggregates".padStart(11)}   hand/statements`,
    );
    for (const { name, graphql, asked, byHand, stock } of questions) {
      const contenders: [string, () => Promise<number>][] = [
        ["GraphQL", () => timed(() => post(graphql))],
        ["statements", () => statements(asked)],
        ["hand", () => timed(() => root.query({ text: byHand, values: [largest, YEAR.from, YEAR.to] }))],
        ...(stock ? ([["stock", () => timed(() => post(stock))]] as [string, () => Promise<number>][]) : []),
      ];
      const times = new Map<string, number[]>();
      for (let round = 0; round <= ROUNDS; round++)
        for (const [contender, run] of contenders) {
          const took = await run();
          // The first round warms up.
          if (round > 0) times.set(contender, [...(times.get(contender) ?? []), took]);
        }
      const median = (numbers: number[] = []) =>
        [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
      const [graphqlMs, ours, hand, stockMs] = ["GraphQL", "statements", "hand", "stock"].map((contender) =>
        median(times.get(contender)),
      );
      const cell = (ms: number | undefined, width: number) =>
        (ms === undefined ? "-" : ms.toFixed(1)).padStart(width);
      console.log(
        `${name.padEnd(52)} ${cell(graphqlMs, 9)} ${cell(ours, 11)} ${cell(hand, 9)} ${cell(stockMs, 11)}   ${((hand ?? 0) / (ours ?? 1)).toFixed(1)}`,
      );
      medians.set(name, [...(medians.get(name) ?? []), ours ?? 0]);
    }
  } finally {
    for (const close of closers) await close();
    for (const pool of pools) await pool.end();
    await cluster.remove();
  }
}
