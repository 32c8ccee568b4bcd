import pg from "pg";
import { seriesRequest } from "./src/series/request.ts";
import { readSeries } from "./src/series/series.ts";
const client = new pg.Client({ connectionString: "postgresql://erp_user:dev_password@127.0.0.1:5550/erp_analytics" });
await client.connect();
const { rows } = await client.query("select id from tenants where slug='acme'");
const id = rows[0].id;
const request = seriesRequest.parse({ from: "2025-11-26T05:00:00Z", to: "2026-11-26T05:00:00Z", granularity: process.argv[2] ?? "DAY", timeZone: process.argv[3] || null, filter: { types: ["order"], names: ["order_completed"], currencies: ["USD"] }, measures: [{ name: "r", aggregate: "SUM" }, { name: "n", aggregate: "COUNT" }] });
for (let i = 0; i < 6; i++) {
  await client.query("begin isolation level repeatable read read only");
  const t0 = performance.now();
  let n = 0;
  await readSeries(async (q) => {
    const t = performance.now();
    const r = await client.query(q);
    console.log(`  statement ${++n}: ${(performance.now() - t).toFixed(1)} ms, ${q.text.length} chars`);
    if (i === 5 && process.argv[4]) { const e = await client.query({ text: "explain (analyze, buffers) " + q.text, values: q.values }); console.log(e.rows.map((x) => x["QUERY PLAN"]).join("\n")); }
    return r;
  }, id, request);
  console.log((performance.now() - t0).toFixed(1));
  await client.query("rollback");
}
await client.end();
