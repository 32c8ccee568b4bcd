/**
 * edited: a row is not what was sealed; deleted: a sealed row is missing; inserted: a row is among sealed ones that was not
 * sealed; reordered: rows have changed places; cut: the end is missing, or whole seals are; recomputed: the database's
 * seals are not those of the anchor; forged: a seal has no signature of a key that is vouched for; unchained: a seal does not
 * follow the one before it.
 */
export type FindingKind =
  | "edited"
  | "deleted"
  | "inserted"
  | "reordered"
  | "cut"
  | "recomputed"
  | "forged"
  | "unchained";
export type Finding = {
  kind: FindingKind;
  /** First and last number of rows, or of seals. */
  rows?: readonly [number, number];
  seals?: readonly [number, number];
  ids?: readonly string[];
  /** Times of the rows, or when the seals were made; the earliest and the latest. */
  when?: readonly [string, string];
  why: string;
};

/** Collects findings; neighbours of one kind become one. */
export class Findings {
  readonly #all: Finding[] = [];

  add(finding: Finding): void {
    const place = this.#all.findLastIndex(({ kind, why }) => kind === finding.kind && why === finding.why);
    const last = this.#all[place];
    const joined = last && join(last, finding);
    if (joined) this.#all[place] = joined;
    else this.#all.push(finding);
  }

  get all(): readonly Finding[] {
    return this.#all;
  }
}

const IDS_NAMED = 20;

function join(last: Finding, next: Finding): Finding | undefined {
  const follows = (one: Finding["rows"], other: Finding["rows"]) =>
    one === undefined ? other === undefined : other !== undefined && other[0] === one[1] + 1;
  if (!follows(last.rows, next.rows) || !follows(last.seals, next.seals)) return undefined;
  if (!last.rows && !last.seals) return undefined;
  return {
    ...last,
    ...(last.rows && next.rows ? { rows: [last.rows[0], next.rows[1]] } : {}),
    ...(last.seals && next.seals ? { seals: [last.seals[0], next.seals[1]] } : {}),
    ...(last.ids || next.ids ? { ids: [...(last.ids ?? []), ...(next.ids ?? [])].slice(0, IDS_NAMED) } : {}),
    ...(last.when && next.when
      ? {
          when: [
            last.when[0] < next.when[0] ? last.when[0] : next.when[0],
            last.when[1] > next.when[1] ? last.when[1] : next.when[1],
          ],
        }
      : {}),
  };
}

/** One line for a person. */
export function describe({ kind, rows, seals, ids, when, why }: Finding): string {
  const range = (name: string, places: readonly [number, number] | undefined) =>
    places && (places[0] === places[1] ? `${name} ${places[0]}` : `${name}s ${places[0]} to ${places[1]}`);
  const times = when && (when[0] === when[1] ? when[0] : `${when[0]} to ${when[1]}`);
  const count = rows ? rows[1] - rows[0] + 1 : (ids?.length ?? 0);
  const named = ids && `${ids.join(", ")}${count > ids.length ? ", ..." : ""}`;
  const what = [range("row", rows), range("seal", seals), named && `(${named})`, times && `of ${times}`];
  return `${kind}: ${what.filter(Boolean).join(" ")}: ${why}`;
}
