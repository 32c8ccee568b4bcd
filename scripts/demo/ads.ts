import type { EventInput } from "../../tasks/connectors/connector.ts";
import { startOfLocalDay, weekday } from "./calendar.ts";
import { random } from "./random.ts";
import { hundredths } from "./sales.ts";

export type Campaign = {
  id: string;
  name: string;
  /** Spend on an ordinary day, in hundredths. */
  budget: number;
  /** Spend for a thousand impressions, in hundredths. */
  perThousand: number;
  clickRate: number;
  conversionRate: number;
};
export type AdAccount = {
  id: string;
  source: string;
  timeZone: string;
  currency: string;
  orderValue: number;
  season(date: string): number;
  campaigns: readonly Campaign[];
};

/** One event for each campaign: the figures of that day. */
export function* insightsOfDay(account: AdAccount, date: string): Generator<EventInput> {
  for (const campaign of account.campaigns) {
    const rng = random(`${campaign.id}:${date}`);
    const weekend = weekday(date) % 6 === 0 ? 1.15 : 1;
    const spend = Math.round(campaign.budget * account.season(date) * weekend * (0.85 + rng.next() * 0.3));
    const impressions = Math.round((spend / campaign.perThousand) * 1000 * (0.9 + rng.next() * 0.2));
    const clicks = Math.round(impressions * campaign.clickRate * (0.8 + rng.next() * 0.4));
    const conversions = Math.round(clicks * campaign.conversionRate * (0.6 + rng.next() * 0.8));
    const conversionValue = Math.round(conversions * account.orderValue * (0.8 + rng.next() * 0.4));
    yield {
      eventType: "ad_insight",
      eventName: "ad_insight_campaign",
      timestamp: new Date(startOfLocalDay(date, account.timeZone)).toISOString(),
      value: hundredths(spend),
      currency: account.currency,
      source: account.source,
      sourceId: `ad_insight:campaign:${date}:${campaign.id}`,
      properties: {
        date,
        accountId: account.id,
        campaignId: campaign.id,
        campaignName: campaign.name,
        impressions,
        clicks,
        conversions,
        conversionValue: hundredths(conversionValue),
      },
    };
  }
}
