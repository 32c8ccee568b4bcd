import type { Task } from "graphile-worker";
import { anchorSeals } from "../src/audit/anchor.ts";
import { sealAudit } from "../src/audit/sealer.ts";
import type { TaskServices } from "./index.ts";

/** Seals each tenant's audit log, then brings the anchor up to date, also with what it missed while it was out of reach. */
export const sealAuditLogs =
  ({ pool, log, keyRing, anchorDir }: TaskServices): Task =>
  async (_payload, { abortSignal: signal }) => {
    try {
      await sealAudit({ pool, log, keyRing, signal });
    } finally {
      await anchorSeals({ pool, log, anchorDir, signal });
    }
  };
