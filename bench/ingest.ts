import { type ChildProcess, spawn } from "node:child_process";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import http from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import pg from "pg";
import { generateApiKey } from "../src/auth/apiKeys.ts";
import { environmentWith } from "../src/config.ts";
import { migrate } from "../src/db/migrate.ts";
import { prepareCluster } from "../src/db/roles.ts";
import { startCluster } from "../src/embedded/cluster.ts";
import { freePort } from "../src/embedded/freePort.ts";
import { paths } from "../src/paths.ts";
import { type Events, HISTORY_DAYS, kinds, makeEvents, seconds } from "./support/benchEvents.ts";

/*
 * How fast events come in, with the settings that we ship: COPY from files into the very tables, indexes, foreign keys and
 * checks included; app_hidden.write_events in batches of 1,000 on one connection; POST /v1/events with 8 clients in
 * batches of 500; write_events again without the triggers that mark rollups. With ids that arrive in order, and with random ones. In turn, so that a noisy machine disturbs all
 * alike: read the ratios.
 *
 * npm run bench:ingest [-- --events 200000 --rounds 3] [-- --grow 20000000]: with --grow, makes
 * tables of as many events, and compares how fast write_events adds the last ones with the first ones.
 */
const { values } = parseArgs({
  options: {
    events: { type: "string", default: "100000" },
    rounds: { type: "string", default: "3" },
    grow: { type: "string" },
  },
});
const EVENTS = Number(values.events);
const ROUNDS = Number(values.rounds);
const PASSWORD = "bench";
const CLIENTS = 8;
const DATABASE_BATCH = 1_000;
const HTTP_BATCH = 500;
const SAMPLE = 250_000;
const CHUNK = 25_000;
const FILLED = 250_000;
const EMPTY =
  "truncate analytics_events, app_private.event_keys, app_hidden.event_marks, app_hidden.event_rollups, app_hidden.event_rollups_by_day";
const marks = (state: "enable" | "disable") =>
  `alter table analytics_events ${state} trigger _800_mark_insert`;

const folder = await mkdtemp(join(tmpdir(), "erp-bench-"));
// PostgreSQL, another user, writes and reads the files of COPY here.
const files = await mkdtemp(join(tmpdir(), "erp-bench-files-"));
await chmod(files, 0o777);
const cluster = await startCluster({ dataDir: folder, port: 0, superuserPassword: PASSWORD });
const url = (user: string, database = "erp_analytics") => cluster.url({ user, password: PASSWORD, database });
let server: ChildProcess | undefined;
const clients: pg.Client[] = [];
try {
  await prepareCluster(url("postgres", "postgres"), {
    databases: ["erp_analytics", "empty"],
    passwords: { owner: PASSWORD, authenticator: PASSWORD, worker: PASSWORD },
  });
  await migrate({ owner: url("erp_user"), worker: url("erp_worker") });
  const [root, owner] = [await connect("postgres"), await connect("erp_user")];
  const tenantId = await prepareTenant(owner);
  if (values.grow) await grow(owner, tenantId, Number(values.grow));
  else {
    const http = await startServer(owner, tenantId);
    await printSettings(root);
    const results = new Map<string, number[]>();
    for (let round = 0; round <= ROUNDS; round++)
      for (const kind of kinds) {
        const events = makeEvents(EVENTS, kind);
        const contenders = {
          COPY: () => copy(root, owner, tenantId, `${kind} ${round}`, events),
          write_events: () => write(owner, tenantId, events),
          "no rollup marks": async () => {
            await owner.query(marks("disable"));
            return write(owner, tenantId, events).finally(() => owner.query(marks("enable")));
          },
          HTTP: () => http(events),
        };
        for (const [name, run] of Object.entries(contenders)) {
          await empty(owner);
          await root.query("checkpoint");
          const seconds = await run();
          const found = await owner.query("select count(*)::integer as count from analytics_events");
          if (found.rows[0].count !== EVENTS) throw new Error(`${name} wrote ${found.rows[0].count} events.`);
          const key = `${kind}: ${name}`;
          // The first round warms up.
          if (round > 0) results.set(key, [...(results.get(key) ?? []), EVENTS / seconds]);
        }
      }
    report(results);
  }
} finally {
  server?.kill("SIGINT");
  for (const client of clients) await client.end().catch(() => {});
  await cluster.stop();
  await rm(folder, { recursive: true, force: true });
  await rm(files, { recursive: true, force: true });
}

/** A tenant without limits, and partitions for its events. */
async function prepareTenant(owner: pg.Client): Promise<string> {
  await owner.query(
    "update app_private.plans set events_per_minute = null, key_events_per_minute = null, events_per_day = null",
  );
  const { rows } = await owner.query(
    "insert into tenants (name, slug, status, plan_type, features) values ('Bench', 'bench', 'ACTIVE', 'business', '{api_keys}') returning id",
  );
  await owner.query(
    "select app_hidden.make_partition_for(month) from generate_series(now() - interval '11 months', now(), interval '1 month') month",
  );
  return rows[0].id;
}

/** The server's worker may be at the rollups, and lock the tables in another order. */
async function empty(owner: pg.Client): Promise<void> {
  for (let attempt = 1; ; attempt++)
    try {
      await owner.query(EMPTY);
      return;
    } catch (error) {
      if (attempt === 5 || !(error instanceof Error && "code" in error && error.code === "40P01"))
        throw error;
    }
}

async function connect(user: string, database?: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url(user, database) });
  await client.connect();
  clients.push(client);
  return client;
}

async function copy(root: pg.Client, owner: pg.Client, tenantId: string, name: string, events: Events) {
  await write(owner, tenantId, events);
  const tables = {
    "public.analytics_events":
      "id, tenant_id, event_type, event_name, properties, source, source_id, value, currency, timestamp",
    "app_private.event_keys": "tenant_id, source, source_id, timestamp, id, source_version, content_hash",
  };
  const file = (table: string) => join(files, `${table} ${name}`);
  // In the order in which they came.
  for (const [table, columns] of Object.entries(tables))
    await root.query(`copy (select ${columns} from ${table} order by id) to '${file(table)}'`);
  await owner.query(EMPTY);
  await root.query("checkpoint");
  return seconds(async () => {
    for (const [table, columns] of Object.entries(tables))
      await root.query(`copy ${table} (${columns}) from '${file(table)}'`);
  });
}

function batches(events: Events, size: number): string[] {
  const made: string[] = [];
  for (let at = 0; at < events.length; at += size) made.push(JSON.stringify(events.slice(at, at + size)));
  return made;
}

async function write(owner: pg.Client, tenantId: string, events: Events): Promise<number> {
  const bodies = batches(events, DATABASE_BATCH);
  return seconds(async () => {
    for (const body of bodies)
      await owner.query({
        name: "write",
        text: "select count(*) from app_hidden.write_events($1, $2) where outcome = 'accepted'",
        values: [tenantId, body],
      });
  });
}

/** The shipped server, as a process of its own. */
async function startServer(owner: pg.Client, tenantId: string) {
  const key = generateApiKey("test", tenantId);
  await owner.query(
    "insert into api_keys (id, tenant_id, name, scopes) values ($1, $2, 'Bench', '{events:write}')",
    [key.id, tenantId],
  );
  await owner.query(
    "insert into app_private.api_key_secrets (tenant_id, api_key_id, secret_hash) values ($1, $2, $3)",
    [tenantId, key.id, key.secretHash],
  );
  const port = await freePort(0, 0);
  server = spawn(process.execPath, ["--import", "./scripts/runtime.mjs", "src/main.ts"], {
    cwd: paths.root,
    stdio: "ignore",
    env: environmentWith({
      DATABASE_URL: url("erp_user"),
      AUTHENTICATOR_DATABASE_URL: url("erp_authenticator"),
      WORKER_DATABASE_URL: url("erp_worker"),
      DATA_DIR: folder,
      PORT: String(port),
    }),
  });
  const agent = new http.Agent({ keepAlive: true, maxSockets: CLIENTS });
  const post = (body: string) =>
    new Promise<number>((resolve, reject) => {
      const request = http.request(
        {
          agent,
          port,
          host: "127.0.0.1",
          path: "/v1/events",
          method: "POST",
          headers: {
            "content-type": "application/json",
            "content-length": Buffer.byteLength(body),
            authorization: `Bearer ${key.text}`,
          },
        },
        (response) => response.resume().on("end", () => resolve(response.statusCode ?? 0)),
      );
      request.on("error", reject).end(body);
    });
  for (const deadline = Date.now() + 30_000; ; await new Promise((wait) => setTimeout(wait, 100))) {
    const status = await post("[]").catch(() => 0);
    if (status === 202) break;
    if (Date.now() > deadline) throw new Error(`The server does not start: ${status}.`);
  }
  return async (events: Events) => {
    const bodies = batches(events, HTTP_BATCH);
    return seconds(async () => {
      await Promise.all(
        Array.from({ length: CLIENTS }, async () => {
          for (let body = bodies.pop(); body; body = bodies.pop()) {
            const status = await post(body);
            if (status !== 202) throw new Error(`The answer was ${status}.`);
          }
        }),
      );
    });
  };
}

async function printSettings(root: pg.Client) {
  const { rows } = await root.query(
    `select name, current_setting(name) as value from pg_settings
      where name in ('server_version', 'synchronous_commit', 'fsync', 'full_page_writes', 'shared_buffers', 'max_wal_size', 'wal_level')
      order by name`,
  );
  console.log(rows.map(({ name, value }) => `${name} ${value}`).join(", "));
  console.log(`${EVENTS.toLocaleString("en")} events over 300 days, ${ROUNDS} rounds\n`);
}

function median(numbers: number[]): number {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0;
}

function report(results: Map<string, number[]>) {
  console.log("contender                  events/s   ratio to COPY (median of rounds)");
  for (const [name, rates] of results) {
    const baseline = results.get(`${name.split(":")[0]}: COPY`) ?? [];
    const ratio = median(rates.map((rate, round) => rate / (baseline[round] ?? 1)));
    console.log(`${name.padEnd(24)} ${median(rates).toFixed(0).padStart(10)}   ${ratio.toFixed(2)}`);
  }
}

/**
 * Whether tables that have grown slow their writers down: the next events of a database that holds all but the last of
 * `count` events, and, in turn, the first events of one that begins empty. As dense in time; the former is filled by
 * SQL, its indexes built at the end.
 */
async function grow(grown: pg.Client, tenantId: string, count: number) {
  await fillTables(tenantId, count - 2 * SAMPLE, (HISTORY_DAYS * 2 * SAMPLE) / count);
  await migrate({ owner: url("erp_user", "empty"), worker: url("erp_worker", "empty") });
  const empty = await connect("erp_user", "empty");
  const emptyTenant = await prepareTenant(empty);
  const days = (HISTORY_DAYS * CHUNK) / count;
  let at = 0;
  for (const kind of kinds) {
    const spent = { grown: 0, empty: 0 };
    for (const end = at + SAMPLE; at < end; at += CHUNK) {
      const past = (HISTORY_DAYS * at) / count;
      const stretch = { days, from: count + at };
      const first = makeEvents(CHUNK, kind, { ...stretch, ago: HISTORY_DAYS - past });
      const next = makeEvents(CHUNK, kind, { ...stretch, ago: (HISTORY_DAYS * 2 * SAMPLE) / count - past });
      spent.empty += await write(empty, emptyTenant, first);
      spent.grown += await write(grown, tenantId, next);
    }
    const { rows } = await grown.query("select count(*)::integer as count from analytics_events");
    const rate = (seconds: number) => `${(SAMPLE / seconds).toFixed(0)} events/s`;
    console.log(
      `ids ${kind}: the first ${SAMPLE.toLocaleString("en")} events ${rate(spent.empty)}, as many up to ${rows[0].count.toLocaleString("en")} ${rate(spent.grown)}, ${(spent.empty / spent.grown).toFixed(2)} of it`,
    );
  }
}

async function fillTables(tenantId: string, count: number, until: number) {
  const root = await connect("postgres");
  const tables =
    "select relid from pg_partition_tree('public.analytics_events') union all select 'app_private.event_keys'::regclass";
  await root.query(`update pg_index set indisready = false where indrelid in (${tables})`);
  let filled = 0;
  const fill = async () => {
    const filler = await connect("postgres");
    // No triggers: neither marks nor look-ups of the tenant.
    await filler.query("set session_replication_role = replica");
    while (filled < count) {
      filled += FILLED;
      await filler.query(
        `with event as materialized (
           select gen_random_uuid()::text as source_id, uuidv7() as id, now() - $3::float8 * interval '1 day' - random() * (${HISTORY_DAYS} - $3) * interval '1 day' as time, i
             from generate_series(1, $2::integer) i
         ),
         key as (
           insert into app_private.event_keys (tenant_id, source, source_id, "timestamp", id, content_hash)
           select $1, 'bench:1', source_id, time, id, sha256(source_id::bytea) from event
         )
         insert into analytics_events (tenant_id, id, "timestamp", event_type, event_name, properties, source, source_id, value, currency)
         select $1, id, time, 'order', 'order_completed', jsonb_build_object('locationId', 's' || i % 10, 'channel', 'online', 'lineCount', i % 5),
                'bench:1', source_id, i % 100, 'EUR'
           from event`,
        [tenantId, FILLED, until],
      );
    }
  };
  await Promise.all([fill(), fill()]);
  await root.query("set maintenance_work_mem = '1GB'");
  const { rows } = await root.query(
    `select relid::regclass::text as name from (${tables}) t join pg_class c on c.oid = relid where c.relkind = 'r'`,
  );
  for (const { name } of rows) await root.query(`reindex table ${name}`);
  await root.query("update pg_index set indisready = true where not indisready");
  await root.query("vacuum analyze");
  await root.query("checkpoint");
}
