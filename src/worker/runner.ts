import { EventEmitter } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { parseCronItems, type Runner, run, type WorkerEvents, Logger as WorkerLogger } from "graphile-worker";
import type pg from "pg";
import type { Logger } from "pino";
import { z } from "zod";
import type { Connector } from "../../tasks/connectors/connector.ts";
import { connectors as allConnectors } from "../../tasks/connectors/index.ts";
import { makeTaskList, schedule, type TaskServices } from "../../tasks/index.ts";

const HEARTBEAT_MS = 5_000;
const RESTART_MS = 1_000;

export type Worker = { stop(): Promise<void> };

/**
 * graphile-worker shuts down when somebody notifies that its schema was migrated; but every login may notify, an analyst's, too.
 * Whoever migrates stops the workers of before.
 */
function ignoreMigrations(pool: pg.Pool): void {
  const deaf = new WeakSet<pg.PoolClient>();
  pool.on("acquire", (client) => {
    if (deaf.has(client)) return;
    deaf.add(client);
    const emit = client.emit.bind(client);
    client.emit = (event: string | symbol, ...args: unknown[]) =>
      event === "notification" && notification.safeParse(args[0]).data?.channel === "worker:migrate"
        ? false
        : emit(event, ...args);
  });
}
const notification = z.object({ channel: z.string() });

/** Runs jobs and schedules until it is stopped, which lets running jobs end within a second or hand the rest on. */
export async function startWorker(
  options: Omit<TaskServices, "pool" | "connectors"> & {
    /** Default: all there are. */
    connectors?: readonly Connector[];
    workerPool: pg.Pool;
    concurrency: number;
    log: Logger;
  },
): Promise<Worker> {
  const { workerPool, log, concurrency, connectors = allConnectors } = options;
  ignoreMigrations(workerPool);
  // Made here, because the runner announces its pool, whose id locks jobs, before it can be listened to.
  const events: WorkerEvents = new EventEmitter();
  let workerId: string | undefined;
  const beat = async () => {
    if (!workerId) return;
    const { rows } = await workerPool.query("select app_hidden.worker_heartbeat($1) as dead", [workerId]);
    if (rows[0]?.dead.length > 0) log.warn({ dead: rows[0].dead }, "freed the jobs of workers that died");
  };
  const tick = () => void beat().catch((error: Error) => log.warn({ err: error }, "heartbeat failed"));
  events.on("pool:create", ({ workerPool: created }) => {
    workerId = created.id;
    tick();
  });
  events.on("job:failed", ({ job, error }) =>
    log.error(
      { err: error, task: job.task_identifier, job: job.id, attempts: job.attempts },
      "job failed for good",
    ),
  );
  const start = () =>
    run({
      pgPool: workerPool,
      events,
      taskList: makeTaskList({ ...options, connectors, pool: workerPool }),
      parsedCronItems: parseCronItems(schedule),
      noHandleSignals: true,
      preset: {
        worker: {
          concurrentJobs: concurrency,
          pollInterval: 1_000,
          gracefulShutdownAbortTimeout: 1_000,
          // When what became of a job cannot be told, a batch ends the worker; without batches, the whole process would end.
          completeJobBatchDelay: 0,
          failJobBatchDelay: 0,
          logger: new WorkerLogger(() => (level, message, meta) => {
            if (level === "error") log.error({ meta }, message);
            else if (level === "warning") log.warn(message);
            else log.debug(message);
          }),
        },
      },
    });
  const stopping = new AbortController();
  const { signal } = stopping;
  let runner: Runner | undefined = await start();
  /** It ends by itself when the database is away; its jobs are freed once its heartbeat is missed. */
  const running = (async () => {
    while (!signal.aborted) {
      const reason = await runner?.promise.catch((error: Error) => error);
      if (signal.aborted) return;
      if (runner) log.error({ err: reason }, "the worker has ended, and is started again");
      runner = undefined;
      await sleep(RESTART_MS, undefined, { signal }).catch(() => {});
      if (signal.aborted) return;
      runner = await start().catch((error: Error) => {
        log.warn({ err: error }, "the worker could not start");
        return undefined;
      });
    }
  })();
  const heartbeat = setInterval(tick, HEARTBEAT_MS);
  return {
    async stop() {
      clearInterval(heartbeat);
      stopping.abort();
      const last = runner;
      // It may have ended by itself a moment ago.
      await last?.stop().catch((error: Error) => log.warn({ err: error }, "the worker had ended"));
      await running;
      // One that was just being started.
      if (runner !== last) await runner?.stop();
    },
  };
}
