import { type ChildProcess, spawn } from "node:child_process";
import { randomInt, randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { expect, it } from "@jest/globals";
import { generateApiKey } from "../src/auth/apiKeys.ts";
import { environmentWith } from "../src/config.ts";
import { migrate } from "../src/db/migrate.ts";
import { withClient } from "../src/db/pools.ts";
import { prepareCluster } from "../src/db/roles.ts";
import { type Cluster, findCluster, startCluster } from "../src/embedded/cluster.ts";
import { paths } from "../src/paths.ts";
import { until } from "./support/until.ts";

const CRASHES = 20;
const WRITERS = 4;
const BATCH = 50;
const PASSWORD = "crash";

/** The real server as a process of its own, on a PostgreSQL with the settings that we ship. */
async function startAll() {
  const folder = await mkdtemp(join(tmpdir(), "erp-crash-"));
  const startPostgres = (port: number): Promise<Cluster> =>
    startCluster({ dataDir: folder, port, superuserPassword: PASSWORD });
  let cluster = await startPostgres(0);
  const { port } = cluster;
  const url = (user: string, database = "erp_analytics") =>
    cluster.url({ user, password: PASSWORD, database });
  await prepareCluster(url("postgres", "postgres"), {
    databases: ["erp_analytics"],
    passwords: { owner: PASSWORD, authenticator: PASSWORD, worker: PASSWORD },
  });
  await migrate({ owner: url("erp_user"), worker: url("erp_worker") });
  const listener = createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const httpPort = (listener.address() as AddressInfo).port;
  await new Promise((closed) => listener.close(closed));

  let server: ChildProcess;
  let isStopping = false;
  /** And again when it ends, as whoever runs a service does: a start fails while PostgreSQL is away. */
  const startServer = () => {
    server = spawn(process.execPath, ["--import", "./scripts/runtime.mjs", "src/main.ts"], {
      cwd: paths.root,
      stdio: "ignore",
      env: environmentWith({
        DATABASE_URL: url("erp_user"),
        AUTHENTICATOR_DATABASE_URL: url("erp_authenticator"),
        WORKER_DATABASE_URL: url("erp_worker"),
        DATA_DIR: folder,
        PORT: String(httpPort),
        NODE_OPTIONS: "",
        LOG_LEVEL: "silent",
      }),
    });
    server.once("exit", () => {
      if (!isStopping) startServer();
    });
  };
  startServer();
  const killServer = async () => {
    const ended = once(server, "exit");
    server.kill("SIGKILL");
    await ended;
  };
  return {
    url: `http://127.0.0.1:${httpPort}`,
    owner: () => url("erp_user"),
    crashServer: killServer,
    /** One backend dies: PostgreSQL ends them all, and recovers. */
    async crashBackend() {
      const { rows } = await withClient(url("postgres"), (client) =>
        client.query(
          "select pid from pg_stat_activity where usename = 'erp_authenticator' order by state = 'active' desc limit 1",
        ),
      );
      if (rows[0]) process.kill(rows[0].pid, "SIGKILL");
    },
    async crashPostgres() {
      const running = await findCluster(folder);
      if (running) process.kill(running.pid, "SIGKILL");
      await until(
        () => findCluster(folder),
        (found) => found === undefined,
      );
      cluster = await startPostgres(port);
    },
    async stop() {
      isStopping = true;
      await killServer();
      await cluster.stop();
      await rm(folder, { recursive: true });
    },
  };
}

it("loses no acknowledged event and doubles none, whatever is killed under load", async () => {
  const system = await startAll();
  const said: string[] = [];
  try {
    const { tenantId, key } = await withClient(system.owner(), async (client) => {
      const { rows } = await client.query(
        "insert into tenants (name, slug, status, plan_type, features) values ('T', 't', 'ACTIVE', 'business', '{api_keys}') returning id",
      );
      const made = generateApiKey("test", rows[0].id);
      await client.query(
        "insert into api_keys (id, tenant_id, name, scopes) values ($1, $2, 'Load', '{events:write}')",
        [made.id, rows[0].id],
      );
      await client.query(
        "insert into app_private.api_key_secrets (tenant_id, api_key_id, secret_hash) values ($1, $2, $3)",
        [rows[0].id, made.id, made.secretHash],
      );
      return { tenantId: rows[0].id as string, key: made.text };
    });

    let running = true;
    const sent = new Set<string>();
    const acknowledged = new Set<string>();
    const statuses = new Map<number | string, number>();
    const post = async (ids: string[]): Promise<boolean> => {
      const events = ids.map((id) => ({
        eventType: "order",
        eventName: "o",
        source: "load",
        sourceId: id,
        value: 1,
      }));
      const status = await fetch(`${system.url}/v1/events`, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
        body: JSON.stringify(events),
        signal: AbortSignal.timeout(20_000),
      }).then(
        async (response) => {
          await response.arrayBuffer();
          if (response.status === 503) expect(response.headers.get("retry-after")).toMatch(/^\d+$/);
          return response.status;
        },
        () => "no answer",
      );
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
      return status === 202;
    };
    const writer = async () => {
      while (running) {
        const ids = Array.from({ length: BATCH }, () => randomUUID());
        for (const id of ids) sent.add(id);
        while (!(await post(ids))) await wait(50);
        for (const id of ids) acknowledged.add(id);
      }
    };
    const progress = (from: number) =>
      until(
        async () => acknowledged.size,
        (count) => count > from,
        60_000,
      );
    const writers = Array.from({ length: WRITERS }, writer);
    const crashes = [system.crashServer, system.crashBackend, system.crashPostgres];
    await progress(0);
    for (let crash = 0; crash < CRASHES; crash++) {
      await wait(randomInt(400));
      await crashes[crash % crashes.length]?.();
      await progress(acknowledged.size);
    }
    running = false;
    await Promise.all(writers);

    const present = await withClient(system.owner(), async (client) => {
      const { rows } = await client.query(
        "select source_id, count(*)::integer as count from analytics_events where tenant_id = $1 group by source_id",
        [tenantId],
      );
      return new Map<string, number>(rows.map(({ source_id, count }) => [source_id, count]));
    });
    const doubled = [...present.values()].filter((count) => count > 1).length;
    const lost = [...acknowledged].filter((id) => !present.has(id)).length;
    const invented = [...present.keys()].filter((id) => !sent.has(id)).length;
    said.push(
      `${CRASHES} crashes: ${sent.size} sent, ${acknowledged.size} acknowledged, ${present.size} present, ${doubled} doubled, ${lost} lost; answers ${JSON.stringify(Object.fromEntries(statuses))}`,
    );
    expect({ doubled, lost, invented, all: present.size === sent.size }).toEqual({
      doubled: 0,
      lost: 0,
      invented: 0,
      all: true,
    });
    expect([...statuses.keys()].every((status) => [202, 503, "no answer"].includes(status))).toBe(true);
  } finally {
    await system.stop();
    console.info(said.join("\n"));
  }
}, 300_000);
