import { afterEach, describe, expect, jest, test } from "@jest/globals";
import type { MetaFault } from "./simulators/metaFaults.ts";
import { type MetaErrorName, metaErrors } from "./simulators/metaProtocol.ts";
import {
  accessToken,
  appSecret,
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

const app = "app:1234567890";
const account = "account:4410882";
const first = "2026-01-30";
const last = "2026-03-11";
const ofInsights = /insights$/;

describe("errors", () => {
  const throttled = (scope: string) => ({ kind: "throttled", scope, retryAfterMs: 300_000 });
  test.each<[MetaErrorName, object]>([
    ["appLimit", throttled(app)],
    ["appLimitOther", throttled(app)],
    ["appLimitPlain", throttled(app)],
    ["accountLimit", throttled(account)],
    ["customLimit", throttled(account)],
    ["insightsLimit", throttled(account)],
    ["managementLimit", throttled(account)],
    ["reportFailed", { kind: "transient" }],
    ["intermittent", { kind: "transient" }],
    ["badBreakdowns", { kind: "permanent" }],
    ["badMetrics", { kind: "permanent" }],
    ["tokenExpired", { kind: "reauth" }],
    ["noPermission", { kind: "reauth" }],
    ["noAppPermission", { kind: "reauth" }],
    ["gone", { kind: "permanent" }],
    ["invalidCursor", { kind: "permanent" }],
    ["beyondRetention", { kind: "permanent" }],
  ])("%s", async (name, expected) => {
    const simulator = await simulate({ faults: { kind: "error", error: name, path: ofInsights } });
    const error = await refusal(fetchPage(simulator, "campaigns"));
    expect(error).toMatchObject(expected);
    const { body } = metaErrors[name];
    expect(error.code).toBe("error_subcode" in body ? `${body.code}/${body.error_subcode}` : `${body.code}`);
    expect(error.message).toMatch(/^(Meta|The access token) .*\.$/);
    // Once it has passed, the stream reads on.
    expect((await fetchPage(simulator, "campaigns")).events.length).toBeGreaterThan(50);
  });

  test.each<[string, Record<string, unknown>, MetaErrorName, number]>([
    [
      "minutes until access is regained",
      { "x-business-use-case-usage": { 4410882: [{ call_count: 100, estimated_time_to_regain_access: 7 }] } },
      "managementLimit",
      420_000,
    ],
    [
      "seconds until the account's usage is reset",
      { "x-ad-account-usage": { acc_id_util_pct: 100, reset_time_duration: 42 } },
      "accountLimit",
      42_000,
    ],
  ])("a refusal says how long to wait: %s", async (_title, headers, error, retryAfterMs) => {
    const simulator = await simulate({ faults: { kind: "error", error } });
    simulator.setUsage(headers);
    expect(await refusal(fetchPage(simulator, "campaigns"))).toMatchObject({ scope: account, retryAfterMs });
  });

  test.each<[string, MetaFault]>([
    ["a gateway's page", { kind: "badGateway" }],
    ["an answer that is not JSON", { kind: "badJson" }],
    ["a body that breaks off", { kind: "truncated" }],
  ])("%s passes: the next attempt reads on, and the end is the truth", async (_title, fault) => {
    const simulator = await simulate();
    const config = { pageSize: 20 };
    const page = await fetchPage(simulator, "campaigns", undefined, { config });
    simulator.setFault(fault);
    const error = await refusal(fetchPage(simulator, "campaigns", page.checkpoint, { config }));
    expect(error.kind).toBe("transient");
    const rest = await run(simulator, "campaigns", page.checkpoint, { config });
    expect(held(destination(page, rest))).toEqual(simulator.truth("campaign", first, last));
  });

  test("a server that never answers is given up after half a minute", async () => {
    const simulator = await simulate({ faults: { kind: "hang" } });
    const timeout = jest.spyOn(AbortSignal, "timeout").mockImplementation((ms) => {
      const controller = new AbortController();
      setTimeout(() => controller.abort(new DOMException("late", "TimeoutError")), ms / 300);
      return controller.signal;
    });
    expect(await refusal(fetchPage(simulator, "campaigns"))).toMatchObject({ kind: "transient" });
    expect(timeout).toHaveBeenCalledWith(30_000);
    timeout.mockRestore();
  });

  test("a shutdown is passed on as itself", async () => {
    const simulator = await simulate({ faults: { kind: "hang" } });
    const shutdown = new Error("shutting down");
    const controller = new AbortController();
    setTimeout(() => controller.abort(shutdown), 50);
    const page = fetchPage(simulator, "campaigns", undefined, { signal: controller.signal });
    await expect(page).rejects.toBe(shutdown);
  });

  test("a token that ends in the middle asks for a new one, and the run goes on with it", async () => {
    const simulator = await simulate();
    const config = { pageSize: 20 };
    simulator.expireToken(2);
    const page = await fetchPage(simulator, "campaigns", undefined, { config });
    expect(await refusal(fetchPage(simulator, "campaigns", page.checkpoint, { config }))).toMatchObject({
      kind: "reauth",
      code: "190/463",
    });
    simulator.renewToken("EAAG-renewed");
    const rest = await run(simulator, "campaigns", page.checkpoint, { config, token: "EAAG-renewed" });
    expect(held(destination(page, rest))).toEqual(simulator.truth("campaign", first, last));
  });

  test("no sentence quotes a secret, not even where Meta does", async () => {
    const simulator = await simulate();
    const token = await refusal(fetchPage(simulator, "campaigns", undefined, { token: "EAAG-stolen" }));
    expect(token).toMatchObject({ kind: "reauth", code: "190" });
    expect(JSON.stringify([token.message, String(token.cause)])).not.toContain("EAAG-stolen");
    simulator.setCorruption(() => ({ date_start: accessToken }));
    simulator.setFault({ kind: "error", error: "badMetrics" });
    const other = await refusal(fetchPage(simulator, "campaigns"));
    expect(other.message).not.toContain(appSecret);
  });

  test("what the simulator refuses, as Meta does", async () => {
    const simulator = await simulate();
    const ask = async (params: Record<string, string>, path = "act_4410882/insights") => {
      const { createHmac } = await import("node:crypto");
      const proof = createHmac("sha256", appSecret).update(accessToken).digest("hex");
      const query = new URLSearchParams({
        ...{ access_token: accessToken, appsecret_proof: proof, fields: "spend", time_increment: "1" },
        ...{ time_range: '{"since":"2026-03-01","until":"2026-03-02"}' },
        ...params,
      });
      const answer = await fetch(`${simulator.url}/v25.0/${path}?${query}`);
      const body = (await answer.json()) as { error?: { code: number } };
      return body.error?.code ?? answer.status;
    };
    expect(await ask({})).toBe(200);
    expect(await ask({ appsecret_proof: "0" })).toBe(100);
    expect(await ask({ access_token: "another" })).toBe(190);
    expect(await ask({ fields: "spend,love" })).toBe(100);
    expect(await ask({ limit: "0" })).toBe(100);
    expect(await ask({ time_range: '{"since":"2026-03-03","until":"2026-03-02"}' })).toBe(100);
    expect(await ask({ time_range: '{"since":"2023-02-10","until":"2023-02-11"}' })).toBe(3018);
    expect(await ask({ time_increment: "7" })).toBe(100);
    expect(await ask({ action_attribution_windows: '["7d_view"]' })).toBe(100);
    expect(await ask({ after: "x" })).toBe(100);
    expect(await ask({}, "act_1/insights")).toBe(100);
  });
});

describe("usage", () => {
  const usage = (percent: number) => ({ call_count: percent, total_cputime: 1, total_time: 2 });
  test.each<[string, Record<string, unknown>, object[]]>([
    ["little", {}, []],
    ["94 %", { "x-app-usage": usage(94) }, []],
    ["95 % of the app", { "x-app-usage": usage(95) }, [{ scope: app, milliseconds: 60_000 }]],
    [
      "the business use case",
      {
        "x-business-use-case-usage": {
          4410882: [{ type: "ads_insights", ...usage(97), estimated_time_to_regain_access: 12 }],
        },
      },
      [{ scope: account, milliseconds: 720_000 }],
    ],
    [
      "the account and what insights throttle, of which the longest wait counts",
      {
        "x-ad-account-usage": { acc_id_util_pct: 98, reset_time_duration: 90 },
        "x-fb-ads-insights-throttle": { app_id_util_pct: 99, acc_id_util_pct: 100 },
      },
      [
        { scope: account, milliseconds: 90_000 },
        { scope: app, milliseconds: 60_000 },
      ],
    ],
    ["something unreadable", { "x-app-usage": "much", "x-ad-account-usage": null }, []],
  ])("%s", async (_title, headers, expected) => {
    const simulator = await simulate();
    const { checkpoint } = await run(simulator, "campaigns");
    simulator.setUsage(headers);
    const page = await fetchPage(simulator, "campaigns", checkpoint, { now: days(1) });
    expect(page.events.length).toBeGreaterThan(0);
    const reason = expect.stringMatching(/^Meta says .*%/);
    expect(page.pauses).toEqual(expected.map((pause) => ({ ...pause, reason })));
  });

  test("the threshold is a setting", async () => {
    const simulator = await simulate();
    simulator.setUsage({ "x-app-usage": usage(60) });
    const page = await fetchPage(simulator, "campaigns", undefined, { config: { usageThreshold: 60 } });
    expect(page.pauses).toContainEqual(expect.objectContaining({ scope: app }));
  });
});

describe("too much", () => {
  test("days are halved until they are few enough, then read to the end", async () => {
    const simulator = await simulate({ maxRows: 3 * 6 });
    const result = await run(simulator, "campaigns");
    expect(held(destination(result))).toEqual(simulator.truth("campaign", first, last));
    const ranges = simulator.requests.flatMap(({ params }) => params.time_range ?? []);
    expect(new Set(ranges).size).toBe(ranges.length);
    // 31, 15 and 7 days were too many.
    expect(simulator.requests).toHaveLength(1 + 3 + Math.ceil(41 / 3));
  });

  test("a single day that is too much is read campaign by campaign", async () => {
    const simulator = await simulate({ maxRows: 4 });
    const result = await run(simulator, "ads", undefined, { config: { backfillDays: 2 } });
    expect(held(destination(result))).toEqual(simulator.truth("ad", "2026-03-09", last));
    expect(simulator.requests.map(({ path }) => path)).toContain("238510882002/insights");
  });

  test("a campaign's day that is too much is more than can be read", async () => {
    const simulator = await simulate({ maxRows: 3 });
    const error = await refusal(run(simulator, "ads", undefined, { config: { backfillDays: 2 } }));
    expect(error).toMatchObject({ kind: "permanent", code: "100/1487534" });
    expect(simulator.requests.length).toBeLessThan(10);
  });

  test.each<MetaErrorName>(["unknown", "reduceOne", "reduceTwo"])(
    "on %s, half as many rows are asked for, from the same place on",
    async (error) => {
      const simulator = await simulate();
      const page = await fetchPage(simulator, "campaigns", undefined, { config: { pageSize: 40 } });
      simulator.setFault({ kind: "error", error, times: 2 });
      const rest = await run(simulator, "campaigns", page.checkpoint, { config: { pageSize: 40 } });
      const limits = simulator.requests.flatMap(({ params }) => params.limit ?? []);
      expect(limits.slice(0, 5)).toEqual(["40", "40", "20", "10", "10"]);
      expect(rest.refusals).toEqual([]);
      const events = [...page.events, ...rest.events];
      expect(events).toHaveLength(simulator.truth("campaign", first, last).length);
    },
  );

  test("when even few rows are too many, a report is asked for, and then it is Meta's trouble", async () => {
    const simulator = await simulate({
      faults: { kind: "error", error: "unknown", times: 1000, path: ofInsights },
    });
    const error = await refusal(run(simulator, "campaigns", undefined, { patience: 0 }));
    expect(error).toMatchObject({ kind: "transient", code: "1/99" });
    expect(simulator.requests.length).toBeLessThan(12);
    expect(simulator.requests.at(-1)?.method).toBe("POST");
  });
});

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
