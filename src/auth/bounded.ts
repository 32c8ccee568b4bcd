import pLimit from "p-limit";
import { ApiError } from "../graphql/errors.ts";

/** How many run at a time, how many may wait for that, and when whoever is refused may come again. */
export type Bounds = { concurrency: number; waiting: number; retryAfterSeconds?: number };

const tooMany = (sentence: string, retryAfterSeconds = 1) =>
  new ApiError("RATE_LIMITED", sentence, { retryAfterSeconds });

/** Runs `concurrency` at a time; beyond `waiting` in line, RATE_LIMITED with this sentence. */
export function makeBounded({ concurrency, waiting, retryAfterSeconds = 1 }: Bounds, sentence: string) {
  const run = pLimit(concurrency);
  return <Result>(work: () => Promise<Result>): Promise<Result> =>
    run.activeCount >= concurrency && run.pendingCount >= waiting
      ? Promise.reject(tooMany(sentence, retryAfterSeconds))
      : run(work);
}

/**
 * The same with a line for each key, which has bounds of its own. The lines are served in turn, so that whoever fills one keeps
 * only that one waiting.
 */
export function makeFair({ perKey, ...all }: Bounds & { perKey: Bounds }, sentence: string) {
  type Line = { running: number; waiting: (() => void)[] };
  const lines = new Map<string, Line>();
  /** Those whose next may start, in the order in which they are served. */
  const ready = new Set<Line>();
  let running = 0;
  let waiting = 0;
  const line = (key: string) => lines.get(key) ?? { running: 0, waiting: [] };
  const queue = (one: Line) => {
    if (one.waiting.length > 0 && one.running < perKey.concurrency) ready.add(one);
  };
  const serve = () => {
    for (const next of ready) {
      if (running === all.concurrency) return;
      ready.delete(next);
      running++;
      waiting--;
      next.running++;
      next.waiting.shift()?.();
      queue(next);
    }
  };
  return <Result>(key: string, work: () => Promise<Result>): Promise<Result> => {
    const own = line(key);
    if (own.waiting.length >= perKey.waiting || waiting >= all.waiting)
      return Promise.reject(tooMany(sentence));
    lines.set(key, own);
    const end = () => {
      running--;
      own.running--;
      if (own.running === 0 && own.waiting.length === 0) lines.delete(key);
      queue(own);
      serve();
    };
    return new Promise((resolve, reject) => {
      own.waiting.push(() => void work().then(resolve, reject).finally(end));
      waiting++;
      queue(own);
      serve();
    });
  };
}

/** makeBounded for each key, such as a tenant, by itself. */
export function makeBoundedEach(bounds: Bounds, sentence: string) {
  const each = new Map<string, { inTurn: ReturnType<typeof makeBounded>; users: number }>();
  return async <Result>(key: string, work: () => Promise<Result>): Promise<Result> => {
    const bounded = each.get(key) ?? { inTurn: makeBounded(bounds, sentence), users: 0 };
    each.set(key, bounded);
    bounded.users++;
    try {
      return await bounded.inTurn(work);
    } finally {
      if (--bounded.users === 0) each.delete(key);
    }
  };
}
