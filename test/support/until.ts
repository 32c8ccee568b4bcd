import { setTimeout as wait } from "node:timers/promises";

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
