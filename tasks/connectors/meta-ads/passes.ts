import type { Pause } from "../connector.ts";
import { readAccount } from "./accounts.ts";
import { addDays, dateIn, earlier, firstKeptDay, later, startOfDay } from "./calendar.ts";
import type { MetaCheckpoint, Pass } from "./checkpoint.ts";
import { accountIdOf } from "./checkpoint.ts";
import { openMemory, rememberedDays } from "./deletions.ts";
import { accountIdsOf, type Level, type MetaConfig, type MetaRequest } from "./settings.ts";

/** Meta attributes conversions to a day for that long. */
const lookBackDays = 28;
/** Days of one question. Reports are for windows that have more, of levels that have many rows. */
const daysAtOnce = 31;
const daysOfReport = 93;

/** What the queries of a pass are made of. */
const settingsOf = (config: MetaConfig) =>
  JSON.stringify([
    accountIdsOf(config),
    config.attributionWindows,
    config.conversionAction,
    config.apiVersion,
    config.pageSize,
  ]);

type Opened = { checkpoint: MetaCheckpoint; pass: Pass | undefined; pauses: Pause[] };

/** The pass under way, or a new one; no pass when there is no day to read. */
export async function openPass(request: MetaRequest<MetaCheckpoint>, level: Level): Promise<Opened> {
  const checkpoint = request.checkpoint ?? { accounts: {}, pass: null };
  const settings = settingsOf(request.config);
  if (checkpoint.pass?.settings === settings) return { checkpoint, pass: checkpoint.pass, pauses: [] };
  const openedAt = request.now.toISOString();
  const accountIds = accountIdsOf(request.config);
  // Of several accounts, whose days begin at different times, the latest counts.
  const openedFrom = checkpoint.pass || request.range ? null : new Date(0).toISOString();
  return openAccount(request, level, checkpoint, {
    settings,
    openedAt,
    accountIds,
    index: 0,
    wholeSince: openedFrom,
  });
}

/** Opens the window of the account at `index`, or of the next one that has days to read. */
export async function openAccount(
  request: MetaRequest<MetaCheckpoint>,
  level: Level,
  checkpoint: MetaCheckpoint,
  passed: Pick<Pass, "settings" | "openedAt" | "accountIds" | "index" | "wholeSince">,
): Promise<Opened> {
  const { settings, openedAt, accountIds, index } = passed;
  const accounts = { ...checkpoint.accounts };
  const pauses: Pause[] = [];
  for (let next = index; next < accountIds.length; next++) {
    const id = accountIds[next] ?? "";
    let account = accounts[id];
    if (!account) {
      const { timeZone, pauses: asked } = await readAccount(request, id);
      pauses.push(...asked);
      account = { timeZone, readThrough: null, memory: null };
    }
    const window = windowOf(request, account);
    const first = addDays(dateIn(request.now.getTime(), account.timeZone), 1 - rememberedDays);
    // A backfill reads once, and has nothing to compare with.
    const memory = request.range ? null : openMemory(account.memory, first);
    accounts[id] = { ...account, memory };
    if (window.since > window.until) continue;
    const start = new Date(startOfDay(window.since, account.timeZone)).toISOString();
    const byReport =
      (level === "ads" || level === "ad_sets") && window.until >= addDays(window.since, daysAtOnce);
    const hoursApart = request.config.deletionDelayHours * 3_600_000;
    const pass = {
      ...{ settings, openedAt, accountIds, index: next, window },
      from: window.since,
      days: byReport || level === "accounts" ? daysOfReport : daysAtOnce,
      limit: request.config.pageSize,
      ...{ after: null, byReport, report: null, campaigns: null, failures: 0, failedAt: null },
      wholeSince: passed.wholeSince && !account.readThrough ? later(passed.wholeSince, start) : null,
      counts: !memory?.countedAt || Date.parse(memory.countedAt) + hoursApart <= Date.parse(openedAt),
    };
    return { checkpoint: { accounts, pass }, pass, pauses };
  }
  return { checkpoint: { accounts, pass: null }, pass: undefined, pauses };
}

/** Days of the account: those of the range, or from the look-back before the last day read on, or from the beginning. */
function windowOf(
  { now, config, range }: MetaRequest<MetaCheckpoint>,
  { timeZone, readThrough }: MetaCheckpoint["accounts"][string],
): Pass["window"] {
  const today = dateIn(now.getTime(), timeZone);
  const kept = firstKeptDay(today);
  if (!range) {
    const since = readThrough
      ? addDays(earlier(readThrough, today), -lookBackDays)
      : addDays(today, -config.backfillDays);
    return { since: later(since, kept), until: today };
  }
  // A day belongs to the range when it begins there.
  const first = dateIn(range.since.getTime(), timeZone);
  const isWhole = startOfDay(first, timeZone) >= range.since.getTime();
  const last = dateIn(range.until.getTime() - 1, timeZone);
  return { since: later(isWhole ? first : addDays(first, 1), kept), until: earlier(last, today) };
}

/** The stretch of days that is being read. */
export const stretchOf = ({ from, days, window }: Pass) => ({
  since: from,
  until: earlier(addDays(from, days - 1), window.until),
});

export const timeZoneOf = (checkpoint: MetaCheckpoint, pass: Pass): string =>
  checkpoint.accounts[accountIdOf(pass)]?.timeZone ?? "UTC";
