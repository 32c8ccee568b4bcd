import type pg from "pg";
import { z } from "zod";
import { withTransaction } from "../../db/pools.ts";
import { type AuditKey, vouchedFor } from "../keys.ts";
import type { AnchorIndex } from "./anchorIndex.ts";
import { type Report, verifyTenant } from "./database.ts";
import type { Finding } from "./findings.ts";

export type TenantReport = Report & { tenantId: string; slug: string | undefined };

const tenantRow = z.object({ id: z.uuid(), slug: z.string().nullable(), told: z.boolean() });

/**
 * The keys that may sign: the anchor's first one, or those that are named, and whom they vouch for. Keys that somebody put
 * into the database, or into the file that was published from it, are vouched for by nobody.
 */
export function trustedKeys(
  anchor: AnchorIndex,
  published: readonly AuditKey[],
  named: readonly string[] = [],
): Map<string, AuditKey> {
  const all = [...anchor.keys, ...published];
  const first = all[0]?.keyId;
  return vouchedFor(all, named.length > 0 || first === undefined ? named : [first]);
}

/** Verifies one tenant's log, or all of them, those of tenants that are gone too. The anchor was read before: it has no seal that the database lacks. */
export async function* verifyDatabase(
  owner: pg.Pool,
  options: { anchor: AnchorIndex; keys: ReadonlyMap<string, AuditKey>; slug: string | undefined },
): AsyncGenerator<TenantReport> {
  const { anchor, keys, slug } = options;
  // The operator's log first: it says of which tenants the end is on record.
  const { rows } = await owner.query(
    `select * from (
       select t.id, t.slug, false as told from tenants t where $1::text is null or t.slug = $1
        union all
       select s.id, null, exists (
                select from audit_logs l
                 where l.tenant_id = app_private.operator_tenant_id() and l.action = 'tenant.deleted' and l.resource_id = s.id::text
              )
         from (select distinct tenant_id as id from app_private.audit_seals union select unnest($2::uuid[])) s
        where $1::text is null and not exists (select from tenants t where t.id = s.id)
     ) t
     order by t.slug is distinct from 'platform', t.slug nulls last, t.id`,
    [slug ?? null, anchor.tenants],
  );
  const ended = new Set<string>();
  for (const { id, slug: name, told } of tenantRow.array().parse(rows)) {
    if (name === null && ended.has(id)) continue;
    const { ended: said, ...report } = await withTransaction(
      owner,
      (client) => verifyTenant(client, id, { anchor, keys }),
      { begin: "begin isolation level repeatable read read only" },
    );
    if (name === OPERATOR) for (const one of said) ended.add(one);
    yield { tenantId: id, slug: name ?? undefined, ...report, ...(told ? { findings: [UNPROVEN_END] } : {}) };
  }
}

const OPERATOR = "platform";
const UNPROVEN_END: Finding = {
  kind: "cut",
  why: "the tenant is gone, and the operator's record of that is not sealed yet, or not what was sealed: verify again after the next sealing",
};
