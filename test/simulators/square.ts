import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { setTimeout as wait } from "node:timers/promises";
import { addDays } from "../../scripts/demo/calendar.ts";
import { random } from "../../scripts/demo/random.ts";
import {
  lastFullDay,
  type SquareRecord,
  type SquareSale,
  sale,
  salesOfDay,
  salesUntil,
} from "./squareData.ts";
import { Refusal, readListRequest, readSearchRequest, resultPage, unauthorized } from "./squareProtocol.ts";

export type SquareFault = {
  kind: "rateLimited" | "serverError" | "hang" | "truncated";
  /** Seconds; without it a rate limit comes without the header. */
  retryAfter?: number;
  /** How many requests it befalls; once by default. */
  times?: number;
  /** Only requests of this path. */
  path?: string;
};
export type SquareSimulatorOptions = {
  port: number;
  host?: string;
  accessToken: string;
  /** Sales on record, up to and with yesterday; `days` is how many days they are spread over. */
  orders?: number;
  days?: number;
  locations?: readonly [string, ...string[]];
  currency?: string;
  seed?: number;
  latencyMs?: number;
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
  const locations = options.locations ?? ["L7HXY2TQKPM3A", "LR0M6Z8VW4C1D"];
  const store = { seed: options.seed ?? 1, locations, currency: options.currency ?? "USD" };
  const clock = () => (options.now instanceof Date ? options.now : (options.now?.() ?? new Date()));
  const tables = {
    orders: new Map<string, SquareRecord>(),
    payments: new Map<string, SquareRecord>(),
    refunds: new Map<string, SquareRecord>(),
  };
  const record = ({ order, payment, refund }: SquareSale) => {
    tables.orders.set(order.id, order);
    if (payment) tables.payments.set(payment.id, payment);
    if (refund) tables.refunds.set(refund.id, refund);
  };
  const last = lastFullDay(clock());
  salesUntil(last, total, total / days, store).forEach(record);
  for (let ahead = 1; options.live && ahead <= 31; ahead++)
    salesOfDay(addDays(last, ahead), total / days, store).forEach(record);
  /** What exists by now. */
  const visible = (table: keyof typeof tables) => {
    const now = clock().toISOString();
    return [...tables[table].values()].filter((entry) => entry.updated_at <= now);
  };

  const requests: { method: string; path: string; search: string; version: string | undefined }[] = [];
  let fault = options.faults;
  let added = 0;

  async function answer(request: IncomingMessage, response: ServerResponse) {
    const url = new URL(request.url ?? "/", "http://simulator");
    const method = request.method ?? "GET";
    const body = await readBody(request);
    const version = request.headers["square-version"]?.toString();
    requests.push({ method, path: url.pathname, search: url.search, version });
    // A demo may run for weeks.
    if (requests.length > 10_000) requests.shift();
    await wait(latencyMs);

    const befalling = takeFault(url.pathname);
    if (befalling?.kind === "hang") return;
    const { status, content } = befalling ? faultAnswer(befalling) : route(method, url, body, request);
    const text = JSON.stringify(content);
    const retryAfter = befalling?.retryAfter;
    response.writeHead(status, {
      "content-type": "application/json",
      "content-length": Buffer.byteLength(text),
      ...(retryAfter === undefined ? {} : { "retry-after": String(retryAfter) }),
    });
    if (befalling?.kind !== "truncated") return response.end(text);
    response.write(text.slice(0, text.length / 2), () => response.destroy());
  }

  function route(method: string, url: URL, body: string, request: IncomingMessage) {
    try {
      if (request.headers.authorization !== `Bearer ${options.accessToken}`) throw unauthorized();
      if (method === "POST" && url.pathname === "/v2/orders/search")
        return { status: 200, content: resultPage("orders", visible("orders"), readSearchRequest(body)) };
      if (method === "GET" && url.pathname === "/v2/payments")
        // Without a location, only the main one's payments.
        return {
          status: 200,
          content: resultPage("payments", visible("payments"), readListRequest(url, locations[0])),
        };
      if (method === "GET" && url.pathname === "/v2/refunds")
        return { status: 200, content: resultPage("refunds", visible("refunds"), readListRequest(url)) };
      throw new Refusal(404, "NOT_FOUND", "Resource not found.");
    } catch (error) {
      if (error instanceof Refusal) return { status: error.status, content: { errors: [error.body] } };
      throw error;
    }
  }

  function takeFault(path: string): SquareFault | undefined {
    if (!fault || (fault.path && fault.path !== path)) return undefined;
    const taken = fault;
    const times = (fault.times ?? 1) - 1;
    fault = times > 0 ? { ...fault, times } : undefined;
    return taken;
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
    /** The records that exist by now. */
    records: visible,
    setFault: (next: SquareFault | undefined) => {
      fault = next;
    },
    /** Sells `count` times, now; gives the orders' ids. */
    addOrders(count: number): string[] {
      return Array.from({ length: count }, () => {
        const sold = sale(random(`${store.seed}:added:${added++}`), clock().getTime(), store, true);
        record(sold);
        return sold.order.id;
      });
    },
    /** Changes an order, now; a patch may also break it. */
    restateOrder(id: string, patch: Record<string, unknown> = {}): SquareRecord {
      const order = tables.orders.get(id);
      if (!order) throw Error(`The simulator has no order "${id}".`);
      const restated = {
        ...order,
        version: Number(order.version) + 1,
        updated_at: clock().toISOString(),
        ...patch,
      };
      tables.orders.set(id, restated);
      return restated;
    },
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function readBody(request: IncomingMessage): Promise<string> {
  let body = "";
  for await (const chunk of request.setEncoding("utf8")) body += chunk;
  return body;
}

function faultAnswer(fault: SquareFault): { status: number; content: unknown } {
  if (fault.kind === "rateLimited") {
    const detail = "Too many requests have been made.";
    return {
      status: 429,
      content: { errors: [{ category: "RATE_LIMIT_ERROR", code: "RATE_LIMITED", detail }] },
    };
  }
  if (fault.kind === "truncated") return { status: 200, content: { orders: [], payments: [], refunds: [] } };
  const error = { category: "API_ERROR", code: "INTERNAL_SERVER_ERROR", detail: "An error has occurred." };
  return { status: 500, content: { errors: [error] } };
}
