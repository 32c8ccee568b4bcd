import { afterEach, describe, expect, test } from "@jest/globals";
import { z } from "zod";
import { dateIn, startOfDay } from "../tasks/connectors/meta-ads/calendar.ts";
import { endReading, openMemory, remember } from "../tasks/connectors/meta-ads/deletions.ts";
import { metaAds } from "../tasks/connectors/meta-ads/index.ts";
import {
  accessToken,
  appSecret,
  callOf,
  closeSimulators,
  days,
  destination,
  fetchPage,
  held,
  noon,
  run,
  type StreamName,
  simulate,
} from "./support/metaRun.ts";
import { readVocabulary, violations } from "./support/vocabulary.ts";

afterEach(closeSimulators);

const levelOf = { accounts: "account", campaigns: "campaign", ad_sets: "adset", ads: "ad" } as const;
const streams: StreamName[] = ["accounts", "campaigns", "ad_sets", "ads"];
const account = {
  id: "1001",
  name: "One",
  timeZone: "Europe/Berlin",
  currency: "EUR",
  campaigns: 2,
  adSets: 1,
  ads: 2,
};
/** The first day that a first run reads: 40 days before 11 March. */
const first = "2026-01-30";

describe("reading", () => {
  test.each(streams)("every page of %s is read, and what comes of it is the truth", async (stream) => {
    const simulator = await simulate();
    const result = await run(simulator, stream, undefined, { config: { pageSize: 7 } });
    const truth = simulator.truth(levelOf[stream], first, "2026-03-11");
    expect(truth.length).toBeGreaterThan(30);
    expect(held(destination(result))).toEqual(truth);
    expect(result.events).toHaveLength(truth.length);
    expect(result.unparsable).toEqual([]);
    expect(result.pages.length).toBeGreaterThanOrEqual(Math.ceil(truth.length / 7));
  });

  test("what the connector gives is in the vocabulary", async () => {
    const simulator = await simulate();
    const vocabulary = readVocabulary();
    const runs = await Promise.all(streams.map((stream) => run(simulator, stream)));
    const events = runs.flatMap((result) => result.events);
    expect(events.flatMap((event) => violations(vocabulary, event))).toEqual([]);
    expect(new Set(events.map((event) => event.eventName))).toHaveProperty("size", 4);
  });

  test("a level that was not chosen asks nothing", async () => {
    const simulator = await simulate();
    const page = await fetchPage(simulator, "ads", undefined, { config: { levels: ["campaigns"] } });
    expect(page).toMatchObject({ events: [], done: true });
    expect(simulator.requests).toEqual([]);
  });

  test("several accounts, each in its own time zone and currency", async () => {
    const other = { ...account, id: "2002", timeZone: "Asia/Tokyo", currency: "JPY" };
    const simulator = await simulate({ accounts: [account, other] });
    const result = await run(simulator, "campaigns", undefined, {
      config: { accountIds: ["act_1001", "2002", "act_2002"] },
    });
    const truth = simulator.accounts.flatMap((one) =>
      // In Tokyo it is the 12th already.
      simulator.truth("campaign", one === other ? "2026-01-31" : first, "2026-03-12", one),
    );
    expect(held(destination(result))).toEqual(truth.sort((a, b) => (a.sourceId < b.sourceId ? -1 : 1)));
    expect(new Set(result.events.map((event) => event.currency))).toEqual(new Set(["EUR", "JPY"]));
    expect(result.pages.at(-1)).toMatchObject({ done: true, progress: 1, highWater: noon.toISOString() });
    // The account whose first day begins last: with a full refresh, what is not there since then is gone.
    const complete = { sourceIdPrefix: "ad_insight:campaign:", since: "2026-01-30T15:00:00.000Z" };
    expect(result.pages.map((page) => page.complete).filter(Boolean)).toEqual([complete]);
    expect(result.pages.at(-1)?.complete).toEqual(complete);
    const progress = result.pages.map((page) => page.progress ?? 0);
    expect(progress).toEqual([...progress].sort((a, b) => a - b));
  });

  test("a short history needs a call for the account and one for its days; the next run needs one", async () => {
    const simulator = await simulate();
    const config = { backfillDays: 20 };
    const { checkpoint } = await run(simulator, "campaigns", undefined, { config });
    expect(simulator.requests.map(({ path }) => path)).toEqual(["act_4410882", "act_4410882/insights"]);
    const next = await run(simulator, "campaigns", checkpoint, { config, now: days(1) });
    expect(simulator.requests).toHaveLength(3);
    expect(next.pages.at(-1)?.complete).toBeUndefined();
  });

  test("the token is in no address, and cursors are sent on without the address that comes with them", async () => {
    const simulator = await simulate();
    const asked: string[] = [];
    const call = callOf(simulator, "campaigns", { config: { pageSize: 20 } });
    const spy: typeof fetch = (input, init) => {
      asked.push(String(input));
      return fetch(input, init);
    };
    let checkpoint: z.output<typeof metaAds.streams.campaigns.checkpoint> | undefined;
    for (let done = false; !done; ) {
      const page = await metaAds.streams.campaigns.fetchPage({ ...call, fetch: spy, checkpoint });
      ({ checkpoint, done } = page);
    }
    expect(asked.length).toBeGreaterThan(4);
    for (const address of asked) {
      expect(address.startsWith(`${simulator.url}/v25.0/`)).toBe(true);
      expect(address).not.toContain(accessToken);
      expect(address).not.toContain(appSecret);
    }
  });

  test("attribution windows that do not overlap are added up; others are refused", async () => {
    const simulator = await simulate();
    const day = { since: new Date("2026-03-01T05:00:00Z"), until: new Date("2026-03-02T05:00:00Z") };
    const conversions = async (attributionWindows: string[]) => {
      const { events } = await run(simulator, "accounts", undefined, {
        range: day,
        config: { attributionWindows },
      });
      expect(events).toHaveLength(1);
      return {
        conversions: Number(events[0]?.properties?.conversions),
        value: events[0]?.properties?.conversionValue,
      };
    };
    const all = await conversions([]);
    const click = await conversions(["7d_click"]);
    const view = await conversions(["1d_view"]);
    expect(click.conversions).toBeGreaterThan(0);
    expect(click.conversions + view.conversions).toBe(all.conversions);
    expect(await conversions(["7d_click", "1d_view"])).toEqual(all);
    const parse = (attributionWindows: string[]) =>
      metaAds.config.safeParse({ environment: "production", accountIds: ["1"], attributionWindows });
    for (const windows of [["7d_view"], ["28d_view"], ["1d_click", "28d_click"]])
      expect(parse(windows).error?.issues[0]?.path[0]).toBe("attributionWindows");
  });

  test("amounts keep every digit", async () => {
    const simulator = await simulate();
    simulator.setCorruption((row) => ({ ...row, spend: "90071992547409931234.056789", impressions: 12 }));
    const { events } = await fetchPage(simulator, "campaigns");
    expect(events[0]).toMatchObject({
      value: "90071992547409931234.056789",
      properties: { impressions: 12 },
    });
    // Not quoted, and not what a double would make of it.
    simulator.setCorruption((row) => ({ ...row, spend: 5339.57 }));
    expect((await fetchPage(simulator, "campaigns")).events[0]).toMatchObject({ value: "5339.57" });
  });

  test("rows that cannot be read are kept with their reason and id, and the others go on", async () => {
    const simulator = await simulate();
    let count = 0;
    const breakages: Record<string, unknown>[] = [
      { spend: "much" },
      { date_stop: "2026-03-12" },
      { actions: [{ action_type: "omni_purchase", value: "2.5" }] },
      { impressions: undefined },
      { campaign_id: "" },
    ];
    simulator.setCorruption((row) => ({ ...row, ...breakages[count++] }));
    const page = await fetchPage(simulator, "campaigns");
    expect(page.unparsable).toHaveLength(breakages.length);
    expect(page.events.length).toBeGreaterThan(20);
    const known = page.unparsable.map(({ sourceId }) => sourceId);
    expect(known.slice(0, 4)).toEqual(
      Array(4).fill(expect.stringMatching(/^ad_insight:campaign:2026-\d\d-\d\d:2385\d+$/)),
    );
    expect(known[4]).toBeUndefined();
    for (const { reason } of page.unparsable) expect(reason).toMatch(/\w/);
    // What could not be read is not gone.
    expect((await run(simulator, "campaigns", page.checkpoint)).pages.at(-1)?.complete).toBeUndefined();
  });
});

describe("time", () => {
  test.each([
    ["America/New_York", "2026-03-08", "2026-03-08T05:00:00Z"],
    ["America/New_York", "2026-03-09", "2026-03-09T04:00:00Z"],
    ["Asia/Kolkata", "2026-03-09", "2026-03-08T18:30:00Z"],
    // Clocks go forward at midnight: the day begins at one.
    ["Africa/Cairo", "2026-04-24", "2026-04-23T22:00:00Z"],
    ["America/Havana", "2026-03-08", "2026-03-08T05:00:00Z"],
    // Back at midnight, to 23:00: the day begins with the second midnight.
    ["Africa/Cairo", "2026-10-30", "2026-10-29T22:00:00Z"],
    // Back at one, to midnight: it begins with the first.
    ["America/Havana", "2026-11-01", "2026-11-01T04:00:00Z"],
    ["Pacific/Kiritimati", "2026-01-01", "2025-12-31T10:00:00Z"],
  ])("in %s, %s begins at %s", (timeZone, date, instant) => {
    expect(new Date(startOfDay(date, timeZone)).toISOString()).toBe(new Date(instant).toISOString());
    expect(dateIn(Date.parse(instant), timeZone)).toBe(date);
    expect(dateIn(Date.parse(instant) - 1, timeZone)).not.toBe(date);
  });

  test("days are those of the account, through a change of clocks", async () => {
    const cairo = { ...account, timeZone: "Africa/Cairo" };
    const now = new Date("2026-04-26T21:30:00Z");
    const simulator = await simulate({ accounts: [cairo], now });
    const result = await run(simulator, "accounts", undefined, { now, config: { backfillDays: 5 } });
    const truth = simulator.truth("account", "2026-04-22", "2026-04-27");
    expect(truth.map(({ timestamp }) => timestamp)).toContain("2026-04-23T22:00:00.000Z");
    expect(held(destination(result))).toEqual(truth);
  });

  test("a backfill reads the days that begin in its range, and leaves the stream's own days alone", async () => {
    const simulator = await simulate({ accounts: [account] });
    const range = { since: new Date("2025-06-01T12:00:00Z"), until: new Date("2025-07-05T22:00:00Z") };
    const result = await run(simulator, "campaigns", undefined, { range });
    expect(held(destination(result))).toEqual(simulator.truth("campaign", "2025-06-02", "2025-07-05"));
    expect(result.pages.at(-1)?.complete).toBeUndefined();
    const nothing = { since: new Date("2025-06-01T12:00:00Z"), until: new Date("2025-06-01T13:00:00Z") };
    expect((await run(simulator, "campaigns", undefined, { range: nothing })).events).toEqual([]);
    const future = { since: days(30), until: days(60) };
    expect((await run(simulator, "campaigns", undefined, { range: future })).events).toEqual([]);
  });

  test("nothing older than 37 months is asked for, which Meta would refuse", async () => {
    let now = noon;
    const simulator = await simulate({ accounts: [account], now: () => now });
    const range = { since: new Date("2010-01-01T00:00:00Z"), until: noon };
    const result = await run(simulator, "accounts", undefined, { range });
    expect(held(destination(result))).toEqual(simulator.truth("account", "2023-02-12", "2026-03-11"));
    // A stream that has slept for years.
    now = days(-1800);
    const { checkpoint } = await run(simulator, "accounts", undefined, { now });
    now = noon;
    await expect(run(simulator, "accounts", checkpoint)).resolves.toBeDefined();
  });
});

describe("the look-back", () => {
  test("a later run reads 28 days again: restated days come with a greater version, others as they were", async () => {
    let now = noon;
    const simulator = await simulate({ now: () => now });
    const one = await run(simulator, "ads", undefined, { config: { backfillDays: 30 } });
    now = days(1);
    const [ad = ""] = simulator.ads();
    simulator.restate(ad, "2026-02-20", { spend: 777_77, purchases: 9 });
    simulator.restate(ad, "2026-01-15", { spend: 1 });
    const two = await run(simulator, "ads", one.checkpoint, { now });
    expect(held(destination(one, two))).toEqual(simulator.truth("ad", "2026-02-09", "2026-03-12"));
    const restated = two.events.find(({ sourceId }) => sourceId === `ad_insight:ad:2026-02-20:${ad}`);
    expect(restated).toMatchObject({ value: "777.77", properties: { conversions: 9 } });
    const before = destination(one);
    const oldest = two.events.map(({ timestamp }) => timestamp).sort()[0];
    expect(oldest).toBe("2026-02-11T05:00:00.000Z");
    for (const { sourceVersion, ...event } of two.events) {
      const known = before.get(event.sourceId ?? "");
      if (!known) continue;
      expect(Number(sourceVersion)).toBeGreaterThan(Number(known.sourceVersion));
      // The same content, which the destination counts as a duplicate.
      if (event.sourceId !== restated?.sourceId)
        expect({ ...event, sourceVersion: known.sourceVersion }).toEqual(known);
    }
  });

  const gone = (result: { events: { deleted?: boolean; sourceId?: string }[] }) =>
    result.events.filter(({ deleted }) => deleted).map(({ sourceId }) => sourceId);

  test("a row that two runs, hours apart, have missed is deleted; it comes back when Meta has it again", async () => {
    let now = noon;
    const simulator = await simulate({ now: () => now });
    const [ad = ""] = simulator.ads();
    const later = async (hours: number, from: unknown) => {
      now = new Date(now.getTime() + hours * 3_600_000);
      return run(simulator, "ads", from, { now });
    };
    const day = simulator
      .truth("ad", "2026-03-01", "2026-03-05")
      .find(({ properties }) => properties.adId === ad);
    const date = String(day?.properties.date);
    const one = await run(simulator, "ads");
    simulator.restate(ad, date, null);
    const two = await later(1, one.checkpoint);
    // Counted, and missed for the first time: the run before did not miss it.
    const three = await later(21, two.checkpoint);
    const four = await later(18, three.checkpoint);
    expect([two, three, four].flatMap(gone)).toEqual([]);
    const five = await later(3, four.checkpoint);
    expect(gone(five)).toEqual([`ad_insight:ad:${date}:${ad}`]);
    const runs = [one, two, three, four, five];
    expect(held(destination(...runs))).toEqual(simulator.truth("ad", first, "2026-03-13"));
    simulator.restate(ad, date, { spend: 5 });
    const six = await later(1, five.checkpoint);
    expect(held(destination(...runs, six))).toEqual(simulator.truth("ad", first, "2026-03-13"));
  });

  test("a row that one run missed is not deleted", async () => {
    const simulator = await simulate();
    const [ad = ""] = simulator.ads();
    const config = { deletionDelayHours: 0 };
    const one = await run(simulator, "ads", undefined, { config });
    simulator.restate(ad, "2026-03-01", null);
    const two = await run(simulator, "ads", one.checkpoint, { config });
    simulator.restate(ad, "2026-03-01", { spend: 5 });
    const three = await run(simulator, "ads", two.checkpoint, { config });
    const four = await run(simulator, "ads", three.checkpoint, { config });
    expect([one, two, three, four].flatMap(gone)).toEqual([]);
  });

  test("the memory moves with the days, forgets what is older, and gives up when there is too much", () => {
    const found = [
      { date: "2026-03-01", entity: "a" },
      { date: "2026-03-03", entity: "a" },
      { date: "2026-03-03", entity: "b" },
      { date: "2026-02-28", entity: "c" },
    ];
    const all = { since: "2026-03-01", until: "2026-03-29" };
    const empty = openMemory(null, "2026-03-01");
    expect(remember(empty, found, 1)).toBeNull();
    expect(endReading(null, all, true)).toEqual({ memory: null, gone: [] });
    const { memory, gone: none } = endReading(remember(empty, found, 2), all, true);
    expect([memory?.rows, none]).toEqual([{ a: "p-p", b: "--p" }, []]);
    const moved = openMemory(memory, "2026-03-02");
    expect(moved.rows).toEqual({ a: "-p", b: "-p" });
    const first = endReading(remember(moved, [{ date: "2026-03-03", entity: "a" }], 2), all, true);
    expect([first.memory?.rows, first.gone]).toEqual([{ a: "-p", b: "-m" }, []]);
    expect(endReading(first.memory, { since: "2026-03-04", until: "2026-03-29" }, true).gone).toEqual([]);
    expect(endReading(first.memory, all, false).gone).toEqual([]);
    const second = endReading(remember(first.memory, [{ date: "2026-03-03", entity: "a" }], 2), all, true);
    expect(second.gone).toEqual([{ date: "2026-03-03", entity: "b" }]);
    expect(openMemory(second.memory, "2026-03-02").rows).toEqual({ a: "-p" });
  });
});

test("the settings say what they mean, in a schema that a form can be made of", () => {
  for (const schema of [metaAds.config, metaAds.credentials]) {
    const { properties } = z.toJSONSchema(schema, { io: "input" });
    for (const property of Object.values(properties ?? {}))
      expect(property).toMatchObject({ title: expect.any(String), description: expect.any(String) });
  }
});

test("a test of the connection gives the accounts' names", async () => {
  const simulator = await simulate();
  expect(await metaAds.test(callOf(simulator, "ads"))).toEqual({ account: "Acme Outfitters" });
  const call = callOf(simulator, "ads", { config: { accountIds: ["4410882", "999"] } });
  await expect(metaAds.test(call)).rejects.toMatchObject({ kind: "permanent", code: "100/33" });
  expect(metaAds.limits?.(call.config, call.credentials)).toEqual([
    "app:1234567890",
    "account:4410882",
    "account:999",
  ]);
});
