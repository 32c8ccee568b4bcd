import { campaign } from "./acme.ts";
import { type AdAccount, insightsOfDay } from "./ads.ts";
import { indianSeason } from "./calendar.ts";
import { type Business, salesOfDay } from "./sales.ts";

const timeZone = "Asia/Kolkata";

/** Restaurants in India: imported sales, and their advertising. */
export function globex(integrations: { restaurants: string; metaAds: string }) {
  const restaurants: Business = {
    tenant: "globex",
    source: `csv:${integrations.restaurants}`,
    timeZone,
    perDay: 39,
    perWeekday: [1.28, 0.82, 0.85, 0.88, 0.94, 1.1, 1.33],
    perHour: [1, 0, 0, 0, 0, 0, 0, 2, 4, 4, 3, 5, 11, 14, 9, 4, 4, 5, 7, 12, 16, 15, 8, 3],
    season: indianSeason,
    products: [
      { name: "Masala dosa", price: 14000 },
      { name: "Paneer tikka", price: 32000 },
      { name: "Chicken biryani", price: 38000 },
      { name: "Thali", price: 29000 },
      { name: "Butter naan", price: 6000 },
      { name: "Filter coffee", price: 5000 },
      { name: "Gulab jamun", price: 9000 },
      { name: "Mango lassi", price: 11000 },
    ],
    markets: [{ currency: "INR", weight: 1, priceFactor: 1 }],
    channels: ["in_store", "in_store", "delivery", "phone"],
    locationIds: ["indiranagar", "koramangala", "jayanagar"],
    methods: ["wallet", "wallet", "card", "cash"],
    taxRate: 0.05,
    tipShare: 0.2,
    refundShare: 0.02,
    feeRate: 0.018,
  };
  const ads: AdAccount = {
    id: "act_7719034",
    source: `meta-ads:${integrations.metaAds}`,
    timeZone,
    currency: "INR",
    orderValue: 62000,
    season: indianSeason,
    campaigns: [
      campaign("7101", "Delivery: Bengaluru", 450000, 14000, 0.016, 0.031),
      campaign("7102", "Weekend brunch", 220000, 12500, 0.012, 0.019),
    ],
  };
  return (date: string, growth: number) => [
    ...salesOfDay(restaurants, date, growth),
    ...insightsOfDay(ads, date),
  ];
}
