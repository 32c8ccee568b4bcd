import { addDays, dayMs, hourMs } from "../../scripts/demo/calendar.ts";
import { random } from "../../scripts/demo/random.ts";

export type MetaAccount = {
  id: string;
  name: string;
  timeZone: string;
  currency: string;
  /** Of the account; ad sets of each campaign; ads of each ad set. */
  campaigns: number;
  adSets: number;
  ads: number;
};
export type MetaLevel = "account" | "campaign" | "adset" | "ad";

/** Of one ad on one day; spend and purchase value in hundredths. */
export type MetaFigures = {
  spend: number;
  impressions: number;
  clicks: number;
  reach: number;
  purchases: number;
  purchaseValue: number;
};

/** Whatever a level has rows of, with the ads that it sums up. */
export type MetaEntity = { names: Record<string, string>; ads: string[] };

const themes = ["Prospecting", "Retargeting", "Catalogue", "Brand", "Launch", "Clearance", "Newsletter"];

/** What was restated since: by ad and day; null when the row is gone. */
export type Restatements = ReadonlyMap<string, MetaFigures | null>;
export const restatementKey = (ad: string, date: string) => `${ad}:${date}`;

export type MetaWorld = ReturnType<typeof makeWorld>;

/** Accounts and their figures, which depend on the seed, the ad and the day alone. */
export function makeWorld(accounts: readonly MetaAccount[], seed: number) {
  const entities = new Map<string, MetaEntity[]>();
  const accountOf = (id: string) => accounts.find((account) => account.id === id);

  /** Of a level, in one account or one campaign. */
  function entitiesOf(account: MetaAccount, level: MetaLevel, campaign?: string): MetaEntity[] {
    const key = `${account.id}:${level}:${campaign ?? ""}`;
    let known = entities.get(key);
    if (!known) {
      known = group(account, level).filter(({ names }) => !campaign || names.campaign_id === campaign);
      entities.set(key, known);
    }
    return known;
  }

  function group(account: MetaAccount, level: MetaLevel): MetaEntity[] {
    const groups = new Map<string, MetaEntity>();
    for (const names of adsOf(account)) {
      const kept: Record<string, string> = { account_id: account.id, account_name: account.name };
      for (const part of partsOf[level])
        for (const field of [`${part}_id`, `${part}_name`]) kept[field] = names[field] ?? "";
      const id = level === "account" ? account.id : (names[`${level}_id`] ?? "");
      const entity = groups.get(id) ?? { names: kept, ads: [] };
      entity.ads.push(names.ad_id ?? "");
      groups.set(id, entity);
    }
    return [...groups.values()];
  }

  /** Undefined when the ad was not shown that day. */
  function figuresOf(ad: string, date: string, restatements: Restatements): MetaFigures | undefined {
    const restated = restatements.get(restatementKey(ad, date));
    if (restated !== undefined) return restated ?? undefined;
    const rng = random(`${seed}:${ad}:${date}`);
    if (rng.chance(0.08)) return undefined;
    const spend = rng.integer(40, 24_000);
    const impressions = Math.ceil(spend * (0.6 + rng.next()));
    const clicks = Math.floor(impressions * rng.next() * 0.04);
    const purchases = Math.floor(clicks * rng.next() * 0.1);
    return {
      ...{ spend, impressions, clicks, purchases },
      reach: Math.ceil(impressions * (0.5 + rng.next() * 0.4)),
      purchaseValue: purchases * rng.integer(1500, 9000),
    };
  }

  /** What all ads of an entity had that day. */
  function totalOf(
    { ads }: MetaEntity,
    date: string,
    restatements: Restatements,
    share: number,
  ): MetaFigures | undefined {
    let total: MetaFigures | undefined;
    for (const ad of ads) {
      const figures = figuresOf(ad, date, restatements);
      if (!figures) continue;
      total ??= { spend: 0, impressions: 0, clicks: 0, reach: 0, purchases: 0, purchaseValue: 0 };
      total.spend += Math.ceil(figures.spend * share);
      total.impressions += Math.ceil(figures.impressions * share);
      total.clicks += Math.ceil(figures.clicks * share);
      // People who saw two ads count once.
      total.reach += Math.ceil(figures.reach * share * (ads.length > 1 ? 0.8 : 1));
      total.purchases += Math.floor(figures.purchases * share);
      total.purchaseValue += Math.floor(figures.purchaseValue * share);
    }
    return total;
  }

  return {
    accounts,
    accountOf,
    entitiesOf,
    figuresOf,
    totalOf,
    accountOfCampaign: (id: string) =>
      accounts.find((account) =>
        entitiesOf(account, "campaign").some(({ names }) => names.campaign_id === id),
      ),
  };
}

const partsOf = {
  account: [],
  campaign: ["campaign"],
  adset: ["campaign", "adset"],
  ad: ["campaign", "adset", "ad"],
};

function* adsOf(account: MetaAccount): Generator<Record<string, string>> {
  const number = (parent: string, index: number) => `${parent}${String(index + 1).padStart(3, "0")}`;
  for (let c = 0; c < account.campaigns; c++) {
    const campaign_id = number(`2385${account.id.slice(-5)}`, c);
    const campaign_name = `${themes[c % themes.length]} ${c + 1}`;
    for (let s = 0; s < account.adSets; s++) {
      const adset_id = number(campaign_id, s);
      for (let a = 0; a < account.ads; a++)
        yield {
          ...{ campaign_id, campaign_name, adset_id, adset_name: `Audience ${s + 1}` },
          ad_id: number(adset_id, a),
          ad_name: `Creative ${a + 1}`,
        };
    }
  }
}

const formats = new Map<string, Intl.DateTimeFormat>();

/** The calendar day in a time zone. */
export function localDate(time: number, timeZone: string): string {
  let format = formats.get(timeZone);
  if (!format) {
    format = new Intl.DateTimeFormat("sv-SE", { timeZone, dateStyle: "short" });
    formats.set(timeZone, format);
  }
  return format.format(time);
}

const starts = new Map<string, number>();

/** The first quarter of an hour that is of that day there: found by looking at all of them. */
export function firstInstant(date: string, timeZone: string): number {
  const key = `${date} ${timeZone}`;
  let start = starts.get(key);
  if (start === undefined) {
    start = Date.parse(date) - dayMs;
    while (localDate(start, timeZone) < date) start += hourMs / 4;
    starts.set(key, start);
  }
  return start;
}

/** How much of a day is over, by the hour. */
export function shareOver(date: string, timeZone: string, now: number): number {
  const start = firstInstant(date, timeZone);
  const length = firstInstant(addDays(date, 1), timeZone) - start;
  return Math.min(1, Math.max(1, Math.floor((now - start) / hourMs)) / (length / hourMs));
}
