import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, expect, it } from "@jest/globals";
import { hostAndPort } from "../src/http/publicAddress.ts";
import { makePublicFetch } from "../src/http/publicFetch.ts";
import type { EventInput } from "../tasks/connectors/connector.ts";
import { example } from "../tasks/connectors/example/index.ts";

const TOKEN = "the token";
const now = new Date("2026-03-11T12:00:00Z");
/** What the provider has on record; it gives two a page, and refuses what it would refuse. */
const records = Array.from({ length: 5 }, (_, index) => ({
  id: `o${index + 1}`,
  status: "paid",
  created_at: `2026-03-0${index + 1}T10:00:00Z`,
  updated_at: `2026-03-0${index + 1}T10:00:00Z`,
  total: 1250 * (index + 1),
  currency: "USD",
}));
let failing: ((response: ServerResponse) => void) | undefined;
let server: Server;
let baseUrl: string;
let provider: ReturnType<typeof makePublicFetch>;

beforeEach(async () => {
  failing = undefined;
  server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? "", "http://provider");
    const say = (status: number, body: object) => response.writeHead(status).end(JSON.stringify(body));
    if (failing) return failing(response);
    if (request.headers.authorization !== `Bearer ${TOKEN}`) return say(401, {});
    if (pathname === "/v1/account") return say(200, { name: "Downtown" });
    if (pathname !== "/v1/orders") return say(404, {});
    const [from = "", to = ""] = [
      searchParams.get("updated_from") ?? "",
      searchParams.get("updated_to") ?? "",
    ];
    const start = Number(searchParams.get("cursor") ?? 0);
    const found = records.filter((one) => one.updated_at >= from && one.updated_at <= to);
    const next = start + 2 < found.length ? String(start + 2) : null;
    say(200, { orders: found.slice(start, start + 2), next_cursor: next });
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  provider = makePublicFetch({ privateAddresses: [hostAndPort(new URL(baseUrl))] });
});
afterEach(async () => {
  await provider.close();
  server.closeAllConnections();
  server.close();
});

const call = (accessToken = TOKEN) => ({
  config: example.config.parse({ environment: "simulator" }),
  credentials: example.credentials.parse({ accessToken }),
  now,
  signal: AbortSignal.timeout(5_000),
  fetch: provider.fetch,
  baseUrl,
});
/** Page by page to the end, as the engine does: what a checkpoint needs must survive JSON. */
async function run(from?: unknown, range?: { since: Date; until: Date }) {
  const { checkpoint: shape, fetchPage } = example.streams.orders;
  const events: EventInput[] = [];
  const unparsable: unknown[] = [];
  for (let checkpoint = from; ; ) {
    const read = shape.optional().parse(checkpoint && JSON.parse(JSON.stringify(checkpoint)));
    const page = await fetchPage({ ...call(), checkpoint: read, ...(range ? { range } : {}) });
    events.push(...page.events);
    unparsable.push(...page.unparsable);
    checkpoint = page.checkpoint;
    if (page.done) return { events, unparsable, checkpoint, highWater: page.highWater };
  }
}

it("names the account that the credentials reach", async () => {
  expect(await example.test(call())).toEqual({ account: "Downtown" });
  await expect(example.test(call("another"))).rejects.toMatchObject({ kind: "reauth" });
});

it("reads every order once, as events of the vocabulary", async () => {
  const { events, unparsable, highWater } = await run();
  expect(events.map(({ sourceId }) => sourceId)).toEqual(records.map(({ id }) => `order:${id}`));
  expect(events[0]).toMatchObject({ eventType: "order", value: "12.50", currency: "USD" });
  expect({ unparsable, highWater }).toEqual({ unparsable: [], highWater: now.toISOString() });
});

it("goes on from where it was, and reads a backfill beside it", async () => {
  const { checkpoint } = await run();
  expect((await run(checkpoint)).events).toEqual([]);
  const range = { since: new Date("2026-03-02T00:00:00Z"), until: new Date("2026-03-04T00:00:00Z") };
  const backfill = await run(undefined, range);
  expect(backfill.events.map(({ sourceId }) => sourceId)).toEqual(["order:o2", "order:o3"]);
  expect(backfill.highWater).toBeUndefined();
});

it("keeps what it cannot read, with the reason", async () => {
  failing = (response) =>
    response.end(JSON.stringify({ orders: [{ id: "odd" }, records[0]], next_cursor: null }));
  const { events, unparsable } = await run();
  expect(events).toHaveLength(1);
  expect(unparsable).toEqual([{ reason: expect.stringContaining("status"), record: { id: "odd" } }]);
});

it.each([
  ["throttled", (response: ServerResponse) => response.writeHead(429, { "retry-after": "7" }).end()],
  ["transient", (response: ServerResponse) => response.writeHead(502).end("<html>")],
  ["transient", (response: ServerResponse) => response.end('{"orders": [')],
  ["transient", (response: ServerResponse) => response.destroy()],
  ["permanent", (response: ServerResponse) => response.writeHead(400).end("{}")],
] as const)("says %s of a failure that is", async (kind, fail) => {
  failing = (response) => void fail(response);
  await expect(run()).rejects.toMatchObject({ kind });
});
