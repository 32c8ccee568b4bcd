import { setTimeout as wait } from "node:timers/promises";
import { z } from "zod";
import type { TestDatabase } from "../support/database.ts";

const LOOK_MS = 100;
const seen = z.array(
  z.object({
    id: z.string(),
    sync_status: z.string().nullable(),
    error_class: z.string().nullable(),
    waits_for: z.array(z.string()),
    webhooks: z.number(),
  }),
);
type Seen = z.output<typeof seen>[number];

export type Watch = ReturnType<typeof startWatch>;

/**
 * Looks at all integrations at once, and lets time pass for those that wait: backoffs and pauses are over as soon as
 * they were seen.
 */
export function startWatch({ owner }: TestDatabase) {
  const waited = new Map<string, Set<string>>();
  let listeners: ((all: Map<string, Seen>, look: number) => void)[] = [];
  let stopped = false;
  let looks = 0;

  async function look() {
    const mine = ++looks;
    const { rows } = await owner.query(
      `select i.id, i.sync_status, i.error_class,
              array(select r.waits_for from integration_runs r
                     where r.integration_id = i.id and r.ended_at is null and r.waits_for <> 'turn') as waits_for,
              (select count(*)::integer from graphile_worker.jobs j
                where j.task_identifier in ('process_webhook', 'sync_after_webhooks')) as webhooks
         from integrations i`,
    );
    const all = seen.parse(rows);
    for (const { id, waits_for } of all) {
      const words = waited.get(id) ?? new Set();
      waited.set(id, words);
      for (const word of waits_for) words.add(word);
    }
    if (all.some(({ waits_for }) => waits_for.length > 0)) await passTime();
    const byId = new Map(all.map((one) => [one.id, one]));
    for (const listener of listeners) listener(byId, mine);
  }
  async function passTime() {
    await owner.query("delete from app_private.provider_limits");
    await owner.query(
      `update graphile_worker._private_jobs set run_at = now()
        where locked_at is null and run_at > now() and key like 'run:%'`,
    );
    await owner.query(`select pg_notify('jobs:insert', '{"count": 4}')`);
  }
  const looking = (async () => {
    while (!stopped) {
      await look();
      await wait(LOOK_MS);
    }
  })();
  // Whoever waits for it hears of its failure there.
  looking.catch(() => {});

  return {
    /** The integration, once it is so. */
    async until(id: string, isSo: (one: Seen) => boolean, patienceMs: number): Promise<Seen> {
      let last: Seen | undefined;
      let listener: (typeof listeners)[number] | undefined;
      const found = new Promise<Seen>((resolve) => {
        // The look that is under way may have seen what was before.
        const before = looks;
        listener = (all, look) => {
          if (look <= before) return;
          last = all.get(id);
          if (last && isSo(last)) resolve(last);
        };
        listeners.push(listener);
      });
      const patience = new AbortController();
      const late = wait(patienceMs, undefined, { signal: patience.signal }).then(() => {
        throw new Error(`It did not come to an end; last seen: ${JSON.stringify(last)}.`);
      });
      try {
        return await Promise.race([found, late, looking.then(() => found)]);
      } finally {
        patience.abort();
        late.catch(() => {});
        listeners = listeners.filter((one) => one !== listener);
      }
    },
    /** What its runs have waited for: a provider, or the end of a backoff. */
    waited: (id: string): ReadonlySet<string> => waited.get(id) ?? new Set(),
    async stop() {
      stopped = true;
      await looking;
    },
  };
}
