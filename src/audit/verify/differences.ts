import { type FoundRow, hashWith } from "../row.ts";
import type { Entry } from "../seal.ts";
import type { Findings } from "./findings.ts";

export type SealedEntry = Entry & { sequence: number; sealedAt: string };

/** Entries that no row was found for yet. Two rows may have one id: its hash says whose an entry is. */
export class SealedEntries {
  readonly #byId = new Map<string, SealedEntry[]>();

  add(entry: SealedEntry): void {
    this.#byId.set(entry.id, [...(this.#byId.get(entry.id) ?? []), entry]);
  }

  /** The entry of a row that is what was sealed. */
  exactly({ id, hash }: FoundRow): SealedEntry | undefined {
    return this.#remove(
      id,
      this.#byId.get(id)?.find((one) => one.hash.equals(hash)),
    );
  }

  /** The entry of a row; of one that was edited, that with its id. */
  take(row: FoundRow): SealedEntry | undefined {
    return this.exactly(row) ?? this.#remove(row.id, this.#byId.get(row.id)?.[0]);
  }

  #remove(id: string, entry: SealedEntry | undefined): SealedEntry | undefined {
    const others = (this.#byId.get(id) ?? []).filter((one) => one !== entry);
    if (others.length > 0) this.#byId.set(id, others);
    else this.#byId.delete(id);
    return entry;
  }

  left(): SealedEntry[] {
    return [...this.#byId.values()].flat();
  }
}

/** What differs between sealed entries and the rows that were found, until it is known what that means. */
export type Differences = {
  /** Found, with other content than was sealed. */
  edited: { sealed: SealedEntry; row: FoundRow }[];
  missing: SealedEntry[];
  /** Missing by a record of retention that is not sealed, and so proves nothing. */
  unproven: SealedEntry[];
  /** Found where no row was sealed. */
  extra: FoundRow[];
};
export const noDifferences = (): Differences => ({ edited: [], missing: [], unproven: [], extra: [] });

const PLACES = [
  ["id"],
  ["createdAt"],
  ["transactionId"],
  ["createdAt", "id"],
  ["id", "transactionId"],
  ["createdAt", "transactionId"],
  ["createdAt", "id", "transactionId"],
] as const;
/** Pairs of more are not looked at. */
const AT_MOST = 200;

/** Says what was done to rows: a row that is missing in one place and found in another was edited, two that changed places were reordered. */
export function explainDifferences(found: Differences, lastSequence: number, findings: Findings): void {
  const missing = new Map(found.missing.map((entry) => [entry.id, entry]));
  const edited = [...found.edited];
  const extra = found.extra.filter((row) => {
    const sealed = missing.get(row.id);
    if (!sealed) return true;
    missing.delete(row.id);
    edited.push({ sealed, row });
    return false;
  });

  const moved = exchanged(edited);
  for (const { sealed, row } of edited.sort((one, other) => one.sealed.sequence - other.sealed.sequence))
    findings.add({
      kind: moved.has(sealed.id) ? "reordered" : "edited",
      rows: [sealed.sequence, sealed.sequence],
      ids: [sealed.id],
      when: [row.createdAt, row.createdAt],
      why: moved.has(sealed.id) ? "the row has the place of another" : "the row is not what was sealed",
    });

  const gone = [...missing.values()].sort((one, other) => one.sequence - other.sequence);
  let tail = lastSequence + 1;
  for (const { sequence } of gone.toReversed()) if (sequence === tail - 1) tail = sequence;
  for (const { sequence, id, sealedAt } of gone)
    findings.add({
      kind: sequence >= tail ? "cut" : "deleted",
      rows: [sequence, sequence],
      ids: [id],
      when: [sealedAt, sealedAt],
      why: sequence >= tail ? "the end of the log is missing" : "the row is missing",
    });
  for (const { sequence, id, sealedAt } of found.unproven)
    findings.add({
      kind: "deleted",
      rows: [sequence, sequence],
      ids: [id],
      when: [sealedAt, sealedAt],
      why: "a record of retention says so, but is not sealed yet: verify again after the next sealing",
    });
  for (const { id, createdAt } of extra)
    findings.add({
      kind: "inserted",
      ids: [id],
      when: [createdAt, createdAt],
      why: "the row was never sealed",
    });
}

/** Ids of rows that are what was sealed, once they have the id, time or transaction of another of them. */
function exchanged(edited: Differences["edited"]): Set<string> {
  const moved = new Set<string>();
  if (edited.length > AT_MOST) return moved;
  const sealed = new Map(edited.map(({ sealed: { id, hash } }) => [hash.toString("hex"), id]));
  for (const { row } of edited)
    for (const { row: other } of edited)
      for (const names of PLACES) {
        const id = row === other ? undefined : sealed.get(hashWith(row, other, names).toString("hex"));
        if (id !== undefined) moved.add(id);
      }
  return moved;
}
