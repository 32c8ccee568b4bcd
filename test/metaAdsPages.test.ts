import { afterEach, describe, expect, test } from "@jest/globals";
import {
  closeSimulators,
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

describe("pages", () => {
  test.each(["repeatedPage", "reorderedPages"] as const)("%s change nothing", async (kind) => {
    const simulator = await simulate({ faults: { kind, times: 2 } });
    const result = await run(simulator, "campaigns", undefined, { config: { pageSize: 25 } });
    expect(held(destination(result))).toEqual(simulator.truth("campaign", first, last));
  });

  test("a cursor that is refused costs nothing: the days begin again", async () => {
    const simulator = await simulate();
    const config = { pageSize: 25 };
    simulator.setFault({ kind: "error", error: "invalidCursor", behindCursor: true, after: 1 });
    const result = await run(simulator, "campaigns", undefined, { config });
    expect(result.refusals).toEqual([]);
    expect(held(destination(result))).toEqual(simulator.truth("campaign", first, last));
  });

  test("one that is refused again and again is not asked for without end", async () => {
    const simulator = await simulate();
    const config = { pageSize: 2, backfillDays: 20 };
    simulator.setFault({ kind: "error", error: "invalidCursor", behindCursor: true, times: 1000 });
    const { checkpoint } = await fetchPage(simulator, "campaigns", undefined, { config });
    let page = await fetchPage(simulator, "campaigns", checkpoint, { config });
    let asked = 0;
    const error = await refusal(
      (async () => {
        for (; asked < 200; asked++)
          page = await fetchPage(simulator, "campaigns", page.checkpoint, { config });
      })(),
    );
    expect(error.kind).toBe("transient");
    expect(asked).toBeLessThan(40);
    simulator.setFault(undefined);
    const rest = await run(simulator, "campaigns", page.checkpoint, {
      config,
      now: new Date(noon.getTime() + 660_000),
    });
    expect(destination(rest).size).toBeGreaterThan(0);
  });

  test("settings that change in the middle begin the window again, with queries of their own", async () => {
    const simulator = await simulate();
    const page = await fetchPage(simulator, "campaigns", undefined, { config: { pageSize: 20 } });
    const rest = await run(simulator, "campaigns", page.checkpoint, { config: { pageSize: 30 } });
    expect(rest.refusals).toEqual([]);
    expect(held(destination(rest))).toEqual(simulator.truth("campaign", first, last));
  });
});
