import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, test } from "@jest/globals";
import { metaAds } from "../tasks/connectors/meta-ads/index.ts";
import { makeWebhook } from "./simulators/metaWebhooks.ts";
import { appSecret, callOf, closeSimulators, simulate, verifyToken } from "./support/metaRun.ts";

afterEach(closeSimulators);

const { webhooks } = metaAds;
if (!webhooks) throw new Error("The connector takes no webhooks.");
const url = "https://analytics.test/v1/webhooks/1";

async function received(
  options: Parameters<typeof makeWebhook>[1],
  change: (body: string) => string = (body) => body,
) {
  const simulator = await simulate();
  const { config, credentials } = callOf(simulator, "campaigns", {
    config: { levels: ["campaigns", "ads"] },
  });
  const { body, headers } = makeWebhook(appSecret, options);
  const delivery = { headers: new Headers(headers), rawBody: Buffer.from(change(body)), url };
  return { config, credentials, delivery };
}

test("a notice of an account starts the streams that were chosen; that of another, none", async () => {
  const ours = await received({ accountId: "4410882" });
  expect(webhooks.verify(ours.delivery, ours.credentials)).toBe(true);
  expect(webhooks.read(ours.delivery, ours.config)).toEqual({
    events: [],
    unparsable: [],
    streams: ["campaigns", "ads"],
  });
  const other = await received({ accountId: "1" });
  expect(webhooks.read(other.delivery, other.config).streams).toEqual([]);
});

test("what is forged, changed, unsigned or signed otherwise is not Meta's", async () => {
  const good = await received({ accountId: "4410882" });
  const forged = await received({ accountId: "4410882", forged: true });
  expect(webhooks.verify(forged.delivery, forged.credentials)).toBe(false);
  // The same JSON in other bytes is another body.
  const changed = await received({ accountId: "4410882" }, (body) => `${body} `);
  expect(webhooks.verify(changed.delivery, changed.credentials)).toBe(false);
  const signature = good.delivery.headers.get("x-hub-signature-256") ?? "";
  for (const header of ["", "sha256=", signature.slice(0, -1), signature.toUpperCase(), signature.slice(7)]) {
    const headers = new Headers({ "x-hub-signature-256": header });
    expect(webhooks.verify({ ...good.delivery, headers }, good.credentials)).toBe(false);
  }
  expect(webhooks.verify({ ...good.delivery, headers: new Headers() }, good.credentials)).toBe(false);
});

test("a delivery is known by its bytes, and is not refused for being late", async () => {
  const happenedAt = new Date("2026-03-10T00:00:00Z");
  const one = await received({ accountId: "4410882", happenedAt });
  const again = await received({ accountId: "4410882", happenedAt });
  const other = await received({ accountId: "4410882", happenedAt: new Date("2026-03-10T00:00:01Z") });
  expect(webhooks.identify(one.delivery)).toEqual({
    id: expect.stringMatching(/^[0-9a-f]{64}$/),
    sentAt: undefined,
  });
  expect(webhooks.identify(again.delivery)).toEqual(webhooks.identify(one.delivery));
  expect(webhooks.identify(other.delivery).id).not.toBe(webhooks.identify(one.delivery).id);
});

test("a body of another shape is kept", async () => {
  for (const body of ["not JSON", "{}", '{"object":"page","entry":[]}']) {
    const { delivery, config } = await received({ accountId: "4410882", body });
    const { unparsable, streams } = webhooks.read(delivery, config);
    expect(streams).toEqual([]);
    expect(unparsable).toHaveLength(body.includes("page") ? 0 : 1);
  }
});

test("the handshake answers the challenge to whoever knows the verify token", async () => {
  const { credentials } = await received({ accountId: "4410882" });
  const ask = (query: Record<string, string>, held = credentials) =>
    webhooks.handshake?.(new URLSearchParams(query), held);
  const good = { "hub.mode": "subscribe", "hub.verify_token": verifyToken, "hub.challenge": "1158201444" };
  expect(ask(good)).toBe("1158201444");
  expect(ask({ ...good, "hub.verify_token": "guess" })).toBeUndefined();
  expect(ask({ ...good, "hub.mode": "unsubscribe" })).toBeUndefined();
  expect(ask({ ...good, "hub.challenge": "<script>" })).toBeUndefined();
  expect(ask({ "hub.mode": "subscribe", "hub.verify_token": verifyToken })).toBeUndefined();
  const { verifyToken: _none, ...without } = credentials;
  expect(ask(good, without)).toBeUndefined();
  expect(ask({ ...good, "hub.verify_token": "" }, without)).toBeUndefined();
});

test("the simulator sends what it signs, as often as it is told to", async () => {
  const simulator = await simulate();
  const { credentials } = callOf(simulator, "campaigns");
  const verdicts: boolean[] = [];
  const server = createServer(async (request: IncomingMessage, response) => {
    const asked = new URL(request.url ?? "/", url);
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    if (request.method === "GET") {
      const answer = webhooks.handshake?.(asked.searchParams, credentials);
      return response.writeHead(answer ? 200 : 403).end(answer);
    }
    const headers = new Headers(request.headers as Record<string, string>);
    const isMeta = webhooks.verify({ headers, rawBody: Buffer.concat(chunks), url }, credentials);
    verdicts.push(isMeta);
    response.writeHead(isMeta ? 200 : 401).end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const target = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
    expect(await simulator.sendWebhook(target, { accountId: "4410882", times: 2 })).toEqual([200, 200]);
    expect(await simulator.sendWebhook(target, { accountId: "4410882", forged: true })).toEqual([401]);
    expect(verdicts).toEqual([true, true, false]);
    expect(await simulator.askHandshake(target, verifyToken)).toEqual({ status: 200, text: "1158201444" });
    expect((await simulator.askHandshake(target, "guess")).status).toBe(403);
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
});
