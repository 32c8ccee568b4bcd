import type pg from "pg";
import { z } from "zod";
import { withTransaction } from "../db/pools.ts";
import type { KeyPlace, KeyRing } from "./keyRing.ts";
import { type KeyWork, reasonOf, withKeysLocked } from "./keyWork.ts";

export type Rewrap = {
  tenantKeys: number;
  tokenKeys: number;
  auditKeys: number;
  problems: string[];
  finished: boolean;
};

const wrappedKey = z.object({
  id: z.string(),
  version: z.number(),
  kek_id: z.string(),
  wrapped: z.instanceof(Buffer),
});
const counted = z.tuple([z.object({ count: z.number() })]);

/** What the ring wraps. Of the keys of seals, only those that still sign have a private one. */
const KINDS = {
  tenantKeys: {
    table: "app_private.tenant_keys",
    row: "tenant_id::text as id, version, kek_id, wrapped_key as wrapped",
    order: "tenant_id, version",
    after:
      "(tenant_id, version) > (coalesce(nullif($2, '')::uuid, '00000000-0000-0000-0000-000000000000'), $3)",
    set: "wrapped_key",
    where: "tenant_id::text = $1 and version = $2",
    place: (id: string, version: number): KeyPlace => ({ tenantId: id, version }),
    name: (id: string, version: number) => `data key ${version} of tenant ${id}`,
  },
  tokenKeys: {
    table: "app_private.token_keys",
    row: "kid as id, 0 as version, kek_id, wrapped_private_key as wrapped",
    order: "kid",
    after: "(kid, 0) > ($2, $3::integer)",
    set: "wrapped_private_key",
    where: "kid = $1 and $2 = 0",
    place: (id: string): KeyPlace => ({ tokenKey: id }),
    name: (id: string) => `token key ${id}`,
  },
  auditKeys: {
    table: "app_private.audit_keys",
    row: "key_id as id, 0 as version, kek_id, wrapped_private_key as wrapped",
    order: "key_id",
    after: "wrapped_private_key is not null and (key_id, 0) > ($2, $3::integer)",
    set: "wrapped_private_key",
    where: "key_id = $1 and $2 = 0",
    place: (id: string): KeyPlace => ({ auditKey: id }),
    name: (id: string) => `audit key ${id}`,
  },
} as const;

/** Wraps every key with the ring's current one, so that the others can leave the ring. What is sealed stays as it is. */
export const rewrapKeys = (
  owner: pg.Pool,
  keyRing: KeyRing,
  { signal, onProgress, batch = 100 }: KeyWork = {},
): Promise<Rewrap> =>
  withKeysLocked(owner, async () => {
    const done: Rewrap = { tenantKeys: 0, tokenKeys: 0, auditKeys: 0, problems: [], finished: false };
    const { rows } = await owner.query(
      `select ((select count(*) from app_private.tenant_keys where kek_id <> $1)
             + (select count(*) from app_private.token_keys where kek_id <> $1)
             + (select count(*) from app_private.audit_keys where kek_id <> $1))::integer as count`,
      [keyRing.current],
    );
    const total = counted.parse(rows)[0].count;
    for (const kind of ["tenantKeys", "tokenKeys", "auditKeys"] as const) {
      let after = { id: "", version: 0 };
      for (let full = true; full; ) {
        if (signal?.aborted) return done;
        const { last, count } = await rewrapBatch(owner, keyRing, kind, after, batch, done.problems);
        done[kind] += count;
        after = last ?? after;
        full = last !== undefined;
        onProgress?.(done.tenantKeys + done.tokenKeys + done.auditKeys, total, "");
      }
    }
    const { tenantKeys, tokenKeys, auditKeys } = done;
    if (tenantKeys + tokenKeys + auditKeys > 0)
      await owner.query(
        `select app_private.write_audit(t.id, 'key.rewrapped', 'encryption_key', $1, $2)
           from public.tenants t where t.slug = 'platform'`,
        [keyRing.current, JSON.stringify({ tenantKeys, tokenKeys, auditKeys })],
      );
    return { ...done, finished: true };
  });

function rewrapBatch(
  owner: pg.Pool,
  keyRing: KeyRing,
  kind: keyof typeof KINDS,
  after: { id: string; version: number },
  batch: number,
  problems: string[],
) {
  const { table, row, order, after: behind, set, where, place, name } = KINDS[kind];
  return withTransaction(owner, async (client) => {
    const { rows } = await client.query(
      `select ${row} from ${table} where kek_id <> $1 and ${behind} order by ${order} limit $4 for no key update`,
      [keyRing.current, after.id, after.version, batch],
    );
    const found = wrappedKey.array().parse(rows);
    let count = 0;
    for (const { id, version, kek_id, wrapped } of found) {
      let key: Buffer;
      try {
        key = keyRing.unwrap(wrapped, kek_id, place(id, version));
      } catch (error) {
        problems.push(`${name(id, version)}: ${reasonOf(error)}`);
        continue;
      }
      const anew = keyRing.wrap(key, place(id, version));
      await client.query(`update ${table} set kek_id = $3, ${set} = $4 where ${where}`, [
        ...[id, version, anew.kekId, anew.wrapped],
      ]);
      count++;
    }
    return { last: found.at(-1), count };
  });
}
