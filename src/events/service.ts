import { setTimeout as wait } from "node:timers/promises";
import type pg from "pg";
import { z } from "zod";
import { claimsOf, type Identity, withRequest } from "../auth/requests.ts";
import type { Batch } from "./batch.ts";

export type WriteOptions = {
  /** What happens to an event whose content differs from the stored one of the same id. */
  onConflict: "update" | "reject";
  /** All or none. */
  atomic: boolean;
};
const receipt = z.object({
  outcome: z.enum(["accepted", "updated", "deleted", "duplicate", "rejected", "withheld"]),
  id: z.string().nullable(),
  timestamp: z.string().nullable(),
  code: z.enum(["INVALID_INPUT", "CONFLICT"]).nullable(),
  reason: z.string().nullable(),
  pointer: z.string().nullable(),
  detail: z.string().nullable(),
});
/** What became of one event; `pointer` (RFC 6901) is within the event. */
export type Receipt = z.output<typeof receipt>;

export type EventService = {
  /** Whether this request may write events at all. Rejects otherwise. */
  authorize(identity: Identity): Promise<void>;
  /** One receipt for each event of the batch, in its order; all that was accepted is committed. */
  write(identity: Identity, batch: Batch, options: WriteOptions): Promise<Receipt[]>;
};

const WRITE = `select outcome, id, to_char("timestamp" at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as "timestamp",
       code, reason, pointer, detail
  from app_hidden.ingest_events($1, $2, $3, $4)`;
const ATTEMPTS = 4;

type Run = (query: {
  name?: string;
  text: string;
  values: unknown[];
}) => Promise<{ rows: readonly unknown[] }>;

/** Counts `count` events against the limits of the tenant's plan. With 0, only asks whether events may be written. */
export const admitEvents = (run: Run, tenantId: string, count: number) =>
  run({ text: "select app_hidden.admit_events($1, $2)", values: [tenantId, count] });
const admitAlone = (run: Run, tenantId: string, count: number) =>
  run({
    text: "select app_hidden.admit_events($1, $2), set_config('synchronous_commit', 'off', true)",
    values: [tenantId, count],
  });

/** Writes within the transaction of `run`. One receipt for each event of the batch, in its order. */
export async function writeBatch(
  run: Run,
  tenantId: string,
  { size, events, positions, refused }: Omit<Batch, "isSingle">,
  { onConflict, atomic }: WriteOptions,
): Promise<Receipt[]> {
  const receipts: Receipt[] = Array.from({ length: size }, () => WITHHELD);
  for (const { index, reason, pointer, detail } of refused)
    receipts[index] = { ...WITHHELD, outcome: "rejected", code: "INVALID_INPUT", reason, pointer, detail };
  if (events.length === 0 || (atomic && refused.length > 0)) return receipts;
  const values = [tenantId, JSON.stringify(events), onConflict, atomic];
  const { rows } = await run({ name: "ingest_events", text: WRITE, values });
  for (const [place, row] of receipt.array().parse(rows).entries()) receipts[positions[place] ?? 0] = row;
  return receipts;
}

/** For requests over HTTP: admission is a transaction of its own, and not synced, so that nobody waits for another's disk. */
export function makeEventService(pool: pg.Pool): EventService {
  const admit = (identity: Identity, count: number) =>
    withRequest(pool, identity, (client) =>
      admitAlone((query) => client.query(query), claimsOf(identity).tenant_id, count),
    );
  return {
    async authorize(identity) {
      await admit(identity, 0);
    },
    async write(identity, batch, options) {
      const { tenant_id } = claimsOf(identity);
      await admit(identity, batch.size);
      return retrying(() =>
        withRequest(pool, identity, (client) =>
          writeBatch((query) => client.query(query), tenant_id, batch, options),
        ),
      );
    },
  };
}

const WITHHELD: Receipt = {
  outcome: "withheld",
  id: null,
  timestamp: null,
  code: null,
  reason: null,
  pointer: null,
  detail: null,
};

/** Two batches that got in each other's way: nothing was written of the one that gave way. */
async function retrying<Result>(work: () => Promise<Result>): Promise<Result> {
  for (let attempt = 1; ; attempt++)
    try {
      return await work();
    } catch (error) {
      const code = error instanceof Error && "code" in error ? error.code : undefined;
      if (attempt === ATTEMPTS || (code !== "40001" && code !== "40P01")) throw error;
      await wait(Math.random() * 50 * 2 ** attempt);
    }
}
