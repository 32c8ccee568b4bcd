import { afterEach, describe, expect, test } from "@jest/globals";
import { endReading, openMemory, remember } from "../tasks/connectors/meta-ads/deletions.ts";
import { closeSimulators, days, destination, held, noon, run, simulate } from "./support/metaRun.ts";

afterEach(closeSimulators);

/** The first day that a first run reads: 40 days before 11 March. */
const first = "2026-01-30";

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
