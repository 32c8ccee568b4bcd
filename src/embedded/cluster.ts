import { realpath } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { UserError } from "../config.ts";
import { answersFor } from "./answersFor.ts";
import { findBinaries } from "./binaries.ts";
import { clusterFolder, makeDataDir } from "./dataDir.ts";
import { initialise } from "./initialise.ts";
import { launch } from "./launch.ts";
import { awaitLive, disown, findPostmaster, type Postmaster, stopPostmaster } from "./postmaster.ts";
import { type ChooseRunAs, chooseRunAs, giveFolder } from "./runAs.ts";

export type Cluster = {
  /** On 127.0.0.1 only. */
  readonly port: number;
  /** The cluster was made by this call. */
  readonly created: boolean;
  /** The server was running already, left by a program that was killed; its settings are its old ones. */
  readonly adopted: boolean;
  url(options: { user: string; password: string; database: string }): string;
  /** A fast shutdown, also of an adopted server; resolves when the server has exited. */
  stop(): Promise<void>;
};

export type ClusterOptions = {
  dataDir: string;
  /** If somebody else has it, the next free one is used; 0 is any. */
  port: number;
  superuserPassword: string;
  settings?: Record<string, string>;
  /** Refuses to make a cluster where there is none. */
  mustExist?: boolean;
  say?: (sentence: string) => void;
};

/** Starts or adopts the PostgreSQL of this DATA_DIR. The caller holds DATA_DIR (holdDataDir). */
export async function startCluster(
  options: ClusterOptions,
  choose: ChooseRunAs = chooseRunAs,
): Promise<Cluster> {
  const { port, superuserPassword, settings = {}, mustExist = false, say = () => {} } = options;
  const dataDir = await makeDataDir(options.dataDir);
  const folder = clusterFolder(dataDir);

  const running = await adopt(folder, superuserPassword, say);
  if (running) {
    say(`PostgreSQL was left running on port ${running.port} (process ${running.pid}): it is used.`);
    return cluster(running, { created: false, adopted: true });
  }
  const runAs = await choose(await findBinaries());
  const created = await initialise({ dataDir, runAs, superuserPassword, mustExist, say });
  await giveFolder(runAs, dataDir, folder);
  const found = await findPostmaster(folder);
  if (found?.verdict === "stale") await disown(folder, found.file);
  const postmaster = await launch({ dataDir, runAs, port, settings, say });
  try {
    if (!(await answersFor(folder, postmaster.port, superuserPassword)))
      throw new UserError("PostgreSQL was stopped again while it started: start again.");
  } catch (error) {
    await stopPostmaster(postmaster);
    throw error;
  }
  return cluster(postmaster, { created, adopted: false });
}

/** A postmaster of exactly this DATA_DIR that takes connections. */
export async function findCluster(dataDir: string): Promise<{ port: number; pid: number } | undefined> {
  const folder = await realpath(clusterFolder(dataDir)).catch(() => undefined);
  const found = folder ? await findPostmaster(folder) : undefined;
  if (found?.verdict !== "ours" || found.status !== "ready" || !found.port) return undefined;
  return { port: found.port, pid: found.pid };
}

/** Whether no postmaster of exactly this DATA_DIR is left; false where it cannot be told. */
export async function hasEnded(dataDir: string): Promise<boolean> {
  try {
    const found = await findPostmaster(await realpath(clusterFolder(dataDir)));
    return found === undefined || found.verdict === "stale";
  } catch {
    // The folder is away, or no file can be opened for a moment.
    return false;
  }
}

/** Waits out a server that is still starting or stopping. */
async function adopt(folder: string, password: string, say: (sentence: string) => void) {
  const told = setTimeout(
    say,
    3000,
    "A PostgreSQL of this DATA_DIR is still starting or stopping: waiting for it.",
  );
  try {
    for (const deadline = Date.now() + 60_000; ; await sleep(20)) {
      const live = await awaitLive(folder);
      if (!live || (await answersFor(folder, live.port, password))) return live;
      if (Date.now() > deadline)
        throw new UserError(
          `PostgreSQL (process ${live.pid}) of ${folder} runs, but does not answer on port ${live.port}: stop that process first.`,
        );
    }
  } finally {
    clearTimeout(told);
  }
}

function cluster(postmaster: Postmaster, origin: { created: boolean; adopted: boolean }): Cluster {
  const { port } = postmaster;
  let stopped: Promise<void> | undefined;
  return {
    port,
    ...origin,
    url({ user, password, database }) {
      const [name, secret, path] = [user, password, database].map(encodeURIComponent);
      return `postgresql://${name}:${secret}@127.0.0.1:${port}/${path}`;
    },
    stop() {
      stopped ??= stopPostmaster(postmaster);
      return stopped;
    },
  };
}
