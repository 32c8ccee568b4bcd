import pLimit from "p-limit";
import type pg from "pg";
import type { GrafastSubscriber } from "postgraphile/grafast";
import type { Identity } from "../auth/requests.ts";
import { changesOf } from "../realtime/changes.ts";
import type { Notifications } from "../realtime/notifications.ts";
import { OperationTransaction } from "./operationTransaction.ts";

/** Events of one subscription are this far apart at least: progress changes more often than anybody can read. */
const PAUSE_MS = 250;
/** Transactions of events at a time, so that requests keep the other connections. */
const CONCURRENCY = 5;

/** When to look at a row again: at once, and then whenever a notification says so. */
export type Changes = GrafastSubscriber<Record<string, string>>;

export type Subscriptions = {
  /** For the context of one operation: `withPgClient` is that of the event at hand. */
  open(identity: Identity): {
    integrationChanges: Changes;
    withPgClient: OperationTransaction["withPgClient"];
  };
};

/** Gives each event of a subscription a transaction of its own, and with it the live check. */
export function makeSubscriptions(pool: pg.Pool, notifications: Notifications): Subscriptions {
  const inTurn = pLimit(CONCURRENCY);
  return {
    open(identity) {
      let transaction: OperationTransaction | undefined;
      let leave = () => {};
      const around = {
        before: () =>
          new Promise<void>((entered) => {
            const event = () =>
              new Promise<void>((left) => {
                leave = left;
                transaction = new OperationTransaction(pool, "query", identity);
                entered();
              });
            void inTurn(event);
          }),
        async after() {
          const over = transaction;
          transaction = undefined;
          await over?.finish().catch(() => {});
          leave();
        },
      };
      return {
        integrationChanges: {
          subscribe: (id) =>
            changesOf(notifications, `integration:${id}`, String(id), { ...around, pauseMs: PAUSE_MS }),
        },
        async withPgClient(settings, callback) {
          if (!transaction) throw new Error("SQL of a subscription belongs to one of its events.");
          return transaction.withPgClient(settings, callback);
        },
      };
    },
  };
}

/** The same results up to the first with an error, which is the last: whoever may no longer see is told so once. */
export function untilRefused<Result extends { errors?: readonly unknown[] | undefined }>(
  results: AsyncGenerator<Result, void, void>,
): AsyncGenerator<Result, void, void> {
  let refused = false;
  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    async next() {
      if (refused) return results.return();
      const next = await results.next();
      refused = !next.done && (next.value.errors?.length ?? 0) > 0;
      return next;
    },
    return: () => results.return(),
    throw: (error) => results.throw(error),
    [Symbol.asyncDispose]: async () => void (await results.return()),
  };
}
