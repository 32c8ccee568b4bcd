import { constants } from "node:os";
import { UserError } from "./config.ts";

/** Longer than what is stopped gives itself. */
const STOP_MS = 40_000;

type Stop = () => Promise<unknown>;
type Main = (
  onStop: (stop: Stop) => void,
  say: (sentence: string) => void,
  signal: AbortSignal,
) => Promise<void>;

/**
 * Runs a program until SIGINT or SIGTERM, then stops what it registered, last first. A signal while it still starts
 * aborts its `signal` and waits until the step under way has ended: what that step started is stopped too. Another signal,
 * two seconds later, ends it at once. With `once`, the program ends when `main` does; a signal before that exits with 128 and
 * its number, as shells have it.
 * A UserError is printed as its sentence; anything else with its stack, for us to mend. Both exit with 1.
 */
export async function runProgram(main: Main, options: { once?: boolean } = {}): Promise<void> {
  const stops: Stop[] = [];
  const starting = new AbortController();
  let started: Promise<unknown> = Promise.resolve();
  let stopping: Promise<void> | undefined;
  const stop = (exitCode: number) => {
    stopping ??= (async () => {
      let failed = false;
      setTimeout(() => {
        console.error("Stopping took too long.");
        process.exit(1);
      }, STOP_MS).unref();
      starting.abort();
      await started.catch(() => {});
      for (let next = stops.pop(); next; next = stops.pop())
        await next().catch((error: unknown) => {
          failed = true;
          console.error(error);
        });
      process.exit(failed ? 1 : exitCode);
    })();
    return stopping;
  };
  let asked = 0;
  const onSignal = (signal: NodeJS.Signals) => {
    // npm and `node --watch` pass on a signal that the terminal has sent us already: that is no second wish.
    if (stopping && Date.now() - asked > 2_000) process.exit(1);
    asked ||= Date.now();
    void stop(options.once ? 128 + constants.signals[signal] : 0);
  };
  // As of `npm run db:check | head`.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));
  process.on("SIGINT", onSignal).on("SIGTERM", onSignal);
  const onStop = (next: Stop) => {
    stops.push(next);
  };
  try {
    const running = main(onStop, (sentence) => process.stdout.write(`${sentence}\n`), starting.signal);
    started = running;
    await running;
    started = Promise.resolve();
    if (options.once) await stop(Number(process.exitCode ?? 0));
  } catch (error) {
    started = Promise.resolve();
    if (stopping) return;
    console.error(explain(error));
    await stop(1);
  }
}

/** A sentence where a person can mend it; else everything there is to know. */
function explain(error: unknown): unknown {
  if (error instanceof UserError) return error.message;
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "53100" || code === "ENOSPC")
    return "The disk is full. Make room, then start again: nothing that was finished is lost.";
  return error;
}
