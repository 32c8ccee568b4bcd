import { setTimeout as wait } from "node:timers/promises";
import type pg from "pg";
import { z } from "zod";
import type { EventInput, Page, UnparsableRecord } from "../../tasks/connectors/connector.ts";
import { sealed } from "../crypto/sealed.ts";
import { withTenant } from "../worker/withTenant.ts";
import type { ErrorClass } from "./failures.ts";

const TASK = "sync_stream";
/** Batches that were in each other's way. */
const BRIEF_TROUBLE = new Set(["40001", "40P01", "55P03"]);

const begun = z.object({
  integration_id: z.uuid(),
  provider: z.string(),
  config: z.unknown(),
  stream: z.string(),
  kind: z.enum(["incremental", "backfill", "full_refresh"]),
  is_bulk: z.boolean(),
  cursor: z.unknown(),
  since: z.date().nullable(),
  until: z.date().nullable(),
  is_read: z.boolean(),
  /** Undefined when the integration has none. */
  credentials: sealed.optional(),
});
export type Begun = z.output<typeof begun>;
const refresh = z.tuple([z.object({ outcome: z.enum(["go", "busy", "changed"]) })]);
const yes = z.tuple([z.object({ yes: z.boolean() })]);

export type PageToSave = {
  events: EventInput[];
  rejected: UnparsableRecord[];
  /** As JSON. */
  cursor: string;
  calls: number;
  done: boolean;
  highWater: string | undefined;
  progress: number | undefined;
  complete: Page<unknown>["complete"];
};
export type Run = ReturnType<typeof makeRun>;

/** What a worker may do to a run in the database, under the token of its lease. */
export function makeRun(pool: pg.Pool, place: { tenantId: string; runId: string; token: string }) {
  const call = async (sql: string, ...values: unknown[]): Promise<unknown[]> => {
    const { tenantId, runId, token } = place;
    for (let attempt = 1; ; attempt++)
      try {
        const { rows } = await withTenant(pool, tenantId, TASK, (client) =>
          client.query(sql, [tenantId, runId, token, ...values]),
        );
        return rows;
      } catch (error) {
        if (attempt === 4 || !(error instanceof Error && "code" in error)) throw error;
        if (!BRIEF_TROUBLE.has(String(error.code))) throw error;
        await wait(Math.random() * 50 * 2 ** attempt);
      }
  };
  return {
    /** Takes the lease; undefined when the run is over, or was put off. */
    async begin(): Promise<Begun | undefined> {
      const [row] = await call("select * from app_hidden.begin_run($1, $2, $3)");
      if (row === undefined) return undefined;
      return begun.parse({ ...(row as object), credentials: sealed.safeParse(row).data });
    },
    /** False when the lease is lost. */
    async renew(): Promise<boolean> {
      return yes.parse(await call("select app_hidden.renew_lease($1, $2, $3) as yes"))[0].yes;
    },
    /** True when that was the end of the run. */
    async savePage(page: PageToSave): Promise<boolean> {
      const rows = await call(
        "select is_over as yes from app_hidden.save_sync_page($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        JSON.stringify(page.events),
        JSON.stringify(page.rejected),
        page.cursor,
        page.calls,
        page.done,
        page.highWater,
        page.progress,
        page.complete && JSON.stringify(page.complete),
      );
      return yes.parse(rows)[0].yes;
    },
    /** Deletes some of what a full refresh has not seen; true when that was all. */
    async sweep(): Promise<boolean> {
      return yes.parse(await call("select app_hidden.sweep_run($1, $2, $3) as yes"))[0].yes;
    },
    async pause(calls: number, milliseconds: number, waitsFor?: "provider"): Promise<void> {
      await call(
        "select app_hidden.pause_run($1, $2, $3, $4, $5, $6)",
        calls,
        Math.ceil(milliseconds),
        waitsFor,
      );
    },
    /** True when it will be tried again. */
    async retry(calls: number, errorClass: ErrorClass, sentence: string, afterMs = 0): Promise<boolean> {
      const sql = "select app_hidden.retry_run($1, $2, $3, $4, $5, $6, $7) as yes";
      return yes.parse(await call(sql, calls, errorClass, sentence, Math.ceil(afterMs)))[0].yes;
    },
    async fail(calls: number, errorClass: ErrorClass, sentence: string): Promise<void> {
      await call("select app_hidden.finish_run($1, $2, $3, $4, $5, $6)", calls, errorClass, sentence);
    },
    async beginRefresh(version: number): Promise<"go" | "busy" | "changed"> {
      const sql = "select app_hidden.begin_refresh($1, $2, $3, $4) as outcome";
      return refresh.parse(await call(sql, version))[0].outcome;
    },
    /** False when somebody set other credentials meanwhile. */
    async endRefresh(version: number, keyVersion?: number, ciphertext?: Buffer): Promise<boolean> {
      const sql = "select app_hidden.end_refresh($1, $2, $3, $4, $5, $6) as yes";
      return yes.parse(await call(sql, version, keyVersion, ciphertext))[0].yes;
    },
  };
}

/** The database refuses this run: canceled, superseded, or its integration disabled. */
export const isRefusal = (error: unknown): error is Error & { detail: unknown } =>
  error instanceof Error && "code" in error && error.code === "EA409" && "detail" in error;
