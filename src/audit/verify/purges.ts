import { z } from "zod";
import type { FoundRow } from "../row.ts";
import type { SealedEntry } from "./differences.ts";

/** No log loses rows that are younger, whatever a record says. */
const FLOOR_MS = 90 * 86_400_000;

const changes = z.object({
  throughSequence: z
    .string()
    .regex(/^\d{1,15}$/)
    .transform(Number),
  keptSince: z.string().transform((text) => Date.parse(text)),
});

/** A record of retention in the log itself: up to which row it took rows, and how old they were. */
export type Purge = { throughSequence: number; keptSince: number };

/**
 * Undefined: the row is none, or says what none may.
 * @param sealedAt of the row's own seal: a row can say of itself that it is of any time
 */
export function purgeOf(row: FoundRow, sealedAt: string): Purge | undefined {
  if (row.columns.get("action") !== '"audit_log.purged"' || row.columns.get("resource") !== '"audit_log"')
    return undefined;
  const said = changes.safeParse(JSON.parse(row.columns.get("changes") ?? "null"));
  const latest = Math.min(Date.parse(row.createdAt), Date.parse(sealedAt)) - FLOOR_MS;
  return said.success && said.data.keptSince <= latest ? said.data : undefined;
}

/** The record, if there is one, by which a row may be missing. */
export function purgeFor(purges: readonly Purge[], { sequence, sealedAt }: SealedEntry): Purge | undefined {
  return purges.find(
    ({ throughSequence, keptSince }) => sequence <= throughSequence && Date.parse(sealedAt) < keptSince,
  );
}
