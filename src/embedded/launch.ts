import { type FileHandle, open, rename, stat } from "node:fs/promises";
import { totalmem } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { clusterFolder, unusable } from "./dataDir.ts";
import { explain, hasLeftovers, isPortTaken } from "./explain.ts";
import { freePort } from "./freePort.ts";
import { endLeftovers, findPostmaster, type Postmaster } from "./postmaster.ts";
import { type RunAs, spawnAs } from "./runAs.ts";

export type Launch = {
  dataDir: string;
  runAs: RunAs;
  port: number;
  settings: Record<string, string>;
  say: (sentence: string) => void;
};

/** Starts the server, on the next free port where the wished one is taken, and waits until it is ready. */
export async function launch(options: Launch): Promise<Postmaster> {
  const { dataDir, port: wished, say } = options;
  const last = wished + 100;
  const logFile = join(dataDir, "postgres.log");
  const patience = Date.now() + 10_000;
  for (let port = await freePort(wished, last); ; ) {
    const outcome = await attempt(options, port, logFile);
    if (typeof outcome === "object") {
      if (wished !== 0 && port !== wished) say(`Port ${wished} is taken: PostgreSQL listens on ${port}.`);
      return outcome;
    }
    if (isPortTaken(outcome)) port = await freePort(wished === 0 ? 0 : port + 1, last);
    else if (hasLeftovers(outcome) && Date.now() < patience) {
      await endLeftovers(clusterFolder(dataDir));
      await sleep(100);
    } else throw explain(outcome, dataDir, logFile);
  }
}

/** The running server, or what it logged before it gave up. */
async function attempt(options: Launch, port: number, logFile: string): Promise<Postmaster | string> {
  const log = await openLog(logFile).catch((error: unknown) => {
    throw unusable(options.dataDir, error);
  });
  try {
    const from = (await log.stat()).size;
    const started = await spawnPostmaster(options, port, log.fd);
    return started ?? (await textFrom(log, from));
  } finally {
    await log.close();
  }
}

async function spawnPostmaster(
  { dataDir, runAs, settings, say }: Launch,
  port: number,
  log: number,
): Promise<Postmaster | undefined> {
  const folder = clusterFolder(dataDir);
  const all = { ...defaults, ...settings, ...invariants, port: String(port) };
  const args = ["-D", folder, ...Object.entries(all).flatMap(([name, value]) => ["-c", `${name}=${value}`])];
  // Detached: Ctrl-C in the terminal must reach us alone, because we still need the server while we drain.
  const child = spawnAs(runAs, join(runAs.binaries.native, "bin", "postgres"), args, {
    detached: true,
    stdio: ["ignore", log, log],
  });
  child.unref();
  let failure: Error | undefined;
  child.on("error", (error) => {
    failure = error;
  });
  const patient = Date.now() + 3000;
  for (let said = false; child.exitCode === null && child.signalCode === null; await sleep(20)) {
    if (failure) throw failure;
    const found = await findPostmaster(folder);
    if (found?.verdict === "ours" && found.pid === child.pid && found.status === "ready")
      return { pid: found.pid, started: found.started, port };
    if (!said && Date.now() > patient) {
      say("PostgreSQL is recovering from an unclean end; this can take a while.");
      said = true;
    }
  }
  return undefined;
}

/** What the container may use, else what the machine has, in MB. */
const memory = Math.floor((process.constrainedMemory() || totalmem()) / 2 ** 20);

const defaults = {
  max_connections: "100",
  // An eighth, taken only as pages are used.
  shared_buffers: `${Math.min(Math.max(Math.floor(memory / 8), 128), 4096)}MB`,
  // Writers of random keys touch each page of an index between two checkpoints, and each goes to the log whole once.
  checkpoint_timeout: "15min",
  max_wal_size: "4GB",
  wal_compression: "on",
  timezone: "UTC",
  log_timezone: "UTC",
  // Parameters of statements are people's data and secrets.
  log_parameter_max_length: "0",
  log_parameter_max_length_on_error: "0",
};

/** Loopback and passwords are what keeps other machines and other accounts out: nobody's settings. */
const invariants = {
  listen_addresses: "127.0.0.1",
  unix_socket_directories: "",
  password_encryption: "scram-sha-256",
  // Written where we look for it, in the language that we read.
  log_destination: "stderr",
  logging_collector: "off",
  lc_messages: "C",
};

async function openLog(file: string): Promise<FileHandle> {
  const size = await stat(file).then(
    (entry) => entry.size,
    () => 0,
  );
  if (size > 10 * 1024 * 1024) await rename(file, `${file}.1`);
  return open(file, "a+", 0o600);
}

async function textFrom(log: FileHandle, from: number): Promise<string> {
  const length = Math.min((await log.stat()).size - from, 64 * 1024);
  const { buffer, bytesRead } = await log.read(Buffer.alloc(length), 0, length, from);
  return buffer.toString("utf8", 0, bytesRead);
}
