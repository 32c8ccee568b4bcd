import type pg from "pg";
import { withTransaction } from "../db/pools.ts";

/** Runs `work` in one transaction of one tenant, as role api_job: row security binds jobs too. */
export function withTenant<Result>(
  pool: pg.Pool,
  tenantId: string,
  task: string,
  work: (client: pg.PoolClient) => Promise<Result>,
): Promise<Result> {
  return withTransaction(pool, async (client) => {
    await client.query("select app_hidden.begin_job($1, $2)", [tenantId, task]);
    return work(client);
  });
}
