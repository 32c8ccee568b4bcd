import { type AdAccount, insightsOfDay } from "./ads.ts";
import { americanSeason } from "./calendar.ts";
import { type Business, salesOfDay } from "./sales.ts";

const timeZone = "America/New_York";

/** An outfitter in New York: its web shop and its advertising. Its tills are synced live. */
export function acme(integrations: { onlineShop: string; metaAds: string }) {
  const shop: Business = {
    tenant: "acme",
    source: `shopify:${integrations.onlineShop}`,
    timeZone,
    perDay: 76,
    perWeekday: [1.12, 1.05, 0.95, 0.92, 0.94, 0.98, 1.04],
    perHour: [3, 2, 1, 1, 1, 2, 3, 5, 6, 7, 8, 8, 9, 8, 7, 7, 7, 8, 9, 11, 13, 13, 10, 6],
    season: americanSeason,
    products: [
      { name: "Trail running shoes", price: 12900 },
      { name: "Merino base layer", price: 7900 },
      { name: "Rain jacket", price: 18900 },
      { name: "Daypack 22 l", price: 9500 },
      { name: "Wool socks", price: 1900 },
      { name: "Water bottle", price: 2800 },
      { name: "Head torch", price: 4900 },
      { name: "Trekking poles", price: 8900 },
    ],
    markets: [
      { currency: "USD", weight: 88, priceFactor: 1 },
      { currency: "EUR", weight: 7, priceFactor: 0.95 },
      { currency: "GBP", weight: 5, priceFactor: 0.82 },
    ],
    channels: ["online"],
    locationIds: [],
    methods: ["card", "card", "card", "wallet"],
    taxRate: 0.07,
    tipShare: 0,
    refundShare: 0.055,
    feeRate: 0.029,
  };
  const ads: AdAccount = {
    id: "act_4410882",
    source: `meta-ads:${integrations.metaAds}`,
    timeZone,
    currency: "USD",
    orderValue: 14800,
    season: americanSeason,
    campaigns: [
      campaign("6301", "Prospecting: runners", 32000, 1150, 0.011, 0.018),
      campaign("6302", "Retargeting: basket", 14500, 1900, 0.021, 0.052),
      campaign("6303", "Catalogue: outdoor", 21000, 900, 0.013, 0.022),
      campaign("6304", "Brand: video", 9000, 520, 0.004, 0.008),
    ],
  };
  return (date: string, growth: number) => [...salesOfDay(shop, date, growth), ...insightsOfDay(ads, date)];
}

export const campaign = (
  id: string,
  name: string,
  budget: number,
  perThousand: number,
  clickRate: number,
  conversionRate: number,
) => ({ id: `2385${id}`, name, budget, perThousand, clickRate, conversionRate });
