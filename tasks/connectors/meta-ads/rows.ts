import { z } from "zod";
import type { EventInput, UnparsableRecord } from "../connector.ts";
import { startOfDay } from "./calendar.ts";
import type { Level, MetaConfig } from "./settings.ts";

/** How a level is asked for, and what its rows become. */
export const byLevel = {
  accounts: { level: "account", eventName: "ad_insight_account", entity: "account_id" },
  campaigns: { level: "campaign", eventName: "ad_insight_campaign", entity: "campaign_id" },
  ad_sets: { level: "adset", eventName: "ad_insight_ad_set", entity: "adset_id" },
  ads: { level: "ad", eventName: "ad_insight_ad", entity: "ad_id" },
} as const;

const names = {
  accounts: [],
  campaigns: ["campaign_id", "campaign_name"],
  ad_sets: ["campaign_id", "campaign_name", "adset_id", "adset_name"],
  ads: ["campaign_id", "campaign_name", "adset_id", "adset_name", "ad_id", "ad_name"],
} as const;

export const fieldsOf = (level: Level): string =>
  [
    ...["account_id", "account_currency", ...names[level]],
    ...["spend", "impressions", "clicks", "reach", "actions", "action_values"],
  ].join(",");

// Meta writes numbers as text, and not always.
const text = z.union([z.string(), z.int().transform(String)]);
const decimal = text.pipe(z.string().regex(/^-?\d+(\.\d+)?$/, "is not a decimal"));
const integer = text.pipe(z.string().regex(/^\d+$/, "is not a whole number")).transform(Number).pipe(z.int());
const id = text.pipe(z.string().regex(/^\d+$/, "is not an id"));
const name = z.string().optional();

const amount = text.pipe(z.string().regex(/^\d+(\.\d+)?$/, "is not a decimal"));
const statistic = z.object({
  action_type: z.string(),
  value: amount.optional(),
  "1d_click": amount.optional(),
  "7d_click": amount.optional(),
  "28d_click": amount.optional(),
  "1d_view": amount.optional(),
});
const row = z
  .object({
    date_start: z.iso.date(),
    date_stop: z.iso.date(),
    account_id: id,
    account_currency: z.string().regex(/^[A-Z]{3}$/),
    campaign_id: id.optional(),
    campaign_name: name,
    adset_id: id.optional(),
    adset_name: name,
    ad_id: id.optional(),
    ad_name: name,
    spend: decimal,
    impressions: integer,
    clicks: integer.default(0),
    reach: integer.optional(),
    actions: z.array(statistic).default([]),
    action_values: z.array(statistic).default([]),
  })
  .refine((row) => row.date_start === row.date_stop, "is of several days");

const key = z.looseObject({ date_start: z.iso.date() });

export type MappedRows = {
  events: EventInput[];
  unparsable: UnparsableRecord[];
  /** Of the rows that could be told apart, also of those that could not be read. */
  found: { date: string; entity: string }[];
};

type Mapping = { level: Level; timeZone: string; config: MetaConfig; version: string };
type DayStart = (date: string) => string;

/** Maps what parses, and keeps the rest with the reason. */
export function mapRows(rows: unknown[], mapping: Mapping): MappedRows {
  const mapped: MappedRows = { events: [], unparsable: [], found: [] };
  const starts = new Map<string, string>();
  const startOf: DayStart = (date) => {
    const start = starts.get(date) ?? new Date(startOfDay(date, mapping.timeZone)).toISOString();
    starts.set(date, start);
    return start;
  };
  for (const record of rows) {
    const known = key.safeParse(record).data;
    const entity = id.safeParse(known?.[byLevel[mapping.level].entity]).data;
    if (known && entity) mapped.found.push({ date: known.date_start, entity });
    const { event, reason } = toEvent(record, entity, mapping, startOf);
    if (event) mapped.events.push(event);
    else {
      const sourceId = known && entity ? sourceIdOf(mapping.level, known.date_start, entity) : undefined;
      mapped.unparsable.push({ ...(sourceId ? { sourceId } : {}), reason, record });
    }
  }
  return mapped;
}

/** Of all rows of a level. */
export const sourceIdPrefix = (level: Level) =>
  `${byLevel[level].eventName.replace("_insight_", "_insight:")}:`;

export const sourceIdOf = (level: Level, date: string, entity: string) =>
  `${sourceIdPrefix(level)}${date}:${entity}`;

type Read = { event: EventInput; reason?: never } | { event?: never; reason: string };

function toEvent(record: unknown, entity: string | undefined, mapping: Mapping, startOf: DayStart): Read {
  const { level, config, version } = mapping;
  const { data, error } = row.safeParse(record);
  if (error) return { reason: z.prettifyError(error) };
  if (!entity) return { reason: `${byLevel[level].entity} is missing.` };
  const conversions = Number(attributed(data.actions, config));
  if (!Number.isSafeInteger(conversions))
    return { reason: `${conversions} conversions are no whole number.` };
  const properties = {
    date: data.date_start,
    accountId: `act_${data.account_id}`,
    campaignId: data.campaign_id,
    campaignName: data.campaign_name,
    adSetId: data.adset_id,
    adSetName: data.adset_name,
    adId: data.ad_id,
    adName: data.ad_name,
    impressions: data.impressions,
    clicks: data.clicks,
    reach: data.reach,
    conversions,
    conversionValue: attributed(data.action_values, config),
  };
  const event = {
    eventType: "ad_insight",
    eventName: byLevel[level].eventName,
    timestamp: startOf(data.date_start),
    value: data.spend,
    currency: data.account_currency,
    sourceId: sourceIdOf(level, data.date_start, entity),
    sourceVersion: version,
    // What Meta does not know is left out.
    properties: Object.fromEntries(
      Object.entries(properties).filter(([, value]) => value !== undefined && value !== ""),
    ),
  };
  return { event };
}

/** Of one action type alone, since types overlap; Meta leaves out what is zero. */
function attributed(statistics: z.output<typeof statistic>[], config: MetaConfig): string {
  const statistic = statistics.find(({ action_type }) => action_type === config.conversionAction);
  if (!statistic) return "0";
  const windows = config.attributionWindows.length === 0 ? (["value"] as const) : config.attributionWindows;
  return sum(windows.map((window) => statistic[window] ?? "0"));
}

/** Exact, as decimal text. */
function sum(decimals: string[]): string {
  const scale = Math.max(0, ...decimals.map((decimal) => decimal.split(".")[1]?.length ?? 0));
  const total = decimals.reduce((total, decimal) => {
    const [whole = "0", fraction = ""] = decimal.split(".");
    return total + BigInt(whole + fraction.padEnd(scale, "0"));
  }, 0n);
  const digits = total.toString().padStart(scale + 1, "0");
  return scale === 0 ? digits : `${digits.slice(0, -scale)}.${digits.slice(-scale)}`;
}
