import { afterEach, describe, expect, test } from "@jest/globals";
import { z } from "zod";
import { callSquare } from "../tasks/connectors/square/api.ts";
import { type SquareCheckpoint, squareCheckpoint } from "../tasks/connectors/square/window.ts";
import {
  callOf,
  closeSimulators,
  expectedIds,
  fetchPage,
  later,
  noon,
  refusal,
  run,
  simulate,
  sourceIds,
} from "./support/squareRun.ts";
import { readVocabulary, violations } from "./support/vocabulary.ts";

afterEach(closeSimulators);

describe("reading", () => {
  test.each(["orders", "payments", "refunds"] as const)(
    "every page of %s is read, and each record once",
    async (stream) => {
      const simulator = await simulate();
      const { events, unparsable, pages } = await run(simulator, stream, undefined, {
        config: { pageSize: 7 },
      });
      expect(events.length).toBeGreaterThan(5);
      expect(sourceIds(events)).toEqual(expectedIds(simulator, stream));
      expect(pages).toBeGreaterThanOrEqual(Math.floor(events.length / 7));
      expect(unparsable).toEqual([]);
    },
  );

  test("what the connector gives is in the vocabulary", async () => {
    const simulator = await simulate({ orders: 600 });
    const vocabulary = readVocabulary();
    const streams = ["orders", "payments", "refunds"] as const;
    const runs = await Promise.all(streams.map((stream) => run(simulator, stream)));
    const events = runs.flatMap((result) => result.events);
    expect(events.flatMap((event) => violations(vocabulary, event))).toEqual([]);
    const names = new Set(events.map((event) => event.eventName));
    expect(names).toEqual(
      new Set(["order_completed", "order_opened", "order_canceled", "payment_completed", "refund_completed"]),
    );
  });

  test("a second run reads the overlap alone, and gives the same ids and versions", async () => {
    const simulator = await simulate({ live: true, orders: 2000 });
    const first = await run(simulator, "orders");
    const second = await run(simulator, "orders", first.checkpoint);
    const overlap = simulator
      .records("orders")
      .filter((record) => Date.parse(record.updated_at) >= noon.getTime() - 600_000);
    expect(overlap.length).toBeGreaterThan(0);
    expect(sourceIds(second.events)).toEqual(overlap.map((record) => `order:${record.id}`).sort());
    const before = new Map(first.events.map((event) => [event.sourceId, event]));
    for (const event of second.events) expect(event).toEqual(before.get(event.sourceId));
  });

  test("a later run brings new and restated orders", async () => {
    let now = noon;
    const simulator = await simulate({ now: () => now });
    const first = await run(simulator, "orders");
    const restated = first.events[0];
    now = later(60);
    const added = simulator.addOrders(3);
    simulator.restateOrder(String(restated?.sourceId).slice("order:".length), { state: "CANCELED" });
    const second = await run(simulator, "orders", first.checkpoint, { now: later(61) });
    expect(sourceIds(second.events)).toEqual(
      [...added.map((id) => `order:${id}`), restated?.sourceId].sort(),
    );
    expect(second.events.find((event) => event.sourceId === restated?.sourceId)).toMatchObject({
      eventName: "order_canceled",
      timestamp: restated?.timestamp,
      sourceVersion: String(BigInt(restated?.sourceVersion ?? 0) + 1n),
    });
  });

  test("payments are asked for at every location, with limits that Square allows", async () => {
    const simulator = await simulate();
    await run(simulator, "payments", undefined, { config: { pageSize: 500, apiVersion: "2026-05-20" } });
    const asked = simulator.requests.map((request) => new URLSearchParams(request.search));
    expect(new Set(asked.map((query) => query.get("location_id")))).toEqual(new Set(simulator.locations));
    expect(new Set(asked.map((query) => query.get("limit")))).toEqual(new Set(["100"]));
    expect(new Set(simulator.requests.map((request) => request.version))).toEqual(new Set(["2026-05-20"]));
  });

  test("settings that change in mid-window wait for the next, where a new location gets its whole past", async () => {
    const simulator = await simulate();
    const one = { config: { locationIds: simulator.locations.slice(0, 1), pageSize: 50 } };
    const page = await fetchPage(simulator, "orders", undefined, one);
    const rest = await run(simulator, "orders", page.checkpoint);
    const ofFirst = simulator
      .records("orders")
      .filter((order) => order.location_id === simulator.locations[0]);
    expect(page.events.length + rest.events.length).toBe(ofFirst.length);
    const next = await run(simulator, "orders", rest.checkpoint);
    expect(sourceIds(next.events)).toEqual(expectedIds(simulator, "orders"));
  });

  test("records that cannot be parsed are reported with their id, and the page goes on", async () => {
    const simulator = await simulate();
    const [first, second] = simulator.records("orders");
    simulator.restateOrder(String(first?.id), { total_money: { amount: 12.5, currency: "USD" } });
    simulator.restateOrder(String(second?.id), { state: "TELEPORTED" });
    const { events, unparsable } = await run(simulator, "orders");
    expect(events).toHaveLength(398);
    expect(unparsable.map((record) => record.sourceId).sort()).toEqual(
      [`order:${first?.id}`, `order:${second?.id}`].sort(),
    );
    expect(unparsable[0]).toMatchObject({
      reason: expect.stringMatching(/\w/),
      record: { id: expect.any(String) },
    });
  });
});

describe("cursors", () => {
  const position = (checkpoint: unknown): SquareCheckpoint => squareCheckpoint.parse(checkpoint);

  test("a cursor with another query is refused", async () => {
    const simulator = await simulate();
    const { checkpoint } = await fetchPage(simulator, "orders", undefined, { config: { pageSize: 10 } });
    const search = (limit: number) =>
      callSquare(
        callOf(simulator),
        {
          method: "POST",
          path: "/v2/orders/search",
          body: {
            location_ids: simulator.locations,
            query: {
              filter: {
                date_time_filter: {
                  created_at: { start_at: position(checkpoint).from, end_at: noon.toISOString() },
                },
              },
              sort: { sort_field: "CREATED_AT", sort_order: "ASC" },
            },
            limit,
            cursor: position(checkpoint).cursor,
          },
        },
        z.unknown(),
      );
    expect(await refusal(search(11))).toMatchObject({ kind: "permanent", code: "INVALID_CURSOR" });
    await expect(search(10)).resolves.toBeDefined();
  });

  test("a stale cursor costs no record: reading resumes where it had come to", async () => {
    const simulator = await simulate();
    const settings = { config: { pageSize: 20 } };
    const first = await fetchPage(simulator, "orders", undefined, settings);
    const second = await fetchPage(simulator, "orders", first.checkpoint, settings);
    const stale = { ...position(second.checkpoint), cursor: "forgotten" };
    const rest = await run(simulator, "orders", stale, settings);
    const all = [...first.events, ...second.events, ...rest.events];
    expect([...new Set(sourceIds(all))]).toEqual(expectedIds(simulator, "orders"));
    expect(all.length).toBeLessThan(405);
  });

  test("a stale cursor behind pages in the wrong order costs none either", async () => {
    const simulator = await simulate({ faults: { kind: "reorderedPages" } });
    const settings = { config: { pageSize: 20 } };
    const first = await fetchPage(simulator, "orders", undefined, settings);
    const stale = { ...position(first.checkpoint), cursor: "forgotten" };
    const rest = await run(simulator, "orders", stale, settings);
    expect(sourceIds(rest.events)).toEqual(expectedIds(simulator, "orders"));
  });

  test("a cursor is still good after the simulator restarts with the same seed", async () => {
    const settings = { config: { pageSize: 30 } };
    const simulator = await simulate({ seed: 7 });
    const first = await fetchPage(simulator, "orders", undefined, settings);
    await simulator.close();
    const restarted = await simulate({ seed: 7, now: later(5) });
    const rest = await run(restarted, "orders", first.checkpoint, settings);
    expect(sourceIds([...first.events, ...rest.events])).toEqual(expectedIds(restarted, "orders"));
  });

  test("a restart on the next day keeps what was there and adds a day", async () => {
    const [today, tomorrow] = [
      await simulate(),
      await simulate({ now: later(24 * 60), orders: 440, days: 11 }),
    ];
    const then = new Map(tomorrow.records("orders").map((order) => [order.id, order]));
    const kept = today.records("orders").filter((order) => then.has(order.id));
    expect(kept.length).toBeGreaterThan(390);
    for (const order of kept) expect(then.get(order.id)).toEqual(order);
  });
});
