import { setTimeout as sleep } from "node:timers/promises";
import { type Cluster, type ClusterOptions, hasEnded, startCluster } from "./cluster.ts";

const LOOK_MS = 500;
/** Between tries to start what does not start. */
const RETRY_MS = 5_000;

/** The cluster, started again whenever it ends without being asked to: on its port, by which its clients know it. */
export function keepRunning(
  first: Cluster,
  options: Omit<ClusterOptions, "port">,
): Pick<Cluster, "port" | "stop"> {
  const { port } = first;
  const { say = () => {} } = options;
  const stopping = new AbortController();
  const { signal } = stopping;
  const pause = (ms: number) => sleep(ms, undefined, { signal, ref: false }).catch(() => {});
  let cluster: Cluster | undefined = first;

  async function startAgain(): Promise<Cluster | undefined> {
    say("PostgreSQL has ended, and is started again.");
    for (let told = ""; !signal.aborted; await pause(RETRY_MS)) {
      try {
        const started = await startCluster({ ...options, port, mustExist: true });
        if (started.port === port) return started;
        await started.stop();
        throw new Error(`Port ${port}, which PostgreSQL had, is taken.`);
      } catch (error) {
        const problem = error instanceof Error ? error.message : String(error);
        if (problem !== told) say(problem);
        told = problem;
      }
    }
    return undefined;
  }

  const watching = (async () => {
    while (!signal.aborted) {
      await pause(LOOK_MS);
      if (signal.aborted || !(await hasEnded(options.dataDir))) continue;
      cluster = undefined;
      cluster = await startAgain();
      if (cluster) say("PostgreSQL is back.");
    }
  })();

  return {
    port,
    async stop() {
      stopping.abort();
      await watching;
      await cluster?.stop();
    },
  };
}
