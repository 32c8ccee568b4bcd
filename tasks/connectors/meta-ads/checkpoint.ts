import { z } from "zod";

const day = z.iso.date();
const instant = z.iso.datetime();

/** Which rows Meta gave in the look-back; `deletions.ts` reads it. */
export const memory = z.object({
  from: day,
  /** By id of the campaign, ad set or ad: a letter for each day from `from` on. */
  rows: z.record(z.string(), z.string()),
  /** When the last pass counted what is missing. */
  countedAt: instant.nullable(),
});
export type Memory = z.output<typeof memory>;

const account = z.object({
  timeZone: z.string(),
  /** The last day that a finished pass has read. */
  readThrough: day.nullable(),
  /** Null: nothing is known, or too much to be kept. */
  memory: memory.nullable(),
});

/** One reading of every account's window, a stretch of days after the other. */
const pass = z.object({
  /** The settings that its queries are made of. When they change, it is given up: its cursors are good for these only. */
  settings: z.string(),
  openedAt: instant,
  accountIds: z.array(z.string()).min(1),
  index: z.int().min(0),
  /** Of the account at `index`: all of its days, and the first day of the stretch. */
  window: z.object({ since: day, until: day }),
  from: day,
  /** How many days a stretch has; fewer where Meta says that this is too much. */
  days: z.int().min(1),
  limit: z.int().min(1),
  after: z.string().nullable(),
  /** Whether answers are fetched from reports that Meta makes meanwhile. */
  byReport: z.boolean(),
  report: z.object({ id: z.string(), startedAt: instant, isReady: z.boolean() }).nullable(),
  /** For a day that is too much at once: the campaigns that wait, and where the list of them goes on; null at its end. */
  campaigns: z.object({ ids: z.array(z.string()), after: z.string().nullable() }).nullable(),
  /** How often this stretch was begun anew, and when for the last time. */
  failures: z.int().min(0),
  failedAt: instant.nullable(),
  /** From when on it has read everything; null when it began later than the beginning, or could not read some row. */
  wholeSince: instant.nullable(),
  /** Whether it counts rows that are missing. */
  counts: z.boolean(),
});
export type Pass = z.output<typeof pass>;

export const metaCheckpoint = z.object({
  accounts: z.record(z.string(), account),
  /** Null between runs. */
  pass: pass.nullable(),
});
export type MetaCheckpoint = z.output<typeof metaCheckpoint>;

export const accountIdOf = ({ accountIds, index }: Pass): string => accountIds[index] ?? "";
