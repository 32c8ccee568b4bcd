import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { parseArgs } from "node:util";
import pg from "pg";
import { environmentWith } from "../src/config.ts";
import { generateDataKey, makeKeyRing, seal } from "../src/crypto/keyRing.ts";
import { applyCurrent, migrate } from "../src/db/migrate.ts";
import { prepareCluster } from "../src/db/roles.ts";
import { startCluster } from "../src/embedded/cluster.ts";
import { paths } from "../src/paths.ts";
import { square } from "../tasks/connectors/square/index.ts";
import { seconds } from "./support/benchEvents.ts";
import { startOrderProvider } from "./support/orderProvider.ts";

/*
 * How fast a worker pulls records in, how much memory it takes and how many calls it makes: `--records` orders in pages of 500
 * from a provider on this machine, by `npm run worker` as it is shipped; against app_hidden.write_events of the same events in
 * batches of the same size, alone. Then `--integrations` that are due at once, by four workers.
 *
 * npm run bench:sync [-- --records 1000000] [-- --integrations 200]
 */
const { values } = parseArgs({
  options: {
    records: { type: "string", default: "100000" },
    integrations: { type: "string", default: "0" },
  },
});
const RECORDS = Number(values.records);
const INTEGRATIONS = Number(values.integrations);
/** Those of `npm run worker`. */
const FLAGS = ["--max-old-space-size=512", "--max-semi-space-size=8"];
const PAGE = 500;
const PASSWORD = "bench";
const TOKEN = "bench-token";
const CONFIG = { environment: "simulator", locationIds: ["L1"], pageSize: PAGE, backfillDays: 400 };

const folder = await mkdtemp(join(tmpdir(), "erp-bench-"));
const cluster = await startCluster({ dataDir: folder, port: 0, superuserPassword: PASSWORD });
const url = (user: string, database = "erp_analytics") => cluster.url({ user, password: PASSWORD, database });
const encryptionKey = { id: "bench", key: randomBytes(32).toString("base64") };
const keyRing = makeKeyRing([encryptionKey]);
const workers: ChildProcess[] = [];
let owner: pg.Client | undefined;
try {
  await prepareCluster(url("postgres", "postgres"), {
    databases: ["erp_analytics"],
    passwords: { owner: PASSWORD, authenticator: PASSWORD, worker: PASSWORD },
  });
  await migrate({ owner: url("erp_user"), worker: url("erp_worker") });
  // What is about to be committed, too.
  await applyCurrent(url("erp_user"));
  owner = new pg.Client({ connectionString: url("erp_user") });
  await owner.connect();
  await owner.query(
    "select app_hidden.make_partition_for(month) from generate_series(now() - interval '11 months', now(), interval '1 month') month",
  );
  const provider = await startOrderProvider(RECORDS);
  const alone = await writeAlone(owner, provider.url);
  console.log(`write_events alone: ${alone.toFixed(0)} events/s, in batches of ${PAGE}`);
  await syncAll(owner, provider, alone);
  await provider.close();
  if (INTEGRATIONS > 0) await syncDue(owner);
} finally {
  for (const worker of workers) worker.kill("SIGKILL");
  await owner?.end().catch(() => {});
  await cluster.stop();
  await rm(folder, { recursive: true, force: true });
}

/** Events per second; fetching and mapping are not counted. */
async function writeAlone(client: pg.Client, baseUrl: string): Promise<number> {
  const { tenantId } = await addTenant(client, "alone", 1);
  let taken = 0;
  let count = 0;
  const stream = square.streams.orders;
  const signal = new AbortController().signal;
  const request = {
    config: square.config.parse(CONFIG),
    credentials: square.credentials.parse({ accessToken: TOKEN }),
    signal,
    fetch,
    baseUrl,
  };
  for (
    let done = false, checkpoint: Parameters<typeof stream.fetchPage>[0]["checkpoint"];
    !done && count < 100_000;
  ) {
    const page = await stream.fetchPage({ ...request, checkpoint, now: new Date() });
    const body = JSON.stringify(page.events.map((event) => ({ ...event, source: "bench:1" })));
    taken += await seconds(async () => {
      await client.query({
        name: "write",
        text: "select count(*) from app_hidden.write_events($1, $2) where outcome = 'accepted'",
        values: [tenantId, body],
      });
    });
    count += page.events.length;
    ({ checkpoint, done } = page);
  }
  return count / taken;
}

async function syncAll(
  client: pg.Client,
  provider: Awaited<ReturnType<typeof startOrderProvider>>,
  alone: number,
) {
  const { ids } = await addTenant(client, "synced", 1);
  const before = provider.calls();
  const worker = startWorker(provider.url, 4);
  await untilReady(client, 1);
  await wait(5_000);
  const memory = [await residentMiB(worker)];
  await client.query("update integrations set enabled = true where id = any ($1)", [ids]);
  await client.query("select app_hidden.request_due_syncs()");
  for (;;) {
    await wait(1_000);
    memory.push(await residentMiB(worker));
    if (await isOver(client, 1)) break;
  }
  const { rows } = await client.query(
    `select sum(pages)::integer as pages, sum(records_accepted)::integer as records, sum(retries)::integer as retries,
            extract(epoch from max(ended_at) - min(started_at))::float8 as seconds
       from integration_runs`,
  );
  const [{ pages, records, retries, seconds: taken }] = rows;
  const rate = records / taken;
  const calls = provider.calls() - before;
  console.log(
    `synced: ${records} records in ${taken.toFixed(0)} s, ${rate.toFixed(0)} records/s, ${(rate / alone).toFixed(2)} of write_events alone`,
  );
  console.log(`calls: ${calls} for ${pages} pages, retries: ${retries}`);
  const [start = 0] = memory;
  console.log(
    `memory of the worker: ${start.toFixed(0)} MiB at its start, ${Math.max(...memory).toFixed(0)} at the most, ${(memory.at(-1) ?? 0).toFixed(0)} at the end`,
  );
  await stop(worker);
}

/** Integrations that are due at once, of as many tenants, by four workers. */
async function syncDue(client: pg.Client) {
  const provider = await startOrderProvider(PAGE * 2);
  await client.query("delete from integration_runs");
  await client.query("update integrations set enabled = false");
  for (let tenant = 0; tenant < INTEGRATIONS; tenant++) {
    const { ids } = await addTenant(client, `due-${tenant}`, 1);
    await client.query("update integrations set enabled = true where id = any ($1)", [ids]);
  }
  for (let worker = 0; worker < 4; worker++) startWorker(provider.url, 4);
  await untilReady(client, 4);
  const taken = await seconds(async () => {
    await client.query("select app_hidden.request_due_syncs()");
    while (!(await isOver(client, INTEGRATIONS))) await wait(100);
  });
  const { rows } = await client.query(
    "select count(*)::integer as runs, count(distinct stream_id)::integer as streams, sum(pages)::integer as pages from integration_runs",
  );
  console.log(
    `due: ${INTEGRATIONS} integrations in ${taken.toFixed(1)} s; ${JSON.stringify(rows[0])}, ${provider.calls()} calls`,
  );
  await provider.close();
}

async function addTenant(client: pg.Client, slug: string, integrations: number) {
  const { rows } = await client.query(
    "insert into tenants (name, slug, status, plan_type, max_integrations) values ($1, $1, 'ACTIVE', 'business', 1000) returning id",
    [slug],
  );
  const tenantId: string = rows[0].id;
  const dataKey = generateDataKey();
  const { kekId, wrapped } = keyRing.wrap(dataKey, { tenantId, version: 1 });
  await client.query(
    "insert into app_private.tenant_keys (tenant_id, kek_id, wrapped_key) values ($1, $2, $3)",
    [tenantId, kekId, wrapped],
  );
  const ids: string[] = [];
  for (let one = 0; one < integrations; one++) {
    const added = await client.query(
      "insert into integrations (tenant_id, name, provider, config) values ($1, 'Shop', 'square', $2) returning id",
      [tenantId, CONFIG],
    );
    const rowId: string = added.rows[0].id;
    const place = { tenantId, table: "integration_credentials", rowId, version: 1 };
    await client.query(
      "insert into app_private.integration_credentials (tenant_id, integration_id, key_version, ciphertext) values ($1, $2, 1, $3)",
      [tenantId, rowId, seal(JSON.stringify({ accessToken: TOKEN }), dataKey, place)],
    );
    ids.push(rowId);
  }
  return { tenantId, ids };
}

function startWorker(simulatorUrl: string, concurrency: number): ChildProcess {
  const worker = spawn(
    process.execPath,
    [...FLAGS, "--import", "./scripts/runtime.mjs", "src/main.ts", "worker"],
    {
      cwd: paths.root,
      stdio: ["ignore", "ignore", "inherit"],
      env: environmentWith({
        DATABASE_URL: url("erp_user"),
        AUTHENTICATOR_DATABASE_URL: url("erp_authenticator"),
        WORKER_DATABASE_URL: url("erp_worker"),
        DATA_DIR: folder,
        ENCRYPTION_KEYS: `${encryptionKey.id}:${encryptionKey.key}`,
        SIMULATOR_URL: simulatorUrl,
        JOB_CONCURRENCY: String(concurrency),
        LOG_LEVEL: "error",
      }),
    },
  );
  workers.push(worker);
  return worker;
}

async function stop(worker: ChildProcess) {
  const ended = once(worker, "exit");
  worker.kill("SIGINT");
  await ended;
}

/** Until so many workers tell that they live. */
async function untilReady(client: pg.Client, count: number) {
  for (;;) {
    const { rows } = await client.query(
      "select count(*)::integer as alive from app_private.worker_heartbeats where beat_at > now() - interval '6 seconds'",
    );
    if (rows[0].alive >= count) return;
    await wait(100);
  }
}

/** Whether the last sync of so many integrations has ended; all of them well, or this ends the benchmark. */
async function isOver(client: pg.Client, count: number): Promise<boolean> {
  const { rows } = await client.query(
    "select count(*) filter (where sync_status = 'succeeded')::integer as done, max(sync_error) as error from integrations where enabled",
  );
  if (rows[0].error) throw new Error(rows[0].error);
  return rows[0].done === count;
}

async function residentMiB({ pid }: ChildProcess): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1024;
}
