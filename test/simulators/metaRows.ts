import { addDays } from "../../scripts/demo/calendar.ts";
import type { MetaAccount, MetaEntity, MetaFigures, MetaWorld, Restatements } from "./metaData.ts";
import { firstInstant, localDate, shareOver } from "./metaData.ts";
import { type Cursor, type InsightsQuery, makeCursor, type Place } from "./metaProtocol.ts";

export type View = {
  world: MetaWorld;
  restatements: Restatements;
  now: number;
  /** Whether today's figures grow by the hour. */
  live: boolean;
};
type Scope = { account: MetaAccount; campaign?: string | undefined };

/** The rows behind a cursor, and where the next page begins. */
export function pageOf(view: View, scope: Scope, query: InsightsQuery, from: Place, limit: number) {
  const entities = view.world.entitiesOf(scope.account, query.level, scope.campaign);
  const today = localDate(view.now, scope.account.timeZone);
  const rows: Record<string, unknown>[] = [];
  const until = query.until < today ? query.until : today;
  let { date, index } = from;
  for (; date <= until; date = addDays(date, 1), index = 0)
    for (; index < entities.length; index++) {
      const entity = entities[index];
      const figures = entity && figuresOf(view, scope.account, entity, date);
      if (!figures) continue;
      if (rows.length === limit) return { rows, next: { date, index } };
      rows.push(rowOf(scope.account, entity, figures, date, query));
    }
  return { rows, next: undefined };
}

/** How much Meta must add up for a query. */
export const weightOf = (view: View, { account, campaign }: Scope, { level, since, until }: InsightsQuery) =>
  view.world.entitiesOf(account, level, campaign).length *
  (Math.round((Date.parse(until) - Date.parse(since)) / 86_400_000) + 1);

export const cursorTo = (place: Place, query: InsightsQuery, more: Partial<Cursor> = {}) =>
  makeCursor({ query: query.identity, ...place, ...more });

function figuresOf(view: View, account: MetaAccount, entity: MetaEntity, date: string) {
  const isToday = view.live && localDate(view.now, account.timeZone) === date;
  const share = isToday ? shareOver(date, account.timeZone, view.now) : 1;
  return view.world.totalOf(entity, date, view.restatements, share);
}

/** Meta cuts zeros at the end, and writes every number as text. */
const money = (hundredths: number) =>
  `${Math.floor(hundredths / 100)}.${String(hundredths % 100).padStart(2, "0")}`.replace(/\.?0+$/, "") || "0";

function rowOf(
  account: MetaAccount,
  entity: MetaEntity,
  figures: MetaFigures,
  date: string,
  { fields, windows }: InsightsQuery,
): Record<string, unknown> {
  const { purchases, purchaseValue, clicks } = figures;
  const statistic = (action_type: string, value: number, print: (value: number) => string) => {
    const click = Math.floor(value * 0.75);
    const byWindow: Record<string, number> = {
      "1d_click": Math.floor(value * 0.6),
      "7d_click": click,
      "28d_click": click,
      "1d_view": value - click,
    };
    const asked = windows.map((window) => [window, print(byWindow[window] ?? 0)]);
    return { action_type, value: print(value), ...Object.fromEntries(asked) };
  };
  const all: Record<string, unknown> = {
    ...entity.names,
    account_currency: account.currency,
    spend: money(figures.spend),
    impressions: String(figures.impressions),
    clicks: String(clicks),
    reach: String(figures.reach),
    actions: [
      ...(clicks > 0 ? [statistic("link_click", clicks, String)] : []),
      ...(purchases > 0
        ? ["purchase", "omni_purchase", "offsite_conversion.fb_pixel_purchase"].map((type) =>
            statistic(type, purchases, String),
          )
        : []),
    ],
    action_values: purchaseValue > 0 ? [statistic("omni_purchase", purchaseValue, money)] : [],
  };
  const row: Record<string, unknown> = { date_start: date, date_stop: date };
  for (const field of fields) {
    const value = all[field];
    // What is empty is left out.
    if (value !== undefined && !(Array.isArray(value) && value.length === 0)) row[field] = value;
  }
  return row;
}

export type TrueEvent = {
  sourceId: string;
  eventType: "ad_insight";
  eventName: string;
  timestamp: string;
  value: string;
  currency: string;
  properties: Record<string, unknown>;
};

const names = {
  account: "ad_insight_account",
  campaign: "ad_insight_campaign",
  adset: "ad_insight_ad_set",
  ad: "ad_insight_ad",
};

/** What a destination must hold of some days of an account at one level. */
export function* truthOf(
  view: View,
  account: MetaAccount,
  level: keyof typeof names,
  since: string,
  until: string,
): Generator<TrueEvent> {
  const today = localDate(view.now, account.timeZone);
  const last = until < today ? until : today;
  for (let date = since; date <= last; date = addDays(date, 1))
    for (const entity of view.world.entitiesOf(account, level)) {
      const figures = figuresOf(view, account, entity, date);
      if (!figures) continue;
      const id = entity.names[`${level}_id`];
      const { impressions, clicks, reach, purchases } = figures;
      const properties: Record<string, unknown> = {
        ...{ date, accountId: `act_${account.id}`, impressions, clicks, reach, conversions: purchases },
        conversionValue: money(figures.purchaseValue),
      };
      const own: Record<string, string> = { campaign: "campaign", adset: "adSet", ad: "ad" };
      for (const [part, key] of Object.entries(own)) {
        if (entity.names[`${part}_id`] === undefined) continue;
        properties[`${key}Id`] = entity.names[`${part}_id`];
        properties[`${key}Name`] = entity.names[`${part}_name`];
      }
      yield {
        sourceId: `ad_insight:${level === "adset" ? "ad_set" : level}:${date}:${id}`,
        eventType: "ad_insight",
        eventName: names[level],
        timestamp: new Date(firstInstant(date, account.timeZone)).toISOString(),
        value: money(figures.spend),
        currency: account.currency,
        properties,
      };
    }
}
