import type pg from "pg";
import { z } from "zod";
import { withTransaction } from "../../db/pools.ts";
import type { Place } from "./records.ts";
import { Report } from "./report.ts";

export type Counts = { accepted: number; updated: number; duplicate: number; rejected: number };
export type Begun = {
  key: readonly [tenantId: string, fingerprint: Buffer];
  from: Place;
  counts: Counts;
  report: Report;
};
/** An earlier import wrote all of the file. */
export type Done = { from: Place; counts: Counts; reportPath: string; doneAt: Date };

const count = z.coerce.number();
const stored = z.object({
  byte_offset: count,
  line: count,
  accepted: count,
  updated: count,
  duplicate: count,
  rejected: count,
  report_bytes: count,
  updated_at: z.date(),
});

/** Begins an import, or finds the place where an earlier one of the same file stopped. */
export async function begin(
  owner: pg.Pool,
  key: Begun["key"],
  {
    path,
    size,
    tenant,
    restart,
    start,
    say,
  }: {
    path: string;
    size: number;
    tenant: string;
    restart: boolean;
    start: Place;
    say: (sentence: string) => void;
  },
): Promise<Begun | Done> {
  // In one transaction: nobody else's batch may be on its way to the report when that is cut.
  return withTransaction(owner, async (client) => {
    const own = "tenant_id = $1 and fingerprint = $2";
    if (restart) await client.query(`delete from app_private.event_imports where ${own}`, [...key]);
    const inserted = await client.query(
      `insert into app_private.event_imports (tenant_id, fingerprint, file_name, byte_offset, line)
       values ($1, $2, $3, $4, $5) on conflict do nothing`,
      [...key, path, start.offset, start.line],
    );
    const { rows } = await client.query(`select * from app_private.event_imports where ${own} for update`, [
      ...key,
    ]);
    const { byte_offset, line, report_bytes, updated_at, ...counts } = stored.parse(rows[0]);
    const isNew = inserted.rowCount === 1;
    const from = { offset: byte_offset, line };
    // Of its own: the same file, read in another way, is another import.
    const reportPath = `${path}.${tenant}.${key[1].toString("hex", 0, 4)}.rejected.ndjson`;
    if (byte_offset === size && !isNew) return { from, counts, reportPath, doneAt: updated_at };
    if (isNew && !restart) await sayWhetherItChanged(client, key, path, say);
    if (!isNew) say(`An earlier import of this file got to line ${line}; this one goes on there.`);
    const report = await Report.open(reportPath, report_bytes);
    if (report.length !== report_bytes) {
      say(
        `The list of what was rejected so far is gone, or was cut: ${report.path} lists only what is rejected from line ${line} on.`,
      );
      await client.query(`update app_private.event_imports set report_bytes = $3 where ${own}`, [
        ...key,
        report.length,
      ]);
    }
    return { key, from, counts, report };
  });
}

/** Where its records have no ids, those that are as before will be there twice. */
async function sayWhetherItChanged(
  client: pg.PoolClient,
  [tenantId, fingerprint]: Begun["key"],
  path: string,
  say: (sentence: string) => void,
) {
  const { rowCount } = await client.query(
    "select from app_private.event_imports where tenant_id = $1 and fingerprint <> $2 and file_name = $3 limit 1",
    [tenantId, fingerprint, path],
  );
  if (rowCount)
    say(
      "This file was imported before with other content, or read in another way. It is imported from its beginning: records with a sourceId are not doubled, others are.",
    );
}
