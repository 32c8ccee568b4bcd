import type { EventInput } from "../../tasks/connectors/connector.ts";
import { hourMs, startOfLocalDay, weekday } from "./calendar.ts";
import { type Random, random } from "./random.ts";

export type Product = { name: string; price: number };
export type Market = { currency: string; weight: number; priceFactor: number };
export type Business = {
  tenant: string;
  source: string;
  timeZone: string;
  perDay: number;
  /** Sunday first. */
  perWeekday: readonly number[];
  /** From midnight, local time. */
  perHour: readonly number[];
  season(date: string): number;
  products: readonly [Product, ...Product[]];
  markets: readonly [Market, ...Market[]];
  channels: readonly [string, ...string[]];
  locationIds: readonly string[];
  methods: readonly [string, ...string[]];
  taxRate: number;
  tipShare: number;
  refundShare: number;
  feeRate: number;
};

/** Exact decimal text of an amount in hundredths. */
export function hundredths(amount: number): string {
  const size = Math.abs(amount);
  const fraction = String(size % 100).padStart(2, "0");
  return `${amount < 0 ? "-" : ""}${Math.floor(size / 100)}.${fraction}`;
}

/** The orders of one local day, each with its payment and perhaps a refund; `growth` scales how many there are. */
export function* salesOfDay(business: Business, date: string, growth: number): Generator<EventInput> {
  const rng = random(`${business.tenant}:${date}`);
  const usual = business.perDay * (business.perWeekday[weekday(date)] ?? 1) * business.season(date);
  const count = Math.round(usual * growth * (0.88 + rng.next() * 0.24));
  const midnight = startOfLocalDay(date, business.timeZone);
  for (let index = 0; index < count; index++) {
    const time = Math.floor(midnight + (rng.weighted(business.perHour) + rng.next()) * hourMs);
    const id = `${date.replaceAll("-", "")}${String(index + 1).padStart(4, "0")}`;
    yield* sale(business, rng, time, id);
  }
}

function* sale(business: Business, rng: Random, time: number, id: string): Generator<EventInput> {
  const market = business.markets[rng.weighted(business.markets.map((each) => each.weight))];
  const { currency, priceFactor } = market ?? business.markets[0];
  const lines = Array.from({ length: 1 + rng.weighted([6, 3, 1]) }, () => {
    const product = rng.pick(business.products);
    const quantity = 1 + rng.weighted([8, 2, 1]);
    return { name: product.name, quantity, total: Math.round(product.price * priceFactor) * quantity };
  });
  const gross = lines.reduce((sum, line) => sum + line.total, 0);
  const discount = rng.chance(0.15) ? Math.round(gross * rng.pick([0.1, 0.15, 0.2])) : 0;
  const tax = Math.round((gross - discount) * business.taxRate);
  const tip = rng.chance(business.tipShare) ? Math.round(gross * 0.1) : 0;
  const total = gross - discount + tax + tip;
  const canceled = rng.chance(0.02);
  const locationId = business.locationIds[rng.integer(0, business.locationIds.length - 1)];
  const place = locationId === undefined ? {} : { locationId };
  const base = { currency, source: business.source };
  const tips = tip ? { tip: hundredths(tip) } : {};

  yield {
    ...base,
    eventType: "order",
    eventName: canceled ? "order_canceled" : "order_completed",
    timestamp: new Date(time).toISOString(),
    value: hundredths(total),
    sourceId: `order:${id}`,
    properties: {
      status: canceled ? "canceled" : "completed",
      channel: rng.pick(business.channels),
      ...place,
      customerId: `c${rng.integer(1, 4000)}`,
      lineCount: lines.length,
      items: lines.map(({ name, quantity, total }) => ({
        name,
        quantity: String(quantity),
        total: hundredths(total),
      })),
      ...(tax ? { tax: hundredths(tax) } : {}),
      ...(discount ? { discount: hundredths(discount) } : {}),
      ...tips,
    },
  };

  const paidAt = time + rng.integer(5, 90) * 1000;
  const method = rng.pick(business.methods);
  const fee = method === "cash" ? 0 : Math.round(total * business.feeRate);
  yield {
    ...base,
    eventType: "payment",
    eventName: canceled ? "payment_canceled" : "payment_completed",
    timestamp: new Date(paidAt).toISOString(),
    value: hundredths(total),
    sourceId: `payment:${id}`,
    properties: {
      status: canceled ? "canceled" : "completed",
      method,
      ...(method === "card"
        ? { cardBrand: rng.pick(["visa", "visa", "mastercard", "american_express"]) }
        : {}),
      orderSourceId: `order:${id}`,
      ...place,
      ...tips,
      ...(fee && !canceled ? { fee: hundredths(fee) } : {}),
    },
  };

  if (canceled || !rng.chance(business.refundShare)) return;
  const refunded = rng.chance(0.7) ? total : Math.ceil(total / 2);
  yield {
    ...base,
    eventType: "refund",
    eventName: "refund_completed",
    timestamp: new Date(paidAt + rng.integer(1, 9 * 24) * hourMs).toISOString(),
    value: hundredths(-refunded),
    sourceId: `refund:${id}`,
    properties: {
      status: "completed",
      paymentSourceId: `payment:${id}`,
      orderSourceId: `order:${id}`,
      ...place,
      reason: rng.pick(["damaged", "wrong item", "changed their mind", "late"]),
    },
  };
}
