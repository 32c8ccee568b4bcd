import { addDays, daysFrom } from "./calendar.ts";
import type { Memory } from "./checkpoint.ts";

/**
 * A row vanishes when all that it said was taken back: Meta gives no row of zeros and no list of deletions. So the
 * checkpoint remembers which rows of the look-back there were, a letter a day. A row is gone when two complete
 * readings, some hours apart, have missed it: Meta's answers are incomplete at times, and offsets shift under a reader.
 * A wrong deletion mends itself, since the row comes back with a newer version.
 *
 * The memory is bounded: with more campaigns (or ad sets, ads) than that, only a full refresh finds deletions.
 */
export const rememberedEntities = 1000;
export const rememberedDays = 29;

const never = "-";
const here = "p";
const missed = "m";
/** In the reading under way. */
const seen = "S";

type Place = { date: string; entity: string };

/** The memory as of a new first day; what is older is forgotten. */
export function openMemory(memory: Memory | null, from: string): Memory {
  if (!memory) return { from, rows: {}, countedAt: null };
  const shift = daysFrom(memory.from, from);
  const rows = Object.entries(memory.rows).flatMap(([entity, days]) => {
    const kept = shift >= 0 ? days.slice(shift) : never.repeat(-shift) + days;
    return /[^-]/.test(kept) ? [[entity, kept.slice(0, rememberedDays)] as const] : [];
  });
  return { from, rows: Object.fromEntries(rows), countedAt: memory.countedAt };
}

/** Null once there is too much to remember. */
export function remember(memory: Memory | null, found: Place[], most: number): Memory | null {
  if (!memory) return null;
  const rows = new Map(Object.entries(memory.rows));
  for (const { date, entity } of found) {
    const index = daysFrom(memory.from, date);
    if (index < 0 || index >= rememberedDays) continue;
    const days = (rows.get(entity) ?? "").padEnd(index, never);
    rows.set(entity, days.slice(0, index) + seen + days.slice(index + 1));
  }
  return rows.size > most ? null : { ...memory, rows: Object.fromEntries(rows) };
}

/** Ends the reading of some days; tells which rows are gone. `counts`: whether missing ones are counted now. */
export function endReading(
  memory: Memory | null,
  { since, until }: { since: string; until: string },
  counts: boolean,
): { memory: Memory | null; gone: Place[] } {
  if (!memory) return { memory, gone: [] };
  const gone: Place[] = [];
  const [first, last] = [daysFrom(memory.from, since), daysFrom(memory.from, until)];
  const rows = Object.entries(memory.rows).map(([entity, days]) => {
    const read = Array.from(days, (state, index) => {
      if (index < first || index > last || state === never) return state;
      if (state === seen) return here;
      if (!counts) return state;
      if (state === here) return missed;
      gone.push({ date: addDays(memory.from, index), entity });
      return never;
    });
    return [entity, read.join("")] as const;
  });
  return { memory: { ...memory, rows: Object.fromEntries(rows) }, gone };
}
