import {
  makeMigratedDatabase,
  startTemporaryCluster,
  type TemporaryCluster,
} from "../../scripts/support/temporaryCluster.ts";
import { withClient } from "../../src/db/pools.ts";
import { publishCluster, TEMPLATE } from "./cluster.ts";
import { makeRunFolder } from "./runFolder.ts";

declare global {
  var erpTestCluster: TemporaryCluster | undefined;
  /** Some table or log holds a secret. */
  var erpTestsLeak: boolean | undefined;
}

/**
 * One cluster for all test files, with a database that each of them clones. It has what a developer is about to commit,
 * too: that is tested before it is frozen.
 */
export default async function globalSetup() {
  await makeRunFolder();
  const cluster = await startTemporaryCluster({ shared_buffers: "128MB" });
  globalThis.erpTestCluster = cluster;
  const urls = await makeMigratedDatabase(cluster, TEMPLATE);
  // Tests write events of fixed days, which some day are older than any plan keeps.
  await withClient(urls.owner, (client) =>
    client.query("update app_private.plans set retention_days = null"),
  );
  publishCluster({ root: cluster.url("postgres", "postgres"), ...urls });
}
