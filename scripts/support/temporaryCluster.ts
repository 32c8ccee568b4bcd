import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { applyCurrent, migrate } from "../../src/db/migrate.ts";
import { prepareCluster } from "../../src/db/roles.ts";
import { type Cluster, startCluster } from "../../src/embedded/cluster.ts";

const SUPERUSER_PASSWORD = "superuser_password";
const PASSWORDS = { owner: "dev_password", authenticator: "dev_password", worker: "dev_password" };

export type TemporaryCluster = Pick<Cluster, "port"> & {
  /** The URL of a login; for the superuser `postgres`, its password is known. */
  url(user: string, database: string): string;
  /** What the server logs. */
  logFile: string;
  remove(): Promise<void>;
};

/** A PostgreSQL of its own, without roles or databases of ours, for a script or a test. */
export async function startTemporaryCluster(
  settings: Record<string, string> = {},
): Promise<TemporaryCluster> {
  const dataDir = await mkdtemp(join(tmpdir(), "erp-temporary-"));
  const erase = () => rm(dataDir, { recursive: true, force: true });
  try {
    const cluster = await startCluster({
      dataDir,
      port: 0,
      superuserPassword: SUPERUSER_PASSWORD,
      // Nothing here outlives a crash of the machine.
      settings: {
        fsync: "off",
        synchronous_commit: "off",
        full_page_writes: "off",
        max_connections: "200",
        ...settings,
      },
    });
    return {
      port: cluster.port,
      url: (user, database) =>
        cluster.url({ user, database, password: user === "postgres" ? SUPERUSER_PASSWORD : "dev_password" }),
      logFile: join(dataDir, "postgres.log"),
      async remove() {
        await cluster.stop();
        await erase();
      },
    };
  } catch (error) {
    await erase();
    throw error;
  }
}

/** The logins of a database with everything in it that the migrations make, the current one included. */
export async function makeMigratedDatabase(cluster: TemporaryCluster, database = "erp_analytics") {
  await prepareCluster(cluster.url("postgres", "postgres"), { databases: [database], passwords: PASSWORDS });
  const urls = {
    owner: cluster.url("erp_user", database),
    authenticator: cluster.url("erp_authenticator", database),
    worker: cluster.url("erp_worker", database),
  };
  await migrate(urls);
  await applyCurrent(urls.owner);
  return urls;
}
