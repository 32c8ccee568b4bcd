import type pg from "pg";
import { pino } from "pino";
import { UserError } from "../src/config.ts";
import type { KeyRing } from "../src/crypto/keyRing.ts";
import { makePool } from "../src/db/pools.ts";
import { freePort } from "../src/embedded/freePort.ts";
import { demoState, seedDemo } from "./demo/seed.ts";
import { startSimulators } from "./demo/simulators.ts";

/** What `npm start` adds in a cluster of its own: the demo data on the first start, and a Square and a Meta to pull from. */
export async function startDemo(options: {
  ownerUrl: string;
  keyRing: KeyRing;
  simulatorPort: number;
  say: (sentence: string) => void;
  signal: AbortSignal;
}): Promise<{ simulatorUrl: string; close(): Promise<void> }> {
  await withPool(options.ownerUrl, async (pool) => {
    const state = await demoState(pool);
    if (state === "absent" || state === "partial")
      await seedDemo(pool, options.keyRing, options.say, { signal: options.signal });
  });
  const port = await freePort(options.simulatorPort, options.simulatorPort + 100);
  const simulators = await startSimulators(port);
  return { simulatorUrl: simulators.url, close: simulators.close };
}

/** `npm run demo:seed`: also into a server that is not ours, but never beside other tenants' data. */
export const reseedDemo = (
  ownerUrl: string,
  keyRing: KeyRing,
  say: (sentence: string) => void,
): Promise<void> =>
  withPool(ownerUrl, async (pool) => {
    if ((await demoState(pool)) === "foreign")
      throw new UserError(
        "This database holds tenants that are not the demo's. The demo data goes only where it is alone.",
      );
    await seedDemo(pool, keyRing, say);
  });

async function withPool(ownerUrl: string, work: (pool: pg.Pool) => Promise<void>): Promise<void> {
  const pool = makePool(ownerUrl, { name: "demo", max: 4, log: pino({ level: "warn" }) });
  try {
    await work(pool);
  } finally {
    await pool.end();
  }
}
