import type pg from "pg";
import { z } from "zod";
import { readSeal } from "../anchor.ts";
import type { AuditKey } from "../keys.ts";
import { type FoundRow, readRow } from "../row.ts";
import type { Seal } from "../seal.ts";
import type { AnchorIndex } from "./anchorIndex.ts";
import { type TrustedSeal, trustedSeals } from "./chain.ts";
import { type Differences, explainDifferences, noDifferences, SealedEntries } from "./differences.ts";
import { type Finding, Findings } from "./findings.ts";
import { type Purge, purgeFor, purgeOf } from "./purges.ts";

const ROWS_AT_ONCE = 5_000;
const FIRST_ID = "00000000-0000-0000-0000-000000000000";
const BEFORE_ALL = { transactionId: "-9223372036854775808", id: FIRST_ID };

const contentRow = z.object({ transaction_id: z.string(), id: z.uuid(), content: z.string() });
const clusterRow = z.object({ id: z.string() });
type Place = { transactionId: string; id: string };
type Queryable = Pick<pg.ClientBase, "query">;

export type Report = {
  seals: number;
  /** Sealed, found, and what they were. */
  verified: number;
  /** Gone, as a record of retention says. */
  purged: number;
  /** Not sealed yet. */
  waiting: number;
  findings: readonly Finding[];
};
/** ended: tenants whose end the log has a sealed record of. */
type DatabaseReport = Report & { ended: ReadonlySet<string> };

/** Compares a tenant's log in the database with its seals, and these with the anchor's. */
export async function verifyTenant(
  client: Queryable,
  tenantId: string,
  { anchor, keys }: { anchor: AnchorIndex; keys: ReadonlyMap<string, AuditKey> },
): Promise<DatabaseReport> {
  const findings = new Findings();
  const differences = noDifferences();
  const purges: Purge[] = [];
  const ended = new Set<string>();
  const places = new Map<string, Place>();
  const report = { seals: 0, verified: 0, purged: 0, waiting: 0 };
  const sources = {
    tenantId,
    stored: (number: number) => loadSeal(client, tenantId, number),
    lastStored: await lastSeal(client, tenantId),
    anchor,
    keys,
  };
  let lastSequence = 0;
  for await (const trusted of trustedSeals(sources, findings)) {
    const { clusterId, lastTransactionId } = trusted.seal;
    const end = { transactionId: lastTransactionId, id: trusted.entries.at(-1)?.id ?? FIRST_ID };
    const rows = await rowsUpTo(client, tenantId, clusterId, places.get(clusterId), end);
    for (const { row, sealedAt } of compare(trusted, rows, differences)) {
      report.verified++;
      const purge = purgeOf(row, sealedAt);
      if (purge) purges.push(purge);
      const gone = endedBy(row);
      if (gone) ended.add(gone);
    }
    places.set(clusterId, end);
    lastSequence = trusted.lastSequence;
    report.seals++;
  }
  // A row that somebody gave another place is missing where it was, and seems to wait.
  const missing = new Set(differences.missing.map(({ id }) => id));
  const unproven: Purge[] = [];
  const next = await nextTransaction(client);
  for (const id of await clusters(client, tenantId))
    for await (const rows of rowsAfter(client, tenantId, id, places.get(id))) {
      for (const row of rows) {
        const isOfFuture = id === next.clusterId && BigInt(transactionOf(row)) >= BigInt(next.transactionId);
        if (missing.has(row.id) || isOfFuture) differences.extra.push(row);
        else {
          report.waiting++;
          const purge = purgeOf(row, row.createdAt);
          if (purge) unproven.push(purge);
        }
      }
    }

  const gone = differences.missing.splice(0);
  for (const entry of gone)
    if (purgeFor(purges, entry)) report.purged++;
    else if (purgeFor(unproven, entry)) differences.unproven.push(entry);
    else differences.missing.push(entry);
  explainDifferences(differences, lastSequence, findings);
  return { ...report, ended, findings: findings.all };
}

/** Yields the rows that are what was sealed, each with the time of its seal. */
function* compare(
  { seal, entries }: TrustedSeal,
  rows: readonly FoundRow[],
  differences: Differences,
): Generator<{ row: FoundRow; sealedAt: string }> {
  const { firstSequence, sealedAt } = seal;
  const sealed = new SealedEntries();
  for (const [index, entry] of entries.entries())
    sealed.add({ ...entry, sequence: firstSequence + index, sealedAt });
  const others: FoundRow[] = [];
  // First those whose entry is beyond doubt: a row of the same id may stand beside one.
  for (const row of rows) {
    const entry = sealed.exactly(row);
    if (entry) yield { row, sealedAt };
    else others.push(row);
  }
  for (const row of others) {
    const entry = sealed.take(row);
    if (entry) differences.edited.push({ sealed: entry, row });
    else differences.extra.push(row);
  }
  differences.missing.push(...sealed.left());
}

/** The tenant whose end the row records, in the operator's log. */
function endedBy({ columns }: FoundRow): string | undefined {
  if (columns.get("action") !== '"tenant.deleted"') return undefined;
  const id: unknown = JSON.parse(columns.get("resourceId") ?? "null");
  return typeof id === "string" ? id : undefined;
}

const transactionOf = ({ columns }: FoundRow): string =>
  String(JSON.parse(columns.get("transactionId") ?? '"0"'));

/** No row of this cluster is of a transaction that has not begun. */
async function nextTransaction(client: Queryable): Promise<{ clusterId: string; transactionId: string }> {
  const { rows } = await client.query(
    `select app_private.cluster_id()::text as "clusterId", pg_snapshot_xmax(pg_current_snapshot())::text as "transactionId"`,
  );
  return z.object({ clusterId: z.string(), transactionId: z.string() }).parse(rows[0]);
}

async function loadSeal(client: Queryable, tenantId: string, number: number): Promise<Seal | undefined> {
  const { rows } = await client.query({
    name: "load_seal",
    text: "select * from app_private.audit_seals where tenant_id = $1 and number = $2",
    values: [tenantId, number],
  });
  return rows[0] && readSeal(rows[0]);
}

async function lastSeal(client: Queryable, tenantId: string): Promise<number> {
  const { rows } = await client.query(
    "select coalesce(max(number), 0)::integer as last from app_private.audit_seals where tenant_id = $1",
    [tenantId],
  );
  return z.object({ last: z.number() }).parse(rows[0]).last;
}

async function clusters(client: Queryable, tenantId: string): Promise<string[]> {
  const { rows } = await client.query(
    "select distinct cluster_id as id from public.audit_logs where tenant_id = $1",
    [tenantId],
  );
  return clusterRow
    .array()
    .parse(rows)
    .map(({ id }) => id);
}

async function rowsUpTo(
  client: Queryable,
  tenantId: string,
  clusterId: string,
  after: Place | undefined,
  end: Place,
) {
  const all: FoundRow[] = [];
  for await (const rows of rowsAfter(client, tenantId, clusterId, after, end)) all.push(...rows);
  return all;
}

/** In the order of sealing, which an index has. */
async function* rowsAfter(
  client: Queryable,
  tenantId: string,
  clusterId: string,
  after: Place | undefined,
  end?: Place,
): AsyncGenerator<FoundRow[]> {
  for (let place = after ?? BEFORE_ALL; ; ) {
    const { rows } = await client.query({
      name: end ? "rows_between" : "rows_after",
      text: `select l.transaction_id, l.id, app_private.audit_content(l) as content
               from public.audit_logs l
              where l.tenant_id = $1 and l.cluster_id = $2 and (l.transaction_id, l.id) > ($3, $4)
                ${end ? "and (l.transaction_id, l.id) <= ($6, $7)" : ""}
              order by l.transaction_id, l.id limit $5`,
      values: [
        tenantId,
        clusterId,
        place.transactionId,
        place.id,
        ROWS_AT_ONCE,
        ...(end ? [end.transactionId, end.id] : []),
      ],
    });
    const found = contentRow.array().parse(rows);
    if (found.length > 0) yield found.map(({ content }) => readRow(content));
    const last = found.at(-1);
    if (!last || found.length < ROWS_AT_ONCE) return;
    place = { transactionId: last.transaction_id, id: last.id };
  }
}
