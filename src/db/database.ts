import { resolve } from "node:path";
import { type Config, UserError } from "../config.ts";
import { type Cluster, findCluster, startCluster } from "../embedded/cluster.ts";
import { holdDataDir } from "../embedded/dataDirLock.ts";
import { keepRunning } from "../embedded/keepRunning.ts";
import { loadSecrets, type Secrets } from "../secrets.ts";
import { isConnectionFailure } from "./failures.ts";
import { withClient } from "./pools.ts";
import { prepareCluster } from "./roles.ts";

/** One login each, by privilege: the owner migrates, the authenticator serves requests, the worker runs jobs. */
export type DatabaseUrls = {
  owner: string;
  authenticator: string;
  worker: string;
  /** For `db -- commit` and `db -- reset`. */
  shadow?: string | undefined;
  root?: string | undefined;
};
export type Database = {
  urls: DatabaseUrls;
  /** The server is the embedded one, so that its data is ours. */
  embedded: boolean;
  /** Stops what this process started. */
  close(): Promise<void>;
};

export const DATABASE_NAME = "erp_analytics";
const SHADOW_DATABASE_NAME = "erp_analytics_shadow";

/**
 * The database of `DATABASE_URL`, or the embedded one in `DATA_DIR`.
 * @param options.join use the embedded server of a process that holds `DATA_DIR`, instead of refusing
 */
export async function openDatabase(
  config: Config,
  options: { purpose: string; join?: boolean; say?: (sentence: string) => void },
): Promise<Database> {
  if (config.DATABASE_URL) return openGiven(config, config.DATABASE_URL);
  const dataDir = resolve(config.DATA_DIR);
  const running = options.join ? await findCluster(dataDir) : undefined;
  if (running) {
    const secrets = await loadSecrets(dataDir);
    const url = (login: Login) => localUrl(running.port, login);
    return { urls: urlsFor(secrets, url), embedded: true, close: async () => {} };
  }
  const lock = await holdDataDir(dataDir, options.purpose);
  let cluster: Pick<Cluster, "port" | "stop"> | undefined;
  try {
    const secrets = await loadSecrets(dataDir);
    const { superuserPassword } = secrets;
    const settings = { dataDir, superuserPassword, ...(options.say ? { say: options.say } : {}) };
    cluster = keepRunning(await startCluster({ ...settings, port: config.EMBEDDED_PG_PORT }), settings);
    const { port, stop } = cluster;
    const urls = urlsFor(secrets, (login) => localUrl(port, login));
    await prepareCluster(urls.root, {
      databases: [DATABASE_NAME, SHADOW_DATABASE_NAME],
      passwords: {
        owner: "dev_password",
        authenticator: secrets.authenticatorPassword,
        worker: secrets.workerPassword,
      },
    });
    return {
      urls,
      embedded: true,
      async close() {
        await stop();
        await lock.release();
      },
    };
  } catch (error) {
    await cluster?.stop();
    await lock.release();
    throw error;
  }
}

/** The logins of a server that is not ours. Outside production, those that are not set are the owner's with another user. */
export function givenUrls(config: Config, owner: string): DatabaseUrls {
  const login = (user: string) => {
    if (config.NODE_ENV === "production") return undefined;
    const url = new URL(owner);
    url.username = user;
    return url.href;
  };
  const authenticator = config.AUTHENTICATOR_DATABASE_URL ?? login("erp_authenticator");
  const worker = config.WORKER_DATABASE_URL ?? login("erp_worker");
  if (!authenticator || !worker)
    throw new UserError(
      "In production, set AUTHENTICATOR_DATABASE_URL and WORKER_DATABASE_URL beside DATABASE_URL.",
    );
  return { owner, authenticator, worker, shadow: config.SHADOW_DATABASE_URL, root: config.ROOT_DATABASE_URL };
}

async function openGiven(config: Config, owner: string): Promise<Database> {
  const urls = givenUrls(config, owner);
  await assertReachable("DATABASE_URL", urls.owner);
  await assertReachable("AUTHENTICATOR_DATABASE_URL", urls.authenticator);
  await assertReachable("WORKER_DATABASE_URL", urls.worker);
  return { urls, embedded: false, close: async () => {} };
}

async function assertReachable(name: string, url: string) {
  const { host, username, pathname } = new URL(url);
  try {
    await withClient(url, async (client) => {
      const { rows } = await client.query("show server_version_num");
      const version = Math.floor(Number(rows[0]?.server_version_num) / 10_000);
      if (version < 18)
        throw new UserError(`${name} is PostgreSQL ${version} at ${host}; version 18 or newer is needed.`);
    });
  } catch (error) {
    if (error instanceof UserError || !(error instanceof Error)) throw error;
    const code = "code" in error ? String(error.code) : "";
    if (code === "28P01" || code === "28000")
      throw new UserError(
        `The server at ${host} refused ${username} (${name}): wrong password, or no such role. \`npm run db:bootstrap\` makes the roles.`,
      );
    if (code === "3D000")
      throw new UserError(
        `The server at ${host} has no database "${pathname.slice(1)}" (${name}). \`npm run db:bootstrap\` makes it.`,
      );
    if (isConnectionFailure(error) || code)
      throw new UserError(`Cannot reach the database at ${host} (${name}): ${error.message || code}.`);
    throw error;
  }
}

type Login = { user: string; password: string; database: string };
const localUrl = (port: number, { user, password, database }: Login) =>
  `postgresql://${user}:${encodeURIComponent(password)}@127.0.0.1:${port}/${database}`;

function urlsFor(secrets: Secrets, url: (login: Login) => string) {
  return {
    owner: url({ user: "erp_user", password: "dev_password", database: DATABASE_NAME }),
    authenticator: url({
      user: "erp_authenticator",
      password: secrets.authenticatorPassword,
      database: DATABASE_NAME,
    }),
    worker: url({ user: "erp_worker", password: secrets.workerPassword, database: DATABASE_NAME }),
    shadow: url({ user: "erp_user", password: "dev_password", database: SHADOW_DATABASE_NAME }),
    root: url({ user: "postgres", password: secrets.superuserPassword, database: "postgres" }),
  };
}
