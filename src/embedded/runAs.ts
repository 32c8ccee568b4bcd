import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, lchown, lstat, readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../config.ts";
import { type Binaries, serverEnvironment } from "./binaries.ts";
import { sharedBinaries } from "./sharedBinaries.ts";

/** PostgreSQL refuses to run as root: who it runs as, from which binaries. */
export type RunAs = {
  readonly binaries: Binaries;
  /** Put before each command. */
  readonly prefix: readonly string[];
  /** Who must own the cluster's files, where that is not simply us. */
  readonly owner?: Account;
  /** Set where the process changes to the owner's account. */
  readonly switches?: true;
};
export type Account = { readonly uid: number; readonly gid: number };
export type ChooseRunAs = (binaries: Binaries) => Promise<RunAs>;

export const chooseRunAs: ChooseRunAs = async (binaries) =>
  process.getuid?.() === 0
    ? ((await inUserNamespace(binaries)) ?? (await asAccount(binaries)))
    : asOurselves(binaries);

export const asOurselves = (binaries: Binaries): RunAs => ({ binaries, prefix: [] });

/**
 * Root by another name: the files stay root's and may lie where only root may go, yet the process sees another
 * uid and loses root's rights. The unshare program replaces itself, so that the pid is PostgreSQL's. Undefined
 * where user namespaces are forbidden.
 */
export async function inUserNamespace(binaries: Binaries): Promise<RunAs | undefined> {
  const prefix = ["unshare", "--user", "--map-user=1000", "--map-group=1000"];
  const runAs: RunAs = { binaries, prefix, owner: { uid: 0, gid: 0 } };
  return (await succeeds(runAs, join(binaries.native, "bin", "postgres"), ["--version"])) ? runAs : undefined;
}

/** The way out without namespaces: another account, which needs binaries that it can reach. */
export async function asAccount(binaries: Binaries, place?: string): Promise<RunAs> {
  const shared = await sharedBinaries(binaries, place);
  return { binaries: shared, prefix: [], owner: await unprivilegedAccount(), switches: true };
}

async function unprivilegedAccount(): Promise<Account> {
  const accounts = (await readFile("/etc/passwd", "utf8")).split("\n").map((line) => line.split(":"));
  for (const wanted of ["postgres", "nobody"])
    for (const [name, , uid, gid] of accounts)
      if (name === wanted && Number(uid) > 0 && Number(gid) > 0)
        return { uid: Number(uid), gid: Number(gid) };
  throw new UserError(
    "PostgreSQL refuses to run as root, and this machine has neither user namespaces nor an account postgres or nobody: start as an ordinary user.",
  );
}

export function spawnAs(runAs: RunAs, file: string, args: string[], options: SpawnOptions): ChildProcess {
  const [command = file, ...rest] = [...runAs.prefix, file, ...args];
  const account = runAs.switches && runAs.owner ? runAs.owner : {};
  // "/": another account may not be able to enter the folder that we were started in.
  return spawn(command, rest, { cwd: "/", env: serverEnvironment, ...options, ...account });
}

async function succeeds(runAs: RunAs, file: string, args: string[]): Promise<boolean> {
  const child = spawnAs(runAs, file, args, { stdio: "ignore" });
  return once(child, "exit").then(
    ([code]) => code === 0,
    () => false,
  );
}

/** Lets the server reach `folder`, inside DATA_DIR, as its own. */
export async function giveFolder(runAs: RunAs, dataDir: string, folder: string): Promise<void> {
  if (!runAs.owner) return;
  // Others may pass through DATA_DIR then, not list it; what lies in it is closed by its own mode.
  if (runAs.switches && !(await canEnter(runAs, dataDir)))
    await chmod(dataDir, ((await stat(dataDir)).mode & 0o777) | 0o011);
  if (!(await canEnter(runAs, dataDir)))
    throw new UserError(
      `PostgreSQL, which gives up root's rights, cannot reach DATA_DIR (${dataDir}): set DATA_DIR=... to a folder below ones that everybody may enter, such as /var/lib/erp-analytics, or start as an ordinary user, without sudo.`,
    );
  await give(runAs, dataDir, folder);
}

const canEnter = (runAs: RunAs, folder: string) =>
  succeeds(runAs, "/bin/sh", ["-c", 'cd "$1"', "sh", folder]);

/** What is not root's in a DATA_DIR of root's was given by an earlier start; in somebody's own it is theirs. */
export async function give({ owner }: RunAs, dataDir: string, path: string): Promise<void> {
  const { uid } = await lstat(path);
  if (!owner || uid === owner.uid) return;
  if (uid !== 0 && (await stat(dataDir)).uid !== 0)
    throw new UserError(
      `${path} belongs to another account (uid ${uid}): start as that account, without sudo.`,
    );
  await giveTree(path, owner);
}

/** The folder itself comes last: its owner says that all below it was given. */
async function giveTree(path: string, owner: Account): Promise<void> {
  if ((await lstat(path)).isDirectory())
    for (const name of await readdir(path)) await giveTree(join(path, name), owner);
  await lchown(path, owner.uid, owner.gid);
}
