import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { z } from "zod";
import {
  type Connector,
  defineConnector,
  ProviderError,
  type Stream,
} from "../../tasks/connectors/connector.ts";

export type Asked = {
  stream: string;
  position: number | undefined;
  token: string;
  since: string | undefined;
  until: string | undefined;
  at: number;
};
/** What the provider says: a page, or a status that is not 200. */
export type Answer = {
  status?: number;
  retryAfterMs?: number;
  scope?: string;
  message?: string;
  /** Ids of records, which become orders of their number; other values cannot be read. */
  records?: (number | string)[];
  deleted?: number[];
  next?: number;
  done?: boolean;
  complete?: { sourceIdPrefix: string; since: string };
  pauses?: { scope: string; milliseconds: number; reason: string }[];
  highWater?: string;
};
const answer = z.custom<Answer>((value) => typeof value === "object");
const checkpoint = z.object({ position: z.int() });
const config = z.object({ environment: z.literal("simulator"), app: z.string().default("app") });
const credentials = z.object({ token: z.string(), refreshToken: z.string().optional() });
type Config = z.output<typeof config>;
type Credentials = z.output<typeof credentials>;

/** A provider over HTTP that answers what a test says, and a connector for it, by the name of one that there is. */
export async function startScriptedProvider(streams: readonly string[] = ["orders"]) {
  const asked: Asked[] = [];
  const script = {
    answer: (_asked: Asked): Answer | Promise<Answer> => ({ records: [], next: 0, done: true }),
    /** The answer to a request for new credentials; undefined: those at hand last. */
    refresh: undefined as ((refreshToken: string) => Credentials | Promise<Credentials>) | undefined,
  };
  const server = createServer(async (request, response) => {
    const url = new URL(request.url ?? "/", "http://provider");
    const token = request.headers.authorization ?? "";
    const send = (status: number, body: unknown) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(body));
    };
    if (url.pathname === "/refresh") return send(200, (await script.refresh?.(token)) ?? null);
    const position = url.searchParams.get("position");
    const one: Asked = {
      stream: url.pathname.slice(1),
      position: position === null ? undefined : Number(position),
      token,
      since: url.searchParams.get("since") ?? undefined,
      until: url.searchParams.get("until") ?? undefined,
      at: Date.now(),
    };
    asked.push(one);
    const said = await script.answer(one);
    send(said.status ?? 200, said);
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));

  const streamOf = (name: string): Stream<Config, Credentials, z.output<typeof checkpoint>> => ({
    checkpoint,
    async fetchPage(call) {
      const url = new URL(name, `${call.baseUrl}/`);
      if (call.checkpoint) url.searchParams.set("position", String(call.checkpoint.position));
      if (call.range) url.searchParams.set("since", call.range.since.toISOString());
      if (call.range) url.searchParams.set("until", call.range.until.toISOString());
      const headers = { authorization: call.credentials.token };
      // As connectors do: whatever goes wrong with a call is passing.
      const response = await call.fetch(url, { headers, signal: call.signal }).catch((cause: Error) => {
        call.signal.throwIfAborted();
        throw new ProviderError("transient", `The provider could not be reached: ${cause.message}`);
      });
      const said = answer.parse(await response.json());
      const { retryAfterMs, scope, message = "The provider refused." } = said;
      const details = {
        ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
        ...(scope === undefined ? {} : { scope }),
      };
      if (response.status === 401) throw new ProviderError("reauth", message);
      if (response.status === 429) throw new ProviderError("throttled", message, details);
      if (response.status === 400) throw new ProviderError("permanent", message);
      if (response.status >= 500) throw new ProviderError("transient", message, details);
      const order = (id: number) => ({
        eventType: "order",
        eventName: "order_completed",
        sourceId: `${name}:${id}`,
      });
      const { records = [], deleted = [], next = 0, done = false, complete, pauses, highWater } = said;
      return {
        events: [
          ...records
            .filter((id) => typeof id === "number")
            .map((id) => ({
              ...order(id),
              timestamp: new Date(Date.UTC(2026, 0, 1) + id * 60_000).toISOString(),
              value: String(id),
              currency: "USD",
            })),
          ...deleted.map((id) => ({ ...order(id), deleted: true })),
        ],
        unparsable: records
          .filter((id) => typeof id !== "number")
          .map((id) => ({
            sourceId: `${name}:${id}`,
            reason: "It is no number.",
            record: { id, ...call.credentials },
          })),
        checkpoint: { position: next },
        done,
        ...(complete ? { complete } : {}),
        ...(pauses ? { pauses } : {}),
        ...(highWater ? { highWater } : {}),
      };
    },
  });
  const connector = defineConnector({
    provider: "square",
    name: "Scripted",
    config,
    credentials,
    hosts: { production: "https://provider.invalid" },
    streams: Object.fromEntries(streams.map((name) => [name, streamOf(name)])),
    test: async () => ({ account: "Scripted" }),
    // Whoever has a token of "c" only says that the app is theirs.
    appSecret: ({ token }) => (token === "token-c" ? "another" : "scripted"),
    limits: ({ app }, { token }) => [`app:${app}`, `account:${token}`],
    async refresh(call) {
      if (!script.refresh) return undefined;
      const headers = { authorization: call.credentials.refreshToken ?? "" };
      const response = await call.fetch(new URL("refresh", `${call.baseUrl}/`), { headers });
      return credentials.nullable().parse(await response.json()) ?? undefined;
    },
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    connectors: [connector] as readonly Connector[],
    asked,
    script,
    async close() {
      server.closeAllConnections();
      await new Promise((closed) => server.close(closed));
    },
  };
}
export type ScriptedProvider = Awaited<ReturnType<typeof startScriptedProvider>>;

/** Pages of ten from a list that grows from 1 to `last`. */
export const pagesUpTo =
  (last: number) =>
  ({ position = 0 }: Asked): Answer => {
    const records = Array.from({ length: Math.min(10, last - position) }, (_, index) => position + index + 1);
    const next = position + records.length;
    return { records, next, done: next >= last };
  };
