import type pg from "pg";
import { recordAuditRead } from "../audit/reads.ts";
import { claimsOf, type Identity, withRequest } from "../auth/requests.ts";
import { destroyConnection } from "../db/pools.ts";
import type { SeriesRequest } from "../series/request.ts";
import { readSeries } from "../series/series.ts";
import { auditLogColumns, auditLogRows } from "./auditLog.ts";
import { eventsTable } from "./events.ts";
import type { ExportLimits } from "./limits.ts";
import type { AuditLogRequest, EventsRequest } from "./request.ts";
import { seriesTable } from "./series.ts";
import type { Column, Format, Row } from "./table.ts";

/** Where an export goes. */
export type Target = {
  format: Format;
  /** Aborted when whoever asked is gone. */
  signal: AbortSignal;
  /** Takes it all. Called once, when nothing but the rows to come can still go wrong, and the export is on record. */
  send(columns: readonly Column[], batches: AsyncIterable<readonly Row[]>): Promise<void>;
};
/** The permission that it takes. */
export type ExportPermission = "analytics:export" | "audit:read";
export type ExportService = {
  /** Whether this request may export such a thing at all. Rejects otherwise. */
  authorize(identity: Identity, permission: ExportPermission): Promise<void>;
  series(identity: Identity, request: SeriesRequest, target: Target): Promise<void>;
  events(identity: Identity, request: EventsRequest, target: Target): Promise<void>;
  auditLog(identity: Identity, request: AuditLogRequest, target: Target): Promise<void>;
};

const SNAPSHOT = "begin isolation level repeatable read read only";
const mayExport = (permission: ExportPermission) => ({
  text: "select app_hidden.require_permission($1)",
  values: [permission],
});
const ATTEMPTS = 3;
const MAX_ROWS = 2_000;
const MIN_ROWS = 50;
/** Of text, in a batch. Properties have up to 32 KiB. */
const BATCH_LENGTH = 1_000_000;

export function makeExportService(pool: pg.Pool, limits: ExportLimits): ExportService {
  async function authorize(identity: Identity, permission: ExportPermission) {
    await withRequest(pool, identity, (client) => client.query(mayExport(permission)));
  }

  /** A snapshot that is older than a partition of events is refused before anything is read from it. */
  async function inSnapshot<Result>(...asked: Parameters<typeof tryInSnapshot<Result>>): Promise<Result> {
    for (let attempt = 1; ; attempt++)
      try {
        return await tryInSnapshot(...asked);
      } catch (error) {
        const isOld = error instanceof Error && "code" in error && error.code === "40001";
        if (!isOld || attempt === ATTEMPTS) throw error;
      }
  }

  /** One snapshot, on one connection, that ends when whoever asked is gone. */
  const tryInSnapshot = <Result>(
    identity: Identity,
    signal: AbortSignal,
    work: (client: pg.PoolClient) => Promise<Result>,
    {
      permission = "analytics:export",
      deadlineMs,
    }: { permission?: ExportPermission; deadlineMs?: number } = {},
  ): Promise<Result> =>
    withRequest(
      pool,
      identity,
      async (client) => {
        let timer: NodeJS.Timeout | undefined;
        const hangUp = () => {
          timer = setTimeout(
            () => destroyConnection(client, new Error("The client hung up.")),
            limits.graceMs,
          );
        };
        signal.throwIfAborted();
        signal.addEventListener("abort", hangUp, { once: true });
        try {
          await client.query(mayExport(permission));
          await client.query("select app_hidden.assert_fresh_snapshot()");
          // So that PostgreSQL ends the statement whose connection was destroyed.
          await client.query("set local client_connection_check_interval = '1s'");
          return await work(client);
        } finally {
          signal.removeEventListener("abort", hangUp);
          clearTimeout(timer);
        }
      },
      { begin: SNAPSHOT, ...(deadlineMs === undefined ? {} : { deadlineMs }) },
    );

  /** In a transaction of its own, on another connection: it stays, whatever becomes of the export. */
  async function record(identity: Identity, resource: string, format: Format, request: object) {
    const { tenant_id } = claimsOf(identity);
    await withRequest(pool, identity, (client) =>
      client.query("select app_hidden.record_export($1, $2, $3, $4)", [
        tenant_id,
        resource,
        format,
        JSON.stringify(request),
      ]),
    );
  }

  /** The snapshot does not show what was revoked since. */
  async function* whilePermitted<Batch>(
    identity: Identity,
    permission: ExportPermission,
    batches: AsyncIterable<Batch>,
  ) {
    let checkedAt = Date.now();
    for await (const batch of batches) {
      yield batch;
      if (Date.now() - checkedAt < limits.recheckMs) continue;
      await authorize(identity, permission);
      checkedAt = Date.now();
    }
  }

  return {
    authorize,
    async series(identity, request, { format, signal, send }) {
      const { tenant_id } = claimsOf(identity);
      const series = await inSnapshot(identity, signal, (client) =>
        readSeries((query) => client.query(query), tenant_id, request),
      );
      const { columns, rows } = seriesTable(request, series);
      signal.throwIfAborted();
      await record(identity, "series", format, request);
      await send(columns, inBatches(rows));
    },
    async events(identity, request, { format, signal, send }) {
      const { columns, statement } = eventsTable(claimsOf(identity).tenant_id, request, format);
      const work = async (client: pg.PoolClient) => {
        await extendTimeouts(client, limits);
        await client.query({
          text: `declare export no scroll cursor for ${statement.text}`,
          values: statement.values,
        });
        const first = await fetchRows(client, MIN_ROWS);
        signal.throwIfAborted();
        await record(identity, "events", format, request);
        async function* batches() {
          for (let rows = first; rows.length > 0; rows = await fetchRows(client, fitting(rows))) yield rows;
        }
        await send(columns, whilePermitted(identity, "analytics:export", batches()));
      };
      await inSnapshot(identity, signal, work, { deadlineMs: limits.durationMs + 5_000 });
    },
    async auditLog(identity, request, { format, signal, send }) {
      const { tenant_id } = claimsOf(identity);
      const auditRead = await recordAuditRead(pool, identity, "audit_log.exported", { ...request, format });
      const work = async (client: pg.PoolClient) => {
        await extendTimeouts(client, limits);
        const rows = auditLogRows(client, tenant_id, request, format);
        await send(auditLogColumns(format), whilePermitted(identity, "audit:read", rows));
      };
      await inSnapshot({ ...identity, auditRead }, signal, work, {
        permission: "audit:read",
        deadlineMs: limits.durationMs + 5_000,
      });
    },
  };
}

/**
 * begin_request's are for requests that are answered at once. A client that reads slowly leaves the transaction idle; the
 * target ends one that does not read at all.
 */
export async function extendTimeouts(
  client: pg.ClientBase,
  { durationMs, statementMs }: Pick<ExportLimits, "durationMs" | "statementMs">,
): Promise<void> {
  await client.query(
    // PostgreSQL starts the clock of transaction_timeout when it is set where it was 0, and at no other time.
    `select set_config('transaction_timeout', '0', true),
            set_config('transaction_timeout', $1, true),
            set_config('idle_in_transaction_session_timeout', $1, true),
            set_config('statement_timeout', $2, true)`,
    [String(durationMs), String(statementMs)],
  );
}

async function fetchRows(client: pg.ClientBase, count: number): Promise<(string | null)[][]> {
  const { rows } = await client.query<(string | null)[]>({
    text: `fetch ${count} from export`,
    rowMode: "array",
  });
  return rows;
}

/** How many rows like these make a batch. */
function fitting(rows: readonly Row[]): number {
  let length = 0;
  for (const row of rows) for (const cell of row) length += typeof cell === "string" ? cell.length : 1;
  const count = Math.floor((rows.length * BATCH_LENGTH) / Math.max(length, 1));
  return Math.min(MAX_ROWS, Math.max(MIN_ROWS, count));
}

async function* inBatches(rows: readonly Row[]) {
  for (let start = 0; start < rows.length; start += MAX_ROWS) yield rows.slice(start, start + MAX_ROWS);
}
