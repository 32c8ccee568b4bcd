import pLimit from "p-limit";
import { ApiError } from "../graphql/errors.ts";

/** How many run at a time, how many may wait for that, and when whoever is refused may come again. */
export type Bounds = { concurrency: number; waiting: number; retryAfterSeconds?: number };

/** Runs `concurrency` at a time; beyond `waiting` in line, RATE_LIMITED with this sentence. */
export function makeBounded({ concurrency, waiting, retryAfterSeconds = 1 }: Bounds, sentence: string) {
  const run = pLimit(concurrency);
  return <Result>(work: () => Promise<Result>): Promise<Result> =>
    run.activeCount >= concurrency && run.pendingCount >= waiting
      ? Promise.reject(new ApiError("RATE_LIMITED", sentence, { retryAfterSeconds }))
      : run(work);
}

/** The same for each key, such as a tenant. */
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
