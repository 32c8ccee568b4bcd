import { afterEach, describe, expect, jest, test } from "@jest/globals";
import { z } from "zod";
import {
  currencyExponent,
  type EventInput,
  minorToDecimal,
  timestampVersion,
} from "../tasks/connectors/connector.ts";
import { square } from "../tasks/connectors/square/index.ts";
import {
  accessToken,
  callOf,
  closeSimulators,
  expectedIds,
  fetchPage,
  refusal,
  run,
  simulate,
  sourceIds,
} from "./support/squareRun.ts";

afterEach(closeSimulators);

describe("failures", () => {
  test("a wrong token needs new credentials", async () => {
    const simulator = await simulate();
    const error = await refusal(fetchPage(simulator, "orders", undefined, { token: "stolen" }));
    expect(error).toMatchObject({ kind: "reauth", code: "UNAUTHORIZED" });
    expect(error.message).not.toContain("stolen");
  });

  test.each([
    ["a rate limit", { kind: "rateLimited", retryAfter: 7 }, { kind: "throttled", retryAfterMs: 7000 }],
    ["a server error", { kind: "serverError" }, { kind: "transient", code: "INTERNAL_SERVER_ERROR" }],
    ["a bad gateway", { kind: "badGateway" }, { kind: "transient", code: "BAD_GATEWAY" }],
    ["an outage", { kind: "unavailable" }, { kind: "transient", code: "SERVICE_UNAVAILABLE" }],
    ["a slow gateway", { kind: "gatewayTimeout" }, { kind: "transient", code: "GATEWAY_TIMEOUT" }],
    ["a slow request", { kind: "requestTimeout" }, { kind: "transient", code: "REQUEST_TIMEOUT" }],
    ["a body that breaks off", { kind: "truncated" }, { kind: "transient" }],
    ["half of the JSON", { kind: "badJson" }, { kind: "transient" }],
    ["a page of HTML", { kind: "html" }, { kind: "transient" }],
  ] as const)("%s passes: the next attempt reads on", async (_title, fault, expected) => {
    const simulator = await simulate({ faults: fault });
    expect(await refusal(fetchPage(simulator, "orders"))).toMatchObject(expected);
    expect((await fetchPage(simulator, "orders")).events).toHaveLength(100);
  });

  test.each([
    ["unauthorized", "reauth", "UNAUTHORIZED"],
    ["tokenRevoked", "reauth", "ACCESS_TOKEN_REVOKED"],
    ["tokenExpired", "reauth", "ACCESS_TOKEN_EXPIRED"],
    ["forbidden", "reauth", "FORBIDDEN"],
    ["insufficientScopes", "reauth", "INSUFFICIENT_SCOPES"],
    ["badRequest", "permanent", "BAD_REQUEST"],
    ["invalidValue", "permanent", "INVALID_VALUE"],
    ["invalidVersion", "permanent", "INVALID_SQUARE_VERSION_FORMAT"],
    ["notFound", "permanent", "NOT_FOUND"],
  ] as const)("%s is %s: trying again mends nothing", async (fault, kind, code) => {
    const simulator = await simulate({ faults: { kind: fault } });
    const error = await refusal(fetchPage(simulator, "payments"));
    expect(error).toMatchObject({
      kind,
      code,
      message: expect.stringMatching(/^Square answered 4\d\d .+\.$/),
    });
    expect(error.message).not.toContain("..");
  });

  test("who hit a limit, all who share the account wait", async () => {
    const simulator = await simulate({ faults: { kind: "rateLimited", times: 2 } });
    const { config, credentials } = callOf(simulator);
    const [scope] = square.limits?.(config, credentials) ?? [];
    expect(scope).toBe(`account:${[...simulator.locations].sort()[0]}`);
    expect((await refusal(fetchPage(simulator, "orders"))).scope).toBe(scope);
    const merchant = { credentials: { merchantId: "M1" } };
    expect((await refusal(fetchPage(simulator, "orders", undefined, merchant))).scope).toBe("account:M1");
  });

  test.each(["repeatedPage", "reorderedPages", "invalidCursor"] as const)(
    "%s: every record is read all the same",
    async (kind) => {
      const simulator = await simulate({ faults: { kind, after: 3 } });
      const settings = { config: { pageSize: 20 } };
      const events: EventInput[] = [];
      for (let checkpoint: unknown, done = false; !done; ) {
        const page = await fetchPage(simulator, "orders", checkpoint, settings).catch((error: unknown) => {
          expect(error).toMatchObject({ kind: "transient" });
          return undefined;
        });
        events.push(...(page?.events ?? []));
        checkpoint = page?.checkpoint ?? checkpoint;
        done = page?.done ?? false;
      }
      expect(simulator.struck()).toBe(1);
      expect([...new Set(sourceIds(events))]).toEqual(expectedIds(simulator, "orders"));
    },
  );

  test("a rate limit without Retry-After leaves the wait to the engine", async () => {
    const simulator = await simulate({ faults: { kind: "rateLimited" } });
    const error = await refusal(fetchPage(simulator, "refunds"));
    expect(error.kind).toBe("throttled");
    expect(error.retryAfterMs).toBeUndefined();
  });

  test.each(["hang", "stall"] as const)("a server that %ss is given up after ten seconds", async (kind) => {
    const simulator = await simulate({ faults: { kind } });
    const timeout = jest.spyOn(AbortSignal, "timeout").mockImplementation((ms) => {
      const controller = new AbortController();
      setTimeout(() => controller.abort(new DOMException("late", "TimeoutError")), ms / 100);
      return controller.signal;
    });
    expect(await refusal(fetchPage(simulator, "orders"))).toMatchObject({ kind: "transient" });
    expect(timeout).toHaveBeenCalledWith(10_000);
    timeout.mockRestore();
  });

  test("a server that is not there is a passing failure", async () => {
    const simulator = await simulate();
    await simulator.close();
    expect((await refusal(fetchPage(simulator, "orders"))).kind).toBe("transient");
  });

  test("a shutdown is passed on as itself, not as a failure of Square", async () => {
    const simulator = await simulate({ faults: { kind: "hang" } });
    const shutdown = new Error("shutting down");
    const controller = new AbortController();
    setTimeout(() => controller.abort(shutdown), 50);
    const page = fetchPage(simulator, "orders", undefined, { signal: controller.signal });
    await expect(page).rejects.toBe(shutdown);
  });

  test("payments without a location are the main one's, refunds everyone's", async () => {
    const simulator = await simulate({ orders: 600, days: 6 });
    const headers = { authorization: `Bearer ${accessToken}` };
    const shape = z.record(z.string(), z.union([z.string(), z.array(z.object({ location_id: z.string() }))]));
    const places = async (list: string) => {
      const answer = await fetch(`${simulator.url}/v2/${list}?limit=400`, { headers });
      const records = shape.parse(await answer.json())[list];
      return typeof records === "object" ? records.map((record) => record.location_id) : [];
    };
    expect(await places("payments")).toEqual(Array(100).fill(simulator.locations[0]));
    expect(new Set(await places("refunds"))).toEqual(new Set(simulator.locations));
  });

  test("a sort that does not match the filter, and a page too large, are refused as Square does", async () => {
    const simulator = await simulate();
    const search = (body: object) =>
      fetch(`${simulator.url}/v2/orders/search`, {
        method: "POST",
        headers: { authorization: `Bearer ${accessToken}` },
        body: JSON.stringify({ location_ids: simulator.locations, ...body }),
      });
    const filter = { date_time_filter: { updated_at: { start_at: "2026-01-01T00:00:00Z" } } };
    const mismatch = await search({ query: { filter, sort: { sort_field: "CREATED_AT" } } });
    expect([mismatch.status, await mismatch.json()]).toMatchObject([
      400,
      { errors: [{ category: "INVALID_REQUEST_ERROR", field: "query.sort.sort_field" }] },
    ]);
    expect((await search({ limit: 1001 })).status).toBe(400);
    expect((await search({ location_ids: [] })).status).toBe(400);
    expect((await search({ location_ids: Array(11).fill("L1") })).status).toBe(400);
    expect((await search({ limit: 5 })).status).toBe(200);
  });
});

describe("amounts", () => {
  test.each([
    ["JPY", 0, "1250"],
    ["USD", 2, "12.50"],
    ["BHD", 3, "1.250"],
    ["HUF", 2, "12.50"],
    ["IQD", 3, "1.250"],
  ])("1250 minor units of %s have %i decimals", (currency, exponent, text) => {
    expect(currencyExponent(currency)).toBe(exponent);
    expect(minorToDecimal(1250n, currency)).toBe(text);
  });

  test("small, negative and huge amounts are exact", () => {
    expect(minorToDecimal(-5n, "USD")).toBe("-0.05");
    expect(minorToDecimal(0n, "USD")).toBe("0.00");
    expect(minorToDecimal(9007199254740993n, "USD")).toBe("90071992547409.93");
  });

  test("a shop's currency decides how its amounts are read", async () => {
    const simulator = await simulate({ currency: "JPY", orders: 20 });
    const { events } = await run(simulator, "orders");
    const record = simulator.records("orders")[0];
    const event = events.find(({ sourceId }) => sourceId === `order:${record?.id}`);
    expect(event).toMatchObject({ currency: "JPY", value: expect.stringMatching(/^\d+$/) });
    expect(record).toMatchObject({ total_money: { amount: Number(event?.value) } });
  });

  test("refunds are negative and belong to a payment", async () => {
    const simulator = await simulate({ orders: 600 });
    const { events } = await run(simulator, "refunds");
    const payments = new Set(expectedIds(simulator, "payments"));
    for (const { value, properties } of events) {
      expect(Number(value)).toBeLessThan(0);
      expect(payments.has(String(properties?.paymentSourceId))).toBe(true);
    }
  });

  test("a timestamp is a version with all its digits", () => {
    expect(timestampVersion("2026-03-11T17:00:00.123456Z")).toBe("1773248400123456");
    expect(timestampVersion("2026-03-11T17:00:00Z")).toBe("1773248400000000");
  });
});
