import { parseArgs } from "node:util";
import type pg from "pg";
import { pino } from "pino";
import { makeMigratedDatabase, startTemporaryCluster } from "../scripts/support/temporaryCluster.ts";
import { makePool } from "../src/db/pools.ts";
import { seconds } from "./support/benchEvents.ts";
import { serveApi } from "./support/servedApi.ts";

/*
 * Questions to a tenant's audit log of some size, over GraphQL, each read on record as ever: the newest of an actor, the
 * history of a thing, the newest of an action, and a search; while the log grows. Read the ratios.
 *
 * npm run bench:audit-queries [-- --rows 1000000,5000000 --rounds 30]
 */
const { values } = parseArgs({
  options: {
    rows: { type: "string", default: "1000000,5000000" },
    rounds: { type: "string", default: "30" },
  },
});
const SIZES = values.rows.split(",").map(Number);
const ROUNDS = Number(values.rounds);
const [ACTORS, THINGS, MONTHS, BATCH] = [500, 50_000, 24, 100_000];

const cluster = await startTemporaryCluster();
const pools: pg.Pool[] = [];
try {
  const urls = await makeMigratedDatabase(cluster);
  const pool = (url: string, pipeline = false) => {
    const log = pino({ level: "silent" });
    const made = makePool(url, { name: "bench", max: 5, log, pipeline, patienceMs: 60_000 });
    pools.push(made);
    return made;
  };
  const owner = pool(urls.owner);
  const { rows } = await owner.query(
    "insert into tenants (name, slug, status) values ('T', 't', 'ACTIVE') returning id",
  );
  const tenantId: string = rows[0].id;
  await owner.query(
    "select app_private.make_partition('audit_logs', (date_trunc('month', now()) - n * interval '1 month')::date) from generate_series(0, $1) n",
    [MONTHS],
  );
  const user = await owner.query(
    "insert into users (tenant_id, email, role) values ($1, 'admin@bench.test', 'ADMIN') returning id",
    [tenantId],
  );
  const session = await owner.query(
    "insert into sessions (tenant_id, user_id, expires_at) values ($1, $2, now() + interval '1 day') returning id",
    [tenantId, user.rows[0].id],
  );
  const claims = {
    ...{ sub: user.rows[0].id, tenant_id: tenantId, sid: session.rows[0].id },
    role: "ADMIN" as const,
  };
  const api = await serveApi(pool(urls.authenticator, true), urls.authenticator, claims);
  try {
    const first = new Map<string, number>();
    let made = 0;
    for (const size of SIZES) {
      const took = await seconds(async () => {
        for (; made < size; made += BATCH) await fill(owner, tenantId, made, Math.min(BATCH, size - made));
        await owner.query("vacuum analyze public.audit_logs");
      });
      console.log(
        `\n${size.toLocaleString("en")} rows over ${MONTHS} months, filled in ${took.toFixed(0)} s; milliseconds, medians of ${ROUNDS}.`,
      );
      for (const [name, query] of Object.entries(questions())) {
        const times: number[] = [];
        for (let round = -2; round < ROUNDS; round++) {
          const ms = 1_000 * (await seconds(() => api.post(query(round + 2))));
          if (round >= 0) times.push(ms);
        }
        const median = times.toSorted((a, b) => a - b)[Math.floor(ROUNDS / 2)] ?? 0;
        const before = first.get(name);
        if (before === undefined) first.set(name, median);
        console.log(
          `${name.padEnd(32)} ${median.toFixed(1).padStart(8)}${before === undefined ? "" : `   ${(median / before).toFixed(2)} times the first`}`,
        );
      }
    }
  } finally {
    await api.close();
  }
} finally {
  for (const one of pools) await one.end().catch(() => {});
  await cluster.remove();
}

function questions(): Record<string, (round: number) => string> {
  const nodes = "nodes { createdAt action actorName resource resourceId changes sentence }";
  const actor = (round: number) => `00000000-0000-4000-8000-${String(round % ACTORS).padStart(12, "0")}`;
  return {
    "an actor's newest 50": (round) =>
      `{ auditLogs(filter: {actorId: {equalTo: "${actor(round)}"}}, orderBy: CREATED_AT_DESC, first: 50) { ${nodes} } }`,
    "the history of a thing": (round) =>
      `{ auditLogs(filter: {resource: {equalTo: "integration"}, resourceId: {equalTo: "i${round}"}}, orderBy: CREATED_AT_ASC, first: 50) { ${nodes} } }`,
    "an action's newest 50": () =>
      `{ auditLogs(filter: {action: {equalTo: "integration.disabled"}}, orderBy: CREATED_AT_DESC, first: 50) { ${nodes} } }`,
    "the newest 50": () => `{ auditLogs(orderBy: CREATED_AT_DESC, first: 50) { ${nodes} } }`,
    "a search, a month, one of 10,000": (round) =>
      `{ searchAuditLogs(search: "shop${round}", since: "${new Date(Date.now() - 30 * 86_400_000).toISOString()}", first: 50) { ${nodes} } }`,
  };
}

/** Rows of 500 actors about 50,000 things; a word is in one of 10,000 rows. */
async function fill(owner: pg.Pool, tenantId: string, from: number, count: number) {
  await owner.query(
    `insert into audit_logs (tenant_id, actor_kind, actor_id, actor_name, action, resource, resource_id, changes, ip_address, user_agent, request_id, session_id, created_at)
     select $1, 'user', ('00000000-0000-4000-8000-' || lpad((i % $4)::text, 12, '0'))::uuid, 'u' || i % $4 || '@bench.test',
            case i % 100 when 0 then 'integration.disabled' else 'integration.updated' end, 'integration', 'i' || (i * 7919) % $5,
            jsonb_build_object('before', jsonb_build_object('name', 'shop' || (i * 31) % 10000), 'after', jsonb_build_object('name', 'store' || i, 'rate', 1.25)),
            '192.0.2.1', 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36', uuidv7()::text, uuidv7(),
            now() - random() * $6 * interval '30 days'
       from generate_series($2::bigint, $2::bigint + $3 - 1) i`,
    [tenantId, from, count, ACTORS, THINGS, MONTHS],
  );
}
