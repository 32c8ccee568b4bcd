import { afterEach, describe, expect, test } from "@jest/globals";
import {
  closeSimulators,
  days,
  destination,
  fetchPage,
  held,
  noon,
  refusal,
  run,
  simulate,
} from "./support/metaRun.ts";

afterEach(closeSimulators);

const first = "2026-01-30";
const last = "2026-03-11";
const minutes = (count: number) => new Date(noon.getTime() + count * 60_000);
const posts = ({ requests }: { requests: { method: string }[] }) =>
  requests.filter(({ method }) => method === "POST").length;

describe("reports", () => {
  test("a long window of ads is read from reports", async () => {
    const simulator = await simulate();
    const result = await run(simulator, "ads", undefined, { config: { backfillDays: 150, pageSize: 400 } });
    expect(held(destination(result))).toEqual(simulator.truth("ad", "2025-10-12", last));
    expect(posts(simulator)).toBe(2);
  });

  test.each(["syncTimeout", "syncTimeoutOther"] as const)("after %s, too", async (error) => {
    const simulator = await simulate({ faults: { kind: "error", error, path: /insights$/ } });
    const result = await run(simulator, "campaigns");
    expect(held(destination(result))).toEqual(simulator.truth("campaign", first, last));
    expect(posts(simulator)).toBe(2);
  });

  test("it is read when it is completed, not at 100 %; meanwhile the connector says when to ask again", async () => {
    const simulator = await simulate({ reportPolls: 5 });
    const { checkpoint, pauses } = await fetchPage(simulator, "ads");
    expect(pauses).toContainEqual(expect.objectContaining({ scope: "account:4410882", milliseconds: 5000 }));
    const waits: (number | undefined)[] = [];
    for (const seconds of [5, 10, 30, 60, 600]) {
      const now = new Date(noon.getTime() + seconds * 1000);
      const error = await refusal(fetchPage(simulator, "ads", checkpoint, { now }));
      expect(error).toMatchObject({ kind: "throttled", scope: "account:4410882" });
      waits.push(error.retryAfterMs);
    }
    expect(waits).toEqual([5000, 5000, 7500, 15_000, 30_000]);
    const page = await fetchPage(simulator, "ads", checkpoint, { now: minutes(11) });
    expect(page.events.length).toBeGreaterThan(100);
    // It says what Meta knew when it was ordered.
    expect(page.events[0]?.sourceVersion).toBe(String(noon.getTime()));
  });

  test("a worker that starts again goes on asking for the same report", async () => {
    const simulator = await simulate({ reportPolls: 3 });
    const ordered = await fetchPage(simulator, "ads");
    const result = await run(simulator, "ads", ordered.checkpoint);
    expect(result.refusals).toHaveLength(3);
    expect(posts(simulator)).toBe(1);
    expect(held(destination(result))).toEqual(simulator.truth("ad", first, last));
  });

  test("what was restated while a report was made is not undone by it", async () => {
    const simulator = await simulate();
    const [ad = ""] = simulator.ads();
    const ordered = await fetchPage(simulator, "ads", undefined, { config: { backfillDays: 31 } });
    simulator.restate(ad, "2026-03-05", { spend: 123 });
    const since = { since: new Date("2026-03-05T05:00:00Z"), until: new Date("2026-03-06T05:00:00Z") };
    const backfill = await run(simulator, "ads", undefined, { range: since, now: minutes(1) });
    const rest = await run(simulator, "ads", ordered.checkpoint, {
      now: minutes(2),
      config: { backfillDays: 31 },
    });
    const held = destination(backfill, ordered, rest);
    expect(held.get(`ad_insight:ad:2026-03-05:${ad}`)?.value).toBe("1.23");
  });

  test.each([
    ["reportFailed", 2],
    ["reportSkipped", 2],
    // It answers once more, and is gone.
    ["reportExpired", 1],
  ] as const)("after %s, another is made", async (kind, times) => {
    const simulator = await simulate({ faults: { kind, times } });
    const result = await run(simulator, "ads");
    expect(held(destination(result))).toEqual(simulator.truth("ad", first, last));
    expect(posts(simulator)).toBe(times + 1);
  });

  test("one that is not ready within an hour is given up for another", async () => {
    const simulator = await simulate({ faults: { kind: "reportStuck" } });
    const ordered = await fetchPage(simulator, "ads");
    expect(
      await refusal(fetchPage(simulator, "ads", ordered.checkpoint, { now: minutes(59) })),
    ).toMatchObject({
      kind: "throttled",
    });
    const result = await run(simulator, "ads", ordered.checkpoint, { now: minutes(61) });
    expect(held(destination(result))).toEqual(simulator.truth("ad", first, last));
    expect(posts(simulator)).toBe(2);
  });

  test("after three failures there are fewer days at a time; when that does not help, a rest", async () => {
    const simulator = await simulate({ faults: { kind: "reportFailed", times: 1000 } });
    const config = { backfillDays: 32 };
    let page = await fetchPage(simulator, "ads", undefined, { config });
    const error = await refusal(
      (async () => {
        for (let asked = 0; asked < 200; asked++)
          page = await fetchPage(simulator, "ads", page.checkpoint, { config });
      })(),
    );
    expect(error).toMatchObject({
      kind: "transient",
      message: expect.stringMatching(/from 2026-02-07 to 2026-02-07/),
    });
    const ordered = posts(simulator);
    expect(ordered).toBeLessThan(30);
    expect(
      await refusal(fetchPage(simulator, "ads", page.checkpoint, { config, now: minutes(9) })),
    ).toMatchObject({
      kind: "transient",
    });
    expect(posts(simulator)).toBe(ordered);
    simulator.setFault(undefined);
    const rest = await run(simulator, "ads", page.checkpoint, { config, now: minutes(11), patience: 100 });
    expect(held(destination(rest))).toEqual(simulator.truth("ad", "2026-02-07", last));
  });

  test("one that was too much is split", async () => {
    const simulator = await simulate({ faults: { kind: "reportFailed", reportError: "tooMuchData" } });
    const result = await run(simulator, "ads");
    expect(held(destination(result))).toEqual(simulator.truth("ad", first, last));
    const lengths = simulator.requests.flatMap(({ method, params }) =>
      method === "POST" ? [params.time_range ?? ""] : [],
    );
    expect(lengths).toEqual([
      '{"since":"2026-01-30","until":"2026-03-11"}',
      '{"since":"2026-01-30","until":"2026-02-18"}',
      '{"since":"2026-02-19","until":"2026-03-10"}',
      '{"since":"2026-03-11","until":"2026-03-11"}',
    ]);
  });

  test("one that will never be made stops the stream, until somebody has mended the settings", async () => {
    const simulator = await simulate({ faults: { kind: "reportFailed", reportError: "badMetrics" } });
    const ordered = await fetchPage(simulator, "ads");
    for (const now of [noon, minutes(5)])
      expect(await refusal(fetchPage(simulator, "ads", ordered.checkpoint, { now }))).toMatchObject({
        kind: "permanent",
        code: "2/1504042",
      });
    const mended = await run(simulator, "ads", ordered.checkpoint, {
      config: { conversionAction: "purchase" },
    });
    expect(mended.events.length).toBeGreaterThan(100);
    // Or by itself, when much later a new one can be made.
    const late = await run(simulator, "ads", ordered.checkpoint, { now: days(1) });
    expect(held(destination(late))).toEqual(simulator.truth("ad", first, last));
  });
});
