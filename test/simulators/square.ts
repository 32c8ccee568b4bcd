import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { setTimeout as wait } from "node:timers/promises";
import { addDays } from "../../scripts/demo/calendar.ts";
import { random } from "../../scripts/demo/random.ts";
import { lastFullDay, type SquareRecord, sale, salesOfDay, salesUntil } from "./squareData.ts";
import { makeFaults, refusalOf, type SquareFault } from "./squareFaults.ts";
import {
  type Page,
  Refusal,
  type Request,
  readListRequest,
  readSearchRequest,
  resultPage,
} from "./squareProtocol.ts";
import { makeStore, recordSale, type TableName } from "./squareStore.ts";
import { MERCHANT_ID, makeTokens, type SquareOAuth } from "./squareTokens.ts";
import { notificationOf, post, type SquareSubscription, sign } from "./squareWebhooks.ts";

export type { SquareFault } from "./squareFaults.ts";
export type SquareSimulatorOptions = {
  port: number;
  host?: string;
  accessToken: string;
  /** Whom the access token was given to; it then ends, and can be renewed. */
  oauth?: SquareOAuth;
  /** Sales on record, up to and with yesterday; `days` is how many days they are spread over. */
  orders?: number;
  days?: number;
  locations?: readonly [string, ...string[]];
  currency?: string;
  seed?: number;
  latencyMs?: number;
  /** How long a change takes to show in lists. */
  consistencyMs?: number;
  /** The clock; a Date stands still. */
  now?: Date | (() => Date);
  /** Goes on selling: sales of today and the next month show as the clock passes them. */
  live?: boolean;
  faults?: SquareFault;
};

export type SquareSimulator = Awaited<ReturnType<typeof startSquareSimulator>>;

/** A server that answers as Square does, with a believable coffee shop behind it. */
export async function startSquareSimulator(options: SquareSimulatorOptions) {
  const { host = "127.0.0.1", orders: total = 6000, days = 60, latencyMs = 100 } = options;
  let { consistencyMs = 0 } = options;
  const locations = options.locations ?? ["L7HXY2TQKPM3A", "LR0M6Z8VW4C1D"];
  const shop = { seed: options.seed ?? 1, locations, currency: options.currency ?? "USD" };
  const clock = () => (options.now instanceof Date ? options.now : (options.now?.() ?? new Date()));
  const store = makeStore();
  const last = lastFullDay(clock());
  for (const sale of salesUntil(last, total, total / days, shop)) recordSale(store, sale);
  for (let ahead = 1; options.live && ahead <= 31; ahead++)
    for (const sale of salesOfDay(addDays(last, ahead), total / days, shop)) recordSale(store, sale);
  const tokens = makeTokens(options.accessToken, clock, options.oauth);
  const faults = makeFaults(options.faults);
  const requests: { method: string; path: string; search: string; version: string | undefined }[] = [];
  const answered = new Map<string, Page>();
  let added = 0;

  async function answer(request: IncomingMessage, response: ServerResponse) {
    const url = new URL(request.url ?? "/", "http://simulator");
    const method = request.method ?? "GET";
    const body = await readBody(request);
    const version = request.headers["square-version"]?.toString();
    requests.push({ method, path: url.pathname, search: url.search, version });
    // A demo may run for weeks.
    if (requests.length > 10_000) requests.shift();
    if (latencyMs > 0) await wait(latencyMs);

    const fault = faults.take(url.pathname, url.searchParams.has("cursor") || /"cursor":/.test(body));
    if (fault?.kind === "hang") return;
    if (fault?.kind === "tokenExpired") tokens.expire();
    if (fault?.kind === "meanwhile") fault.happens?.();
    const { status, text } = (fault && refusalOf(fault.kind)) ?? route(method, url, body, request, fault);
    const sent =
      fault?.kind === "html"
        ? "<html><body>Checking your browser</body></html>"
        : fault?.kind === "badJson"
          ? text.slice(0, text.length / 2)
          : text;
    response.writeHead(status, {
      "content-type": fault?.kind === "html" ? "text/html" : "application/json",
      "content-length": Buffer.byteLength(sent),
      ...(fault?.retryAfter === undefined ? {} : { "retry-after": String(fault.retryAfter) }),
    });
    if (fault?.kind === "stall") return void response.write(sent.slice(0, sent.length / 2));
    if (fault?.kind !== "truncated") return response.end(sent);
    response.write(sent.slice(0, sent.length / 2), () => response.destroy());
  }

  function route(method: string, url: URL, body: string, request: IncomingMessage, fault?: SquareFault) {
    try {
      const version = request.headers["square-version"];
      if (typeof version === "string" && !/^\d{4}-\d{2}-\d{2}$/.test(version))
        throw new Refusal(400, "INVALID_SQUARE_VERSION_FORMAT", `"${version}" is not a version.`);
      if (method === "POST" && url.pathname === "/oauth2/token") return ok(tokens.renew(body));
      tokens.check(request.headers.authorization);
      if (method === "GET" && url.pathname === "/v2/locations")
        return ok({ locations: locations.map(location) });
      if (method === "POST" && url.pathname === "/v2/orders/search")
        return page("orders", readSearchRequest(body), fault);
      if (method === "GET" && url.pathname === "/v2/payments")
        // Without a location, only the main one's payments.
        return page("payments", readListRequest(url, clock().getTime(), locations[0]), fault);
      if (method === "GET" && url.pathname === "/v2/refunds")
        return page("refunds", readListRequest(url, clock().getTime()), fault);
      throw new Refusal(404, "NOT_FOUND", "Resource not found.");
    } catch (error) {
      if (error instanceof Refusal)
        return { status: error.status, text: JSON.stringify({ errors: [error.body] }) };
      throw error;
    }
  }

  const location = (id: string, index: number) => ({
    id,
    name: index === 0 ? "Main street" : `Branch ${index}`,
    business_name: "Simulated Coffee",
    merchant_id: MERCHANT_ID,
    status: "ACTIVE",
    currency: shop.currency,
  });

  function page(table: TableName, request: Request, fault?: SquareFault) {
    const at = clock().getTime() - consistencyMs;
    const before = answered.get(request.identity);
    const found =
      fault?.kind === "repeatedPage" && before
        ? before
        : resultPage(store[table], request, at, fault?.kind === "reorderedPages");
    if (fault?.kind === "reorderedPages") found.texts.reverse();
    answered.set(request.identity, found);
    // As Square: without the list when it is empty, and without a cursor when it is the last.
    const parts = found.texts.length > 0 ? [`"${table}":[${found.texts.join(",")}]`] : [];
    if (found.cursor !== undefined) parts.push(`"cursor":"${found.cursor}"`);
    return { status: 200, text: `{${parts.join(",")}}` };
  }

  function change(table: TableName, id: string, patch: Record<string, unknown> = {}): SquareRecord {
    const record = store[table].get(id);
    if (!record) throw Error(`The simulator has no record "${id}".`);
    const version = record.version === undefined ? {} : { version: Number(record.version) + 1 };
    const restated = { ...record, ...version, updated_at: clock().toISOString(), ...patch };
    store[table].put(restated);
    return restated;
  }

  const server = createServer((request, response) => {
    answer(request, response).catch((error: unknown) =>
      response.destroy(Error("simulator", { cause: error })),
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(options.port, host, resolve);
  });
  const address = server.address();
  const port = typeof address === "object" && address ? address.port : options.port;

  return {
    url: `http://${host}:${port}`,
    locations,
    requests,
    tokens,
    /** The records that exist by now, whether lists show them yet or not. */
    records: (table: TableName) => store[table].seen(clock().getTime()),
    setFault: faults.set,
    /** How many requests the fault has befallen. */
    struck: faults.struck,
    setConsistency: (ms: number) => {
      consistencyMs = ms;
    },
    /** Sells `count` times, now; gives the orders' ids. */
    addOrders(count: number): string[] {
      return Array.from({ length: count }, () => {
        const sold = sale(random(`${shop.seed}:added:${added++}`), clock().getTime(), shop, true);
        recordSale(store, sold);
        return sold.order.id;
      });
    },
    /** Changes a record, now; a patch may also break it. */
    restate: change,
    restateOrder: (id: string, patch: Record<string, unknown> = {}) => change("orders", id, patch),
    /** The record is gone, as after a merchant's clean-up; Square tells nobody. */
    delete: (table: TableName, id: string) => store[table].delete(id, clock().getTime()),
    /** Tells a subscriber of a record as it is, or was so many versions ago; gives the answer's status. */
    notify(
      subscription: SquareSubscription,
      table: TableName,
      id: string,
      how: {
        versionsAgo?: number;
        action?: "created" | "updated";
        eventId?: string;
        createdAt?: Date;
        /** By somebody who does not know the key. */
        forged?: boolean;
        to?: string;
      } = {},
    ): Promise<number> {
      const record = store[table].get(id, how.versionsAgo);
      if (!record) throw Error(`The simulator has no record "${id}".`);
      const body = notificationOf(table, record, { createdAt: clock(), ...how });
      const key = how.forged ? { ...subscription, signatureKey: "somebody else's" } : subscription;
      return post(sign(body, key), subscription, how.to);
    },
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

const ok = (content: unknown) => ({ status: 200, text: JSON.stringify(content) });

async function readBody(request: IncomingMessage): Promise<string> {
  let body = "";
  for await (const chunk of request.setEncoding("utf8")) body += chunk;
  return body;
}
