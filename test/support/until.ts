import { setTimeout as wait } from "node:timers/promises";
import { withClient } from "../../src/db/pools.ts";
import type { TestDatabase } from "./database.ts";

/** Looks again until it is so; fails with what was seen last. */
export async function until<Seen>(
  look: () => Promise<Seen>,
  isSo: (seen: Seen) => boolean,
  timeoutMs = 20_000,
): Promise<Seen> {
  for (const deadline = Date.now() + timeoutMs; ; await wait(50)) {
    const seen = await look();
    if (isSo(seen)) return seen;
    if (Date.now() > deadline)
      throw new Error(`Waited ${timeoutMs} ms in vain; last seen: ${JSON.stringify(seen)}`);
  }
}

/** Waits until some statement in this database waits for a lock. */
export const untilBlocked = (database: TestDatabase, count = 1) =>
  withClient(database.urls.root, (client) =>
    until(
      () =>
        client.query(
          "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        ),
      ({ rowCount }) => rowCount === count,
    ),
  );
