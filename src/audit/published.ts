import type pg from "pg";
import { type AuditKey, loadAuditKeys } from "./keys.ts";

const FRESH_MS = 30_000;

/** The public keys of seals, asked for once in half a minute at the most: anybody may ask us. */
export function makePublishedKeys(pool: pg.Pool): () => Promise<AuditKey[]> {
  let asked: { at: number; keys: Promise<AuditKey[]> } | undefined;
  return () => {
    if (!asked || performance.now() - asked.at > FRESH_MS) {
      const keys = loadAuditKeys(pool);
      asked = { at: performance.now(), keys };
      // The next one asks again.
      keys.catch(() => {
        asked = undefined;
      });
    }
    return asked.keys;
  };
}
