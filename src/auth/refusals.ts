/** Remembers whom the database refused until when: who tries on meanwhile costs neither a place in line nor a query. */
export type Refusals = {
  note(key: string, seconds: number): void;
  /** 0: may try. */
  secondsLeft(key: string): number;
};

/** @param clock milliseconds that only go forward */
export function makeRefusals(clock: () => number, atMost = 10_000): Refusals {
  const ends = new Map<string, number>();
  return {
    note(key, seconds) {
      ends.delete(key);
      ends.set(key, clock() + seconds * 1_000);
      const [oldest] = ends.keys();
      if (ends.size > atMost && oldest !== undefined) ends.delete(oldest);
    },
    secondsLeft(key) {
      const seconds = Math.ceil(((ends.get(key) ?? 0) - clock()) / 1_000);
      if (seconds <= 0) ends.delete(key);
      return Math.max(0, seconds);
    },
  };
}
