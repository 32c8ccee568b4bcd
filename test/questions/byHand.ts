import type { EventInput } from "../../tasks/connectors/connector.ts";
import type { Cell } from "./plainReader.ts";

const SHOP = "shopify:by-hand";
const ADS = "meta-ads:by-hand";

const event = (
  eventType: string,
  eventName: string,
  timestamp: string,
  value: string,
  currency: string,
  source: string,
  sourceId: string,
  properties: Record<string, unknown>,
): EventInput => ({
  ...{ eventType, eventName, timestamp, value, currency, source },
  ...{ sourceId: `${eventType}:${sourceId}`, properties },
});
const order = (id: number, time: string, value: string, currency: string, customerId: string, done = true) =>
  event("order", done ? "order_completed" : "order_canceled", time, value, currency, SHOP, `${id}`, {
    customerId,
  });
const refund = (id: number, time: string, value: string, currency: string, orderSourceId: string) =>
  event("refund", "refund_completed", time, value, currency, SHOP, `${id}`, { orderSourceId });
const payment = (id: number, time: string, value: string, properties: Record<string, string>) =>
  event("payment", "payment_completed", time, value, "USD", SHOP, `${id}`, properties);
const insight = (day: string, value: string, campaign: string, shown: number, clicks: number, won: string) =>
  event(
    "ad_insight",
    "ad_insight_campaign",
    `${day}T00:00:00-05:00`,
    value,
    "USD",
    ADS,
    `${day}:${campaign}`,
    {
      ...{ date: day, campaignId: campaign, campaignName: campaign },
      ...{ impressions: shown, clicks, conversions: 1, conversionValue: won },
    },
  );

/** Thirty events of a shop in New York, about the night in which its clocks went forward, 8 March 2026. */
export const fixture: EventInput[] = [
  order(1, "2026-03-04T09:15:00-05:00", "100.00", "USD", "c1"),
  order(2, "2026-03-05T10:00:00-05:00", "40.00", "USD", "c2"),
  order(3, "2026-03-07T12:00:00-05:00", "20.00", "USD", "c1"),
  order(4, "2026-03-07T23:59:59.999-05:00", "60.00", "USD", "c3"),
  order(5, "2026-03-08T00:00:00-05:00", "30.00", "USD", "c1"),
  order(6, "2026-03-08T01:30:00-05:00", "10.00", "USD", "c7"),
  // The last moment before, and the first after.
  order(7, "2026-03-08T01:59:59.999-05:00", "50.00", "USD", "c2"),
  order(8, "2026-03-08T03:00:00-04:00", "25.00", "USD", "c4"),
  order(9, "2026-03-08T05:30:00-04:00", "15.00", "EUR", "c5"),
  order(10, "2026-03-08T18:00:00-04:00", "80.00", "EUR", "c6"),
  order(11, "2026-03-08T23:30:00-04:00", "70.00", "USD", "c2"),
  // In winter's time, that would be the day before.
  order(12, "2026-03-09T00:30:00-04:00", "90.00", "USD", "c3"),
  order(13, "2026-03-09T12:00:00-04:00", "35.50", "USD", "c1"),
  order(14, "2026-03-09T12:05:00-04:00", "44.50", "EUR", "c5"),
  order(15, "2026-03-10T19:00:00-04:00", "200.00", "USD", "c6"),
  order(16, "2026-03-09T13:00:00-04:00", "999.00", "USD", "c1", false),
  order(17, "2026-02-20T12:00:00-05:00", "120.00", "USD", "c1"),
  order(18, "2026-02-10T12:00:00-05:00", "75.00", "USD", "c2"),
  order(19, "2026-01-14T12:00:00-05:00", "33.00", "USD", "c2"),
  order(20, "2025-03-05T12:00:00-05:00", "55.00", "USD", "c1"),
  refund(3, "2026-03-08T06:00:00-04:00", "-20.00", "USD", "order:3"),
  refund(9, "2026-03-10T10:00:00-04:00", "-15.00", "EUR", "order:9"),
  refund(17, "2026-02-25T12:00:00-05:00", "-12.00", "USD", "order:17"),
  refund(1, "2026-03-06T09:00:00-05:00", "-10.00", "USD", "order:1"),
  payment(18, "2026-02-10T12:00:10-05:00", "75.00", { method: "card", cardBrand: "visa", fee: "2.20" }),
  payment(17, "2026-02-20T12:00:10-05:00", "120.00", { method: "wallet", fee: "3.50" }),
  insight("2026-03-07", "30.00", "Runners", 1000, 20, "90.00"),
  insight("2026-03-08", "10.00", "Runners", 500, 5, "20.00"),
  insight("2026-03-07", "20.00", "Basket", 400, 10, "100.00"),
  insight("2026-03-08", "5.00", "Video", 2000, 5, "0.00"),
];

/** `from` and `to` where they differ from the page's. */
export type ByHand = {
  title: string;
  from?: string;
  to?: string;
  rows: Cell[][];
  rest: Cell[];
};
const MARCH = { from: "2026-03-01T00:00:00-05:00", to: "2026-03-11T00:00:00-04:00" };

/** Worked out with pencil and paper. */
export const byHand: ByHand[] = [
  {
    title: "How much did we sell on each of the last seven days, in dollars?",
    rows: [
      ["2026-03-04T05:00:00.000000Z", "2026-03-04", "f", "100", "1", "100"],
      ["2026-03-05T05:00:00.000000Z", "2026-03-05", "f", "40", "1", "40"],
      // Only a refund, which is no revenue.
      ["2026-03-06T05:00:00.000000Z", "2026-03-06", "f", "0", "0", null],
      // 20 + 60 = 80; 80 / 2 = 40
      ["2026-03-07T05:00:00.000000Z", "2026-03-07", "f", "80", "2", "40"],
      // 30 + 10 + 50 + 25 + 70 = 185; 185 / 5 = 37; the 15 and 80 are euros
      ["2026-03-08T05:00:00.000000Z", "2026-03-08", "f", "185", "5", "37"],
      // 90 + 35.50 = 125.50; 125.50 / 2 = 62.75; the 999 were called off
      ["2026-03-09T04:00:00.000000Z", "2026-03-09", "f", "125.5", "2", "62.75"],
      ["2026-03-10T04:00:00.000000Z", "2026-03-10", "f", "200", "1", "200"],
    ],
    // Seven days; 100 + 40 + 0 + 80 + 185 + 125.50 + 200 = 730.50; 1 + 1 + 0 + 2 + 5 + 2 + 1 = 12; 730.50 / 12 = 60.875
    rest: ["7", "730.5", "12", "60.875"],
  },
  {
    title: "How many customers ordered in each week that begins on Monday, and how many orders were that?",
    rows: [
      // Order 18
      ["2026-02-09", "1", "1"],
      // Order 17
      ["2026-02-16", "1", "1"],
      ["2026-02-23", "0", "0"],
      // Orders 1 to 11, of c1, c2, c3, c4, c5, c6 and c7
      ["2026-03-02", "7", "11"],
    ],
    // c1 and c2 had ordered before: still 7; 1 + 1 + 0 + 11 = 13
    rest: ["7", "13"],
  },
  {
    title: "How many orders came in during each hour of the night in which the clocks went forward?",
    rows: [
      // Order 5
      ["2026-03-08T05:00:00.000000Z", "2026-03-08T00:00", "1"],
      // Orders 6 and 7
      ["2026-03-08T06:00:00.000000Z", "2026-03-08T01:00", "2"],
      // Order 8
      ["2026-03-08T07:00:00.000000Z", "2026-03-08T03:00", "1"],
      ["2026-03-08T08:00:00.000000Z", "2026-03-08T04:00", "0"],
      // Order 9
      ["2026-03-08T09:00:00.000000Z", "2026-03-08T05:00", "1"],
    ],
    // 1 + 2 + 1 + 0 + 1 = 5
    rest: ["5"],
  },
  {
    title: "How do the currencies compare in February?",
    ...MARCH,
    rows: [
      // 15 + 80 + 44.50 = 139.50; 139.50 / 3 = 46.50
      ["EUR", "139.5", "3", "46.5"],
      // As the seven days above: nothing was sold from the 1st to the 3rd
      ["USD", "730.5", "12", "60.875"],
    ],
    rest: [],
  },
  {
    title: "What is a usual order, and what is a large one?",
    ...MARCH,
    // 10, 20, 25, 30, 35.50, 40, 50, 60, 70, 90, 100, 200: the middle ones are 40 and 50, (40 + 50) / 2 = 45; nine tenths of
    // twelve are 10.8, so the eleventh, 100, is the first that they do not exceed
    rows: [["2026-03", "60.875", "45", "100", "10", "200"]],
    rest: ["45"],
  },
  {
    title: "Who are our five best customers, and how much of our dollars comes from the rest?",
    rows: [
      // 100 + 20 + 30 + 35.50 + 120 = 305.50; the 55 are of the year before, the 999 were called off
      ["c1", "f", "305.5", "5"],
      // 40 + 50 + 70 + 75 + 33 = 268
      ["c2", "f", "268", "5"],
      // The 80 are euros
      ["c6", "f", "200", "1"],
      // 60 + 90 = 150
      ["c3", "f", "150", "2"],
      ["c4", "f", "25", "1"],
      // c7
      [null, "t", "10", "1"],
    ],
    // 305.50 + 268 + 200 + 150 + 25 + 10 = 958.50
    rest: ["958.5"],
  },
  {
    title: "How much of our revenue do we give back?",
    from: "2026-02-01T00:00:00-05:00",
    to: MARCH.to,
    rows: [
      // 120 + 75 = 195; 12 / 195 = 4 / 65 = 0.06153846153...
      ["2026-02", "-12", "0.0615384615"],
      // 20 + 10 = 30; 30 / 730.50 = 20 / 487 = 0.04106776180...
      ["2026-03", "-30", "0.0410677618"],
    ],
    // 42 / 925.50 = 28 / 617 = 0.04538087520...
    rest: ["0.0453808752"],
  },
  {
    title: "How does each of the last four weeks compare with the one four weeks before?",
    rows: [
      // Order 18, and order 19
      ["2026-02-08", "75", "33"],
      // Order 17
      ["2026-02-15", "120", "0"],
      // A refund alone
      ["2026-02-22", "-12", "0"],
      // 100 + 40 + 20 + 60 - 10 = 210
      ["2026-03-01", "210", "0"],
    ],
    // 75 + 120 - 12 + 210 = 393
    rest: ["393", "33"],
  },
  {
    title: "How do people pay, and what does it cost us?",
    rows: [
      ["card", "visa", "1", "75", "2.2"],
      ["wallet", null, "1", "120", "3.5"],
    ],
    // 2.20 + 3.50 = 5.70
    rest: ["5.7"],
  },
  {
    title: "Which two campaigns bring back most for what they cost?",
    ...MARCH,
    rows: [
      // 100 / 20 = 5
      ["Basket", "f", "5", "20"],
      // (90 + 20) / (30 + 10) = 110 / 40 = 2.75
      ["Runners", "f", "2.75", "40"],
      // 0 / 5 = 0
      [null, "t", "0", "5"],
    ],
    // (100 + 110 + 0) / (20 + 40 + 5) = 210 / 65 = 42 / 13 = 3.23076923076...
    rest: ["3.2307692308"],
  },
];
