import { randomBytes } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import autocannon from "autocannon";
import express from "express";
import type pg from "pg";
import { pino } from "pino";
import { makeMigratedDatabase, startTemporaryCluster } from "../scripts/support/temporaryCluster.ts";
import { createApp } from "../src/app.ts";
import { authenticate, beginRequest, identityOf } from "../src/auth/requests.ts";
import { generateTokenKey, tokenKeysOf } from "../src/auth/tokenKeys.ts";
import { makeTokenService } from "../src/auth/tokens.ts";
import { makeKeyRing } from "../src/crypto/keyRing.ts";
import { makePool, withTransaction } from "../src/db/pools.ts";

/*
 * The latest 20 events of a tenant with their tenant's name, over HTTP: our API against Express with the same SQL by
 * hand, under the same row security, and each against itself without the live check of claims. In turn, so that a noisy
 * machine disturbs all alike: read the ratios.
 */
const TENANTS = 50;
const EVENTS = Number(process.argv[2] ?? 200_000);
const ROUNDS = 5;
const SECONDS = 4;
const CONNECTIONS = 16;

const LATEST = `
  select e.id, e."timestamp", e.event_type, e.event_name, e.value, e.currency, t.name as tenant_name
    from analytics_events e join tenants t on t.id = e.tenant_id
   where e.tenant_id = $1
   order by e."timestamp" desc, e.id desc
   limit 20`;

const UNCHECKED = "api, no live check";
/** The claims' word for it: no session, user or tenant is looked up. */
const BELIEVES = `
  create or replace function app_hidden.authorize_session(p_claims jsonb)
  returns table (api_role text, actor_name text, permissions text[], impersonator_name text)
  language plpgsql stable security definer set search_path = pg_catalog, pg_temp
  as $$ begin return query select 'api_viewer', 'viewer@bench.test', '{}'::text[], null::text; end $$`;

const log = pino({ level: "silent" });
const cluster = await startTemporaryCluster();
const pools: pg.Pool[] = [];
const servers: Server[] = [];
try {
  const urls = await makeMigratedDatabase(cluster);
  const pool = (url: string, pipeline = false) => {
    const made = makePool(url, { name: "bench", max: 20, log, pipeline });
    pools.push(made);
    return made;
  };
  const owner = pool(urls.owner);
  const claims = await fill(owner);
  const key = generateTokenKey();
  const tokens = makeTokenService(
    tokenKeysOf(() => [key]),
    { issuer: "erp-analytics", audience: "erp-analytics" },
  );
  const token = tokens.sign(claims).token;

  const config = {
    NODE_ENV: "production" as const,
    CORS_ORIGINS: [],
    TRUST_PROXY: [],
    GRAPHQL_INTROSPECTION: undefined,
  };
  const keyRing = makeKeyRing([{ id: "bench", key: randomBytes(32).toString("base64") }]);
  const app = await createApp({
    config,
    authenticatorPool: pool(urls.authenticator, true),
    tokens,
    keyRing,
    simulatorUrl: undefined,
    fetch,
    listenUrl: urls.authenticator,
    log,
  });
  const byHand = (live: boolean) => {
    const authenticator = pool(urls.authenticator);
    return express()
      .use(authenticate(tokens, "live", log))
      .get("/", async (request, response) => {
        const events = await withTransaction(authenticator, async (client) => {
          const { claims: asked } = identityOf(request);
          if (live) await client.query(beginRequest(identityOf(request)));
          else
            await client.query(
              "select set_config('app.tenant_id', $1, true), set_config('role', 'api_viewer', true)",
              [asked?.tenant_id],
            );
          return client.query({ name: "latest", text: LATEST, values: [asked?.tenant_id] });
        });
        response.json(events.rows);
      });
  };
  const query =
    "{ analyticsEvents(first: 20, orderBy: TIMESTAMP_DESC) { nodes { id timestamp eventType eventName value currency tenant { name } } } }";
  const contenders = {
    api: { handler: app.express, path: "/graphql", body: JSON.stringify({ query }) },
    [UNCHECKED]: { handler: app.express, path: "/graphql", body: JSON.stringify({ query }) },
    hand: { handler: byHand(true), path: "/", body: undefined },
    "hand, no live check": { handler: byHand(false), path: "/", body: undefined },
  };
  const { rows } = await owner.query(
    "select pg_get_functiondef('app_hidden.authorize_session(jsonb)'::regprocedure) as checks",
  );
  const checks: string = rows[0].checks;
  const results = new Map<string, number[]>();
  const addresses = new Map<string, string>();
  for (const [name, { handler, path }] of Object.entries(contenders)) {
    const server = createServer(handler);
    await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
    servers.push(server);
    addresses.set(name, `http://127.0.0.1:${(server.address() as AddressInfo).port}${path}`);
  }
  for (let round = 0; round <= ROUNDS; round++)
    for (const [name, { body }] of Object.entries(contenders)) {
      await owner.query(name === UNCHECKED ? BELIEVES : checks);
      const { requests, non2xx } = await autocannon({
        url: addresses.get(name) ?? "",
        connections: CONNECTIONS,
        duration: SECONDS,
        headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
        ...(body ? { method: "POST" as const, body } : {}),
      });
      if (non2xx > 0) throw new Error(`${name}: ${non2xx} answers were not 200.`);
      // The first round warms up.
      if (round > 0) results.set(name, [...(results.get(name) ?? []), requests.average]);
    }
  await app.close();
  report(results);
} finally {
  for (const server of servers) server.close();
  for (const pool of pools) await pool.end();
  await cluster.remove();
}

function report(results: Map<string, number[]>) {
  const median = (values: number[]) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
  const hand = results.get("hand") ?? [];
  console.log(
    `${EVENTS.toLocaleString("en")} events, ${TENANTS} tenants, ${CONNECTIONS} connections, ${ROUNDS} rounds of ${SECONDS} s\n`,
  );
  console.log("contender              requests/s   ratio to hand (median of rounds)");
  for (const [name, rates] of results) {
    const ratio = median(rates.map((rate, round) => rate / (hand[round] ?? 1)));
    console.log(`${name.padEnd(22)} ${median(rates).toFixed(0).padStart(10)}   ${ratio.toFixed(2)}`);
  }
  const [api = [], unchecked = []] = [results.get("api"), results.get(UNCHECKED)];
  const kept = median(api.map((rate, round) => rate / (unchecked[round] ?? 1)));
  console.log(
    `\nThe live check costs the API ${((1 - kept) * 100).toFixed(0)} % of its requests per second.`,
  );
}

/** Tenants with a viewer each, and their events over a year. Returns the claims of one viewer. */
async function fill(owner: pg.Pool) {
  await owner.query(
    `select app_private.make_partition('analytics_events', month::date)
       from generate_series(now() - interval '12 months', now(), interval '1 month') month`,
  );
  await owner.query(
    "insert into tenants (name, slug, status) select 'Tenant ' || i, 't' || i, 'ACTIVE' from generate_series(1, $1) i",
    [TENANTS],
  );
  await owner.query(
    "insert into users (tenant_id, email, role) select id, 'viewer@bench.test', 'VIEWER' from tenants",
  );
  await owner.query(
    `insert into analytics_events (tenant_id, event_type, event_name, value, currency, "timestamp")
     select t.id, 'order', 'order_completed', i % 1000, 'USD', now() - i * interval '365 days' / $1
       from tenants t, generate_series(1, $1) i`,
    [Math.ceil(EVENTS / TENANTS)],
  );
  await owner.query("analyze");
  const { rows } = await owner.query(
    `insert into sessions (tenant_id, user_id, expires_at)
     select tenant_id, id, now() + interval '1 day' from users limit 1
     returning tenant_id, user_id as sub, id as sid`,
  );
  return { ...rows[0], role: "VIEWER" as const };
}
