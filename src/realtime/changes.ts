import type { Notifications } from "./notifications.ts";

/** What happens around each event. */
type Around = { before(): Promise<void>; after(): Promise<void> };

/**
 * Gives `event` once, and then after each notification of a channel; those that come within `pauseMs` are one. `next` is called
 * when the event before has been dealt with. No generator: those wait for a notification before they can be ended.
 */
export function changesOf<Event>(
  notifications: Notifications,
  channel: string,
  event: Event,
  options: Around & { pauseMs: number },
): AsyncIterableIterator<Event> {
  const { pauseMs, before, after } = options;
  const done: IteratorReturnResult<undefined> = { done: true, value: undefined };
  let changed = true;
  let ended = false;
  let wake = () => {};
  let quietUntil = 0;
  let listening: Promise<() => void> | undefined;

  /** Until a notification; or for so long, whatever comes. */
  const pause = (milliseconds?: number) =>
    new Promise<void>((over) => {
      const timer = milliseconds === undefined ? undefined : setTimeout(over, milliseconds);
      wake = () => {
        if (milliseconds !== undefined && !ended) return;
        clearTimeout(timer);
        over();
      };
    });
  const end = async () => {
    if (ended) return;
    ended = true;
    wake();
    await after();
    const stop = await listening?.catch(() => undefined);
    stop?.();
  };

  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    async next() {
      await after();
      listening ??= notifications.listen(channel, () => {
        changed = true;
        wake();
      });
      await listening;
      const quiet = quietUntil - Date.now();
      if (quiet > 0 && !ended) await pause(quiet);
      while (!changed && !ended) await pause();
      if (ended) return done;
      changed = false;
      quietUntil = Date.now() + pauseMs;
      await before();
      if (!ended) return { done: false, value: event };
      await after();
      return done;
    },
    async return() {
      await end();
      return done;
    },
    async throw(error) {
      await end();
      throw error;
    },
  };
}
