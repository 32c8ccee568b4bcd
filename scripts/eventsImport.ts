import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { Presets, SingleBar } from "cli-progress";
import { pino } from "pino";
import { loadConfig, UserError } from "../src/config.ts";
import { openDatabase } from "../src/db/database.ts";
import { assertMigrated } from "../src/db/migrate.ts";
import { withOwnerPool } from "../src/db/pools.ts";
import { type ImportOptions, importEvents, type Progress, totalOf } from "../src/events/import/importer.ts";
import { ENCODINGS } from "../src/events/import/records.ts";
import { runProgram } from "../src/program.ts";

const USAGE = `npm run events:import -- --tenant acme FILE

  --format csv|ndjson     by default, what the file's name ends in
  --encoding latin1       or utf16le; by default UTF-8
  --delimiter ";"         of CSV; by default a comma
  --set field=value       for events that do not say, such as --set eventType=order; may be repeated
  --on-conflict reject    rejects other content under a known (source, sourceId) instead of updating the event
  --restart               begins anew, though an earlier import of this file got somewhere

CSV: the first line names the columns; those that are no fields of an event are its properties. Rejected records are listed in
a file beside it, whose name it says at the end. An import that was interrupted goes on where it was: run the same command again.
Exits with 0 when the whole file was read, also if records were rejected; 130 or 143 when it was interrupted; else 1.`;

await runProgram(
  async (onStop, say, signal) => {
    const options = parse();
    const config = loadConfig();
    const database = await openDatabase(config, { purpose: "npm run events:import", join: true });
    onStop(() => database.close());
    await assertMigrated(database.urls.owner);
    await withOwnerPool(database.urls.owner, pino({ level: "warn" }), async (owner) => {
      const show = progressBar(
        "{bar} {percentage}% | {lines} events | {rate}/s | {left} left | {rejected} rejected",
      );
      const recognising = progressBar("{bar} {percentage}% of the file looked at, to recognise it");
      const started = Date.now();
      let began = started;
      const progress = await importEvents(owner, options, {
        signal,
        say(sentence) {
          recognising.stop();
          say(sentence);
        },
        onRecognise(bytes, size) {
          began = Date.now();
          // Most files are read before anybody wonders.
          if (began - started > 1_000) recognising.update(bytes, size, {});
        },
        onProgress(now) {
          recognising.stop();
          const seconds = Math.max(Date.now() - began, 1) / 1000;
          const left = ((now.size - now.offset) / Math.max(now.offset - now.resumedAt, 1)) * seconds;
          show.update(now.offset, now.size, {
            lines: totalOf(now).toLocaleString("en"),
            rate: Math.round((totalOf(now) - now.resumedTotal) / seconds).toLocaleString("en"),
            left: `${Math.round(left)} s`,
            rejected: now.rejected.toLocaleString("en"),
          });
        },
      }).finally(() => {
        recognising.stop();
        show.stop();
      });
      tell(progress, say);
    });
  },
  { once: true },
);

/** On no terminal, a line every five seconds. */
function progressBar(format: string) {
  const bar = new SingleBar(
    { format, noTTYOutput: true, notTTYSchedule: 5_000, hideCursor: true },
    Presets.shades_classic,
  );
  let started = false;
  return {
    update(value: number, total: number, payload: Record<string, string>) {
      if (!started) bar.start(total, value, payload);
      started = true;
      bar.update(value, payload);
    },
    stop: () => bar.stop(),
  };
}

function tell(progress: Progress, say: (sentence: string) => void) {
  const { accepted, updated, duplicate, rejected, reportPath, doneAt } = progress;
  const interrupted = progress.offset < progress.size;
  if (doneAt)
    say(
      `This file was imported already, on ${doneAt.toISOString()}. --restart imports it again. At that time:`,
    );
  say(
    `${interrupted ? "Interrupted. So far, " : ""}${totalOf(progress)} events: ${accepted} accepted, ${updated} updated, ${duplicate} duplicates, ${rejected} rejected.`,
  );
  if (rejected > 0) say(`What was rejected, and why: ${reportPath}`);
  if (interrupted) say("Run the same command again to go on.");
}

function parse(): ImportOptions {
  const string = { type: "string" } as const;
  let parsed: ReturnType<typeof read>;
  const read = () =>
    parseArgs({
      allowPositionals: true,
      options: {
        tenant: string,
        format: string,
        encoding: string,
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
  const encoding = ENCODINGS.find((name) => name === (values.encoding ?? "utf8"));
  if (!encoding)
    throw new UserError(`--encoding is "${values.encoding}"; it may be ${ENCODINGS.join(", ")}.`);
  const onConflict = values["on-conflict"] ?? "update";
  if (onConflict !== "update" && onConflict !== "reject")
    throw new UserError(`--on-conflict is "${onConflict}"; it may be update or reject.`);
  const delimiter = (values.delimiter ?? ",").replace("\\t", "\t");
  if (delimiter.length !== 1 || /["\r\n]/.test(delimiter))
    throw new UserError("--delimiter must be one character, or \\t, and neither a quote nor a newline.");
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
    encoding,
    delimiter,
    onConflict,
    defaults: Object.fromEntries(pairs),
    restart: values.restart ?? false,
  };
}
