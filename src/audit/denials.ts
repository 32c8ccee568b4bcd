import type pg from "pg";
import type { Logger } from "pino";
import { type Identity, withRequest } from "../auth/requests.ts";
import { explain } from "../graphql/errors.ts";

const WINDOW_MS = 60_000;
/** More who are refused at a time share one count. */
const AT_MOST = 10_000;

/** Records what requests were denied for want of a right, after whatever they did was taken back. */
export type Denials = {
  /** Does nothing unless the error is such a refusal. Never rejects: the refusal itself goes out all the same. */
  note(identity: Identity, operation: string, error: unknown): Promise<void>;
  /** Writes the counts that wait. */
  close(): Promise<void>;
};
type Waiting = { identity: Identity; operation: string; reason: string; count: number; until: number };

/**
 * The first denial of an actor, operation and reason is recorded at once, those of the next minute as one, with their
 * count: a client that tries in a loop fills no log.
 * @param clock milliseconds that only go forward
 */
export function makeDenials(pool: pg.Pool, log: Logger, clock = () => performance.now()): Denials {
  const windows = new Map<string, Waiting>();
  const write = ({ identity, operation, reason, count }: Waiting) =>
    withRequest(pool, identity, (client) =>
      client.query("select app_hidden.record_denial($1, $2, $3)", [operation, reason, count]),
    ).catch((error: Error) =>
      log.error({ err: error, operation, reason, count }, "could not record a denial"),
    );
  const flush = async (all = false) => {
    const ended = [...windows].filter(([, { until }]) => all || until <= clock());
    for (const [key] of ended) windows.delete(key);
    for (const [, window] of ended) if (window.count > 0) await write(window);
  };
  const timer = setInterval(() => void flush(), WINDOW_MS / 4).unref();
  return {
    async note(identity, operation, error) {
      const { claims } = identity;
      const explained = explain(error);
      if (!claims || explained?.code !== "FORBIDDEN") return;
      const reason = String(explained.extensions.reason ?? explained.message);
      const actor = "sid" in claims ? claims.sid : claims.key_id;
      const key = JSON.stringify([actor, operation, reason]);
      const window = windows.get(key);
      if (window && window.until > clock()) {
        window.count++;
        return;
      }
      if (windows.size >= AT_MOST) await flush(true);
      windows.set(key, {
        identity: { ...identity },
        operation,
        reason,
        count: 0,
        until: clock() + WINDOW_MS,
      });
      await write({ identity, operation, reason, count: 1 + (window?.count ?? 0), until: 0 });
    },
    async close() {
      clearInterval(timer);
      await flush(true);
    },
  };
}

/** The same service, whose refusals are recorded. Each method takes the identity first. */
export function withDenials<Service extends object>(
  denials: Denials,
  name: string,
  service: Service,
): Service {
  return new Proxy(service, {
    get(target, property, receiver) {
      const method: unknown = Reflect.get(target, property, receiver);
      if (typeof method !== "function") return method;
      return async (identity: Identity, ...rest: unknown[]) => {
        try {
          return await method.call(target, identity, ...rest);
        } catch (error) {
          await denials.note(identity, `${name}.${String(property)}`, error);
          throw error;
        }
      };
    },
  });
}
