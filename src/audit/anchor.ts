import { randomUUID } from "node:crypto";
import { mkdir, open, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type pg from "pg";
import type { Logger } from "pino";
import { z } from "zod";
import { withTransaction } from "../db/pools.ts";
import { type AuditKey, loadAuditKeys } from "./keys.ts";
import { lineOf, type Seal } from "./seal.ts";

/** Up to a third of a megabyte each. */
const SEALS_AT_ONCE = 40;

const identity = z.object({ anchorId: z.uuid() });
const sealRow = z.object({
  tenant_id: z.uuid(),
  number: z.coerce.number(),
  first_sequence: z.coerce.number(),
  row_count: z.number(),
  cluster_id: z.string(),
  last_transaction_id: z.string(),
  rows: z.instanceof(Buffer),
  chain: z.instanceof(Buffer),
  previous_seal: z.instanceof(Buffer),
  key_id: z.string(),
  signature: z.instanceof(Buffer),
  sealed_at: z.date(),
});

/** A seal, as it is stored. */
export function readSeal(row: unknown): Seal {
  const stored = sealRow.parse(row);
  return {
    type: "seal",
    version: 1,
    tenantId: stored.tenant_id,
    number: stored.number,
    firstSequence: stored.first_sequence,
    rowCount: stored.row_count,
    rows: stored.rows.toString("base64"),
    chain: stored.chain.toString("hex"),
    previousSeal: stored.previous_seal.toString("hex"),
    clusterId: stored.cluster_id,
    lastTransactionId: stored.last_transaction_id,
    keyId: stored.key_id,
    sealedAt: stored.sealed_at.toISOString(),
    signature: stored.signature.toString("base64"),
  };
}

/**
 * Appends to the anchor, a folder outside the database, every seal that it does not have yet. While it cannot be written,
 * seals wait in the database; how long is on record. Never rejects for the anchor's sake.
 */
export async function anchorSeals(options: {
  pool: pg.Pool;
  anchorDir: string;
  log: Logger;
  signal?: AbortSignal | undefined;
}): Promise<void> {
  const { pool, anchorDir, log, signal } = options;
  try {
    const anchorId = await openAnchor(anchorDir);
    for (let count = SEALS_AT_ONCE; count === SEALS_AT_ONCE && !signal?.aborted; )
      count = await anchorSome(pool, anchorDir, anchorId);
  } catch (error) {
    log.error(
      { err: error, anchorDir },
      "the audit anchor cannot be written; seals wait for it in the database",
    );
  }
  await pool.query("select app_hidden.note_anchoring()");
}

/** The file first, then the note of it: after a crash in between, some lines come twice, which does no harm. */
const anchorSome = (pool: pg.Pool, anchorDir: string, anchorId: string): Promise<number> =>
  withTransaction(pool, async (client) => {
    const { rows } = await client.query("select * from app_hidden.seals_to_anchor($1, $2)", [
      anchorId,
      SEALS_AT_ONCE,
    ]);
    if (rows.length === 0) return 0;
    const seals = rows.map(readSeal);
    const keys = await loadAuditKeys(client);
    for (const [month, some] of Map.groupBy(seals, ({ sealedAt }) => sealedAt.slice(0, 7)))
      await append(join(anchorDir, `${month}.ndjson`), some, keys);
    const places = seals.map(({ tenantId, number }) => ({ tenant_id: tenantId, number }));
    await client.query("select app_hidden.note_anchored($1, $2)", [anchorId, JSON.stringify(places)]);
    return rows.length;
  });

/** Its id tells one anchor from another: a new folder gets all seals from the first on. */
async function openAnchor(anchorDir: string): Promise<string> {
  await mkdir(anchorDir, { recursive: true, mode: 0o700 });
  const file = join(anchorDir, "anchor.json");
  const made = JSON.stringify({ anchorId: randomUUID() });
  await writeFile(file, `${made}\n`, { flag: "wx", mode: 0o600, flush: true }).catch(
    (error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
    },
  );
  return identity.parse(JSON.parse(await readFile(file, "utf8"))).anchorId;
}

const announced = new Set<string>();

/** Durable when it returns. A line that a crash cut short is ended first; readers pass over it. */
async function append(path: string, seals: readonly Seal[], keys: readonly AuditKey[]): Promise<void> {
  const file = await open(path, "a+", 0o600);
  try {
    const { size } = await file.stat();
    const last = Buffer.alloc(1);
    if (size > 0) await file.read(last, 0, 1, size - 1);
    const isNew = (key: AuditKey) => size === 0 || !announced.has(`${path} ${key.keyId}`);
    const lines = [...keys.filter(isNew), ...seals].map(lineOf).join("");
    await file.appendFile(size > 0 && last[0] !== 10 ? `\n${lines}` : lines);
    await file.datasync();
    for (const { keyId } of keys) announced.add(`${path} ${keyId}`);
    if (size === 0) await syncFolder(path);
  } finally {
    await file.close();
  }
}

async function syncFolder(path: string) {
  const folder = await open(join(path, ".."), "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
