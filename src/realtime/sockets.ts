import { randomUUID } from "node:crypto";
import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import type { Express, Request } from "express";
import { GraphQLError, getOperationAST } from "graphql";
import { CloseCode, handleProtocols, makeServer, type ServerOptions } from "graphql-ws";
import type pg from "pg";
import type { Logger } from "pino";
import { type GrafservBase, makeGraphQLWSConfig } from "postgraphile/grafserv";
import { type WebSocket, WebSocketServer } from "ws";
import { z } from "zod";
import type { KeyEnvironment } from "../auth/apiKeys.ts";
import { originOf, readAuthorization, rememberIdentity } from "../auth/requests.ts";
import { expiryOf, type TokenService } from "../auth/tokens.ts";
import { makeLiveSockets } from "./liveSockets.ts";
import type { Notifications } from "./notifications.ts";
import { refuseUpgrade, whyNotUpgrade } from "./upgrades.ts";

export type SocketLimits = {
  /** Of this process. */
  sockets: number;
  socketsPerAddress: number;
  /** Of one session or API key. */
  socketsPerSession: number;
  subscriptionsPerSocket: number;
  messageBytes: number;
  /** Until whoever has connected must have said who they are. */
  initMs: number;
  /** A socket that does not answer a ping for so long is cut. */
  pingMs: number;
  /** How often the right to be connected is checked where nothing happens. */
  recheckMs: number;
};
export const socketLimits: SocketLimits = {
  sockets: 2_000,
  socketsPerAddress: 100,
  socketsPerSession: 10,
  subscriptionsPerSocket: 20,
  messageBytes: 100_000,
  initMs: 3_000,
  pingMs: 12_000,
  recheckMs: 60_000,
};

export type SocketOptions = {
  app: Express;
  serv: GrafservBase;
  tokens: TokenService;
  keyEnvironment: KeyEnvironment;
  pool: pg.Pool;
  notifications: Notifications;
  /** Pages of these, and of our own, may connect. */
  origins: readonly string[];
  limits: SocketLimits;
  log: Logger;
};
export type Sockets = {
  /** Of the HTTP server. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** Tells everybody to come back elsewhere. */
  close(): void;
};
const LAST_WORD_MS = 1_000;
type Extra = { socket: WebSocket; request: IncomingMessage };

const params = z.object({ authorization: z.string() });

/** Subscriptions over websockets, by the protocol of graphql-ws (graphql-transport-ws). */
export function makeSockets(options: SocketOptions): Sockets {
  const { app, serv, tokens, keyEnvironment, limits, log } = options;
  const live = makeLiveSockets(options);
  const server = new WebSocketServer({ noServer: true, maxPayload: limits.messageBytes, handleProtocols });
  const config: ServerOptions<Record<string, unknown>, Extra> = makeGraphQLWSConfig(serv);

  const graphql = makeServer<Record<string, unknown>, Extra>({
    ...config,
    connectionInitWaitTimeout: limits.initMs,
    async onConnect({ connectionParams, extra: { socket, request } }) {
      const given = Object.entries(connectionParams ?? {}).map(([name, value]) => [
        name.toLowerCase(),
        value,
      ]);
      const { authorization } = params.safeParse(Object.fromEntries(given)).data ?? {};
      const read = await readAuthorization(authorization, tokens, keyEnvironment);
      if ("refusal" in read || !read.claims || !read.token) {
        socket.close(CloseCode.Unauthorized, "invalid_token");
        return false;
      }
      const identity = { claims: read.claims, origin: originOf(requestOf(app, request)) };
      rememberIdentity(request, identity);
      return live.admit(socket, identity, "sub" in read.claims ? expiryOf(read.token) : undefined);
    },
    async onSubscribe(context, id, payload) {
      const refuse = (message: string, code: string) => [new GraphQLError(message, { extensions: { code } })];
      // This one counts already.
      if (Object.keys(context.subscriptions).length > limits.subscriptionsPerSocket)
        return refuse(
          `A socket has ${limits.subscriptionsPerSocket} subscriptions at most.`,
          "QUERY_TOO_EXPENSIVE",
        );
      const args = await config.onSubscribe?.(context, id, payload);
      if (!args || Array.isArray(args) || !("document" in args)) return args;
      const operation = getOperationAST(args.document, args.operationName);
      return operation?.operation === "subscription"
        ? args
        : refuse("Sockets are for subscriptions. Send queries and mutations by POST.", "INVALID_INPUT");
    },
  });

  server.on("connection", (socket, request) => {
    socket.on("error", (error) => log.debug({ err: error }, "a websocket failed"));
    let answered = true;
    socket.on("pong", () => {
      answered = true;
    });
    const ping = setInterval(() => {
      if (!answered) return socket.terminate();
      answered = false;
      socket.ping();
    }, limits.pingMs);
    const closed = graphql.opened(
      {
        protocol: socket.protocol,
        send: (data) => new Promise((sent) => socket.send(data, () => sent())),
        close: (code, reason) => socket.close(code, reason),
        onMessage: (heard) =>
          socket.on("message", (message) => {
            heard(String(message)).catch((error: unknown) => {
              log.error({ err: error }, "unexpected error in a websocket");
              socket.close(CloseCode.InternalServerError, "Something went wrong on our side.");
            });
          }),
      },
      { socket, request },
    );
    socket.once("close", (code, reason) => {
      clearInterval(ping);
      void closed(code, String(reason));
    });
  });

  const perAddress = new Map<string, number>();
  return {
    upgrade(request, socket, head) {
      // What goes wrong before there is a websocket concerns nobody else.
      socket.on("error", () => socket.destroy());
      const address = requestOf(app, request).ip ?? "unknown";
      const count = perAddress.get(address) ?? 0;
      const refusal = whyNotUpgrade(request, {
        origins: options.origins,
        full: server.clients.size >= limits.sockets || count >= limits.socketsPerAddress,
      });
      if (refusal) return refuseUpgrade(socket, refusal);
      server.handleUpgrade(request, socket, head, (accepted) => {
        perAddress.set(address, (perAddress.get(address) ?? 0) + 1);
        accepted.once("close", () => {
          const left = (perAddress.get(address) ?? 1) - 1;
          if (left > 0) perAddress.set(address, left);
          else perAddress.delete(address);
        });
        server.emit("connection", accepted, request);
      });
    },
    close() {
      live.close();
      for (const socket of server.clients) socket.close(1001, "Going away");
      server.close();
      // Whoever does not answer is not waited for.
      setTimeout(() => {
        for (const socket of server.clients) socket.terminate();
      }, LAST_WORD_MS).unref();
    },
  };
}

/** As Express sees it: with the address that a proxy of TRUST_PROXY says. */
function requestOf(app: Express, request: IncomingMessage): Request {
  const seen: Request = Object.setPrototypeOf(request, app.request);
  seen.id ??= randomUUID();
  return seen;
}
