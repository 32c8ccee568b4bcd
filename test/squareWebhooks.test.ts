import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import type { Delivery } from "../tasks/connectors/connector.ts";
import { square } from "../tasks/connectors/square/index.ts";
import type { SquareSimulator } from "./simulators/square.ts";
import { secret } from "./support/secrets.ts";
import { callOf, closeSimulators, later, noon, run, simulate } from "./support/squareRun.ts";
import { readVocabulary, violations } from "./support/vocabulary.ts";

const { webhooks } = square;
if (!webhooks) throw Error("Square has webhooks.");
const signatureKey = secret("a webhook key");
const credentials = { accessToken: "unused", webhookSignatureKey: signatureKey };

/** Where the simulator posts to: what arrived is what a connector is given. */
const arrived: Delivery[] = [];
const receiver = createServer(async (request, response) => {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  const headers = new Headers(
    Object.entries(request.headers).flatMap(([name, value]) =>
      typeof value === "string" ? [[name, value] as [string, string]] : [],
    ),
  );
  arrived.push({ headers, rawBody: Buffer.concat(chunks), url: subscription.url });
  response.writeHead(204).end();
});
const subscription = { url: "", signatureKey };
beforeAll(async () => {
  await new Promise<void>((listening) => receiver.listen(0, "127.0.0.1", listening));
  subscription.url = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/v1/webhooks/1?a=%2f`;
});
afterAll(
  () =>
    new Promise((closed) => {
      receiver.close(closed);
      receiver.closeAllConnections();
    }),
);
afterEach(closeSimulators);

async function deliver(
  simulator: SquareSimulator,
  ...notification: Parameters<SquareSimulator["notify"]> extends [unknown, ...infer Rest] ? Rest : never
): Promise<Delivery> {
  expect(await simulator.notify(subscription, ...notification)).toBe(204);
  const delivery = arrived.pop();
  if (!delivery) throw Error("nothing arrived");
  return delivery;
}
const idOf = (simulator: SquareSimulator, table: "orders" | "payments" | "refunds") =>
  String(simulator.records(table)[0]?.id);

describe("signatures", () => {
  test("one over the address and the body proves the sender", async () => {
    const simulator = await simulate();
    const delivery = await deliver(simulator, "payments", idOf(simulator, "payments"));
    const tampered = Buffer.from(delivery.rawBody.toString().replace('"COMPLETED"', '"CANCELED"'));
    const signature = delivery.headers.get("x-square-hmacsha256-signature") ?? "";
    const withSignature = (value: string) => new Headers({ "x-square-hmacsha256-signature": value });
    const verify = (change: Partial<Delivery>, key = signatureKey) =>
      webhooks.verify({ ...delivery, ...change }, { ...credentials, webhookSignatureKey: key });
    expect(verify({ rawBody: tampered })).toBe(false);
    expect(verify({ url: subscription.url.replace("%2f", "/") })).toBe(false);
    expect(verify({ headers: new Headers() })).toBe(false);
    expect(verify({ headers: withSignature(signature.toLowerCase()) })).toBe(false);
    expect(verify({ headers: withSignature(signature.slice(0, -1)) })).toBe(false);
    expect(verify({}, "another key")).toBe(false);
    expect(webhooks.verify(delivery, { accessToken: "unused" })).toBe(false);
    expect(verify({})).toBe(true);
  });

  test("a forged delivery is refused", async () => {
    const simulator = await simulate();
    const forged = await deliver(simulator, "payments", idOf(simulator, "payments"), { forged: true });
    expect(webhooks.verify(forged, credentials)).toBe(false);
  });
});

describe("content", () => {
  test("a delivery is known by its event's id, however late it comes", async () => {
    const simulator = await simulate();
    const how = { eventId: "e-1", createdAt: later(-23 * 60) };
    const [one, two] = [
      await deliver(simulator, "orders", idOf(simulator, "orders"), how),
      await deliver(simulator, "orders", idOf(simulator, "orders"), how),
    ];
    expect(webhooks.identify(one)).toEqual({ id: "e-1", sentAt: undefined });
    expect(webhooks.identify(two)).toEqual(webhooks.identify(one));
  });

  test.each(["payments", "refunds"] as const)("%s come whole, as a sync would read them", async (table) => {
    const simulator = await simulate({ orders: 600 });
    const { config } = callOf(simulator);
    const id = idOf(simulator, table);
    const { events, unparsable, streams } = webhooks.read(await deliver(simulator, table, id), config);
    const synced = await run(simulator, table);
    expect(events).toEqual(
      synced.events.filter(({ sourceId }) => sourceId === `${table.slice(0, -1)}:${id}`),
    );
    expect(events).toHaveLength(1);
    expect(events.flatMap((event) => violations(readVocabulary(), event))).toEqual([]);
    expect([unparsable, streams]).toEqual([[], []]);
  });

  test("a late one has the older version, which never wins", async () => {
    let now = noon;
    const simulator = await simulate({ now: () => now });
    const { config } = callOf(simulator);
    const id = idOf(simulator, "payments");
    now = later(1);
    simulator.restate("payments", id, { status: "CANCELED" });
    const newest = webhooks.read(await deliver(simulator, "payments", id), config).events[0];
    const late = webhooks.read(await deliver(simulator, "payments", id, { versionsAgo: 1 }), config)
      .events[0];
    expect([newest?.eventName, late?.eventName]).toEqual(["payment_canceled", "payment_completed"]);
    expect(BigInt(newest?.sourceVersion ?? 0)).toBeGreaterThan(BigInt(late?.sourceVersion ?? 0));
  });

  test("an order comes as an id: its stream is to be read", async () => {
    const simulator = await simulate();
    const { config } = callOf(simulator);
    const delivery = await deliver(simulator, "orders", idOf(simulator, "orders"), { action: "created" });
    expect(webhooks.read(delivery, config)).toEqual({ events: [], unparsable: [], streams: ["orders"] });
  });

  test("what happens at other locations of the merchant is not ours", async () => {
    const simulator = await simulate();
    const { config } = callOf(simulator, { config: { locationIds: ["LELSEWHERE"] } });
    for (const table of ["orders", "payments"] as const) {
      const delivery = await deliver(simulator, table, idOf(simulator, table));
      expect(webhooks.read(delivery, config)).toEqual({ events: [], unparsable: [], streams: [] });
    }
  });

  test("a record that does not parse is kept with the reason", async () => {
    const simulator = await simulate();
    const id = idOf(simulator, "payments");
    simulator.restate("payments", id, { status: "TELEPORTED" });
    const { events, unparsable } = webhooks.read(
      await deliver(simulator, "payments", id),
      callOf(simulator).config,
    );
    expect(events).toEqual([]);
    expect(unparsable).toMatchObject([
      { sourceId: `payment:${id}`, reason: expect.stringMatching(/status/) },
    ]);
  });

  test("a permission taken back is found out by the next sync; other news is no concern", async () => {
    const simulator = await simulate();
    const read = (type: string) => {
      const notification = {
        type,
        event_id: "e",
        created_at: noon.toISOString(),
        data: { type: "x", id: "y" },
      };
      const rawBody = Buffer.from(JSON.stringify(notification));
      return webhooks.read({ headers: new Headers(), rawBody, url: "" }, callOf(simulator).config);
    };
    expect(read("oauth.authorization.revoked").streams).toEqual(["orders"]);
    expect(read("catalog.version.updated")).toEqual({ events: [], unparsable: [], streams: [] });
  });

  test.each(["", "[]", '{"type":"payment.created"}', "\ud800"])("%j is not a notification", (body) => {
    const delivery = { headers: new Headers(), rawBody: Buffer.from(body), url: "" };
    expect(() => webhooks.identify(delivery)).toThrow(/not a notification/);
  });
});
