import { setTimeout as wait } from "node:timers/promises";
import type pg from "pg";
import { z } from "zod";

const ATTEMPTS = 5;
const locked = z.tuple([z.object({ locked: z.boolean() })]);
const share = z.tuple([z.object({ share: z.number() })]);
const settled = z.tuple([z.object({ settled: z.number() })]);
const tenants = z.array(z.object({ id: z.string() }));

type Options = {
  signal?: AbortSignal | undefined;
  /** Ends after so many steps, though there may be more to do. */
  maxSteps?: number;
  /** Share of the tenant's events that is covered, 0 to 1. */
  onProgress?: (share: number) => void;
};

/** Tenants whose rollups lag behind their events, the longest waiting first. */
export async function tenantsToRollUp(pool: pg.Pool): Promise<string[]> {
  const { rows } = await pool.query("select id from app_hidden.tenants_to_roll_up() as id");
  return tenants.parse(rows).map(({ id }) => id);
}

/**
 * Brings a tenant's rollups up to its events, each step a transaction, so that it may be interrupted anywhere.
 * @returns false when somebody else is at it, or there may be more to do
 */
export async function rollUpTenant(pool: pg.Pool, tenantId: string, options: Options = {}): Promise<boolean> {
  const { signal, maxSteps = Number.POSITIVE_INFINITY, onProgress } = options;
  const client = await pool.connect();
  let broken: Error | undefined;
  // Of the session, and before `begin`: a snapshot taken while waiting would be an old one.
  const lock = "(hashtextextended('rollups ' || $1, 0))";
  try {
    const { rows } = await client.query(`select pg_try_advisory_lock${lock} as locked`, [tenantId]);
    if (!locked.parse(rows)[0].locked) return false;
    try {
      let [covered, clean] = [false, false];
      for (let step = 0; !(covered && clean) && step < maxSteps && !signal?.aborted; step++) {
        if (!covered) {
          const done = share.parse(
            await inSnapshot(client, "select app_hidden.extend_rollups($1) as share", tenantId),
          )[0].share;
          onProgress?.(done);
          covered = done >= 1;
        }
        clean =
          settled.parse(
            await inSnapshot(client, "select app_hidden.refresh_rollups($1) as settled", tenantId),
          )[0].settled === 0;
      }
      return covered && clean;
    } finally {
      await client.query(`select pg_advisory_unlock${lock}`, [tenantId]);
    }
  } catch (error) {
    broken = error instanceof Error ? error : new Error(String(error));
    throw error;
  } finally {
    client.release(broken);
  }
}

async function inSnapshot(client: pg.PoolClient, text: string, tenantId: string): Promise<unknown[]> {
  for (let attempt = 1; ; attempt++) {
    await client.query("begin isolation level repeatable read");
    try {
      const { rows } = await client.query(text, [tenantId]);
      await client.query("commit");
      return rows;
    } catch (error) {
      await client.query("rollback");
      const code = error instanceof Error && "code" in error ? error.code : undefined;
      if (attempt === ATTEMPTS || code !== "40001") throw error;
      await wait(Math.random() * 50 * 2 ** attempt);
    }
  }
}
