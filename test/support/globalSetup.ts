import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { applyCurrent, migrate } from "../../src/db/migrate.ts";
import { prepareCluster } from "../../src/db/roles.ts";
import { type Cluster, startCluster } from "../../src/embedded/cluster.ts";
import { PASSWORDS, publishCluster, TEMPLATE } from "./cluster.ts";

declare global {
  var erpTestCluster: { cluster: Cluster; dataDir: string } | undefined;
}

/** One cluster for all test files, with a migrated template database that each of them clones. */
export default async function globalSetup() {
  const dataDir = await mkdtemp(join(tmpdir(), "erp-test-"));
  const cluster = await startCluster({
    dataDir,
    port: 5800,
    superuserPassword: "superuser_password",
    // Nothing here outlives a crash of the machine.
    settings: { fsync: "off", synchronous_commit: "off", full_page_writes: "off", max_connections: "200" },
  });
  globalThis.erpTestCluster = { cluster, dataDir };
  const url = (user: string, password: string, database = TEMPLATE) =>
    cluster.url({ user, password, database });
  const urls = {
    root: url("postgres", "superuser_password", "postgres"),
    owner: url("erp_user", PASSWORDS.owner),
    authenticator: url("erp_authenticator", PASSWORDS.authenticator),
    worker: url("erp_worker", PASSWORDS.worker),
  };
  await prepareCluster(urls.root, { databases: [TEMPLATE], passwords: PASSWORDS });
  await migrate(urls);
  // What a developer is about to commit is tested too.
  await applyCurrent(urls.owner);
  publishCluster(urls);
}
