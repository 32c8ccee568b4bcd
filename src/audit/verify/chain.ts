import { type AuditKey, publicKeyOf } from "../keys.ts";
import {
  ENTRY_BYTES,
  type Entry,
  extendChain,
  isSignedBy,
  type Seal,
  sealText,
  sha256,
  unpackEntries,
  ZERO_HASH,
} from "../seal.ts";
import type { AnchorIndex } from "./anchorIndex.ts";
import type { Finding, Findings } from "./findings.ts";

/** A seal to check rows against: the anchor's, where it has one. */
export type TrustedSeal = {
  seal: Seal;
  entries: Entry[];
  /** Number of its last row. */
  lastSequence: number;
};

/** Where seals come from. `stored`: the database's, in their order; undefined where there is no database. */
export type SealSources = {
  tenantId: string;
  stored: ((number: number) => Promise<Seal | undefined>) | undefined;
  lastStored: number;
  anchor: AnchorIndex;
  keys: ReadonlyMap<string, AuditKey>;
};

/** Goes along a tenant's chain from its first seal, says what is wrong with it, and yields what can be trusted. */
export async function* trustedSeals(
  { tenantId, stored, lastStored, anchor, keys }: SealSources,
  findings: Findings,
): AsyncGenerator<TrustedSeal> {
  const isGenuine = (seal: Seal) => {
    const key = keys.get(seal.keyId);
    return key !== undefined && isSignedBy(sealText(seal), seal.signature, publicKeyOf(key.publicKey));
  };
  let chain = ZERO_HASH;
  let previousSeal = ZERO_HASH.toString("hex");
  let nextSequence = 1;
  const last = Math.max(lastStored, anchor.lastNumber(tenantId));
  for (let number = 1; number <= last; number++) {
    const inDatabase = await stored?.(number);
    const inAnchor = await anchor.seals(tenantId, number);
    const anchored = inAnchor.filter(isGenuine);
    for (const seal of inAnchor)
      if (!isGenuine(seal))
        findings.add(
          about(seal, "forged", "the anchor's seal has no signature of a key that is vouched for"),
        );
    const [first, second] = anchored;
    if (first && second)
      findings.add(about(second, "recomputed", "the anchor has two seals of this number: the chain forks"));
    const trusted = anchored.find((seal) => seal.previousSeal === previousSeal) ?? first ?? inDatabase;
    if (!trusted) {
      findings.add({ kind: "cut", seals: [number, number], why: "the seal is missing everywhere" });
      continue;
    }
    if (!inDatabase && stored)
      findings.add(about(trusted, "cut", "the seal is in the anchor, and missing from the database"));
    if (inDatabase) compareStored(inDatabase, trusted, isGenuine(inDatabase), findings);

    const packed = Buffer.from(trusted.rows, "base64");
    const link = extendChain(chain, packed);
    const problem =
      trusted.previousSeal !== previousSeal
        ? "the seal does not name the one before it"
        : trusted.firstSequence !== nextSequence
          ? `its rows should begin with ${nextSequence}`
          : packed.length !== trusted.rowCount * ENTRY_BYTES || link.toString("hex") !== trusted.chain
            ? "the hashes of its rows do not make its chain"
            : undefined;
    if (problem) findings.add(about(trusted, "unchained", problem));
    chain = Buffer.from(trusted.chain, "hex");
    previousSeal = sha256(sealText(trusted)).toString("hex");
    nextSequence = trusted.firstSequence + trusted.rowCount;
    yield { seal: trusted, entries: unpackEntries(packed), lastSequence: nextSequence - 1 };
  }
}

/** The database's seal beside the anchor's, or by itself. */
function compareStored(stored: Seal, trusted: Seal, isGenuine: boolean, findings: Findings) {
  if (!isGenuine)
    findings.add(
      about(stored, "forged", "the database's seal has no signature of a key that is vouched for"),
    );
  if (sealText(stored) === sealText(trusted)) return;
  const [ours, theirs] = [stored, trusted].map(({ rows }) => unpackEntries(Buffer.from(rows, "base64")));
  const moved = (ours ?? []).flatMap((entry, place) => {
    const was = theirs?.findIndex(({ id }) => id === entry.id) ?? -1;
    return was >= 0 && was !== place ? [entry.id] : [];
  });
  if (moved.length > 0 && ours?.length === theirs?.length)
    findings.add({
      ...about(trusted, "reordered", "the database's seal has its rows in another order"),
      ids: moved.slice(0, 20),
    });
  else findings.add(about(trusted, "recomputed", "the database's seal is not the one that the anchor has"));
}

function about(seal: Seal, kind: Finding["kind"], why: string): Finding {
  return {
    kind,
    seals: [seal.number, seal.number],
    rows: [seal.firstSequence, seal.firstSequence + seal.rowCount - 1],
    when: [seal.sealedAt, seal.sealedAt],
    why,
  };
}
