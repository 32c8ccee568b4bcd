import { once } from "node:events";
import { WebSocket } from "ws";
import { until } from "./until.ts";

// biome-ignore lint/suspicious/noExplicitAny: tests look into messages of any shape
export type Message = { type: string; id?: string; payload?: any };
/** By hand, so that the test shares no code with the server. */
export class SocketClient {
  readonly socket: WebSocket;
  readonly messages: Message[] = [];
  readonly closed: Promise<{ code: number; reason: string }>;
  constructor(apiUrl: string, options: { origin?: string; path?: string } = {}) {
    const url = `${apiUrl.replace("http", "ws")}${options.path ?? "/graphql"}`;
    this.socket = new WebSocket(
      url,
      "graphql-transport-ws",
      options.origin ? { origin: options.origin } : {},
    );
    this.socket.on("message", (text) => this.messages.push(JSON.parse(String(text))));
    this.closed = new Promise((closed) =>
      this.socket.on("close", (code, reason) => closed({ code, reason: String(reason) })),
    );
  }
  /** Says who it is; waits for the answer, or for the end. */
  async connect(token: string) {
    await once(this.socket, "open");
    this.send({ type: "connection_init", payload: { Authorization: `Bearer ${token}` } });
    await until(
      async () => this.socket.readyState,
      (state) => state !== WebSocket.OPEN || this.messages.length > 0,
    );
  }
  send(message: object) {
    this.socket.send(JSON.stringify(message));
  }
  subscribe(id: string, document: string, variables: object = {}) {
    this.send({ id, type: "subscribe", payload: { query: document, variables } });
  }
  of = (id: string, type: string) => this.messages.filter((one) => one.id === id && one.type === type);
  /** The payload of the nth `next` (from 0), when it comes. */
  async next(id: string, index: number) {
    await until(
      async () => this.messages,
      () => this.of(id, "next").length > index,
    );
    return this.of(id, "next")[index]?.payload;
  }
  ended = (id: string) =>
    until(
      async () => this.messages,
      () => this.of(id, "complete").length + this.of(id, "error").length > 0,
    );
}
