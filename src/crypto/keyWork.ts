import type pg from "pg";
import { z } from "zod";
import { UserError } from "../config.ts";
import { MissingKeyError } from "./keyRing.ts";
import { sealed } from "./sealed.ts";

/** Every table of ciphertexts under data keys of tenants; test/keys.test.ts looks for others. */
export const SEALED_TABLES = ["integration_credentials", "retired_credentials"] as const;
export type SealedTable = (typeof SEALED_TABLES)[number];

/** What the commands of keys have in common. */
export type KeyWork = {
  signal?: AbortSignal | undefined;
  onProgress?: (done: number, total: number, tenant: string) => void;
  /** Rows at a time. */
  batch?: number;
};

export const sealedRow = sealed.extend({ tenant_id: z.uuid(), slug: z.string(), integration_id: z.uuid() });
export type SealedRow = z.output<typeof sealedRow>;

/** A ciphertext with its key, in one statement; `where` and what follows are the caller's. */
export const selectSealed = (table: SealedTable) =>
  `select s.tenant_id, t.slug, s.integration_id, s.version, s.key_version, s.ciphertext, k.kek_id, k.wrapped_key
     from app_private.${table} s
     join public.tenants t on t.id = s.tenant_id
     join app_private.tenant_keys k on k.tenant_id = s.tenant_id and k.version = s.key_version`;

/** For people: which ciphertext it is, and why it does not open. */
export const problemOf = (table: SealedTable, row: SealedRow, error: unknown) =>
  `${table === "retired_credentials" ? "replaced credentials" : "credentials"} of integration ${row.integration_id} of "${row.slug}" (version ${row.version}, key ${row.key_version}): ${reasonOf(error)}`;

export const reasonOf = (error: unknown) =>
  error instanceof MissingKeyError ? error.message : "it was altered, or belongs elsewhere.";

/** One at a time, whoever starts them: of rotations and rewraps, each reads what the other writes. */
export async function withKeysLocked<Result>(owner: pg.Pool, work: () => Promise<Result>): Promise<Result> {
  const client = await owner.connect();
  const lock = "(hashtextextended('app_private.tenant_keys', 0))";
  try {
    const { rows } = await client.query(`select pg_try_advisory_lock${lock} as locked`);
    if (rows[0]?.locked !== true)
      throw new UserError(
        "Another keys:rotate or keys:rewrap is at work on this database. Wait for its end.",
      );
    return await work();
  } finally {
    const freed = await client.query(`select pg_advisory_unlock${lock}`).catch((error: Error) => error);
    // The end of the session is the end of its lock, a moment later.
    client.release(freed instanceof Error);
  }
}
