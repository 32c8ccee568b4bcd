import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { Presets, SingleBar } from "cli-progress";
import { pino } from "pino";
import { loadConfig, UserError } from "../src/config.ts";
import { openDatabase } from "../src/db/database.ts";
import { assertMigrated } from "../src/db/migrate.ts";
import { withOwnerPool } from "../src/db/pools.ts";
import { type ImportOptions, importEvents, type Progress } from "../src/events/import/importer.ts";
import { runProgram } from "../src/program.ts";

const USAGE = `npm run events:import -- --tenant acme FILE

  --format csv|ndjson     by default, what the file's name ends in
  --delimiter ";"         of CSV; by default a comma
  --set field=value       for events that do not say, such as --set eventType=order; may be repeated
  --on-conflict reject    rejects other content under a known (source, sourceId) instead of updating the event
  --restart               begins anew, though an earlier import of this file got somewhere

CSV: the first line names the columns; those that are no fields of an event are its properties. Rejected lines are listed in
FILE.rejected.ndjson. An import that was interrupted goes on where it was: run the same command again.`;

await runProgram(
  async (onStop, say, signal) => {
    const options = parse();
    const config = loadConfig();
    const database = await openDatabase(config, { purpose: "npm run events:import", join: true });
    onStop(() => database.close());
    await assertMigrated(database.urls.owner);
    await withOwnerPool(database.urls.owner, pino({ level: "warn" }), async (owner) => {
      const bar = new SingleBar(
        {
          format: "{bar} {percentage}% | {lines} events | {rate}/s | {left} left | {rejected} rejected",
          noTTYOutput: true,
          notTTYSchedule: 5_000,
          hideCursor: true,
        },
        Presets.shades_classic,
      );
      const began = Date.now();
      let total = 0;
      const payload = (progress: Progress) => {
        const seconds = (Date.now() - began) / 1000;
        const read = progress.offset - progress.resumedAt;
        total = progress.accepted + progress.updated + progress.duplicate + progress.rejected;
        first ??= total;
        const left = read > 0 ? ((progress.size - progress.offset) / read) * seconds : 0;
        return {
          lines: total.toLocaleString("en"),
          rate: Math.round((total - first) / Math.max(seconds, 0.001)).toLocaleString("en"),
          left: `${Math.round(left)} s`,
          rejected: progress.rejected.toLocaleString("en"),
        };
      };
      let first: number | undefined;
      let started = false;
      const progress = await importEvents(owner, options, {
        signal,
        onProgress(now) {
          if (!started) bar.start(now.size, now.resumedAt, payload(now));
          started = true;
          bar.update(now.offset, payload(now));
        },
      }).finally(() => bar.stop());
      if (progress.resumedAt > 0 && total === 0)
        total = progress.accepted + progress.updated + progress.duplicate + progress.rejected;
      const { accepted, updated, duplicate, rejected, reportPath } = progress;
      say(
        `${signal.aborted && progress.offset < progress.size ? "Interrupted. So far, " : ""}${total} events: ${accepted} accepted, ${updated} updated, ${duplicate} duplicates, ${rejected} rejected.`,
      );
      if (rejected > 0) say(`What was rejected, and why: ${reportPath}`);
      if (signal.aborted && progress.offset < progress.size) say("Run the same command again to go on.");
    });
  },
  { once: true },
);

function parse(): ImportOptions {
  const string = { type: "string" } as const;
  let parsed: ReturnType<typeof read>;
  const read = () =>
    parseArgs({
      allowPositionals: true,
      options: {
        tenant: string,
        format: string,
        delimiter: string,
        set: { type: "string", multiple: true },
        "on-conflict": string,
        restart: { type: "boolean" },
      },
    });
  try {
    parsed = read();
  } catch (error) {
    throw new UserError(`${error instanceof Error ? error.message : String(error)}\n\n${USAGE}`);
  }
  const { values, positionals } = parsed;
  const [path, ...others] = positionals;
  if (!values.tenant || !path || others.length > 0)
    throw new UserError(`A tenant and one file are needed.\n\n${USAGE}`);
  const format =
    values.format ?? /\.(csv|ndjson|jsonl)$/i.exec(path)?.[1]?.toLowerCase().replace("jsonl", "ndjson");
  if (format !== "csv" && format !== "ndjson")
    throw new UserError(`--format is ${JSON.stringify(values.format ?? null)}; it may be csv or ndjson.`);
  const onConflict = values["on-conflict"] ?? "update";
  if (onConflict !== "update" && onConflict !== "reject")
    throw new UserError(`--on-conflict is "${onConflict}"; it may be update or reject.`);
  const delimiter = (values.delimiter ?? ",").replace("\\t", "\t");
  if (delimiter.length !== 1) throw new UserError("--delimiter must be one character, or \\t.");
  const pairs = (values.set ?? []).map((text) => {
    const [, field, value] = /^(eventType|eventName|currency|source|timestamp)=(.+)$/s.exec(text) ?? [];
    if (!field || !value)
      throw new UserError(`--set "${text}": it may set eventType, eventName, currency, source or timestamp.`);
    return [field, value];
  });
  return {
    tenant: values.tenant,
    path: resolve(path),
    format,
    delimiter,
    onConflict,
    defaults: Object.fromEntries(pairs),
    restart: values.restart ?? false,
  };
}
