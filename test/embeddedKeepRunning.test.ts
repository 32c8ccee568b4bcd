import { mkdtemp, realpath, rename, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { Client } from "pg";
import { withClient } from "../src/db/pools.ts";
import { type Cluster, findCluster, hasEnded, startCluster } from "../src/embedded/cluster.ts";
import { keepRunning } from "../src/embedded/keepRunning.ts";
import { until } from "./support/until.ts";

const superuserPassword = "kept";
let dataDir: string;
let first: Cluster;
let kept: ReturnType<typeof keepRunning>;
const said: string[] = [];

beforeAll(async () => {
  dataDir = await realpath(await mkdtemp(join(tmpdir(), "erp-kept-")));
  const options = { dataDir, superuserPassword, say: (sentence: string) => said.push(sentence) };
  first = await startCluster({ ...options, port: 0 });
  kept = keepRunning(first, options);
});
beforeEach(() => {
  said.length = 0;
});
afterAll(async () => {
  await kept.stop();
  await rm(dataDir, { recursive: true });
});

const url = () => first.url({ user: "postgres", password: superuserPassword, database: "postgres" });
const tables = () =>
  withClient(url(), async (client) => {
    const { rows } = await client.query("select tablename from pg_tables where schemaname = 'public'");
    return rows.map(({ tablename }) => tablename);
  }).catch(() => "away");
async function killPostmaster() {
  const running = await findCluster(dataDir);
  if (!running) throw new Error("It does not run.");
  process.kill(running.pid, "SIGKILL");
  return running.pid;
}

it("comes back on its port with what was committed, however often it is killed", async () => {
  for (const table of ["one", "two"]) {
    await withClient(url(), (client) => client.query(`create table ${table} ()`));
    const killed = await killPostmaster();
    await until(
      () => findCluster(dataDir),
      (found) => found !== undefined && found.pid !== killed,
      30_000,
    );
    expect(await until(tables, (found) => found !== "away")).toContain(table);
  }
  await until(
    async () => said.filter((sentence) => sentence === "PostgreSQL is back.").length,
    (times) => times === 2,
  );
});

it("does not wait for a long statement that nobody waits for any more", async () => {
  const client = new Client(url());
  client.on("error", () => {});
  await client.connect();
  // Computes, and so does not notice that its server is gone.
  const long = client.query("select count(*) from generate_series(1, 1e10::bigint)").catch(() => "gone");
  await until(
    () => withClient(url(), (other) => other.query("select from pg_stat_activity where query like '%1e10%'")),
    ({ rowCount }) => rowCount === 2,
  );
  await killPostmaster();
  expect(await until(tables, (found) => found !== "away", 30_000)).toEqual(["one", "two"]);
  expect(await long).toBe("gone");
}, 60_000);

it("says so when its port is taken meanwhile, and comes back when that is free", async () => {
  await killPostmaster();
  const thief = createServer();
  await until(
    () =>
      new Promise<boolean>((has) => {
        thief.once("error", () => has(false)).listen(first.port, "127.0.0.1", () => has(true));
      }),
    (has) => has,
  );
  const taken = `Port ${first.port}, which PostgreSQL had, is taken.`;
  await until(
    async () => said,
    (sentences) => sentences.includes(taken),
    30_000,
  );
  await new Promise((closed) => thief.close(closed));
  expect(await until(tables, (found) => found !== "away", 30_000)).toEqual(["one", "two"]);
  expect(said.filter((sentence) => sentence === taken)).toEqual([taken]);
}, 60_000);

it("takes a folder that is away for no end, and makes no other in its place", async () => {
  const folder = join(dataDir, "postgres");
  const running = await findCluster(dataDir);
  await rename(folder, `${folder}.away`);
  expect(await hasEnded(dataDir)).toBe(false);
  await expect(startCluster({ dataDir, superuserPassword, port: 0, mustExist: true })).rejects.toThrow(
    "is not there any more",
  );
  await rename(`${folder}.away`, folder);
  expect(await findCluster(dataDir)).toEqual(running);
  expect(said).toEqual([]);
});

it("stays down when it is stopped", async () => {
  const killed = await killPostmaster();
  await kept.stop();
  const found = await findCluster(dataDir);
  expect([found?.pid === killed, found]).toEqual([false, undefined]);
});
