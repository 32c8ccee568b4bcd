import { z } from "zod";
import type { EventInput, Page, Pause, Stream } from "../connector.ts";
import { callMeta } from "./api.ts";
import { addDays, daysFrom } from "./calendar.ts";
import { accountIdOf, type MetaCheckpoint, metaCheckpoint, type Pass } from "./checkpoint.ts";
import { endReading, remember, rememberedEntities } from "./deletions.ts";
import { MetaError } from "./errors.ts";
import { openAccount, openPass, stretchOf, timeZoneOf } from "./passes.ts";
import { afterRest, remedyOf } from "./remedies.ts";
import { awaitReport, startReport } from "./reports.ts";
import { byLevel, fieldsOf, type MappedRows, mapRows, sourceIdOf, sourceIdPrefix } from "./rows.ts";
import {
  accountScope,
  type Level,
  type MetaConfig,
  type MetaCredentials,
  type MetaRequest,
} from "./settings.ts";

const campaignsAtOnce = 50;

const rowsPage = z.object({
  data: z.array(z.unknown()),
  paging: z
    .object({ cursors: z.object({ after: z.string().optional() }).optional(), next: z.string().optional() })
    .optional(),
});

const campaignRows = z.array(z.object({ campaign_id: z.string().regex(/^\d+$/) }));

type Reading = { request: MetaRequest<MetaCheckpoint>; level: Level; checkpoint: MetaCheckpoint; pass: Pass };
type MetaPage = Page<MetaCheckpoint>;

/** A day's figures of one level, of all accounts. */
export const insights = (
  level: Level,
  description: string,
): Stream<MetaConfig, MetaCredentials, MetaCheckpoint> => ({
  description,
  checkpoint: metaCheckpoint,
  async fetchPage(request) {
    const nothing = { events: [], unparsable: [] };
    if (!request.config.levels.includes(level)) {
      const checkpoint = request.checkpoint ?? { accounts: {}, pass: null };
      return { ...nothing, checkpoint, done: true };
    }
    const { checkpoint, pass, pauses } = await openPass(request, level);
    if (!pass) return { ...nothing, checkpoint, pauses, done: true, highWater: request.now.toISOString() };
    const reading = { request, level, checkpoint, pass };
    try {
      const page = await readOn(reading);
      return { ...page, pauses: [...pauses, ...(page.pauses ?? [])] };
    } catch (error) {
      const next = error instanceof MetaError ? remedyOf(error, pass, level, request.now) : undefined;
      if (!next) throw error;
      // Saved, so that it is known after a restart, too.
      return goOn(reading, next, { pauses: [...pauses, breather(pass, error)] });
    }
  },
});

/** Between a refusal and the next question. */
const breather = (pass: Pass, error: unknown): Pause => ({
  scope: accountScope(accountIdOf(pass)),
  milliseconds: 1000,
  reason: error instanceof Error ? error.message : String(error),
});

const goOn = ({ checkpoint }: Reading, pass: Pass, page: Partial<MetaPage> = {}): MetaPage => ({
  events: [],
  unparsable: [],
  ...page,
  checkpoint: { ...checkpoint, pass },
  done: false,
  progress: progressOf(pass),
});

/** The next question of the pass: which campaigns there are, for a report, or for rows. */
async function readOn(reading: Reading): Promise<MetaPage> {
  const { request } = reading;
  const pass = afterRest(reading.pass, request.now);
  if (pass.campaigns && pass.campaigns.ids.length === 0 && pass.campaigns.after !== null)
    return listCampaigns(reading, pass, pass.campaigns.after);
  const path = `${pass.campaigns?.ids[0] ?? `act_${accountIdOf(pass)}`}/insights`;
  const params = { ...queryOf(reading, pass), fields: fieldsOf(reading.level) };
  if (!pass.byReport) return readRows(reading, pass, path, { ...params, limit: String(pass.limit) });
  if (!pass.report) {
    const started = await startReport(request, pass, path, params);
    return goOn(reading, started.pass, { pauses: started.pauses });
  }
  const ready = await awaitReport(request, pass);
  return readRows(reading, ready, `${pass.report.id}/insights`, { limit: String(pass.limit) });
}

async function readRows(
  reading: Reading,
  pass: Pass,
  path: string,
  params: Record<string, string>,
): Promise<MetaPage> {
  const { request, level, checkpoint } = reading;
  const { rows, after, pauses } = await askPage(reading, pass, path, params, pass.after);
  // What a report says is as old as its order, not as its reading.
  const version = String(pass.report ? Date.parse(pass.report.startedAt) : request.now.getTime());
  const timeZone = timeZoneOf(checkpoint, pass);
  const mapped = mapRows(rows, { level, timeZone, config: request.config, version });
  const remembering = withMemory(reading, pass, mapped);
  const page = { events: mapped.events, unparsable: mapped.unparsable, pauses };
  const read = mapped.unparsable.length > 0 ? { ...pass, wholeSince: null } : pass;
  if (after !== null) return goOn(remembering, { ...read, after }, page);

  const campaigns = pass.campaigns && { ...pass.campaigns, ids: pass.campaigns.ids.slice(1) };
  const next = { ...read, after: null, report: null, failures: 0, failedAt: null, campaigns };
  const isMore = campaigns && (campaigns.ids.length > 0 || campaigns.after !== null);
  return isMore ? goOn(remembering, next, page) : endStretch(remembering, next, page, version);
}

/** A stretch is complete: what is missing in it is counted, and the next one follows, or the next account. */
async function endStretch(
  reading: Reading,
  pass: Pass,
  page: Pick<MetaPage, "events" | "unparsable"> & { pauses: Pause[] },
  version: string,
): Promise<MetaPage> {
  const { request, level } = reading;
  const id = accountIdOf(pass);
  const account = reading.checkpoint.accounts[id];
  const stretch = stretchOf(pass);
  const { memory, gone } = endReading(account?.memory ?? null, stretch, pass.counts);
  const deletions = gone.map(
    ({ date, entity }): EventInput => ({
      eventType: "ad_insight",
      eventName: byLevel[level].eventName,
      sourceId: sourceIdOf(level, date, entity),
      sourceVersion: version,
      deleted: true,
    }),
  );
  const events = [...page.events, ...deletions];
  const isLast = stretch.until === pass.window.until;
  const countedAt = isLast && pass.counts ? pass.openedAt : memory?.countedAt;
  const ended = {
    timeZone: timeZoneOf(reading.checkpoint, pass),
    // Promoted last: only now has everything until then been read.
    readThrough: isLast ? pass.window.until : (account?.readThrough ?? null),
    memory: memory && { ...memory, countedAt: countedAt ?? null },
  };
  const checkpoint = { ...reading.checkpoint, accounts: { ...reading.checkpoint.accounts, [id]: ended } };
  if (!isLast) {
    const next = { ...pass, from: addDays(stretch.until, 1), campaigns: null };
    return goOn({ ...reading, checkpoint }, next, { ...page, events });
  }
  const opened = await openAccount(request, level, checkpoint, { ...pass, index: pass.index + 1 });
  const pauses = [...page.pauses, ...opened.pauses];
  if (opened.pass)
    return goOn({ ...reading, checkpoint: opened.checkpoint }, opened.pass, { ...page, events, pauses });
  return {
    ...page,
    events,
    pauses,
    checkpoint: opened.checkpoint,
    done: true,
    highWater: pass.openedAt,
    progress: 1,
    ...(pass.wholeSince
      ? { complete: { sourceIdPrefix: sourceIdPrefix(level), since: pass.wholeSince } }
      : {}),
  };
}

/** The campaigns that have figures on the day, whatever has become of them since. */
async function listCampaigns(reading: Reading, pass: Pass, cursor: string): Promise<MetaPage> {
  const params = {
    ...queryOf(reading, pass),
    level: "campaign",
    fields: "campaign_id",
    limit: String(campaignsAtOnce),
  };
  const path = `act_${accountIdOf(pass)}/insights`;
  const { rows, after, pauses } = await askPage(reading, pass, path, params, cursor || null);
  const ids = campaignRows.safeParse(rows).data?.map((row) => row.campaign_id);
  if (!ids) throw new MetaError("permanent", "Meta's list of campaigns has an unknown shape.");
  const campaigns = { ids, after };
  if (ids.length > 0 || after !== null) return goOn(reading, { ...pass, campaigns }, { pauses });
  const version = String(reading.request.now.getTime());
  return endStretch(reading, { ...pass, campaigns }, { events: [], unparsable: [], pauses }, version);
}

/** A page of rows, and the cursor of the next; null at the end. Never `paging.next`, which is an address with a token. */
async function askPage(
  { request }: Reading,
  pass: Pass,
  path: string,
  params: Record<string, string>,
  cursor: string | null,
) {
  const question = { path, params: { ...params, ...(cursor ? { after: cursor } : {}) } };
  const { answer, pauses } = await callMeta(request, { ...question, accountId: accountIdOf(pass) }, rowsPage);
  const after = answer.paging?.next === undefined ? null : (answer.paging.cursors?.after ?? null);
  if (after !== null && after === cursor)
    throw new MetaError("transient", "Meta gave the same page again.", { remedy: "startAnew" });
  return { rows: answer.data, after, pauses };
}

function queryOf({ request: { config }, level }: Reading, pass: Pass): Record<string, string> {
  return {
    level: byLevel[level].level,
    time_range: JSON.stringify(stretchOf(pass)),
    time_increment: "1",
    ...(config.attributionWindows.length === 0
      ? {}
      : { action_attribution_windows: JSON.stringify(config.attributionWindows) }),
  };
}

function withMemory(reading: Reading, pass: Pass, { found }: MappedRows): Reading {
  const { checkpoint } = reading;
  const id = accountIdOf(pass);
  const account = checkpoint.accounts[id];
  if (!account) return reading;
  const most = Math.floor(rememberedEntities / pass.accountIds.length);
  const memory = remember(account.memory, found, most);
  return {
    ...reading,
    checkpoint: { ...checkpoint, accounts: { ...checkpoint.accounts, [id]: { ...account, memory } } },
  };
}

function progressOf({ accountIds, index, window, from }: Pass): number {
  const all = daysFrom(window.since, window.until) + 1;
  return (index + daysFrom(window.since, from) / all) / accountIds.length;
}
