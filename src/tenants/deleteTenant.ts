import { setTimeout as wait } from "node:timers/promises";
import pg from "pg";
import { z } from "zod";
import { UserError } from "../config.ts";
import { withTransaction } from "../db/pools.ts";

const BATCH = 1_000;
/** Nearly all of them go with the events. */
const WITH_EVENTS = new Set(["app_private.event_keys", "app_hidden.event_marks"]);
const counted = z.tuple([z.object({ count: z.coerce.number() })]);
const named = z.object({ name: z.string() }).array();

type Options = {
  signal?: AbortSignal | undefined;
  onProgress?: (deleted: number, total: number, table: string) => void;
  /** Rows at a time. */
  batch?: number;
};
/** Of some table, so many rows at a time. */
type Stretch = { table: string; sql: string };

/**
 * Deletes a tenant: shuts it, destroys its keys and secrets, then deletes its rows a stretch at a time, pausing as long as each
 * took, so that other tenants hardly notice. There is no way back; whatever interrupts it, the same call goes on.
 * @returns false when it was interrupted
 */
export async function deleteTenant(
  owner: pg.Pool,
  tenantId: string,
  { signal, onProgress, batch = BATCH }: Options = {},
): Promise<boolean> {
  await shut(owner, tenantId);
  return withTenantLocked(owner, tenantId, signal, async () => {
    await destroyKeys(owner, tenantId);
    const stretches = await stretchesOf(owner);
    let total = 0;
    for (const { table } of stretches)
      if (!WITH_EVENTS.has(table)) total += await count(owner, table, tenantId);
    let deleted = 0;
    for (const { table, sql } of stretches)
      for (let rows = 1; rows > 0; ) {
        if (signal?.aborted) return false;
        const started = performance.now();
        rows = await deleteStretch(owner, tenantId, table, sql, batch);
        deleted += rows;
        onProgress?.(deleted, Math.max(total, deleted), table);
        if (rows > 0) await wait(performance.now() - started);
      }
    await finish(owner, tenantId);
    return true;
  });
}

/** From here on it is being deleted: nobody signs in, syncs, sends or opens it again. */
const shut = (owner: pg.Pool, tenantId: string) =>
  withTransaction(owner, async (client) => {
    const { rows } = await client.query("select slug from public.tenants where id = $1 for update", [
      tenantId,
    ]);
    const slug: unknown = rows[0]?.slug;
    if (slug === undefined) throw new UserError(`There is no tenant ${tenantId}.`);
    if (slug === "platform")
      throw new UserError("platform is the operator's own tenant, without which nobody can run the others.");
    const begun = await client.query(
      "insert into app_private.tenant_deletions (tenant_id) values ($1) on conflict do nothing",
      [tenantId],
    );
    if (begun.rowCount === 0) return;
    await client.query("update public.tenants set status = 'CANCELLED' where id = $1", [tenantId]);
    await record(client, tenantId, "tenant.deletion_started", {});
  });

/** A transaction of its own: whatever becomes of the rest, what was sealed opens no more. */
const destroyKeys = (owner: pg.Pool, tenantId: string) =>
  withTransaction(owner, async (client) => {
    // Waits for whoever began before the tenant was shut, and refers to it.
    await client.query("select from public.tenants where id = $1 for update", [tenantId]);
    const gone: Record<string, number | null> = {};
    for (const table of [
      ...["integration_credentials", "retired_credentials", "tenant_keys"],
      ...["api_key_secrets", "user_passwords", "refresh_tokens", "one_time_tokens"],
    ])
      gone[table] = (
        await client.query(`delete from app_private.${table} where tenant_id = $1`, [tenantId])
      ).rowCount;
    const { rowCount } = await client.query(
      `update app_private.tenant_deletions set keys_destroyed_at = clock_timestamp()
        where tenant_id = $1 and keys_destroyed_at is null`,
      [tenantId],
    );
    if (rowCount === 1) await record(client, tenantId, "tenant.keys_destroyed", { before: gone });
  });

/**
 * Events first, the audit log last, for what goes leaves its marks there; between them every table of tenants to which no other refers,
 * whoever added it. What is left is little, and goes with the tenant's own row.
 */
async function stretchesOf(owner: pg.Pool): Promise<Stretch[]> {
  const { rows } = await owner.query(`
    select c.oid::regclass::text as name
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
      join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
     where n.nspname in ('public', 'app_hidden', 'app_private') and c.relkind = 'r' and not c.relispartition
       and c.oid <> 'app_private.tenant_deletions'::regclass
       and not exists (select from pg_constraint k where k.contype = 'f' and k.confrelid = c.oid)
     order by 1`);
  return [
    { table: "public.analytics_events", sql: "app_private.delete_tenant_events($1, $2)" },
    ...named.parse(rows).map(({ name }) => ({
      table: name,
      sql: `app_private.delete_tenant_rows(${pg.escapeLiteral(name)}, $1, $2)`,
    })),
    { table: "public.audit_logs", sql: "app_private.delete_tenant_audit($1, $2)" },
  ];
}

const count = async (owner: pg.Pool, table: string, tenantId: string): Promise<number> => {
  const { rows } = await owner.query(`select count(*) as count from ${table} where tenant_id = $1`, [
    tenantId,
  ]);
  return counted.parse(rows)[0].count;
};

/** With what it deleted so far, so that the record of the end counts across interruptions. */
const deleteStretch = (owner: pg.Pool, tenantId: string, table: string, sql: string, batch: number) =>
  withTransaction(owner, async (client) => {
    const { rows } = await client.query(`select ${sql} as count`, [tenantId, batch]);
    const [{ count: deleted }] = counted.parse(rows);
    if (deleted > 0)
      await client.query(
        `update app_private.tenant_deletions
            set deleted = deleted || jsonb_build_object($2::text, coalesce((deleted ->> $2)::bigint, 0) + $3::bigint)
          where tenant_id = $1`,
        [tenantId, table.replace(/^.*\./, ""), deleted],
      );
    return deleted;
  });

const finish = (owner: pg.Pool, tenantId: string) =>
  withTransaction(owner, async (client) => {
    const { rows } = await client.query(
      "select deleted from app_private.tenant_deletions where tenant_id = $1",
      [tenantId],
    );
    await record(client, tenantId, "tenant.purged", { before: rows[0]?.deleted });
    // Its audit trigger records the row itself, as tenant.deleted.
    await client.query("delete from public.tenants where id = $1", [tenantId]);
  });

/** In the log of the operator: the tenant's own goes with it. */
const record = (client: pg.PoolClient, tenantId: string, action: string, changes: object) =>
  client.query(
    `select app_private.write_audit(p.id, $2, 'tenant', t.id::text, $3::jsonb || jsonb_build_object('slug', t.slug))
       from public.tenants t, public.tenants p where t.id = $1 and p.slug = 'platform'`,
    [tenantId, action, JSON.stringify(changes)],
  );

/** One deletion at a time, and nobody computes its rollups meanwhile. */
async function withTenantLocked<Result>(
  owner: pg.Pool,
  tenantId: string,
  signal: AbortSignal | undefined,
  work: () => Promise<Result>,
): Promise<Result> {
  const client = await owner.connect();
  const lock = async (name: string) => {
    const { rows } = await client.query("select pg_try_advisory_lock(hashtextextended($1, 0)) as locked", [
      `${name} ${tenantId}`,
    ]);
    return rows[0]?.locked === true;
  };
  try {
    if (!(await lock("tenant:delete")))
      throw new UserError("Another tenant:delete of this tenant is at work. Wait for its end.");
    while (!(await lock("rollups"))) {
      signal?.throwIfAborted();
      await wait(200);
    }
    return await work();
  } finally {
    // Ends the session, and its locks with it.
    client.release(true);
  }
}
