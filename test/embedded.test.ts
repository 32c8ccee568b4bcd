import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmod,
  chown,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  realpath,
  rm,
  stat,
  truncate,
  writeFile,
} from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { Client } from "pg";
import { UserError } from "../src/config.ts";
import { type Binaries, checkLinks, findBinaries } from "../src/embedded/binaries.ts";
import { type Cluster, type ClusterOptions, findCluster, startCluster } from "../src/embedded/cluster.ts";
import { dataDirHolder, holdDataDir } from "../src/embedded/dataDirLock.ts";
import { explain, isPortTaken } from "../src/embedded/explain.ts";
import { lookAt } from "../src/embedded/processes.ts";
import { asAccount, type ChooseRunAs, chooseRunAs } from "../src/embedded/runAs.ts";
import { sharedBinaries } from "../src/embedded/sharedBinaries.ts";

const superuserPassword = "p@ss/w:rd %?#";
const isRoot = process.getuid?.() === 0;
const isLinux = process.platform === "linux";

let root: string;
beforeAll(async () => {
  // The folder is for its owner alone (0700), as the checkout and the data of a cautious person are.
  root = await realpath(await mkdtemp(join(tmpdir(), "erp-embedded-")));
});

const clusters: Cluster[] = [];
const children: ChildProcess[] = [];
afterEach(async () => {
  for (const cluster of clusters.splice(0)) await cluster.stop();
  for (const child of children.splice(0)) await kill(child);
});

afterAll(async () => {
  const { stdout } = await promisify(execFile)("ps", ["ax", "-o", "args="], { maxBuffer: 1e8 });
  await rm(root, { recursive: true });
  expect(stdout.split("\n").filter((line) => line.includes(root))).toEqual([]);
});

async function start(
  dataDir: string,
  options: Partial<ClusterOptions> = {},
  choose: ChooseRunAs = chooseRunAs,
) {
  const cluster = await startCluster({ dataDir, port: 5700, superuserPassword, ...options }, choose);
  clusters.push(cluster);
  return cluster;
}

async function query(cluster: Cluster, sql: string, password = superuserPassword): Promise<unknown[]> {
  const client = new Client(cluster.url({ user: "postgres", password, database: "postgres" }));
  try {
    await client.connect();
    return (await client.query({ text: sql, rowMode: "array" })).rows.flat();
  } finally {
    await client.end();
  }
}

/** A Node process of its own group, with the first line that it says. */
function child(...args: string[]): { process: ChildProcess; said: Promise<Said> } {
  const script = fileURLToPath(new URL("support/embeddedChild.ts", import.meta.url));
  const started = spawn(process.execPath, [script, ...args], {
    detached: true,
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.push(started);
  if (!started.stdout) throw new Error("no output");
  const said = once(createInterface(started.stdout), "line").then(([line]): Said => JSON.parse(line));
  return { process: started, said };
}
type Said = { held: boolean; port?: number; error?: string };

/** With its group, as a terminal or a supervisor does, at once and without a chance to tidy up. */
async function kill(child: ChildProcess) {
  if (child.exitCode !== null || child.signalCode !== null || !child.pid) return;
  const exit = once(child, "exit");
  // It may have ended by itself, with the news still on its way to us.
  if (isAlive(-child.pid)) process.kill(-child.pid, "SIGKILL");
  await exit;
}

async function until<T>(get: () => Promise<T | undefined | false>): Promise<T> {
  for (const deadline = Date.now() + 10_000; Date.now() < deadline; await sleep(5)) {
    const got = await get();
    if (got) return got;
  }
  throw new Error("it did not come to pass within 10 s");
}

const problem = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => "no problem",
    (error: unknown) => (error instanceof UserError ? error.message : error),
  );

const pidFile = (dataDir: string) => join(dataDir, "postgres", "postmaster.pid");
const isAlive = (pid: number) => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

describe("one program per DATA_DIR", () => {
  it("refuses a second holder and names the first", async () => {
    const dataDir = join(root, "held");
    const first = child(dataDir);
    expect(await first.said).toEqual({ held: true });
    expect(await problem(holdDataDir(dataDir, "a test"))).toMatch(
      new RegExp(
        `^DATA_DIR ${dataDir} is in use by the child of a test \\(process ${first.process.pid}, since 20`,
      ),
    );
    expect(await dataDirHolder(dataDir)).toMatchObject({
      pid: first.process.pid,
      purpose: "the child of a test",
    });
  });

  it("refuses a second holder in the same process until the first lets go", async () => {
    const dataDir = join(root, "released");
    const first = await holdDataDir(dataDir, "the first");
    expect(await problem(holdDataDir(dataDir, "the second"))).toMatch(
      `is in use by the first (process ${process.pid},`,
    );
    await first.release();
    expect(await dataDirHolder(dataDir)).toBeUndefined();
    const second = await holdDataDir(dataDir, "the second");
    await first.release();
    expect(await dataDirHolder(dataDir)).toMatchObject({ purpose: "the second" });
    await second.release();
  });

  it("takes over from a killed holder, even when its pid is another program's by now", async () => {
    const dataDir = join(root, "taken over");
    const first = child(dataDir);
    await first.said;
    await kill(first.process);
    const left = JSON.parse(await readFile(join(dataDir, "holder.json"), "utf8"));
    expect(left.pid).toBe(first.process.pid);
    await writeFile(join(dataDir, "holder.json"), JSON.stringify({ ...left, pid: process.ppid }));
    expect(await dataDirHolder(dataDir)).toBeUndefined();
    const second = await holdDataDir(dataDir, "a test");
    expect(await dataDirHolder(dataDir)).toMatchObject({ pid: process.pid, purpose: "a test" });
    await second.release();
  });

  it("lets one of many in that come at once after a killed one", async () => {
    const dataDir = join(root, "contended");
    const first = child(dataDir);
    await first.said;
    await kill(first.process);
    const said = await Promise.all([1, 2, 3, 4].map(() => child(dataDir).said));
    expect(said.filter(({ held }) => held)).toHaveLength(1);
    const refused = said.filter(({ held }) => !held);
    for (const { error } of refused) expect(error).toMatch(/is in use by the child of a test/);
  });

  it("says nobody of a DATA_DIR that does not exist, and does not make it", async () => {
    expect(await dataDirHolder(join(root, "nowhere"))).toBeUndefined();
    expect(await readdir(root)).not.toContain("nowhere");
  });
});

it("counts a process that ended, but that its parent does not bury, as gone", async () => {
  const parent = spawn("sh", ["-c", "sleep 0.2 & echo $!; exec sleep 60"], {
    detached: true,
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.push(parent);
  const [line] = await once(createInterface(parent.stdout), "line");
  await until(async () => (await lookAt(Number(line))) === "gone");
  expect(isAlive(Number(line))).toBe(true);
  expect(await lookAt(parent.pid ?? 0)).toMatchObject({
    program: "sleep",
    args: isLinux ? ["sleep", "60"] : [],
  });
});

describe("the life of a cluster", () => {
  let dataDir: string;
  beforeAll(() => {
    dataDir = join(root, "data dir");
  });

  it("is made on the first start, on loopback and behind a password, and keeps its data over the second", async () => {
    const first = await start(dataDir, { settings: { work_mem: "5MB", listen_addresses: "*" } });
    expect(first).toMatchObject({ created: true, adopted: false });
    expect(await query(first, "create table kept as select 'ü' as word")).toEqual([]);
    const names = ["listen_addresses", "unix_socket_directories", "log_parameter_max_length", "work_mem"];
    const shown = names.map((name) => `current_setting('${name}')`);
    expect(await query(first, `select ${shown}`)).toEqual(["127.0.0.1", "", "0", "5MB"]);
    expect(
      await query(
        first,
        "select current_setting('TimeZone'), datcollate, datlocale from pg_database limit 1",
      ),
    ).toEqual(["UTC", "C", "C.UTF-8"]);
    await expect(query(first, "select 1", "wrong")).rejects.toMatchObject({ code: "28P01" });
    expect((await stat(dataDir)).mode & 0o777).toBe(0o700);
    const pid = (await findCluster(dataDir))?.pid ?? 0;
    expect(isAlive(pid)).toBe(true);
    await first.stop();
    await first.stop();
    expect(isAlive(pid)).toBe(false);
    expect(await findCluster(dataDir)).toBeUndefined();
    expect((await readdir(dataDir)).sort()).toEqual(["postgres", "postgres.log"]);
    expect(await readFile(join(dataDir, "postgres.log"), "utf8")).toMatch(/database system is shut down/);

    const second = await start(dataDir);
    expect(second).toMatchObject({ created: false, adopted: false });
    expect(await query(second, "select word from kept")).toEqual(["ü"]);
  });

  it("is adopted when its Node was killed, and stopped by who adopted it", async () => {
    const first = child(dataDir, superuserPassword, "5710");
    expect(await first.said).toMatchObject({ held: true, port: 5710 });
    const before = await findCluster(dataDir);
    await kill(first.process);
    expect(before).toEqual({ port: 5710, pid: expect.any(Number) });
    expect(await findCluster(dataDir)).toEqual(before);
    const said: string[] = [];
    const adopted = await start(dataDir, { port: 5700, say: (sentence) => said.push(sentence) });
    expect(adopted).toMatchObject({ port: 5710, created: false, adopted: true });
    expect(said).toEqual([expect.stringContaining(`port 5710 (process ${before?.pid})`)]);
    expect(await query(adopted, "select word from kept")).toEqual(["ü"]);
    await adopted.stop();
    await until(async () => !isAlive(before?.pid ?? 0));
    expect(await findCluster(dataDir)).toBeUndefined();
  });

  it("recovers when the server itself was killed", async () => {
    const first = await start(dataDir);
    await query(first, "create table written as select 1 as n");
    const pid = (await findCluster(dataDir))?.pid ?? 0;
    process.kill(pid, "SIGKILL");
    const second = await start(dataDir);
    expect(second).toMatchObject({ created: false, adopted: false });
    expect(await query(second, "select n from written")).toEqual([1]);
    expect((await findCluster(dataDir))?.pid).not.toBe(pid);
  });

  it("waits for what a killed server left at work, and then starts", async () => {
    const first = await start(dataDir);
    const [backend] = await query(
      first,
      "select pid from pg_stat_activity where backend_type = 'checkpointer'",
    );
    const pid = (await findCluster(dataDir))?.pid ?? 0;
    process.kill(Number(backend), "SIGSTOP");
    process.kill(pid, "SIGKILL");
    const log = join(dataDir, "postgres.log");
    const before = (await readFile(log, "utf8")).length;
    const second = start(dataDir);
    try {
      await until(async () =>
        /pre-existing shared memory block/.test((await readFile(log, "utf8")).slice(before)),
      );
    } finally {
      process.kill(Number(backend), "SIGCONT");
    }
    expect(await query(await second, "select n from written")).toEqual([1]);
  });

  it("puts a log of more than 10 MB aside", async () => {
    const log = join(dataDir, "postgres.log");
    await truncate(log, 11 * 1024 * 1024);
    await start(dataDir);
    expect((await stat(`${log}.1`)).size).toBe(11 * 1024 * 1024);
    expect(await readFile(log, "utf8")).toMatch(/^\S+ \S+ UTC \[\d+\] LOG: {2}starting PostgreSQL/);
    expect((await stat(log)).mode & 0o777).toBe(0o600);
  });

  it("removes what the killed making of a cluster left", async () => {
    await mkdir(join(dataDir, "postgres.new-left", "base"), { recursive: true });
    expect(await start(dataDir)).toMatchObject({ created: false });
    expect(await readdir(dataDir)).not.toContain("postgres.new-left");
  });

  it("starts though its postmaster.pid names a process of another program, which it leaves alone", async () => {
    const { pid: foreign } =
      (await holdStale(dataDir, String(child(join(root, "foreign")).process.pid))) ?? {};
    expect(await findCluster(dataDir)).toBeUndefined();
    const cluster = await start(dataDir);
    expect(cluster).toMatchObject({ adopted: false });
    await cluster.stop();
    expect(isAlive(foreign)).toBe(true);
  });

  it("does not take the server of another DATA_DIR for its own", async () => {
    const other = await start(join(root, "other"));
    const found = await findCluster(join(root, "other"));
    await holdStale(dataDir, String(found?.pid));
    expect(await findCluster(dataDir)).toBeUndefined();
    const cluster = await start(dataDir);
    expect(cluster).toMatchObject({ adopted: false });
    expect(cluster.port).not.toBe(other.port);
    await cluster.stop();
    expect(await query(other, "select 1")).toEqual([1]);
  });

  it("listens on the next port when the wished one is taken, and says so", async () => {
    const taken = createServer().listen(5720, "127.0.0.1");
    await once(taken, "listening");
    const said: string[] = [];
    const cluster = await start(dataDir, { port: 5720, say: (sentence) => said.push(sentence) });
    taken.close();
    expect(cluster.port).toBe(5721);
    expect(said).toEqual(["Port 5720 is taken: PostgreSQL listens on 5721."]);
    expect(await query(cluster, "select inet_server_port()")).toEqual([5721]);
  });

  it("is not left running when its superuser password is another", async () => {
    expect(await problem(start(dataDir, { superuserPassword: "other" }))).toMatch(
      /refuses the superuser password/,
    );
    expect(await findCluster(dataDir)).toBeUndefined();
  });

  it("is not touched by a program that ships another version", async () => {
    const file = join(dataDir, "postgres", "PG_VERSION");
    await writeFile(file, "17\n");
    expect(await problem(start(dataDir))).toMatch(
      /^DATA_DIR holds a PostgreSQL 17 cluster, but this program ships 18: /,
    );
    await writeFile(file, "18\n");
    expect(await query(await start(dataDir), "select word from kept")).toEqual(["ü"]);
  });

  if (isLinux)
    it("keeps our environment, which holds keys, from the server", async () => {
      const cluster = await start(dataDir);
      const [shown] = await query(cluster, "select pg_read_file('/proc/self/environ')").catch(() => [
        undefined,
      ]);
      const pid = (await findCluster(dataDir))?.pid;
      const environment = typeof shown === "string" ? shown : await readFile(`/proc/${pid}/environ`, "utf8");
      expect(process.env.JEST_WORKER_ID).toBeDefined();
      expect(environment).toMatch(/LC_ALL=C/);
      expect(environment).not.toMatch(/JEST_WORKER_ID/);
    });
});

/** Puts a stopped cluster's postmaster.pid back, with somebody else's pid. */
async function holdStale(dataDir: string, pid: string) {
  const cluster = await start(dataDir);
  const lines = (await readFile(pidFile(dataDir), "utf8")).split("\n");
  await cluster.stop();
  await writeFile(pidFile(dataDir), [pid, ...lines.slice(1)].join("\n"), { mode: 0o600 });
  return { pid: Number(pid) };
}

describe("a folder that is no cluster", () => {
  it("is remade when its making was killed", async () => {
    const dataDir = join(root, "half");
    const first = child(dataDir, superuserPassword, "5730");
    const half = await until(async () => {
      const names = await readdir(dataDir).catch(() => []);
      return names.find((name) => name.startsWith("postgres.new-") && !name.endsWith(".password"));
    });
    await until(() => stat(join(dataDir, half, "PG_VERSION")).catch(() => undefined));
    // Node alone: its initdb lives on and goes on writing.
    first.process.kill("SIGKILL");
    await once(first.process, "exit");
    expect(await readdir(dataDir)).not.toContain("postgres");
    const cluster = await start(dataDir);
    expect(cluster).toMatchObject({ created: true });
    expect(await query(cluster, "select 1")).toEqual([1]);
    expect((await readdir(dataDir)).filter((name) => name.startsWith("postgres.new"))).toEqual([]);
  });

  it("is never deleted when it holds something else", async () => {
    const dataDir = join(root, "something else");
    await mkdir(join(dataDir, "postgres"), { recursive: true });
    await writeFile(join(dataDir, "postgres", "thesis.txt"), "ten years");
    expect(await problem(start(dataDir))).toMatch(/is not a PostgreSQL cluster, and not empty: move it away/);
    expect(await readFile(join(dataDir, "postgres", "thesis.txt"), "utf8")).toBe("ten years");
  });

  it("is refused in one sentence when it is a file, or lies under one", async () => {
    const file = join(root, "file");
    await writeFile(file, "");
    expect(await problem(start(file))).toMatch(/^DATA_DIR \(.*file\) cannot be used: it is a file/);
    expect(await problem(start(join(file, "below")))).toMatch(
      /cannot be used: it is a file or lies under one/,
    );
    expect(await problem(holdDataDir(file, "a test"))).toMatch(/cannot be used: it is a file/);
  });
});

describe("what goes wrong is said in one sentence", () => {
  it.each([
    [
      'initdb: error: could not write file "x": No space left on device',
      "The disk of DATA_DIR (/d) is full: free some space and start again.",
    ],
    [
      '2026-01-01 UTC [7] FATAL:  data directory "/d/postgres" has wrong ownership\nHINT:  x',
      "DATA_DIR (/d) belongs to another account: start as that account or set DATA_DIR=... to another folder.",
    ],
    [
      'x [7] LOG:  starting\nx [7] FATAL:  could not open file "pg_wal": Permission denied\nx [7] LOG:  shut down',
      'PostgreSQL may not use its files in DATA_DIR (/d): could not open file "pg_wal": Permission denied; give the folder to the account that starts this.',
    ],
    [
      "x [7] LOG:  starting\nx [7] FATAL:  something new\nx [7] LOG:  shut down",
      "PostgreSQL did not start in DATA_DIR (/d): something new.",
    ],
    ["", "PostgreSQL did not start in DATA_DIR (/d): it wrote no reason."],
  ])("%j", (log, sentence) => {
    expect(explain(log, "/d").message).toBe(sentence);
  });

  it("knows a port that was taken between the look and the start", () => {
    expect(isPortTaken('LOG:  could not bind IPv4 address "127.0.0.1": Address already in use')).toBe(true);
    expect(isPortTaken('LOG:  could not bind IPv4 address "127.0.0.1": Permission denied')).toBe(false);
  });

  it("quotes the server when a setting is wrong", async () => {
    const dataDir = join(root, "wrong setting");
    expect(await problem(start(dataDir, { settings: { work_mem: "many" } }))).toMatch(
      /^PostgreSQL did not start in DATA_DIR \(.*\): invalid value for parameter "work_mem": "many"\. More is in .*postgres\.log\.$/,
    );
    expect(await findCluster(dataDir)).toBeUndefined();
  });

  it("names the way out when the binaries are missing or incomplete", async () => {
    expect(await problem(findBinaries("amiga-m68k"))).toMatch(
      /^No PostgreSQL for amiga-m68k .* set DATABASE_URL/,
    );
    const native = join(root, "native");
    await mkdir(native);
    await writeFile(
      join(native, "pg-symlinks.json"),
      '[{"source":"native/lib/a.so.1","target":"native/lib/a.so"}]',
    );
    expect(await problem(checkLinks(native))).toMatch(
      /native\/lib\/a\.so is missing.*`npm ci --ignore-scripts=false`/,
    );
  });
});

if (isRoot)
  describe("started by root", () => {
    const owner = async (dataDir: string) => (await stat(`/proc/${(await findCluster(dataDir))?.pid}`)).uid;

    it("runs binaries and data in folders that only root may enter", async () => {
      const closed = join(root, "closed");
      await mkdir(closed, { mode: 0o700 });
      const native = join(closed, "native");
      const choose = async (binaries: Binaries) => {
        await cp(binaries.native, native, { recursive: true, verbatimSymlinks: true });
        return chooseRunAs({ ...binaries, native });
      };
      const dataDir = join(closed, "data");
      const cluster = await start(dataDir, {}, choose);
      expect(
        await query(cluster, "select count(*)::int from pg_stat_activity where pid = pg_backend_pid()"),
      ).toEqual([1]);
      const { pid } = (await findCluster(dataDir)) ?? {};
      expect((await readFile(`/proc/${pid}/cmdline`, "utf8")).split("\0")[0]).toBe(
        join(native, "bin", "postgres"),
      );
    });

    it("does not take the cluster of an ordinary user away from it", async () => {
      const dataDir = join(root, "an ordinary user's");
      await (await start(dataDir)).stop();
      for (const folder of [join(dataDir, "postgres"), dataDir]) await chown(folder, 65534, 65534);
      expect(await problem(start(dataDir))).toMatch(/cannot reach DATA_DIR .*or start as an ordinary user/);
      await chmod(dataDir, 0o755);
      expect(await problem(start(dataDir))).toMatch(/belongs to another account \(uid 65534\)/);
      expect((await stat(join(dataDir, "postgres"))).uid).toBe(65534);
    });

    describe("where user namespaces are forbidden", () => {
      let open: string;
      beforeAll(async () => {
        open = await mkdtemp(join(tmpdir(), "erp-embedded-open-"));
        await chmod(open, 0o755);
      });
      afterAll(() => rm(open, { recursive: true }));

      it("runs a copy of the binaries by another account, and adopts what that left", async () => {
        const dataDir = join(open, "data");
        const choose: ChooseRunAs = (binaries) => asAccount(binaries, open);
        const first = await start(dataDir, {}, choose);
        expect(await owner(dataDir)).not.toBe(0);
        expect((await stat(join(dataDir, "postgres"))).mode & 0o777).toBe(0o700);
        const adopted = await start(dataDir, {}, choose);
        expect(adopted).toMatchObject({ adopted: true, port: first.port });
        await adopted.stop();
        const again = await start(dataDir);
        expect(again).toMatchObject({ created: false, adopted: false });
        await again.stop();
        expect(await start(dataDir, {}, choose)).toMatchObject({ created: false, adopted: false });
      });

      it("names DATA_DIR when that account cannot reach it", async () => {
        const choose: ChooseRunAs = (binaries) => asAccount(binaries, open);
        expect(await problem(start(join(root, "unreachable"), {}, choose))).toMatch(
          /cannot reach DATA_DIR .*set DATA_DIR=/,
        );
      });

      it("remakes a copy of the binaries that lost a file", async () => {
        const binaries = await findBinaries();
        const { native } = await sharedBinaries(binaries, open);
        const before = (await stat(native)).ino;
        expect((await stat((await sharedBinaries(binaries, open)).native)).ino).toBe(before);
        await rm(join(native, "bin", "initdb"));
        await sharedBinaries(binaries, open);
        expect((await stat(join(native, "bin", "initdb"))).mode & 0o777).toBe(0o755);
      });

      it("trusts no binaries that somebody else could have written", async () => {
        const binaries = await findBinaries();
        const { native } = await sharedBinaries(binaries, open);
        await chmod(join(native, "bin", "postgres"), 0o757);
        expect(await problem(sharedBinaries(binaries, open))).toMatch(/bin\/postgres must belong to root/);
        await chmod(join(native, "bin", "postgres"), 0o755);
        await chown(native, 65534, 65534);
        expect(await problem(sharedBinaries(binaries, open))).toMatch(/must belong to root/);
        await chown(native, 0, 0);
        await chmod(open, 0o777);
        expect(await problem(sharedBinaries(binaries, open))).toMatch(/must belong to root/);
        await chmod(open, 0o755);
        await sharedBinaries(binaries, open);
      });
    });
  });
