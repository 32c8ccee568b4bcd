import type pg from "pg";
import { z } from "zod";
import { readSeal } from "../anchor.ts";
import type { AuditKey } from "../keys.ts";
import { type FoundRow, readRow } from "../row.ts";
import type { Seal } from "../seal.ts";
import type { AnchorIndex } from "./anchorIndex.ts";
import { type TrustedSeal, trustedSeals } from "./chain.ts";
import { type Differences, explainDifferences, noDifferences, type SealedEntry } from "./differences.ts";
import { type Finding, Findings } from "./findings.ts";
import { type Purge, purgeFor, purgeOf } from "./purges.ts";

const ROWS_AT_ONCE = 5_000;
const FIRST_ID = "00000000-0000-0000-0000-000000000000";

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

/** Compares a tenant's log in the database with its seals, and these with the anchor's. */
export async function verifyTenant(
  client: Queryable,
  tenantId: string,
  { anchor, keys }: { anchor: AnchorIndex; keys: ReadonlyMap<string, AuditKey> },
): Promise<Report> {
  const findings = new Findings();
  const differences = noDifferences();
  const purges = await findPurges(client, tenantId);
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
    compare(trusted, rows, purges, differences, report);
    places.set(clusterId, end);
    lastSequence = trusted.lastSequence;
    report.seals++;
  }
  // A row that somebody gave another place is missing where it was, and seems to wait.
  const missing = new Set(differences.missing.map(({ id }) => id));
  for (const id of await clusters(client, tenantId))
    for await (const rows of rowsAfter(client, tenantId, id, places.get(id))) {
      const moved = rows.filter((row) => missing.has(row.id));
      differences.extra.push(...moved);
      report.waiting += rows.length - moved.length;
    }

  withdraw(purges, differences, report);
  explainDifferences(differences, lastSequence, findings);
  return { ...report, findings: findings.all };
}

type Counts = { verified: number; purged: number };
type PurgeState = Map<string, { purge: Purge; taken: SealedEntry[] }>;

function compare(
  { seal, entries }: TrustedSeal,
  rows: readonly FoundRow[],
  purges: PurgeState,
  differences: Differences,
  report: Counts,
) {
  const found = new Map(rows.map((row) => [row.id, row]));
  entries.forEach((entry, index) => {
    const sealed = { ...entry, sequence: seal.firstSequence + index, sealedAt: seal.sealedAt };
    const row = found.get(entry.id);
    found.delete(entry.id);
    if (row?.hash.equals(entry.hash)) report.verified++;
    else if (row) differences.edited.push({ sealed, row });
    else {
      const purge = purgeFor(
        [...purges.values()].map((state) => state.purge),
        sealed,
      );
      if (!purge) differences.missing.push(sealed);
      else {
        purges.get(purge.id)?.taken.push(sealed);
        report.purged++;
      }
    }
  });
  differences.extra.push(...found.values());
}

/** A record that is not what was sealed, or was put among sealed rows, allows nothing. */
function withdraw(purges: PurgeState, differences: Differences, report: Counts) {
  const doubtful = [...differences.edited.map(({ row }) => row.id), ...differences.extra.map(({ id }) => id)];
  for (const id of doubtful) {
    const taken = purges.get(id)?.taken ?? [];
    differences.missing.push(...taken);
    report.purged -= taken.length;
  }
}

async function findPurges(client: Queryable, tenantId: string): Promise<PurgeState> {
  const { rows } = await client.query(
    `select app_private.audit_content(l) as content from public.audit_logs l
      where l.tenant_id = $1 and l.action = 'audit_log.purged'`,
    [tenantId],
  );
  const purges = z
    .object({ content: z.string() })
    .array()
    .parse(rows)
    .map(({ content }) => purgeOf(readRow(content)));
  return new Map(purges.flatMap((purge) => (purge ? [[purge.id, { purge, taken: [] }] as const] : [])));
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
  for (let place = after ?? { transactionId: "-1", id: FIRST_ID }; ; ) {
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
