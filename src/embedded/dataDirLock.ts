import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { UserError } from "../config.ts";
import { errorCode, makeDataDir } from "./dataDir.ts";

const holderShape = z.object({ pid: z.number(), purpose: z.string(), since: z.string() });
export type Holder = z.output<typeof holderShape>;

// The lock is the kernel's lock on an empty SQLite file: it ends with its process however that ends, so that
// no pid is ever compared (pids return after a reboot, and other containers have the same ones), and two
// processes cannot both take over what a dead one left. The file stays: who deleted it would let a second in.
const lockFile = (dataDir: string) => join(dataDir, "lock");
const holderFile = (dataDir: string) => join(dataDir, "holder.json");

/** Keeps held locks from the garbage collector, which would close, and so release, them. */
const held = new Set<DatabaseSync>();

export async function holdDataDir(dataDir: string, purpose: string): Promise<{ release(): Promise<void> }> {
  const folder = await makeDataDir(dataDir);
  const lock = take(folder, "begin exclusive", 250);
  if (!lock) throw new UserError(await refusal(folder, dataDir));
  held.add(lock);
  const holder: Holder = { pid: process.pid, purpose, since: new Date().toISOString() };
  writeFileSync(holderFile(folder), JSON.stringify(holder), { mode: 0o600 });
  return {
    async release() {
      if (!held.delete(lock)) return;
      rmSync(holderFile(folder), { force: true });
      lock.close();
    },
  };
}

/** Who holds it now; asking neither makes nor takes anything. */
export async function dataDirHolder(dataDir: string): Promise<Holder | undefined> {
  const deadline = Date.now() + 1000;
  while (isHeld(dataDir)) {
    const holder = readHolder(dataDir);
    // A new holder has the lock for a moment before its name is there; until then a dead one's may be.
    if (holder && (isAlive(holder.pid) || Date.now() > deadline)) return holder;
    if (Date.now() > deadline) return { pid: 0, purpose: "a process without a name", since: "unknown" };
    await sleep(20);
  }
  return undefined;
}

async function refusal(folder: string, dataDir: string): Promise<string> {
  const holder = await dataDirHolder(folder);
  const who = holder ? `${holder.purpose} (process ${holder.pid}, since ${holder.since})` : "another process";
  return `DATA_DIR ${resolve(dataDir)} is in use by ${who}: stop it first or set DATA_DIR=... to another folder.`;
}

function isHeld(dataDir: string): boolean {
  if (!existsSync(lockFile(dataDir))) return false;
  const probe = take(dataDir, "select count(*) from sqlite_schema", 0);
  probe?.close();
  return !probe;
}

const busy = 5;

/** Undefined: somebody else has the lock. */
function take(dataDir: string, statement: string, timeout: number): DatabaseSync | undefined {
  const lock = open(dataDir, timeout);
  try {
    lock.exec(statement);
    return lock;
  } catch (error) {
    lock.close();
    if (typeof error === "object" && error && "errcode" in error && error.errcode === busy) return undefined;
    throw unlockable(dataDir, error);
  }
}

function open(dataDir: string, timeout: number): DatabaseSync {
  try {
    return new DatabaseSync(lockFile(dataDir), { timeout });
  } catch (error) {
    throw unlockable(dataDir, error);
  }
}

const unlockable = (dataDir: string, error: unknown) =>
  new UserError(`The file ${lockFile(dataDir)} cannot be locked: ${error}.`);

function readHolder(dataDir: string): Holder | undefined {
  try {
    return holderShape.parse(JSON.parse(readFileSync(holderFile(dataDir), "utf8")));
  } catch {
    return undefined;
  }
}

/** Only words the refusal; the lock itself does not depend on it. */
function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return errorCode(error) === "EPERM";
  }
}
