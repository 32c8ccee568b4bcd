import { setTimeout as wait } from "node:timers/promises";
import { z } from "zod";
import type { TestDatabase } from "../support/database.ts";

const LOOK_MS = 100;
/** A connector's breath between two questions; on a busy machine it is over before anybody has seen it. */
const BRIEF_SECONDS = 3;
const seen = z.array(
  z.object({
    id: z.string(),
    sync_status: z.string().nullable(),
    error_class: z.string().nullable(),
    retries: z.number(),
    waits: z.array(z.object({ run: z.string(), for: z.string(), seconds: z.number() })),
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
  const limits = new Map<string, readonly string[]>();
  let listeners: ((all: Map<string, Seen>, look: number) => void)[] = [];
  let stopped = false;
  let looks = 0;

  async function look() {
    const mine = ++looks;
    const { rows } = await owner.query(
      `select i.id, i.sync_status, i.error_class,
              (select coalesce(sum(r.retries), 0)::integer from integration_runs r where r.integration_id = i.id) as retries,
              array(select json_build_object('run', r.id, 'for', r.waits_for,
                                             'seconds', coalesce(extract(epoch from r.resumes_at - now()), 0))
                      from integration_runs r
                     where r.integration_id = i.id and r.ended_at is null and r.waits_for <> 'turn') as waits,
              (select count(*)::integer from graphile_worker.jobs j
                where j.task_identifier in ('process_webhook', 'sync_after_webhooks')) as webhooks
         from integrations i`,
    );
    const all = seen.parse(rows);
    for (const { id, waits, retries } of all) {
      const words = waited.get(id) ?? new Set();
      waited.set(id, words);
      if (retries > 0) words.add("retry");
      for (const wait of waits) if (wait.seconds > BRIEF_SECONDS) words.add(wait.for);
    }
    if (all.some(({ webhooks }) => webhooks > 0)) await endBursts();
    const waiting = all.filter(({ waits }) => waits.length > 0);
    if (waiting.length > 0) await passTime(waiting);
    const byId = new Map(all.map((one) => [one.id, one]));
    for (const listener of listeners) listener(byId, mine);
  }
  async function passTime(waiting: Seen[]) {
    // Those of others stay, until they have been seen to wait.
    await owner.query(
      `delete from app_private.provider_limits l
        where exists (select from unnest($1::text[]) s where l.scope like '%:' || s or l.scope like s || ':%')`,
      [waiting.flatMap(({ id }) => limits.get(id) ?? [])],
    );
    await owner.query(
      `update graphile_worker._private_jobs j set run_at = now()
         from (select id from graphile_worker._private_jobs
                where key = any ($1) and locked_at is null and run_at > now() for update skip locked) waiting
        where j.id = waiting.id`,
      [waiting.flatMap(({ waits }) => waits.map(({ run }) => `run:${run}`))],
    );
    await owner.query(`select pg_notify('jobs:insert', '{"count": 4}')`);
  }
  /** The syncs that webhooks ask for wait whether more come. */
  const endBursts = () =>
    owner.query(
      "update graphile_worker._private_jobs set run_at = now() where key like 'webhooks:%' and locked_at is null and run_at > now()",
    );
  const looking = (async () => {
    while (!stopped) {
      await look();
      await wait(LOOK_MS);
    }
  })();
  // Whoever waits for it hears of its failure there.
  looking.catch(() => {});

  return {
    /** The names of an integration's limits, as its connector gives them. */
    setLimits: (id: string, names: readonly string[]) => {
      limits.set(id, names);
    },
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
    /** What its runs have waited for: `provider`, or `retry`. */
    waited: (id: string): ReadonlySet<string> => waited.get(id) ?? new Set(),
    async stop() {
      stopped = true;
      await looking;
    },
  };
}
