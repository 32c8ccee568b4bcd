import { z } from "zod";
import type { DatabaseUrls } from "../../src/db/database.ts";
import { databaseUrl } from "../../src/db/roles.ts";

/** How test files reach the cluster that globalSetup started: through the environment of jest's workers. */
const cluster = z.object({
  root: z.string(),
  owner: z.string(),
  authenticator: z.string(),
  worker: z.string(),
});
export type TestCluster = z.output<typeof cluster>;

export const TEMPLATE = "erp_template";

export const publishCluster = (urls: TestCluster) => {
  process.env.ERP_TEST_URLS = JSON.stringify(urls);
};
export const testCluster = (): TestCluster => cluster.parse(JSON.parse(process.env.ERP_TEST_URLS ?? "{}"));

export function urlsOf(database: string): DatabaseUrls & { root: string } {
  const { root, owner, authenticator, worker } = testCluster();
  return {
    root: databaseUrl(root, database),
    owner: databaseUrl(owner, database),
    authenticator: databaseUrl(authenticator, database),
    worker: databaseUrl(worker, database),
  };
}
