import { addDays, dateOf, hourMs, minuteMs, startOfLocalDay, weekday } from "../../scripts/demo/calendar.ts";
import { type Random, random } from "../../scripts/demo/random.ts";

export type SquareRecord = {
  id: string;
  location_id: string;
  created_at: string;
  updated_at: string;
  [field: string]: unknown;
};
export type SquareSale = { order: SquareRecord; payment?: SquareRecord; refund?: SquareRecord };
export type StoreOptions = { seed: number; locations: readonly [string, ...string[]]; currency: string };

const timeZone = "America/New_York";
const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const perWeekday = [1.14, 0.74, 0.79, 0.84, 0.94, 1.18, 1.37];
// From 8 to 20 o'clock: breakfast, lunch, after work.
const perHour = [6, 8, 7, 8, 13, 14, 9, 6, 6, 8, 9, 6];
const menu = [
  ["Flat white", 450],
  ["Cold brew", 525],
  ["Croissant", 395],
  ["Avocado toast", 1150],
  ["Turkey sandwich", 1295],
  ["Sparkling water", 325],
  ["Blueberry muffin", 425],
  ["House beans 12 oz", 1850],
] as const;
const reasons = ["Returned goods", "Accidental charge", "Canceled order", "Fraudulent charge"] as const;

/**
 * Exactly `total` sales up to and with the day `last`: whole days backwards from it, of which the oldest is cut off.
 * A day's sales depend on the seed and the date alone, so a later start has the same ones.
 */
export function* salesUntil(
  last: string,
  total: number,
  perDay: number,
  options: StoreOptions,
): Generator<SquareSale> {
  let left = total;
  for (let date = last; left > 0; date = addDays(date, -1)) {
    const sales = salesOfDay(date, perDay, options).slice(-left);
    left -= sales.length;
    yield* sales;
  }
}

/** The last day that is over, where the store is. */
export const lastFullDay = (now: Date) => {
  const date = dateOf(now.getTime());
  return startOfLocalDay(date, timeZone) + 24 * hourMs <= now.getTime()
    ? date
    : startOfLocalDay(date, timeZone) <= now.getTime()
      ? addDays(date, -1)
      : addDays(date, -2);
};

export function salesOfDay(date: string, perDay: number, options: StoreOptions): SquareSale[] {
  const rng = random(`${options.seed}:${date}`);
  const count = Math.max(1, Math.round(perDay * (perWeekday[weekday(date)] ?? 1) * (0.9 + rng.next() * 0.2)));
  const midnight = startOfLocalDay(date, timeZone);
  const times = Array.from({ length: count }, () =>
    Math.floor(midnight + (8 + rng.weighted(perHour) + rng.next()) * hourMs),
  );
  return times.sort((a, b) => a - b).map((time) => sale(rng, time, options));
}

/** One sale at that time; `settled` makes it final at once, without a refund to come. */
export function sale(rng: Random, time: number, options: StoreOptions, settled = false): SquareSale {
  const money = (amount: number) => ({ amount, currency: options.currency });
  const at = (ms: number) => new Date(ms).toISOString();
  const fate = rng.next();
  const state = settled || fate < 0.955 ? "COMPLETED" : fate < 0.975 ? "OPEN" : "CANCELED";
  const location_id = rng.pick(options.locations);
  const lines = Array.from({ length: 1 + rng.weighted([5, 3, 2, 1]) }, () => {
    const [name, price] = rng.pick(menu);
    const quantity = 1 + rng.weighted([8, 2, 1]);
    return { uid: rng.text(22, letters), name, quantity: String(quantity), price, total: price * quantity };
  });
  const gross = lines.reduce((sum, line) => sum + line.total, 0);
  const discount = rng.chance(0.12) ? Math.round(gross * 0.1) : 0;
  const tax = Math.round((gross - discount) * 0.08875);
  const tip = rng.chance(0.4) ? Math.round(gross * rng.pick([0.15, 0.18, 0.2])) : 0;
  const total = gross - discount + tax + tip;
  const closed = settled ? time : time + rng.integer(1, 20) * minuteMs;
  const order = {
    id: `${rng.text(27, letters)}ZY`,
    location_id,
    state,
    version: settled ? 1 : rng.integer(2, 5),
    created_at: at(time),
    updated_at: at(closed),
    ...(state === "OPEN" ? {} : { closed_at: at(closed) }),
    source: { name: "Square Point of Sale" },
    line_items: lines.map(({ uid, name, quantity, price, total }) => ({
      uid,
      name,
      quantity,
      item_type: "ITEM",
      base_price_money: money(price),
      total_money: money(total),
    })),
    total_money: money(total),
    total_tax_money: money(tax),
    total_discount_money: money(discount),
    total_tip_money: money(tip),
    total_service_charge_money: money(0),
  };
  if (state !== "COMPLETED") return { order };

  const refundedAt = closed + rng.integer(20, 100) * minuteMs;
  const refunded = !settled && rng.chance(0.03) ? (rng.chance(0.7) ? total : Math.ceil(total / 2)) : 0;
  const byCard = rng.chance(0.78);
  const payment = {
    id: `${rng.text(27, letters)}ZY`,
    location_id,
    order_id: order.id,
    status: "COMPLETED",
    created_at: at(closed),
    updated_at: at(refunded ? refundedAt : closed),
    amount_money: money(total - tip),
    tip_money: money(tip),
    total_money: money(total),
    ...(byCard ? card(rng, total, money) : { source_type: "CASH" }),
    ...(refunded ? { refunded_money: money(refunded) } : {}),
  };
  if (!refunded) return { order, payment };
  const refund = {
    id: `${payment.id}_${rng.text(43, letters)}`,
    location_id,
    order_id: order.id,
    payment_id: payment.id,
    status: "COMPLETED",
    created_at: at(refundedAt),
    updated_at: at(refundedAt),
    amount_money: money(refunded),
    reason: rng.pick(reasons),
  };
  return { order, payment, refund };
}

function card(rng: Random, total: number, money: (amount: number) => unknown) {
  const card_brand = rng.pick(["VISA", "VISA", "MASTERCARD", "AMERICAN_EXPRESS", "DISCOVER"]);
  return {
    source_type: "CARD",
    card_details: { status: "CAPTURED", card: { card_brand, last_4: rng.text(4, "0123456789") } },
    processing_fee: [{ type: "INITIAL", amount_money: money(Math.round(total * 0.026) + 10) }],
  };
}
