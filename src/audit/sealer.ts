import { setImmediate as nextTurn, setTimeout as wait } from "node:timers/promises";
import type pg from "pg";
import type { Logger } from "pino";
import { z } from "zod";
import type { KeyRing } from "../crypto/keyRing.ts";
import { withTransaction } from "../db/pools.ts";
import { loadSigner, type Signer } from "./keys.ts";
import {
  type Entry,
  extendChain,
  hashRow,
  packEntries,
  sealText,
  sha256,
  signText,
  type UnsignedSeal,
  ZERO_HASH,
} from "./seal.ts";

/** Rows in one seal, at most. */
const ROWS_AT_ONCE = 5_000;
/** Rows that are hashed in one turn of the event loop, which may be that of the API: some 10 ms. */
const ROWS_A_TURN = 500;
/** Between two seals of a tenant it rests as many times as long as the last one took: who writes goes first. */
const REST = 1;

const bigint = z.string();
const horizonRow = z.object({ cluster_id: bigint, below: bigint, as_of: z.date() });
const waitingRow = z.object({
  cluster_id: bigint,
  transaction_id: bigint,
  id: z.uuid(),
  content: z.string(),
});
const lastSealRow = z.object({
  number: z.coerce.number(),
  next_sequence: z.coerce.number(),
  chain: z.instanceof(Buffer),
  hash: z.instanceof(Buffer),
});
type Horizon = z.output<typeof horizonRow>;
export type SealerOptions = {
  pool: pg.Pool;
  keyRing: Pick<KeyRing, "unwrap">;
  log: Logger;
  signal?: AbortSignal | undefined;
  now?: () => Date;
  rowsAtOnce?: number;
};

/**
 * Seals what waits in every tenant's log: rows of transactions that have ended, so that none of a long one is passed over.
 * Each seal is a transaction of its own: killed anywhere, what is sealed stays, and the next run goes on behind it.
 * Returns how many rows it sealed.
 */
export async function sealAudit(options: SealerOptions): Promise<number> {
  const { pool, log, signal } = options;
  const signer = await loadSigner(pool, options.keyRing);
  const found = await pool.query("select * from app_hidden.audit_horizon()");
  const horizon = horizonRow.parse(found.rows[0]);
  const { rows } = await pool.query("select app_hidden.tenants_to_seal($1, $2) as id", [
    horizon.cluster_id,
    horizon.below,
  ]);
  let count = 0;
  let complete = true;
  for (const { id } of z.object({ id: z.uuid() }).array().parse(rows)) {
    if (signal?.aborted) return count;
    try {
      count += await sealTenant(options, signer, horizon, id);
    } catch (error) {
      complete = false;
      if (!isBusy(error)) log.error({ err: error, tenantId: id }, "could not seal a tenant's audit log");
    }
  }
  if (complete && !signal?.aborted)
    await pool.query("select app_hidden.note_sealing($1, $2, $3)", [
      horizon.cluster_id,
      horizon.below,
      horizon.as_of,
    ]);
  return count;
}

async function sealTenant(options: SealerOptions, signer: Signer, horizon: Horizon, tenantId: string) {
  let count = 0;
  for (;;) {
    const began = performance.now();
    const { sealed, isLast } = await sealSome(options, signer, horizon, tenantId);
    count += sealed;
    if (isLast || options.signal?.aborted) return count;
    await wait(REST * (performance.now() - began), undefined, { signal: options.signal }).catch(() => {});
    if (options.signal?.aborted) return count;
  }
}

/** One seal. */
const sealSome = (
  { pool, now = () => new Date(), rowsAtOnce = ROWS_AT_ONCE }: SealerOptions,
  signer: Signer,
  horizon: Horizon,
  tenantId: string,
): Promise<{ sealed: number; isLast: boolean }> =>
  withTransaction(pool, async (client) => {
    const found = await client.query({
      name: "rows_to_seal",
      text: "select * from app_hidden.rows_to_seal($1, $2, $3, $4)",
      values: [tenantId, horizon.cluster_id, horizon.below, rowsAtOnce],
    });
    const waiting = waitingRow.array().parse(found.rows);
    const last = waiting.at(-1);
    if (!last) return { sealed: 0, isLast: true };
    const { rows } = await client.query("select * from app_hidden.last_seal($1)", [tenantId]);
    const [before] = lastSealRow.array().parse(rows);

    const packed = packEntries(await hashRows(waiting));
    const unsigned: UnsignedSeal = {
      type: "seal",
      version: 1,
      tenantId,
      number: (before?.number ?? 0) + 1,
      firstSequence: before?.next_sequence ?? 1,
      rowCount: waiting.length,
      rows: packed.toString("base64"),
      chain: extendChain(before?.chain ?? ZERO_HASH, packed).toString("hex"),
      previousSeal: (before?.hash ?? ZERO_HASH).toString("hex"),
      clusterId: last.cluster_id,
      lastTransactionId: last.transaction_id,
      keyId: signer.keyId,
      sealedAt: now().toISOString(),
    };
    const text = sealText(unsigned);
    await client.query(
      `select app_hidden.save_seal($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
      [
        tenantId,
        unsigned.number,
        unsigned.firstSequence,
        unsigned.rowCount,
        last.cluster_id,
        last.transaction_id,
        last.id,
        packed,
        Buffer.from(unsigned.chain, "hex"),
        Buffer.from(unsigned.previousSeal, "hex"),
        sha256(text),
        signer.keyId,
        Buffer.from(signText(text, signer.privateKey), "base64"),
        unsigned.sealedAt,
      ],
    );
    // This cluster's rows come last.
    const isLast = waiting.length < rowsAtOnce && last.cluster_id === horizon.cluster_id;
    return { sealed: waiting.length, isLast };
  });

async function hashRows(rows: readonly z.output<typeof waitingRow>[]): Promise<Entry[]> {
  const entries: Entry[] = [];
  for (const { id, content } of rows) {
    if (entries.length > 0 && entries.length % ROWS_A_TURN === 0) await nextTurn();
    entries.push({ id, hash: hashRow(content) });
  }
  return entries;
}

/** Another sealer has the tenant, or was faster. */
function isBusy(error: unknown): boolean {
  return error instanceof Error && "code" in error && (error.code === "55P03" || error.code === "EA409");
}
