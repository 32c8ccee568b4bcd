import { execFile } from "node:child_process";
import { readdir, readFile, readlink } from "node:fs/promises";
import { basename } from "node:path";
import { promisify } from "node:util";
import { errorCode } from "./dataDir.ts";

const run = promisify(execFile);

export type Running = {
  /** With the pid, names one process for ever: pids are used again. */
  readonly started: string;
  /** The base name of its program. */
  readonly program: string;
  readonly args: readonly string[];
};

/** "gone" is proof; "hidden" means that somebody's process has the pid and we may not see whose. */
export async function lookAt(pid: number): Promise<Running | "gone" | "hidden"> {
  if (!Number.isSafeInteger(pid) || pid <= 1) return "gone";
  try {
    return process.platform === "linux" ? await lookInProc(pid) : await askPs(pid);
  } catch {
    return exists(pid) ? "hidden" : "gone";
  }
}

function exists(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return errorCode(error) !== "ESRCH";
  }
}

async function lookInProc(pid: number): Promise<Running | "gone"> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  // The program's name, in parentheses, may hold anything; the state is the first field after it.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  // A zombie answers signals as if it lived, and in a container without an init it stays for ever.
  if (fields[0] === "Z" || fields[0] === "X") return "gone";
  const args = (await readFile(`/proc/${pid}/cmdline`, "utf8")).split("\0").slice(0, -1);
  return { started: fields[19] ?? "", program: basename(args[0] ?? ""), args };
}

async function askPs(pid: number): Promise<Running | "gone"> {
  const field = async (name: string) =>
    (await run("ps", ["-o", `${name}=`, "-p", String(pid)])).stdout.trim();
  if ((await field("stat")).startsWith("Z")) return "gone";
  return { started: await field("lstart"), program: basename(await field("comm")), args: [] };
}

/** The folder that a process works in; undefined where we may not know. */
export async function workingFolder(pid: number): Promise<string | undefined> {
  try {
    if (process.platform === "linux") return await readlink(`/proc/${pid}/cwd`);
    const { stdout } = await run("lsof", ["-a", "-p", String(pid), "-d", "cwd", "-Fn"]);
    return /^n(.+)$/m.exec(stdout)?.[1];
  } catch {
    return undefined;
  }
}

/** The processes that work in a folder, as far as we may know; none where there is no /proc. */
export async function workingIn(folder: string): Promise<number[]> {
  if (process.platform !== "linux") return [];
  const pids = (await readdir("/proc")).map(Number).filter((pid) => pid > 1);
  const folders = await Promise.all(pids.map(workingFolder));
  return pids.filter((_, index) => folders[index] === folder);
}
