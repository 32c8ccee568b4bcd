import { mkdtemp, open, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../config.ts";
import { clusterFolder, errorCode, unusable } from "./dataDir.ts";
import { explain } from "./explain.ts";
import { give, giveFolder, type RunAs, spawnAs } from "./runAs.ts";

/** Makes the cluster of this DATA_DIR unless it is there; says whether it did. */
export async function initialise(options: {
  dataDir: string;
  runAs: RunAs;
  superuserPassword: string;
  mustExist: boolean;
  say: (sentence: string) => void;
}): Promise<boolean> {
  const { dataDir, runAs, superuserPassword, mustExist, say } = options;
  const { major } = runAs.binaries;
  await removeHalfMade(dataDir);
  const present = await versionOf(dataDir);
  if (present === major) return false;
  if (present)
    throw new UserError(
      `DATA_DIR holds a PostgreSQL ${present} cluster, but this program ships ${major}: set DATA_DIR=... to another folder than ${dataDir}, or move its data over with a dump made by PostgreSQL ${present}.`,
    );
  if (mustExist)
    throw new UserError(
      `${clusterFolder(dataDir)} is not there any more: bring it back, and PostgreSQL starts.`,
    );
  say(`Creating a PostgreSQL ${major} cluster in ${clusterFolder(dataDir)}.`);
  try {
    await create(dataDir, runAs, superuserPassword);
  } catch (error) {
    throw unusable(dataDir, error);
  } finally {
    await removeHalfMade(dataDir);
  }
  return true;
}

const half = "postgres.new-";

/**
 * A cluster is made under another name and renamed when it is whole, so that whatever has the name "postgres"
 * is never deleted. The name is new each time: an initdb that outlived its killed parent writes by path.
 */
async function create(dataDir: string, runAs: RunAs, password: string): Promise<void> {
  const folder = await mkdtemp(join(dataDir, half));
  const passwordFile = `${folder}.password`;
  await writeFile(passwordFile, `${password}\n`, { mode: 0o600, flag: "wx" });
  await giveFolder(runAs, dataDir, folder);
  await give(runAs, dataDir, passwordFile);
  await initdb(dataDir, runAs, [
    ...["-D", folder, "-U", "postgres", `--pwfile=${passwordFile}`, "--auth=scram-sha-256"],
    ...["-E", "UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"],
  ]);
  await rename(folder, clusterFolder(dataDir));
  const parent = await open(dataDir);
  await parent.sync().finally(() => parent.close());
}

async function initdb(dataDir: string, runAs: RunAs, args: string[]): Promise<void> {
  const child = spawnAs(runAs, join(runAs.binaries.native, "bin", "initdb"), args, {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve, reject) => {
    child.on("error", reject).on("close", (...ending) => resolve(ending));
  });
  if (code === 0) return;
  throw signal
    ? new UserError(`The making of the cluster was cut short by ${signal}: start again.`)
    : explain(output, dataDir);
}

/** An initdb that outlived its parent may still write there: what resists is left to the next start. */
async function removeHalfMade(dataDir: string): Promise<void> {
  for (const name of await readdir(dataDir))
    if (name.startsWith(half))
      await rm(join(dataDir, name), { recursive: true, force: true }).catch(() => {});
}

async function versionOf(dataDir: string): Promise<string | undefined> {
  const folder = clusterFolder(dataDir);
  try {
    return (await readFile(join(folder, "PG_VERSION"), "utf8")).trim();
  } catch (error) {
    if (errorCode(error) !== "ENOENT") throw unusable(folder, error);
  }
  const names = await readdir(folder).catch((error: unknown) => {
    if (errorCode(error) === "ENOENT") return [];
    throw unusable(folder, error);
  });
  if (names.length === 0) return undefined;
  throw new UserError(
    `${folder} is not a PostgreSQL cluster, and not empty: move it away or set DATA_DIR=... to another folder.`,
  );
}
