import { describe, expect, test } from "@jest/globals";
import { type DemoOptions, demoEvents } from "../scripts/demo/events.ts";
import type { EventInput } from "../tasks/connectors/connector.ts";
import { readVocabulary, violations } from "./support/vocabulary.ts";

const now = new Date("2026-03-11T17:20:00Z");
const tenants = {
  acme: (at: Date): DemoOptions => ({
    tenant: "acme",
    now: at,
    integrations: { onlineShop: "shop-id", metaAds: "ads-id", pointOfSale: "pos-id" },
  }),
  globex: (at: Date): DemoOptions => ({
    tenant: "globex",
    now: at,
    integrations: { restaurants: "csv-id", metaAds: "ads-id", pos: "pos-id" },
  }),
  initech: (at: Date): DemoOptions => ({ tenant: "initech", now: at }),
};
type Tenant = keyof typeof tenants;
const names: Tenant[] = ["acme", "globex", "initech"];
const generate = (tenant: Tenant, at = now) => [...demoEvents(tenants[tenant](at))];
const demo = {
  acme: generate("acme"),
  globex: generate("globex"),
  initech: generate("initech"),
};
const everything = names.flatMap((name) => demo[name]);

const perHour = (events: EventInput[], timeZone: string) => {
  const format = new Intl.DateTimeFormat("en", { timeZone, hour: "numeric", hourCycle: "h23" });
  const counts = Array.from({ length: 24 }, () => 0);
  for (const { eventType, timestamp = "" } of events) {
    const hour = Number(format.format(new Date(timestamp)));
    if (eventType === "order") counts[hour] = (counts[hour] ?? 0) + 1;
  }
  return counts;
};
const ordersOn = (events: EventInput[], date: string) =>
  events.filter(({ eventType, timestamp }) => eventType === "order" && timestamp?.startsWith(date)).length;

describe("demo events", () => {
  test("the whole of a day gives the same events, to the letter", () => {
    for (const name of names)
      expect(JSON.stringify(generate(name, new Date("2026-03-11T00:00:00Z")))).toBe(
        JSON.stringify(demo[name]),
      );
    expect(JSON.stringify(generate("acme", new Date("2026-03-12T00:00:00Z")))).not.toBe(
      JSON.stringify(demo.acme),
    );
  });

  test("there are about as many as a demo needs, whenever it starts", () => {
    const leapDay = new Date("2028-02-29T12:00:00Z");
    for (const at of [
      demo,
      { ...demo, acme: generate("acme", leapDay), globex: generate("globex", leapDay) },
    ]) {
      expect(Math.abs(at.acme.length - 65_000)).toBeLessThan(3_000);
      expect(Math.abs(at.globex.length - 34_000)).toBeLessThan(2_000);
      expect(at.initech).toHaveLength(40);
    }
  });

  test("all of it is in the vocabulary", () => {
    const vocabulary = readVocabulary();
    const found = everything.flatMap((event) =>
      violations(vocabulary, event).map((it) => `${event.sourceId}: ${it}`),
    );
    expect(found.slice(0, 5)).toEqual([]);
    expect(violations(vocabulary, { eventType: "order", eventName: "order_lost" })).not.toEqual([]);
  });

  test("each source record appears once", () => {
    for (const name of names) {
      const keys = new Set(demo[name].map(({ source, sourceId }) => `${source} ${sourceId}`));
      expect(keys.size).toBe(demo[name].length);
    }
  });

  test("nothing lies in the future or before the thirteen months", () => {
    const times = everything.map((event) => Date.parse(event.timestamp ?? ""));
    expect(Math.max(...times.map((time) => time - now.getTime()))).toBeLessThan(0);
    expect(times.every((time) => time >= Date.parse("2025-02-10T00:00:00Z"))).toBe(true);
  });

  test("a tenant's events come from its own sources", () => {
    const sources = (name: Tenant) =>
      new Set(demo[name].map((event) => `${event.source} ${event.eventType}`));
    const sales = (source: string) => ["order", "payment", "refund"].map((type) => `${source} ${type}`);
    expect(sources("acme")).toEqual(new Set([...sales("shopify:shop-id"), "meta-ads:ads-id ad_insight"]));
    expect(sources("globex")).toEqual(new Set([...sales("csv:csv-id"), "meta-ads:ads-id ad_insight"]));
    expect([...sources("initech")].every((source) => source.startsWith("api:website "))).toBe(true);
  });

  test("currencies are the tenant's, and the web shop sells in two more", () => {
    const currencies = (name: Tenant) => new Set(demo[name].flatMap((event) => event.currency ?? []));
    expect(currencies("acme")).toEqual(new Set(["USD", "EUR", "GBP"]));
    expect(currencies("globex")).toEqual(new Set(["INR"]));
  });

  test("a refund is negative, later than its order and never more than it", () => {
    const orders = new Map(everything.map((event) => [`${event.source} ${event.sourceId}`, event]));
    const refunds = everything.filter((event) => event.eventType === "refund");
    expect(refunds.length).toBeGreaterThan(1000);
    for (const refund of refunds) {
      const order = orders.get(`${refund.source} ${refund.properties?.orderSourceId}`);
      expect(Number(refund.value)).toBeLessThan(0);
      expect(Number(order?.value)).toBeGreaterThanOrEqual(-Number(refund.value));
      expect((order?.timestamp ?? "9") < (refund.timestamp ?? "")).toBe(true);
    }
  });

  test("the day has its rhythm in the tenant's own time zone", () => {
    const [shop, restaurants] = [
      perHour(demo.acme, "America/New_York"),
      perHour(demo.globex, "Asia/Kolkata"),
    ];
    expect(shop[20]).toBeGreaterThan(5 * (shop[4] ?? 0));
    expect(Math.max(...restaurants.slice(2, 6))).toBe(0);
    expect(restaurants[20]).toBeGreaterThan(2 * (restaurants[16] ?? 0));
  });

  test("Black Friday and Diwali stand out, and the business grows", () => {
    expect(ordersOn(demo.acme, "2025-11-28")).toBeGreaterThan(2 * ordersOn(demo.acme, "2025-11-14"));
    expect(ordersOn(demo.globex, "2025-10-20")).toBeGreaterThan(1.7 * ordersOn(demo.globex, "2025-10-06"));
    expect(ordersOn(demo.acme, "2026-02")).toBeGreaterThan(1.2 * ordersOn(demo.acme, "2025-03"));
  });
});
