import { createHash } from "node:crypto";
import { type FileHandle, open, stat } from "node:fs/promises";
import { setTimeout as wait } from "node:timers/promises";
import type pg from "pg";
import { z } from "zod";
import { UserError } from "../../config.ts";
import { withTransaction } from "../../db/pools.ts";
import { findFlaw } from "../text.ts";
import { readCsvFile, readHeader } from "./csv.ts";
import { readNdjsonFile } from "./ndjson.ts";
import type { FileRecord, Place } from "./records.ts";

export type ImportOptions = {
  tenant: string;
  path: string;
  format: "csv" | "ndjson";
  delimiter: string;
  onConflict: "update" | "reject";
  /** Fields that every event has unless its record says otherwise. */
  defaults: Record<string, string>;
  /** Begin anew, though an earlier import of this file got somewhere. */
  restart: boolean;
};
export type Progress = Counts & { size: number; offset: number; resumedAt: number; reportPath: string };
type Counts = { accepted: number; updated: number; duplicate: number; rejected: number };

const BATCH = 1_000;
const HEAD_BYTES = 1024 * 1024;
const count = z.coerce.number();
const stored = z.object({
  byte_offset: count,
  line: count,
  accepted: count,
  updated: count,
  duplicate: count,
  rejected: count,
  report_bytes: count,
});
const receipt = z.object({
  outcome: z.enum(["accepted", "updated", "duplicate", "rejected"]),
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
  { signal, onProgress }: { signal: AbortSignal; onProgress: (progress: Progress) => void },
): Promise<Progress> {
  const tenants = await owner.query("select id from tenants where slug = $1", [options.tenant]);
  const tenantId: string | undefined = tenants.rows[0]?.id;
  if (!tenantId) throw new UserError(`There is no tenant "${options.tenant}".`);
  const { size } = await stat(options.path).catch((error: NodeJS.ErrnoException) => {
    throw new UserError(`Cannot read ${options.path}: ${error.message}.`);
  });
  const key = [tenantId, await fingerprint(options, size)];
  if (options.restart)
    await owner.query("delete from app_private.event_imports where tenant_id = $1 and fingerprint = $2", key);
  const csv = options.format === "csv" ? await readHeader(options.path, options.delimiter) : undefined;
  const start: Place = csv?.start ?? { offset: await bomBytes(options.path), line: 1 };
  await owner.query(
    `insert into app_private.event_imports (tenant_id, fingerprint, file_name, byte_offset, line) values ($1, $2, $3, $4, $5)
     on conflict do nothing`,
    [...key, options.path, start.offset, start.line],
  );
  const { rows } = await owner.query(
    "select * from app_private.event_imports where tenant_id = $1 and fingerprint = $2",
    key,
  );
  const { byte_offset, line, report_bytes, ...counts } = stored.parse(rows[0]);
  const from = { offset: byte_offset, line };
  const reportPath = `${options.path}.rejected.ndjson`;
  const report = await open(reportPath, report_bytes > 0 ? "r+" : "w");
  // What an interrupted import wrote, and did not commit.
  await report.truncate(report_bytes);
  const progress: Progress = { ...counts, size, offset: byte_offset, resumedAt: byte_offset, reportPath };
  const months = new Set<string>();
  try {
    const records = csv
      ? readCsvFile(options.path, { columns: csv.columns, delimiter: options.delimiter, from, size })
      : readNdjsonFile(options.path, from);
    let reported = report_bytes;
    const batches = inBatches(records)[Symbol.asyncIterator]();
    // The next batch is read while one is written.
    let next = batches.next();
    for (let { value: batch, done } = await next; !done && batch; { value: batch, done } = await next) {
      next = batches.next();
      next.catch(() => {});
      if (signal.aborted) break;
      const events = batch.map((record) => prepare(record, options.defaults));
      await makeMonths(owner, events, months);
      const end = batch.at(-1)?.end ?? from;
      const outcome = await writeBatch(owner, key, options, report, {
        batch,
        events,
        from: progress.offset,
        end,
        reported,
      });
      reported = outcome.reported;
      progress.offset = end.offset;
      for (const name of ["accepted", "updated", "duplicate", "rejected"] as const)
        progress[name] += outcome.counts[name];
      onProgress(progress);
    }
    await batches.return?.(undefined);
  } finally {
    await report.close();
  }
  return progress;
}

async function* inBatches(records: AsyncIterable<FileRecord>): AsyncGenerator<FileRecord[], undefined> {
  let batch: FileRecord[] = [];
  for await (const record of records) {
    batch.push(record);
    if (batch.length < BATCH) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
  return undefined;
}

type Prepared = { event: unknown } | { problem: { reason: string; pointer: string; detail: string } };

function prepare(record: FileRecord, defaults: Record<string, string>): Prepared {
  if ("problem" in record) return { problem: record.problem };
  const flaw = findFlaw(record.event);
  if (flaw) return { problem: flaw };
  const { data } = z.record(z.string(), z.unknown()).safeParse(record.event);
  return { event: data ? { ...defaults, ...data } : record.event };
}

async function writeBatch(
  owner: pg.Pool,
  key: unknown[],
  { onConflict }: ImportOptions,
  report: FileHandle,
  {
    batch,
    events,
    from,
    end,
    reported,
  }: { batch: FileRecord[]; events: Prepared[]; from: number; end: Place; reported: number },
): Promise<{ counts: Counts; reported: number }> {
  const sound = events.flatMap((prepared, index) =>
    "event" in prepared ? [{ index, event: prepared.event }] : [],
  );
  const counts: Counts = { accepted: 0, updated: 0, duplicate: 0, rejected: events.length - sound.length };
  return withTransaction(owner, async (client) => {
    const { rows } = await client.query({
      name: "write_import_batch",
      text: "select outcome, code, reason, pointer, detail from app_hidden.write_import_batch($1, $2, $3, $4, $5)",
      values: [
        ...key,
        JSON.stringify(sound.map(({ event }) => event)),
        onConflict,
        JSON.stringify({ from, ...end, refused: counts.rejected }),
      ],
    });
    const rejections: { line: number | undefined; [name: string]: unknown }[] = [];
    for (const [index, prepared] of events.entries())
      if ("problem" in prepared)
        rejections.push({
          line: batch[index]?.line,
          code: "INVALID_INPUT",
          ...prepared.problem,
          text: batch[index]?.text,
        });
    for (const [place, { outcome, ...why }] of receipt.array().parse(rows).entries()) {
      counts[outcome]++;
      const record = batch[sound[place]?.index ?? 0];
      if (outcome === "rejected") rejections.push({ line: record?.line, ...why, text: record?.text });
    }
    const lines = rejections
      .sort((a, b) => (a.line ?? 0) - (b.line ?? 0))
      .map((rejection) => `${JSON.stringify(rejection)}\n`)
      .join("");
    const bytes = Buffer.from(lines);
    if (bytes.length > 0) {
      await report.write(bytes, 0, bytes.length, reported);
      await report.datasync();
      await client.query(
        "update app_private.event_imports set report_bytes = $3 where tenant_id = $1 and fingerprint = $2",
        [...key, reported + bytes.length],
      );
    }
    return { counts, reported: reported + bytes.length };
  });
}

/** Makes the partitions of months that come for the first time, so that no row has to move there later. */
async function makeMonths(owner: pg.Pool, events: Prepared[], known: Set<string>) {
  for (const prepared of events) {
    if (!("event" in prepared)) continue;
    const [month] = timestamped.safeParse(prepared.event).data?.timestamp ?? [];
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
const timestamped = z.object({
  timestamp: z
    .string()
    .regex(/^\d{4}-(?:0[1-9]|1[0-2])/)
    .transform((text) => [text.slice(0, 7)]),
});

/** The same file, read in the same way. */
async function fingerprint(
  { path, restart: _, tenant: __, ...reading }: ImportOptions,
  size: number,
): Promise<Buffer> {
  const file = await open(path);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(HEAD_BYTES), 0, HEAD_BYTES, 0);
    return createHash("sha256")
      .update(JSON.stringify({ ...reading, size }))
      .update(buffer.subarray(0, bytesRead))
      .digest();
  } finally {
    await file.close();
  }
}

async function bomBytes(path: string): Promise<number> {
  const file = await open(path);
  try {
    const { buffer } = await file.read(Buffer.alloc(3), 0, 3, 0);
    return buffer.equals(Buffer.from([0xef, 0xbb, 0xbf])) ? 3 : 0;
  } finally {
    await file.close();
  }
}
