import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import pg from "pg";
import type { DatabaseUrls } from "../../src/db/database.ts";
import { makePool, withClient } from "../../src/db/pools.ts";
import { paths } from "../../src/paths.ts";
import { TEMPLATE, testCluster, urlsOf } from "./cluster.ts";
import { makeSuiteLog } from "./runFolder.ts";
import { SecretSearch } from "./secretSearch.ts";

/** Shows nothing; what it is given is kept and searched for secrets in the end. */
export const silent = makeSuiteLog();

export type TestDatabase = {
  urls: DatabaseUrls & { root: string };
  /** The owner's, for arranging and for proving that a row exists. */
  owner: pg.Pool;
  /** What requests use: no rights of its own. */
  authenticator: pg.Pool;
  worker: pg.Pool;
  drop(): Promise<void>;
};

/** A clone of the migrated template, for one test file. */
export async function createTestDatabase(): Promise<TestDatabase> {
  const name = `t_${randomUUID().slice(0, 8)}`;
  const { root } = testCluster();
  await withClient(root, (client) =>
    client.query(`create database ${name} template ${TEMPLATE} strategy file_copy`),
  );
  const urls = urlsOf(name);
  // A database's own grants are not cloned.
  const rolesSql = await readFile(paths.rolesSql, "utf8");
  await withClient(urls.root, (client) => client.query(rolesSql));
  const pool = (url: string, pipeline = false) =>
    // Patient: on a busy machine, a connection may take longer than a client should wait.
    makePool(url, { name: "test", max: 10, log: silent, pipeline, patienceMs: 20_000 });
  const [owner, authenticator, worker] = [
    pool(urls.owner),
    pool(urls.authenticator, true),
    pool(urls.worker),
  ];
  return {
    urls,
    owner,
    authenticator,
    worker,
    async drop() {
      await Promise.all([owner.end(), authenticator.end(), worker.end()]);
      const search = new SecretSearch();
      await search.database(urls.root);
      await withClient(root, (client) =>
        client.query(`drop database ${pg.escapeIdentifier(name)} with (force)`),
      );
      search.report();
    },
  };
}
