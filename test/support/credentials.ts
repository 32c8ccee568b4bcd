import type pg from "pg";
import { z } from "zod";
import { generateDataKey, type KeyRing, seal } from "../../src/crypto/keyRing.ts";
import { withTransaction } from "../../src/db/pools.ts";

type Place = { tenantId: string; integrationId: string };
const newest = z.object({ version: z.number(), kek_id: z.string(), wrapped_key: z.instanceof(Buffer) });

/** Seals credentials under the tenant's newest key, which is made if there is none; what they replace is kept beside them. */
export const setCredentials = (
  owner: pg.Pool,
  ring: KeyRing,
  { tenantId, integrationId }: Place,
  credentials: object,
): Promise<void> =>
  withTransaction(owner, async (client) => {
    const { rows } = await client.query(
      "select * from app_private.tenant_keys where tenant_id = $1 order by version desc limit 1 for share",
      [tenantId],
    );
    let dataKey: Buffer = generateDataKey();
    const key = newest.optional().parse(rows[0]);
    if (key) dataKey = ring.unwrap(key.wrapped_key, key.kek_id, { tenantId, version: key.version });
    else {
      const { kekId, wrapped } = ring.wrap(dataKey, { tenantId, version: 1 });
      await client.query(
        "insert into app_private.tenant_keys (tenant_id, version, kek_id, wrapped_key) values ($1, 1, $2, $3)",
        [tenantId, kekId, wrapped],
      );
    }
    const before = await client.query(
      `delete from app_private.integration_credentials where tenant_id = $1 and integration_id = $2
       returning version, key_version, ciphertext`,
      [tenantId, integrationId],
    );
    for (const { version, key_version, ciphertext } of before.rows)
      await client.query(
        `insert into app_private.retired_credentials (tenant_id, integration_id, version, key_version, ciphertext)
         values ($1, $2, $3, $4, $5)`,
        [tenantId, integrationId, version, key_version, ciphertext],
      );
    const version: number = (before.rows[0]?.version ?? 0) + 1;
    const place = { tenantId, table: "integration_credentials", rowId: integrationId, version };
    await client.query(
      `insert into app_private.integration_credentials (tenant_id, integration_id, version, key_version, ciphertext)
       values ($1, $2, $3, $4, $5)`,
      [
        tenantId,
        integrationId,
        version,
        key?.version ?? 1,
        seal(JSON.stringify(credentials), dataKey, place),
      ],
    );
  });
