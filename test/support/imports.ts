import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ImportOptions, importEvents, type Progress } from "../../src/events/import/importer.ts";
import type { TestDatabase } from "./database.ts";

export type RunOptions = Partial<ImportOptions> & { stopAfter?: number };
export type ImportFolder = {
  tenant: string;
  said: string[];
  path(name: string): string;
  write(name: string, body: string | Buffer): Promise<void>;
  run(name: string, options?: RunOptions): Promise<Progress>;
  /** Where the latest report of a file is. */
  reportOf(name: string, ofTenant?: string): Promise<string>;
  /** What that report lists. */
  rejected(name: string): Promise<Record<string, unknown>[]>;
  stored(): Promise<Record<string, unknown>[]>;
  remove(): Promise<void>;
};

let count = 0;

/** A folder of files for a tenant of its own. */
export async function makeImportFolder(database: TestDatabase): Promise<ImportFolder> {
  const folder = await mkdtemp(join(tmpdir(), "erp-import-"));
  const tenant = `t${++count}`;
  await database.owner.query("insert into tenants (name, slug, status) values ('T', $1, 'ACTIVE')", [tenant]);
  const path = (name: string) => join(folder, name);
  const said: string[] = [];
  const reportOf = async (name: string, ofTenant = tenant) => {
    const names = await readdir(folder);
    const reports = names.filter(
      (each) => each.startsWith(`${name}.${ofTenant}.`) && each.endsWith(".rejected.ndjson"),
    );
    const times = await Promise.all(reports.map(async (each) => (await stat(path(each))).mtimeMs));
    return path(reports[times.indexOf(Math.max(...times))] ?? `no report of ${name}`);
  };
  return {
    tenant,
    said,
    path,
    reportOf,
    write: (name, body) => writeFile(path(name), body),
    async run(name, { stopAfter, ...options } = {}) {
      const stop = new AbortController();
      let batches = 0;
      return importEvents(
        database.owner,
        {
          tenant,
          path: path(name),
          format: name.endsWith("csv") ? "csv" : "ndjson",
          encoding: "utf8",
          delimiter: ",",
          onConflict: "update",
          defaults: {},
          restart: false,
          ...options,
        },
        {
          signal: stop.signal,
          say: (sentence) => said.push(sentence),
          onProgress() {
            if (++batches === stopAfter) stop.abort();
          },
        },
      );
    },
    async rejected(name) {
      const text = await readFile(await reportOf(name), "utf8");
      return text
        .split("\n")
        .filter(Boolean)
        .map((line) => JSON.parse(line));
    },
    async stored() {
      const { rows } = await database.owner.query(
        `select e.source_id, e.value::text, e.properties, e.tableoid::regclass::text as partition
           from analytics_events e join tenants t on t.id = e.tenant_id where t.slug = $1 order by e.timestamp, e.source_id`,
        [tenant],
      );
      return rows;
    },
    remove: () => rm(folder, { recursive: true }),
  };
}

export const counts = ({ accepted, updated, duplicate, rejected }: Progress) => [
  accepted,
  updated,
  duplicate,
  rejected,
];

export const HEADER = "eventType,eventName,timestamp,value,currency,source,sourceId,store,note";
export const csvLine = (index: number, more: Record<string, string> = {}) =>
  [
    "order",
    "order_completed",
    more.timestamp ?? `2026-01-${String(1 + (index % 28)).padStart(2, "0")}T00:00:00Z`,
    more.value ?? `${index}.50`,
    "EUR",
    "legacy",
    more.sourceId ?? `o${index}`,
    "Hauptstraße",
    more.note ?? "",
  ].join(",");
