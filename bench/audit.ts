import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs, promisify } from "node:util";
import type pg from "pg";
import { pino } from "pino";
import { anchorSeals } from "../src/audit/anchor.ts";
import { ensureAuditKey } from "../src/audit/keys.ts";
import { sealAudit } from "../src/audit/sealer.ts";
import { indexAnchor } from "../src/audit/verify/anchorIndex.ts";
import { trustedKeys, verifyDatabase } from "../src/audit/verify/verify.ts";
import { beginRequest } from "../src/auth/requests.ts";
import { makeKeyRing } from "../src/crypto/keyRing.ts";
import { applyCurrent, migrate } from "../src/db/migrate.ts";
import { makePool } from "../src/db/pools.ts";
import { prepareCluster } from "../src/db/roles.ts";
import { startCluster } from "../src/embedded/cluster.ts";
import { paths } from "../src/paths.ts";
import { makeEvents, seconds } from "./support/benchEvents.ts";
import { serveApi } from "./support/servedApi.ts";

/*
 * What auditing costs, with the settings that we ship: a mutation of one row, over GraphQL and its statements alone, and a batch of 1,000 events,
 * with the audit log and without it, in turn, so that a noisy machine disturbs both alike; then how long sealing takes of
 * rows that wait, and how much slower writers are meanwhile, and verifying them.
 *
 * npm run bench:audit [-- --mutations 500 --batches 20 --rounds 5 --rows 1000000 --tenants 20 --writers 4]
 */
const { values } = parseArgs({
  options: {
    mutations: { type: "string", default: "500" },
    batches: { type: "string", default: "20" },
    rounds: { type: "string", default: "5" },
    rows: { type: "string", default: "1000000" },
    tenants: { type: "string", default: "20" },
    writers: { type: "string", default: "4" },
  },
});
const [MUTATIONS, BATCHES, ROUNDS, ROWS, TENANTS, WRITERS] = (
  ["mutations", "batches", "rounds", "rows", "tenants", "writers"] as const
).map((name) => Number(values[name])) as [number, number, number, number, number, number];
const PASSWORD = "bench";
const BATCH = 1_000;
/** Of rows that one transaction wrote. */
const TOGETHER = 50;

const folder = await mkdtemp(join(tmpdir(), "erp-bench-"));
const log = pino({ level: "warn" });
const KEY = randomBytes(32).toString("base64");
const keyRing = makeKeyRing([{ id: "bench", key: KEY }]);
const cluster = await startCluster({ dataDir: folder, port: 0, superuserPassword: PASSWORD });
const url = (user: string, database = "erp_analytics") => cluster.url({ user, password: PASSWORD, database });
const pools: pg.Pool[] = [];
let closeApi: (() => Promise<void>) | undefined;
const pool = (user: string, pipeline = false) => {
  const made = makePool(url(user), { name: "bench", max: WRITERS + 2, log, pipeline });
  pools.push(made);
  return made;
};
try {
  await prepareCluster(url("postgres", "postgres"), {
    databases: ["erp_analytics"],
    passwords: { owner: PASSWORD, authenticator: PASSWORD, worker: PASSWORD },
  });
  await migrate({ owner: url("erp_user"), worker: url("erp_worker") });
  await applyCurrent(url("erp_user"));
  const [owner, authenticator, worker] = [
    pool("erp_user"),
    pool("erp_authenticator", true),
    pool("erp_worker"),
  ];
  const { rows: tenants } = await owner.query(
    `insert into tenants (name, slug, status, plan_type) select 'T' || n, 't' || n, 'ACTIVE', 'business' from generate_series(1, $1::integer) n returning id`,
    [TENANTS],
  );
  const { mutate, claims, integrationId } = await mutator(owner, authenticator, tenants[0].id);
  const api = await serveApi(authenticator, url("erp_authenticator"), claims);
  closeApi = api.close;
  const overGraphql = (text: string) =>
    api.post(
      "mutation ($id: UUID!, $text: String) { updateIntegration(input: {id: $id, patch: {description: $text}}) { integration { id name description } } }",
      { id: integrationId, text },
    );
  for (const [name, run] of [
    ["mutation of one row, GraphQL over HTTP", overGraphql],
    ["its statements alone", mutate],
  ] as const)
    await compare(
      name,
      MUTATIONS,
      owner,
      ["alter table integrations disable trigger _900_audit"],
      ["alter table integrations enable trigger _900_audit"],
      async () => {
        for (let index = 0; index < MUTATIONS; index++) await run(`${index} ${Math.random()}`);
      },
    );
  const { rows: defined } = await owner.query(
    "select pg_get_functiondef('app_private.write_audit'::regproc) as definition",
  );
  const definition: string = defined[0].definition;
  const state = (verb: string) =>
    ["insert", "update", "delete"].map(
      (event) => `alter table analytics_events ${verb} trigger _900_audit_${event}`,
    );
  let made = 0;
  await compare(
    `batch of ${BATCH} events`,
    BATCHES,
    owner,
    [...state("disable"), definition.replace(/\bbegin\b[\s\S]*\bend\b/, "begin return null; end")],
    [...state("enable"), definition],
    async () => {
      for (let batch = 0; batch < BATCHES; batch++) {
        const events = makeEvents(BATCH, "random").map((event) => ({ ...event, source: `bench:${made}` }));
        made++;
        await owner.query("select count(*) from app_hidden.write_events($1, $2)", [
          tenants[0].id,
          JSON.stringify(events),
        ]);
      }
    },
  );

  await ensureAuditKey(owner, keyRing);
  const anchorDir = join(folder, "anchor");
  await sealAudit({ pool: worker, keyRing, log });
  const alone = await writersRate(mutate, new Promise((resolve) => setTimeout(resolve, 10_000)));
  await fill(
    owner,
    tenants.map(({ id }) => id),
  );
  let count = 0;
  const sealing = seconds(async () => {
    const script = join(paths.root, "bench/support/sealAndAnchor.ts");
    const args = ["--import", "./scripts/runtime.mjs", script, url("erp_worker"), anchorDir, KEY];
    const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: paths.root });
    count = Number(stdout);
  });
  const beside = await writersRate(mutate, sealing);
  const took = await sealing;
  console.log(
    `sealing and anchoring: ${count} rows in ${took.toFixed(1)} s beside ${WRITERS} writers, who did ${beside.toFixed(0)} mutations a second, and ${alone.toFixed(0)} without it (${(100 * (1 - beside / alone)).toFixed(0)} % fewer)`,
  );
  await sealAudit({ pool: worker, keyRing, log });
  await anchorSeals({ pool: worker, anchorDir, log });
  const index = await indexAnchor(anchorDir);
  let verified = 0;
  const verifying = await seconds(async () => {
    for await (const report of verifyDatabase(owner, {
      anchor: index,
      keys: trustedKeys(index, []),
      slug: undefined,
    })) {
      if (report.findings.length > 0) throw new Error(JSON.stringify(report.findings[0]));
      verified += report.verified;
    }
  });
  console.log(`verifying: ${verified} rows in ${verifying.toFixed(1)} s`);
} finally {
  await closeApi?.();
  for (const one of pools) await one.end().catch(() => {});
  await cluster.stop();
  await rm(folder, { recursive: true, force: true });
}

/** A mutation as a request does it: begin, the live check, a savepoint, the change, commit; all but the last in one round trip. */
async function mutator(owner: pg.Pool, authenticator: pg.Pool, tenantId: string) {
  const { rows } = await owner.query(
    "insert into users (tenant_id, email, role) values ($1, 'admin@bench.test', 'ADMIN') returning id",
    [tenantId],
  );
  const session = await owner.query(
    "insert into sessions (tenant_id, user_id, expires_at) values ($1, $2, now() + interval '1 day') returning id",
    [tenantId, rows[0].id],
  );
  const claims = { sub: rows[0].id, tenant_id: tenantId, role: "ADMIN" as const, sid: session.rows[0].id };
  const made = await owner.query(
    "insert into integrations (tenant_id, name, provider, config) select $1, 'I' || n, 'square', '{\"locations\": [\"a\", \"b\"]}' from generate_series(1, 5) n returning id",
    [tenantId],
  );
  let next = 0;
  const mutate = async (description: string) => {
    const client = await authenticator.connect();
    try {
      const sent = [
        client.query("begin"),
        client.query(
          beginRequest({ claims, origin: { ipAddress: "192.0.2.1", userAgent: "bench", requestId: "r" } }),
        ),
        client.query("savepoint step"),
        client.query({
          name: "mutate",
          text: "update integrations set description = $2 where tenant_id = app_hidden.current_tenant_id() and id = $1 returning id, name, description",
          values: [made.rows[next++ % made.rows.length].id, description],
        }),
        client.query("release savepoint step"),
      ];
      await Promise.all(sent);
      await client.query("commit");
    } finally {
      client.release();
    }
  };
  return { mutate, claims, integrationId: made.rows[0].id as string };
}

async function compare(
  name: string,
  count: number,
  owner: pg.Pool,
  off: string[],
  on: string[],
  work: () => Promise<void>,
) {
  const times = { on: [] as number[], off: [] as number[] };
  for (let round = 0; round <= ROUNDS; round++)
    for (const kind of round % 2 ? (["on", "off"] as const) : (["off", "on"] as const)) {
      for (const statement of kind === "off" ? off : on) await owner.query(statement);
      const took = await seconds(work);
      // The first round warms up.
      if (round > 0) times[kind].push((1_000 * took) / count);
    }
  for (const statement of on) await owner.query(statement);
  const median = (all: number[]) => all.toSorted((a, b) => a - b)[Math.floor(all.length / 2)] ?? 0;
  const [withAudit, without] = [median(times.on), median(times.off)];
  console.log(
    `${name}: ${withAudit.toFixed(3)} ms with the audit log, ${without.toFixed(3)} ms without (${(100 * (withAudit / without - 1)).toFixed(1)} % more)`,
  );
}

/** How many mutations a second writers do until it ends. */
async function writersRate(mutate: (text: string) => Promise<void>, end: Promise<unknown>): Promise<number> {
  let ended = false;
  void end.then(() => {
    ended = true;
  });
  let count = 0;
  const took = await seconds(() =>
    Promise.all(
      Array.from({ length: WRITERS }, async () => {
        for (; !ended; count++) await mutate(`${count} ${Math.random()}`);
      }),
    ),
  );
  return count / took;
}

/** Rows as triggers write them, of all tenants in turn. */
async function fill(owner: pg.Pool, tenantIds: string[]) {
  for (let row = 0; row < ROWS; ) {
    const some = Math.min(TOGETHER * tenantIds.length, ROWS - row);
    await owner.query(
      `insert into audit_logs (tenant_id, actor_kind, actor_id, actor_name, action, resource, resource_id, changes, ip_address, user_agent, request_id, session_id)
       select ($1::uuid[])[1 + n % cardinality($1)], 'user', uuidv7(), 'somebody@bench.test', 'integration.updated', 'integration', uuidv7()::text,
              jsonb_build_object('before', jsonb_build_object('name', 'Shop ' || n, 'config', '{"locations": ["a", "b"]}'::jsonb),
                                 'after', jsonb_build_object('name', 'Store ' || n, 'config', '{"locations": ["a", "b", "c"], "rate": 1.25}'::jsonb)),
              '192.0.2.1', 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36', uuidv7()::text, uuidv7()
         from generate_series(1, $2::integer) n`,
      [tenantIds, some],
    );
    row += some;
  }
}
