import { setTimeout as wait } from "node:timers/promises";
import pg from "pg";
import type { Logger } from "pino";
import { destroyConnection } from "../db/pools.ts";

const HEARTBEAT_MS = 30_000;
const ANSWER_MS = 10_000;
const MAX_BACKOFF_MS = 10_000;

/** What a notification says; undefined after a time in which some may have been missed. */
type Handler = (payload: string | undefined) => void;

export type Notifications = {
  /** Resolves when every notification from now on will be heard, with what ends it. */
  listen(channel: string, handler: Handler): Promise<() => void>;
  close(): Promise<void>;
};

/**
 * LISTEN, on one connection of its own that is opened when it is first needed. One that is lost is replaced, and whoever listens
 * is told to look again. PgSubscriber ends all subscriptions then, and does not say when its LISTEN holds.
 */
export function makeNotifications(connectionString: string, log: Pick<Logger, "warn">): Notifications {
  const handlers = new Map<string, Set<Handler>>();
  let connected: Promise<pg.Client> | undefined;
  let closed = false;

  const quoted = (channel: string) => pg.escapeIdentifier(channel);
  async function open(): Promise<pg.Client> {
    const client = new pg.Client({
      connectionString,
      application_name: "erp-analytics listener",
      connectionTimeoutMillis: ANSWER_MS,
      keepAlive: true,
    });
    client.on("notification", ({ channel, payload }) => tell(channel, payload ?? ""));
    client.on("error", (error) => log.warn({ err: error }, "lost the connection that listens"));
    await client.connect();
    for (const channel of handlers.keys()) await client.query(`listen ${quoted(channel)}`);
    const heartbeat = setInterval(() => void beat(client), HEARTBEAT_MS);
    client.once("end", () => {
      clearInterval(heartbeat);
      connected = undefined;
      if (!closed && handlers.size > 0) void reconnect();
    });
    return client;
  }
  /** A server that went away without a word is found out. */
  async function beat(client: pg.Client) {
    const deadline = setTimeout(
      () => destroyConnection(client, new Error("The database did not answer.")),
      ANSWER_MS,
    );
    await client.query("select").catch(() => {});
    clearTimeout(deadline);
  }
  async function reconnect() {
    for (let pause = 100; !closed && handlers.size > 0; pause = Math.min(pause * 2, MAX_BACKOFF_MS)) {
      try {
        await connection();
        for (const channel of handlers.keys()) tell(channel, undefined);
        return;
      } catch (error) {
        log.warn({ err: error }, "cannot listen for notifications; trying again");
        await wait(pause);
      }
    }
  }
  const connection = () => {
    connected ??= open().catch((error: unknown) => {
      connected = undefined;
      throw error;
    });
    return connected;
  };
  function tell(channel: string, payload: string | undefined) {
    for (const handler of handlers.get(channel) ?? []) handler(payload);
  }

  return {
    async listen(channel, handler) {
      if (closed) throw new Error("Nobody listens any more.");
      const known = handlers.get(channel);
      const own = known ?? new Set<Handler>();
      own.add(handler);
      handlers.set(channel, own);
      const stop = () => {
        own.delete(handler);
        if (own.size > 0 || handlers.get(channel) !== own) return;
        handlers.delete(channel);
        // In the order in which they are sent: a LISTEN that comes later is not undone.
        connected?.then((client) => client.query(`unlisten ${quoted(channel)}`)).catch(() => {});
      };
      try {
        // Again for one that is listened to already: its answer says that the first has been heard, too.
        await (await connection()).query(`listen ${quoted(channel)}`);
      } catch (error) {
        stop();
        throw error;
      }
      return stop;
    },
    async close() {
      closed = true;
      handlers.clear();
      const client = await connected?.catch(() => undefined);
      await client?.end().catch(() => {});
    },
  };
}
