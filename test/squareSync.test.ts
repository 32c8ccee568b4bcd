import { afterEach, expect, test } from "@jest/globals";
import type { EventInput } from "../tasks/connectors/connector.ts";
import { square } from "../tasks/connectors/square/index.ts";
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

afterEach(closeSimulators);

const streams = ["orders", "payments", "refunds"] as const;
const branches = Array.from({ length: 23 }, (_, index) => `L${index}`);
const locations: [string, ...string[]] = ["LMAIN", ...branches];

test.each(streams)("%s of 24 locations are read, as many at once as Square takes", async (stream) => {
  const simulator = await simulate({ locations, orders: 600 });
  const { events, progress } = await run(simulator, stream);
  expect(sourceIds(events)).toEqual(expectedIds(simulator, stream));
  expect(new Set(events.map(({ properties }) => properties?.locationId)).size).toBeGreaterThan(5);
  if (stream === "orders") expect(simulator.requests.length).toBeLessThan(12);
  expect(progress).toEqual([...progress].sort((a = 0, b = 0) => a - b));
  expect(progress.at(-1)).toBe(1);
  expect(progress.at(-2)).toBeLessThan(1);
});

test.each(streams)(
  "a backfill of %s reads what was created in its range, and nothing else",
  async (stream) => {
    const simulator = await simulate({ orders: 600, locations });
    const records = simulator.records(stream).sort((a, b) => (a.created_at < b.created_at ? -1 : 1));
    const [first, last] = [records[3], records[Math.floor(records.length / 2)]];
    if (!first || !last) throw Error("too few records");
    const range = { since: new Date(first.created_at), until: new Date(last.created_at) };
    // An old record that was restated belongs to the range of its creation all the same.
    simulator.restate(stream, first.id);
    const { events, highWater } = await run(simulator, stream, undefined, { range, config: { pageSize: 9 } });
    const kind = stream.slice(0, -1);
    const within = records.filter(
      ({ created_at }) => created_at >= first.created_at && created_at < last.created_at,
    );
    expect(within.length).toBeGreaterThan(3);
    expect(sourceIds(events)).toEqual(within.map(({ id }) => `${kind}:${id}`).sort());
    // It says nothing of how far the stream has come.
    expect(highWater).toBeUndefined();
  },
);

test("a first sync misses no order that is updated under its hands", async () => {
  let now = noon;
  const simulator = await simulate({ now: () => now });
  const settings = { config: { pageSize: 100 } };
  const first = await fetchPage(simulator, "orders", undefined, settings);
  now = later(30);
  const unread = simulator
    .records("orders")
    .filter(({ id }) => !first.events.some(({ sourceId }) => sourceId === `order:${id}`));
  expect(unread).toHaveLength(300);
  for (const { id } of unread.slice(0, 150)) simulator.restate("orders", id);
  const rest = await run(simulator, "orders", first.checkpoint, { ...settings, now });
  expect(sourceIds([...first.events, ...rest.events])).toEqual(expectedIds(simulator, "orders"));
});

test("what Square's lists show late is in the next run; the mark says no more than is sure", async () => {
  let now = noon;
  const simulator = await simulate({ now: () => now, consistencyMs: 5000 });
  const [late] = simulator.addOrders(1);
  const first = await run(simulator, "orders");
  expect(sourceIds(first.events)).not.toContain(`order:${late}`);
  expect(Date.parse(first.highWater ?? "")).toBeLessThan(now.getTime() - 5000);
  now = later(1);
  const second = await run(simulator, "orders", first.checkpoint, { now });
  expect(sourceIds(second.events)).toContain(`order:${late}`);
});

test("a restatement that lists do not show yet gives the old version until then", async () => {
  let now = noon;
  const simulator = await simulate({ now: () => now, consistencyMs: 5000 });
  const [record] = simulator.records("payments");
  simulator.restate("payments", String(record?.id), { status: "CANCELED" });
  const seen = (events: EventInput[]) =>
    events.find(({ sourceId }) => sourceId === `payment:${record?.id}`)?.eventName;
  const first = await run(simulator, "payments");
  expect(seen(first.events)).toBe("payment_completed");
  now = later(1);
  const second = await run(simulator, "payments", first.checkpoint, { now });
  expect(seen(second.events)).toBe("payment_canceled");
});

test("a connection test names the account, and the locations that are not its own", async () => {
  const simulator = await simulate();
  expect(await square.test(callOf(simulator))).toEqual({ account: "Simulated Coffee" });
  const foreign = callOf(simulator, { config: { locationIds: [simulator.locations[0], "LX", "LY"] } });
  expect(await refusal(square.test(foreign))).toMatchObject({
    kind: "permanent",
    message: expect.stringMatching(/LX, LY/),
  });
  expect(await refusal(square.test(callOf(simulator, { token: "stolen" })))).toMatchObject({
    kind: "reauth",
  });
});
