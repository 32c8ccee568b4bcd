import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { errorCode, sameFolder, unusable } from "./dataDir.ts";
import { lookAt, type Running, workingFolder, workingIn } from "./processes.ts";

/** What PostgreSQL writes to postmaster.pid; port and status come a moment after the pid. */
export type PidFile = { pid: number; port: number | undefined; status: string; lines: string[] };

export type Postmaster = { pid: number; started: string; port: number };

export type Found =
  | { verdict: "ours"; pid: number; started: string; port: number | undefined; status: string }
  | { verdict: "stale" | "unknown"; file: PidFile };

const pidFile = (folder: string) => join(folder, "postmaster.pid");

export async function readPidFile(folder: string): Promise<PidFile | undefined> {
  try {
    const lines = (await readFile(pidFile(folder), "utf8")).split("\n");
    return {
      pid: Number.parseInt(lines[0] ?? "", 10) || 0,
      port: Number.parseInt(lines[3] ?? "", 10) || undefined,
      status: (lines[7] ?? "").trim(),
      lines,
    };
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes(errorCode(error) ?? "")) return undefined;
    throw unusable(folder, error);
  }
}

/** "ours" is proof that the process is the postmaster of this folder, "stale" that it is not. */
export async function findPostmaster(folder: string): Promise<Found | undefined> {
  const file = await readPidFile(folder);
  if (!file) return undefined;
  const running = await lookAt(file.pid);
  if (running === "hidden") return { verdict: "unknown", file };
  if (running === "gone") return { verdict: "stale", file };
  const mine = await servesFolder(file.pid, running, folder);
  if (mine === undefined) return { verdict: "unknown", file };
  if (!mine) return { verdict: "stale", file };
  return { verdict: "ours", pid: file.pid, started: running.started, port: file.port, status: file.status };
}

/** Undefined where it cannot be told. Backends have other titles ("postgres: checkpointer"). */
async function servesFolder(pid: number, running: Running, folder: string): Promise<boolean | undefined> {
  if (!["postgres", "postmaster"].includes(running.program)) return false;
  if (running.args[running.args.indexOf("-D") + 1] === folder && running.args.includes("-D")) return true;
  const cwd = await workingFolder(pid);
  return cwd === undefined ? undefined : sameFolder(cwd, folder).catch(() => undefined);
}

/**
 * Stops a stale postmaster.pid from blocking a start: PostgreSQL refuses when any process of this account has
 * the pid, except its own parent, which is us. The rest stays, because by the shared memory key in it
 * PostgreSQL finds backends that outlived a killed postmaster and still write.
 * The status line goes, so that a new postmaster that got the same pid is not called ready by an old file.
 */
export async function disown(folder: string, stale: PidFile): Promise<void> {
  const lines = [String(process.pid), ...stale.lines.slice(1, 7)];
  await writeFile(pidFile(folder), `${lines.join("\n")}\n`);
}

/** Waits until a live postmaster takes connections; undefined once there is none. */
export async function awaitLive(folder: string): Promise<Postmaster | undefined> {
  for (;;) {
    const found = await findPostmaster(folder);
    if (found?.verdict !== "ours") return undefined;
    const { pid, started, port, status } = found;
    if (status === "ready" && port) return { pid, started, port };
    await sleep(20);
  }
}

/** Signals only the very process that was proven to be the postmaster, and awaits its exit. */
export async function stopPostmaster({ pid, started }: Postmaster, patience = 20_000): Promise<void> {
  for (const signal of ["SIGINT", "SIGQUIT"] as const) {
    if (!(await isRunning(pid, started))) return;
    process.kill(pid, signal);
    const deadline = Date.now() + patience;
    while ((await isRunning(pid, started)) && Date.now() < deadline) await sleep(20);
  }
  if (await isRunning(pid, started)) throw new Error(`PostgreSQL (process ${pid}) does not stop`);
}

/** Asks backends that outlived a killed postmaster, in the middle of a long statement, to give up: nobody waits for it. */
export async function endLeftovers(folder: string): Promise<void> {
  for (const pid of await workingIn(folder)) {
    const running = await lookAt(pid);
    if (typeof running === "object" && running.args[0]?.startsWith("postgres: "))
      process.kill(pid, "SIGTERM");
  }
}

async function isRunning(pid: number, started: string): Promise<boolean> {
  const running = await lookAt(pid);
  return running !== "gone" && running !== "hidden" && running.started === started;
}
