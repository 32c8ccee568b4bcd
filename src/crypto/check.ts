import type pg from "pg";
import { z } from "zod";
import type { KeyRing } from "./keyRing.ts";
import { type KeyWork, problemOf, reasonOf, SEALED_TABLES, sealedRow, selectSealed } from "./keyWork.ts";
import { openCredentials } from "./sealed.ts";

export type Check = {
  tenantKeys: number;
  credentials: number;
  replacedCredentials: number;
  tokenKeys: number;
  auditKeys: number;
  problems: string[];
};

const tenantKey = z.object({
  tenant_id: z.uuid(),
  slug: z.string(),
  version: z.number(),
  kek_id: z.string(),
  wrapped_key: z.instanceof(Buffer),
});
const tokenKey = z.object({
  kid: z.string(),
  kek_id: z.string(),
  wrapped_private_key: z.instanceof(Buffer),
});
const auditKey = tokenKey.omit({ kid: true }).extend({ key_id: z.string() });
const NIL = "00000000-0000-0000-0000-000000000000";

/** Opens every key and every ciphertext there is, and keeps none. */
export async function checkKeys(
  owner: pg.Pool,
  keyRing: Pick<KeyRing, "unwrap">,
  { signal, batch = 500 }: KeyWork = {},
): Promise<Check> {
  const check: Check = {
    tenantKeys: 0,
    credentials: 0,
    replacedCredentials: 0,
    tokenKeys: 0,
    auditKeys: 0,
    problems: [],
  };
  const trying = (open: () => unknown, say: (error: unknown) => string) => {
    try {
      open();
    } catch (error) {
      check.problems.push(say(error));
    }
  };

  await inBatches(
    async (last: z.output<typeof tenantKey> | undefined) => {
      const { rows } = await owner.query(
        `select k.tenant_id, t.slug, k.version, k.kek_id, k.wrapped_key
           from app_private.tenant_keys k join public.tenants t on t.id = k.tenant_id
          where (k.tenant_id, k.version) > ($1, $2) order by k.tenant_id, k.version limit $3`,
        [last?.tenant_id ?? NIL, last?.version ?? 0, batch],
      );
      return tenantKey.array().parse(rows);
    },
    ({ tenant_id: tenantId, slug, version, kek_id, wrapped_key }) => {
      check.tenantKeys++;
      trying(
        () => keyRing.unwrap(wrapped_key, kek_id, { tenantId, version }),
        (error) => `data key ${version} of "${slug}": ${reasonOf(error)}`,
      );
    },
    signal,
  );
  for (const table of SEALED_TABLES)
    await inBatches(
      async (last: z.output<typeof sealedRow> | undefined) => {
        const { rows } = await owner.query(
          `${selectSealed(table)} where (s.tenant_id, s.integration_id, s.version) > ($1, $2, $3)
            order by s.tenant_id, s.integration_id, s.version limit $4`,
          [last?.tenant_id ?? NIL, last?.integration_id ?? NIL, last?.version ?? 0, batch],
        );
        return sealedRow.array().parse(rows);
      },
      (row) => {
        check[table === "retired_credentials" ? "replacedCredentials" : "credentials"]++;
        const place = { tenantId: row.tenant_id, integrationId: row.integration_id };
        trying(
          () => openCredentials(keyRing, place, row),
          (error) => problemOf(table, row, error),
        );
      },
      signal,
    );
  const { rows } = await owner.query(
    "select kid, kek_id, wrapped_private_key from app_private.token_keys order by kid",
  );
  for (const { kid, kek_id, wrapped_private_key } of tokenKey.array().parse(rows)) {
    check.tokenKeys++;
    trying(
      () => keyRing.unwrap(wrapped_private_key, kek_id, { tokenKey: kid }),
      (error) => `token key ${kid}: ${reasonOf(error)}`,
    );
  }
  const seals = await owner.query(
    "select key_id, kek_id, wrapped_private_key from app_private.audit_keys where wrapped_private_key is not null order by key_id",
  );
  for (const { key_id, kek_id, wrapped_private_key } of auditKey.array().parse(seals.rows)) {
    check.auditKeys++;
    trying(
      () => keyRing.unwrap(wrapped_private_key, kek_id, { auditKey: key_id }),
      (error) => `audit key ${key_id}: ${reasonOf(error)}`,
    );
  }
  return check;
}

async function inBatches<Row>(
  next: (last: Row | undefined) => Promise<Row[]>,
  look: (row: Row) => void,
  signal: AbortSignal | undefined,
) {
  for (let rows = await next(undefined); rows.length > 0; rows = await next(rows.at(-1))) {
    signal?.throwIfAborted();
    rows.forEach(look);
  }
}
