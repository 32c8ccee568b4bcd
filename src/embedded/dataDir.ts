import { access, constants, mkdir, realpath, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { UserError } from "../config.ts";

/** Makes DATA_DIR where it is missing, proves that it can be written, and returns its one true path. */
export async function makeDataDir(dataDir: string): Promise<string> {
  try {
    await mkdir(dataDir, { recursive: true, mode: 0o700 });
    await access(dataDir, constants.R_OK | constants.W_OK | constants.X_OK);
    return await realpath(dataDir);
  } catch (error) {
    throw unusable(dataDir, error);
  }
}

export const clusterFolder = (dataDir: string): string => join(dataDir, "postgres");

const reasons: Record<string, string> = {
  EACCES: "this account may not write there",
  EPERM: "this account may not write there",
  EEXIST: "it is a file, not a folder",
  ENOTDIR: "it is a file or lies under one",
  EROFS: "it is on a read-only disk",
  ENOSPC: "its disk is full",
  EDQUOT: "its disk quota is used up",
};

/** The sentence for a file system's refusal; what is no such refusal stays itself. */
export function unusable(dataDir: string, error: unknown): unknown {
  const code = errorCode(error);
  if (error instanceof UserError || code === undefined) return error;
  const reason = reasons[code] ?? String(error);
  return new UserError(
    `DATA_DIR (${resolve(dataDir)}) cannot be used: ${reason}; set DATA_DIR=... to another folder or mend this one.`,
  );
}

/** Looks at the shape, not at the class: errors of Node's own modules come from another realm under Jest. */
export function errorCode(error: unknown): string | undefined {
  const code = typeof error === "object" && error !== null && "code" in error ? error.code : undefined;
  return typeof code === "string" ? code : undefined;
}

/** By device and inode: symbolic links and bind mounts give one folder many names. */
export async function sameFolder(one: string, other: string): Promise<boolean> {
  const [a, b] = await Promise.all([stat(one), stat(other)]);
  return a.dev === b.dev && a.ino === b.ino;
}
