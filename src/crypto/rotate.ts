import { setTimeout as wait } from "node:timers/promises";
import type pg from "pg";
import { z } from "zod";
import { withTransaction } from "../db/pools.ts";
import { generateDataKey, type KeyRing, seal } from "./keyRing.ts";
import {
  type KeyWork,
  problemOf,
  SEALED_TABLES,
  type SealedRow,
  type SealedTable,
  sealedRow,
  selectSealed,
  withKeysLocked,
} from "./keyWork.ts";
import { CREDENTIALS, openCredentials } from "./sealed.ts";

const BUSY_MS = 100;
const run = z.tuple([z.object({ id: z.uuid(), started_at: z.string() })]);
const tenants = z.object({ id: z.uuid(), slug: z.string() }).array();
const newest = z.tuple([
  z.object({
    version: z.number(),
    kek_id: z.string(),
    wrapped_key: z.instanceof(Buffer),
    is_done: z.boolean(),
  }),
]);
const counted = z.tuple([z.object({ count: z.number() })]);

export type Rotation = {
  tenants: number;
  resealed: number;
  /** Of ciphertexts that do not open, and stay as they are. */
  problems: string[];
  /** False: it was interrupted, and goes on when it is started again. */
  finished: boolean;
};
type Place = { table: SealedTable; row: SealedRow };
type NewKey = { version: number; dataKey: Buffer };

/**
 * Gives a tenant, or each that has one, a new data key, and seals anew what is under older ones. Each batch is a transaction that
 * holds the rows it changes, so that whoever writes credentials meanwhile waits for a moment at the most; readers never do.
 */
export const rotateTenantKeys = (
  owner: pg.Pool,
  keyRing: KeyRing,
  { tenantId, signal, onProgress, batch = 50 }: KeyWork & { tenantId?: string | undefined } = {},
): Promise<Rotation> =>
  withKeysLocked(owner, async () => {
    const [{ id, started_at: since }] = await beginRun(owner, tenantId);
    const { rows } = await owner.query(
      `select t.id, t.slug from public.tenants t
        where exists (select from app_private.tenant_keys k where k.tenant_id = t.id) and t.id = coalesce($1, t.id)
        order by t.id`,
      [tenantId ?? null],
    );
    const rotation: Rotation = { tenants: 0, resealed: 0, problems: [], finished: false };
    const all = tenants.parse(rows);
    for (const tenant of all) {
      const key = await newKey(owner, keyRing, tenant.id, since);
      const settled = await resealTenant(owner, keyRing, tenant.id, key, rotation, { signal, batch });
      if (!settled) return rotation;
      rotation.tenants++;
      onProgress?.(rotation.tenants, all.length, tenant.slug);
    }
    await owner.query("update app_private.key_rotations set finished_at = clock_timestamp() where id = $1", [
      id,
    ]);
    return { ...rotation, finished: true };
  });

/** The one that was interrupted, unless somebody forgot it, or a new one. As text: a Date would lose the microseconds. */
async function beginRun(owner: pg.Pool, tenantId: string | undefined) {
  const begun = await owner.query(
    `select id, started_at::text from app_private.key_rotations
      where of_tenant_id is not distinct from $1 and finished_at is null and started_at > now() - interval '1 day'
      order by started_at limit 1`,
    [tenantId ?? null],
  );
  if (begun.rows.length > 0) return run.parse(begun.rows);
  const { rows } = await owner.query(
    "insert into app_private.key_rotations (of_tenant_id) values ($1) returning id, started_at::text",
    [tenantId ?? null],
  );
  return run.parse(rows);
}

/** The tenant's newest key, made now unless this rotation made it before it was interrupted. */
function newKey(owner: pg.Pool, keyRing: KeyRing, tenantId: string, since: string): Promise<NewKey> {
  return withTransaction(owner, async (client) => {
    const { rows } = await client.query(
      `select version, kek_id, wrapped_key, created_at >= $2 as is_done from app_private.tenant_keys
        where tenant_id = $1 order by version desc limit 1 for no key update`,
      [tenantId, since],
    );
    const [last] = newest.parse(rows);
    if (last.is_done) {
      const { version } = last;
      return { version, dataKey: keyRing.unwrap(last.wrapped_key, last.kek_id, { tenantId, version }) };
    }
    const version = last.version + 1;
    const dataKey = generateDataKey();
    const { kekId, wrapped } = keyRing.wrap(dataKey, { tenantId, version });
    await client.query(
      `insert into app_private.tenant_keys (tenant_id, version, kek_id, wrapped_key, created_at)
       values ($1, $2, $3, $4, clock_timestamp())`,
      [tenantId, version, kekId, wrapped],
    );
    await client.query("select app_private.write_audit($1, 'key.rotated', 'tenant_key', $2, $3)", [
      tenantId,
      String(version),
      JSON.stringify({ before: { version: last.version }, after: { version } }),
    ]);
    return { version, dataKey };
  });
}

/** Until nothing is under an older key but what does not open. False when it was interrupted. */
async function resealTenant(
  owner: pg.Pool,
  keyRing: KeyRing,
  tenantId: string,
  key: NewKey,
  rotation: Rotation,
  { signal, batch }: { signal: AbortSignal | undefined; batch: number },
): Promise<boolean> {
  for (;;) {
    const closed = new Map<string, string>();
    for (const table of SEALED_TABLES) {
      let after: [string, number] = ["00000000-0000-0000-0000-000000000000", 0];
      for (let full = true; full; ) {
        if (signal?.aborted) return false;
        const places = await resealBatch(
          owner,
          keyRing,
          { tenantId, table, after, batch },
          key,
          (place, error) =>
            closed.set(
              `${table} ${place.row.integration_id} ${place.row.version}`,
              problemOf(table, place.row, error),
            ),
        );
        rotation.resealed += places.resealed;
        after = places.last ?? after;
        full = places.last !== undefined;
      }
    }
    if ((await countOlder(owner, tenantId, key.version)) <= closed.size) {
      rotation.problems.push(...closed.values());
      return true;
    }
    // Somebody holds one of them, or has just written one under the key that was the newest before.
    await wait(BUSY_MS);
  }
}

function resealBatch(
  owner: pg.Pool,
  keyRing: KeyRing,
  {
    tenantId,
    table,
    after,
    batch,
  }: { tenantId: string; table: SealedTable; after: [string, number]; batch: number },
  key: NewKey,
  onClosed: (place: Place, error: unknown) => void,
): Promise<{ resealed: number; last: [string, number] | undefined }> {
  return withTransaction(owner, async (client) => {
    const { rows } = await client.query(
      `${selectSealed(table)}
        where s.tenant_id = $1 and s.key_version < $2 and (s.integration_id, s.version) > ($3, $4)
        order by s.integration_id, s.version limit $5 for no key update of s skip locked`,
      [tenantId, key.version, ...after, batch],
    );
    const found = sealedRow.array().parse(rows);
    let resealed = 0;
    for (const row of found)
      try {
        const { integration_id: integrationId, version } = row;
        const text = openCredentials(keyRing, { tenantId, integrationId }, row);
        const place = { tenantId, table: CREDENTIALS, rowId: integrationId, version };
        const { rowCount } = await client.query(
          `update app_private.${table} set ciphertext = $5, key_version = $6
            where tenant_id = $1 and integration_id = $2 and version = $3 and key_version = $4`,
          [tenantId, integrationId, version, row.key_version, seal(text, key.dataKey, place), key.version],
        );
        resealed += rowCount ?? 0;
      } catch (error) {
        // PostgreSQL's errors have a code; what does not open has none.
        if (error instanceof Error && "severity" in error) throw error;
        onClosed({ table, row }, error);
      }
    const last = found.at(-1);
    return { resealed, last: last && [last.integration_id, last.version] };
  });
}

async function countOlder(owner: pg.Pool, tenantId: string, version: number): Promise<number> {
  const each = SEALED_TABLES.map(
    (table) => `(select count(*) from app_private.${table} where tenant_id = $1 and key_version < $2)`,
  );
  const { rows } = await owner.query(`select (${each.join(" + ")})::integer as count`, [tenantId, version]);
  return counted.parse(rows)[0].count;
}
