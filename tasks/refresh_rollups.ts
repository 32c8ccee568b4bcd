import type { Task } from "graphile-worker";
import { rollUpTenant, tenantsToRollUp } from "../src/rollups/rollUp.ts";
import type { TaskServices } from "./index.ts";

/** So that one tenant's backfill does not delay the others' rollups. */
const STEPS = 20;

/** Brings the rollups of all tenants up to their events. Readers are exact meanwhile; this makes them fast. */
export const refreshRollups =
  ({ pool, log }: TaskServices): Task =>
  async (_payload, { abortSignal }) => {
    const signal = abortSignal;
    for (const tenantId of await tenantsToRollUp(pool)) {
      if (signal?.aborted) return;
      // One tenant's trouble is not the others'.
      await rollUpTenant(pool, tenantId, { signal, maxSteps: STEPS }).catch((error: Error) =>
        log.error({ err: error, tenantId }, "rollups of a tenant failed"),
      );
    }
  };
