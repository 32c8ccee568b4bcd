import { setTimeout as wait } from "node:timers/promises";
import type pg from "pg";
import { z } from "zod";
import { UserError } from "../../config.ts";
import { withTransaction } from "../../db/pools.ts";
import { type Batch, type Prepared, readBatches } from "./batches.ts";
import { csvReader, readHeader } from "./csv.ts";
import { fingerprint, type ImportFile, openImportFile } from "./file.ts";
import { ndjsonReader } from "./ndjson.ts";
import { type Begun, begin, type Counts } from "./place.ts";
import type { Encoding } from "./records.ts";

export type ImportOptions = {
  tenant: string;
  path: string;
  format: "csv" | "ndjson";
  encoding: Encoding;
  delimiter: string;
  onConflict: "update" | "reject";
  /** Fields that every event has unless its record says otherwise. */
  defaults: Record<string, string>;
  /** Begin anew, though an earlier import of this file got somewhere. */
  restart: boolean;
};
export type Progress = Counts & {
  size: number;
  offset: number;
  resumedAt: number;
  /** Records that earlier runs had counted. */
  resumedTotal: number;
  reportPath: string;
  /** When an earlier import wrote all of this file. */
  doneAt?: Date;
};
export type Watcher = {
  signal: AbortSignal;
  onProgress(progress: Progress): void;
  /** While the file is read for the first time, to recognise it. */
  onRecognise?(bytes: number, size: number): void;
  say?(sentence: string): void;
};

const receipt = z.object({
  outcome: z
    .enum(["accepted", "updated", "deleted", "duplicate", "rejected"])
    .transform((outcome) => (outcome === "deleted" ? "updated" : outcome)),
  code: z.string().nullable(),
  reason: z.string().nullable(),
  pointer: z.string().nullable(),
  detail: z.string().nullable(),
});

/**
 * Writes a file of events into a tenant, as the owner, batch by batch. Each batch commits with its place in the file, so
 * that an import that was interrupted goes on there, and counts nothing twice. What was rejected is listed in a file
 * beside it. Stops after the batch under way when `signal` aborts.
 */
export async function importEvents(
  owner: pg.Pool,
  options: ImportOptions,
  watcher: Watcher,
): Promise<Progress> {
  const tenants = await owner.query("select id from tenants where slug = $1", [options.tenant]);
  const tenantId: string | undefined = tenants.rows[0]?.id;
  if (!tenantId) throw new UserError(`There is no tenant "${options.tenant}".`);
  const file = await openImportFile(options.path, options.encoding);
  try {
    const header = options.format === "csv" ? await readHeader(file, options.delimiter) : undefined;
    const { tenant, path: _, restart, ...reading } = options;
    const { signal, onRecognise, say = () => {} } = watcher;
    const identity = await fingerprint(file, reading, {
      signal,
      onRead: (bytes) => onRecognise?.(bytes, file.size),
    });
    await file.assertUnchanged();
    const begun = await begin(owner, [tenantId, identity], {
      path: file.path,
      size: file.size,
      tenant,
      restart,
      start: header?.start ?? file.start,
      say,
    });
    if ("doneAt" in begun) {
      const { counts, from, ...done } = begun;
      return { ...progressAt(from.offset, counts), ...done, size: file.size };
    }
    try {
      const reader = header ? csvReader(header.columns, options.delimiter) : ndjsonReader;
      const batches = readBatches(file, reader, { from: begun.from, defaults: options.defaults });
      return await writeAll(owner, batches, { file, begun, onConflict: options.onConflict, watcher });
    } finally {
      await begun.report.close();
    }
  } finally {
    await file.handle.close();
  }
}

export const totalOf = ({ accepted, updated, duplicate, rejected }: Counts) =>
  accepted + updated + duplicate + rejected;
const progressAt = (offset: number, counts: Counts) => ({
  ...counts,
  offset,
  resumedAt: offset,
  resumedTotal: totalOf(counts),
});

async function writeAll(
  owner: pg.Pool,
  batches: AsyncGenerator<Batch, undefined>,
  {
    file,
    begun,
    onConflict,
    watcher: { signal, onProgress },
  }: { file: ImportFile; begun: Begun; onConflict: string; watcher: Watcher },
): Promise<Progress> {
  const { from, counts, report } = begun;
  const progress: Progress = {
    ...progressAt(from.offset, counts),
    size: file.size,
    reportPath: report.path,
  };
  const months = new Set<string>();
  try {
    // The next batch is read while one is written.
    let next = batches.next();
    for (let { value: batch } = await next; batch && !signal.aborted; { value: batch } = await next) {
      next = batches.next();
      next.catch(() => {});
      await makeMonths(owner, batch.records, months);
      await file.assertUnchanged();
      const written = await writeBatch(owner, batch, { begun, from: progress.offset, onConflict });
      progress.offset = batch.end.offset;
      for (const name of ["accepted", "updated", "duplicate", "rejected"] as const)
        progress[name] += written[name];
      onProgress(progress);
    }
  } finally {
    await batches.return(undefined).catch(() => {});
  }
  if (!signal.aborted && progress.offset !== file.size)
    throw new Error(
      `Only ${progress.offset} of ${file.size} bytes of ${file.path} were read. What was read is written; this is a mistake of ours.`,
    );
  return progress;
}

async function writeBatch(
  owner: pg.Pool,
  { records, end }: Batch,
  { begun, from, onConflict }: { begun: Begun; from: number; onConflict: string },
): Promise<Counts> {
  const { key, report } = begun;
  const sound = records.flatMap((record) => ("json" in record ? [record] : []));
  const refused = records.length - sound.length;
  const counts: Counts = { accepted: 0, updated: 0, duplicate: 0, rejected: refused };
  const length = await withTransaction(owner, async (client) => {
    const { rows } = await client
      .query({
        name: "write_import_batch",
        text: "select outcome, code, reason, pointer, detail from app_hidden.write_import_batch($1, $2, $3, $4, $5)",
        values: [
          ...key,
          `[${sound.map(({ json }) => json).join(",")}]`,
          onConflict,
          JSON.stringify({ from, ...end, refused }),
        ],
      })
      .catch(explain);
    const rejections: { line: number; [name: string]: unknown }[] = records.flatMap((record) =>
      "problem" in record
        ? [{ line: record.line, code: "INVALID_INPUT", ...record.problem, text: record.text }]
        : [],
    );
    for (const [index, { outcome, ...why }] of receipt.array().length(sound.length).parse(rows).entries()) {
      counts[outcome]++;
      const { line = 0, text } = sound[index] ?? {};
      if (outcome === "rejected") rejections.push({ line, ...why, text });
    }
    const length = await report.write(rejections.sort((a, b) => a.line - b.line));
    if (length !== report.length)
      await client.query(
        "update app_private.event_imports set report_bytes = $3 where tenant_id = $1 and fingerprint = $2",
        [...key, length],
      );
    return length;
  });
  report.committed(length);
  return counts;
}

function explain(error: unknown): never {
  if (error instanceof Error && "code" in error && error.code === "EA409")
    throw new UserError(
      "Another import of this file is running, and was faster. Nothing is counted twice. Let that one end, or stop it, and run the command again.",
    );
  throw error;
}

/** Makes the partitions of months that come for the first time, so that no row has to move there later. */
async function makeMonths(owner: pg.Pool, records: Prepared[], known: Set<string>) {
  for (const record of records) {
    const month = "month" in record ? record.month : undefined;
    if (!month || known.has(month)) continue;
    known.add(month);
    for (let attempt = 1; ; attempt++)
      try {
        await owner.query("select app_hidden.make_partition_for($1)", [`${month}-15`]);
        break;
      } catch (error) {
        // The maintenance task will make it; until then, its rows are in the default partition.
        if (attempt === 3 || !(error instanceof Error && "code" in error && error.code === "55P03")) break;
        await wait(200 * attempt);
      }
  }
}
