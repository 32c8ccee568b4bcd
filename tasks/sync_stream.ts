import { randomUUID } from "node:crypto";
import type { Task } from "graphile-worker";
import { z } from "zod";
import { isRefusal, makeRun, type Run } from "../src/sync/run.ts";
import { readSlice } from "../src/sync/slice.ts";
import { connectorFor } from "./connectors/index.ts";
import type { TaskServices } from "./index.ts";

/** A third of what is missed before the lease is over. */
const RENEW_MS = 5_000;
const payload = z.object({ runId: z.uuid() });
const owner = z.tuple([z.object({ tenant_id: z.uuid().nullable() })]);

/** Reads on where a run is, for the length of a slice. */
export const syncStream =
  (services: TaskServices): Task =>
  async (input, { abortSignal }) => {
    const { runId } = payload.parse(input);
    const { pool, log } = services;
    const { rows } = await pool.query("select app_hidden.run_tenant($1) as tenant_id", [runId]);
    const tenantId = owner.parse(rows)[0].tenant_id;
    // Deleted since it was enqueued.
    if (tenantId === null) return;
    const run = makeRun(pool, { tenantId, runId, token: randomUUID() });
    const begun = await run.begin();
    if (!begun) return;
    const lease = keepLease(run);
    const signal = abortSignal ? AbortSignal.any([abortSignal, lease.signal]) : lease.signal;
    try {
      const connector = (services.connectorFor ?? connectorFor)(begun.provider);
      await readSlice({ services, connector, begun, run, tenantId, signal });
    } catch (error) {
      if (!isRefusal(error)) throw error;
      log.info({ runId, reason: error.message }, "a sync gave way");
      // Whoever goes on finds that the integration is disabled, and ends the run.
      if (error.detail === "disabled")
        await run.pause(0, 0).catch((refused: unknown) => {
          if (!isRefusal(refused)) throw refused;
        });
    } finally {
      lease.stop();
    }
  };

/** Renews a lease while the provider takes its time; its signal says that it is lost. */
function keepLease(run: Run) {
  const lost = new AbortController();
  const timer = setInterval(() => {
    run.renew().then(
      (held) => {
        if (!held) lost.abort(new Error("The run was canceled, or superseded by another."));
      },
      // The database cannot be reached: the next write says more.
      () => {},
    );
  }, RENEW_MS);
  return { signal: lost.signal, stop: () => clearInterval(timer) };
}
