import pLimit from "p-limit";
import { ApiError } from "../graphql/errors.ts";

/** Runs `concurrency` at a time; beyond `waiting` in line, RATE_LIMITED with this sentence. */
export function makeBounded(
  { concurrency, waiting }: { concurrency: number; waiting: number },
  sentence: string,
) {
  const run = pLimit(concurrency);
  return <Result>(work: () => Promise<Result>): Promise<Result> =>
    run.pendingCount >= waiting
      ? Promise.reject(new ApiError("RATE_LIMITED", sentence, { retryAfterSeconds: 1 }))
      : run(work);
}
