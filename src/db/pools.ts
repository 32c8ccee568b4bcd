import { Socket } from "node:net";
import pg from "pg";
import type { Logger } from "pino";
import { z } from "zod";

/** A connection that fails while idle is replaced by the pool; without a listener it would end the process. */
export function makePool(
  url: string,
  options: { name: string; max: number; log: Logger; pipeline?: boolean; patienceMs?: number },
): pg.Pool {
  const pool = new pg.Pool({
    connectionString: connectionString(url),
    max: options.max,
    application_name: `erp-analytics ${options.name}`,
    connectionTimeoutMillis: options.patienceMs ?? 2_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    ...(options.pipeline ? { pipeline: true } : {}),
  });
  const report = (error: Error) =>
    options.log.warn({ err: error, pool: options.name }, "lost a database connection");
  pool.on("error", report);
  pool.on("connect", (client) => client.on("error", report));
  return pool;
}

const withSocket = z.object({ connection: z.object({ stream: z.instanceof(Socket) }) });

/** Cuts a connection whose server no longer answers: what waits on it fails with `reason`, and the pool drops it. */
export function destroyConnection(client: pg.ClientBase, reason: Error): void {
  withSocket.parse(client).connection.stream.destroy(reason);
}

/** Drops `schema`, a parameter of other tools' URLs that neither PostgreSQL nor psql knows. */
export function connectionString(url: string): string {
  const parsed = new URL(url);
  parsed.searchParams.delete("schema");
  return parsed.href;
}

/** Runs `work` on a client of its own, outside any pool. */
export async function withClient<Result>(
  url: string,
  work: (client: pg.Client) => Promise<Result>,
): Promise<Result> {
  const client = new pg.Client({ connectionString: connectionString(url), connectionTimeoutMillis: 5_000 });
  client.on("error", () => {});
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** Runs `work` with the owner's login, on one connection, for what is done at a start or by a command. */
export async function withOwnerPool<Result>(
  url: string,
  log: Logger,
  work: (owner: pg.Pool) => Promise<Result>,
): Promise<Result> {
  const owner = makePool(url, { name: "owner", max: 1, log });
  try {
    return await work(owner);
  } finally {
    await owner.end();
  }
}

/**
 * Runs `work` in one transaction; rolls back when it throws. A client that could not roll back is thrown away.
 * @param options.begin how it begins, where that is not `begin`
 * @param options.deadlineMs when to give up on a server that no longer answers
 */
export async function withTransaction<Result>(
  pool: pg.Pool,
  work: (client: pg.PoolClient) => Promise<Result>,
  options: { begin?: string; deadlineMs?: number } = {},
): Promise<Result> {
  const client = await pool.connect();
  let broken: Error | undefined;
  const deadline = options.deadlineMs
    ? setTimeout(() => {
        const reason = new Error("The database did not answer in time.");
        destroyConnection(client, Object.assign(reason, { code: "ETIMEDOUT" }));
      }, options.deadlineMs).unref()
    : undefined;
  try {
    await client.query(options.begin ?? "begin");
    const result = await work(client);
    await client.query("commit");
    return result;
  } catch (error) {
    await client.query("rollback").catch((rollbackError: Error) => {
      broken = rollbackError;
    });
    throw error;
  } finally {
    clearTimeout(deadline);
    client.release(broken);
  }
}
