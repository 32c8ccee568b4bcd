import {
  chmod,
  copyFile,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readlink,
  rename,
  rm,
  symlink,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { UserError } from "../config.ts";
import type { Binaries } from "./binaries.ts";
import { errorCode } from "./dataDir.ts";

/**
 * A copy of the binaries that every account can reach and only root can have written. Threat: whoever makes
 * the folder first, or can change it later, would choose the program that runs on our data.
 */
export async function sharedBinaries(binaries: Binaries, place = tmpdir()): Promise<Binaries> {
  await trustPlace(place);
  const native = join(place, `erp-analytics-postgres-${binaries.version}`);
  if (await isPresent(native)) {
    await trustFolder(native);
    if (await isSame(binaries.native, native)) return { ...binaries, native };
    await rm(native, { recursive: true, maxRetries: 3 });
  }
  // Copied under a name that nobody can guess, then renamed: a copy that was cut short is never found.
  const copy = await mkdtemp(`${native}-`);
  try {
    await copyTree(binaries.native, copy);
    await rename(copy, native);
  } finally {
    await rm(copy, { recursive: true, force: true });
  }
  await trustFolder(native);
  return { ...binaries, native };
}

/** In a folder that others may write, only the sticky bit keeps them from putting theirs in place of ours. */
async function trustPlace(place: string): Promise<void> {
  for (let folder = place; ; folder = dirname(folder)) {
    const { uid, mode } = await lstat(folder);
    if (uid !== 0 || ((mode & 0o022) !== 0 && (mode & 0o1000) === 0)) throw untrusted(folder);
    if (folder === dirname(folder)) return;
  }
}

async function trustFolder(folder: string): Promise<void> {
  const entry = await lstat(folder);
  const writable = !entry.isSymbolicLink() && (entry.mode & 0o022) !== 0;
  if (entry.uid !== 0 || writable) throw untrusted(folder);
  if (entry.isDirectory()) for (const name of await readdir(folder)) await trustFolder(join(folder, name));
}

const untrusted = (path: string) =>
  new UserError(
    `${path} must belong to root and be writable by nobody else, for PostgreSQL's binaries to be copied there: mend or remove it, or start as an ordinary user.`,
  );

async function isPresent(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (errorCode(error) === "ENOENT") return false;
    throw error;
  }
}

/** Names, kinds and sizes: enough against cleaners of temporary folders, as only root can write it. */
async function isSame(one: string, other: string): Promise<boolean> {
  if (!(await isPresent(other))) return false;
  const [a, b] = await Promise.all([lstat(one), lstat(other)]);
  if (a.isSymbolicLink()) return b.isSymbolicLink() && (await readlink(one)) === (await readlink(other));
  if (a.isFile()) return b.isFile() && a.size === b.size;
  if (!b.isDirectory()) return false;
  for (const name of await readdir(one))
    if (!(await isSame(join(one, name), join(other, name)))) return false;
  return true;
}

async function copyTree(from: string, to: string): Promise<void> {
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isSymbolicLink()) await symlink(await readlink(source), target);
    else if (entry.isDirectory()) {
      await mkdir(target);
      await copyTree(source, target);
    } else {
      await copyFile(source, target);
      await chmod(target, (await lstat(source)).mode & 0o111 ? 0o755 : 0o644);
    }
  }
  // Last, so that the whole copy is closed to others until it is complete.
  await chmod(to, 0o755);
}
