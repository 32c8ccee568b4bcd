import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { pino } from "pino";
import { z } from "zod";
import { type AuditKey, keyLine, loadAuditKeys } from "../src/audit/keys.ts";
import { type AnchorIndex, indexAnchor, noAnchor } from "../src/audit/verify/anchorIndex.ts";
import type { Report } from "../src/audit/verify/database.ts";
import { verifyExport } from "../src/audit/verify/exported.ts";
import { describe } from "../src/audit/verify/findings.ts";
import { trustedKeys, verifyDatabase } from "../src/audit/verify/verify.ts";
import { loadConfig, UserError } from "../src/config.ts";
import { openDatabase } from "../src/db/database.ts";
import { assertMigrated } from "../src/db/migrate.ts";
import { withOwnerPool } from "../src/db/pools.ts";
import { runProgram } from "../src/program.ts";

const USAGE = `npm run audit:verify                              all tenants' logs, against their seals and the anchor
npm run audit:verify -- --tenant SLUG             one tenant's
npm run audit:verify -- --export FILE             an exported log, against the anchor alone; asks no database
  --partial           the file has some of the rows: none is missed
  --anchors FOLDER    the anchor, instead of AUDIT_ANCHOR_DIR; "none" leaves it out
  --keys FILE         keys as /.well-known/audit-keys.json has them, where the anchor has none
  --trust KEYID       a key that may sign without another one's word; may be repeated`;

/** Verifies audit logs. Says what is wrong, which rows and when, and then exits with 1. */
await runProgram(
  async (onStop, say) => {
    const options = parse();
    const config = loadConfig();
    const folder = options.anchors ?? config.AUDIT_ANCHOR_DIR ?? join(config.DATA_DIR, "audit-anchors");
    const anchor = folder === "none" ? noAnchor : await indexAnchor(resolve(folder));
    for (const line of anchor.unreadable)
      say(`note: ${line} is not readable: a crash cut it short, or somebody changed it.`);
    const published = options.keys ? await readKeys(options.keys) : [];
    const conclude = (name: string, report: Report) => {
      say(summarise(name, report));
      for (const finding of report.findings) say(`  ${describe(finding)}.`);
      if (report.findings.length > 0) process.exitCode = 1;
    };
    const keysOf = (more: readonly AuditKey[]) => known(anchor, [...published, ...more], options.trust ?? []);

    if (options.export !== undefined) {
      const report = await verifyExport(options.export, {
        anchor,
        keys: keysOf([]),
        partial: options.partial ?? false,
      });
      if (report.tenantId === undefined) throw new UserError(`${options.export} has no rows.`);
      return conclude(report.tenantId, report);
    }
    const database = await openDatabase(config, { purpose: "npm run audit:verify", join: true });
    onStop(() => database.close());
    await assertMigrated(database.urls.owner);
    await withOwnerPool(database.urls.owner, pino({ level: "warn" }), async (owner) => {
      const keys = keysOf(await loadAuditKeys(owner));
      let count = 0;
      for await (const report of verifyDatabase(owner, { anchor, keys, slug: options.tenant })) {
        conclude(report.slug ?? `${report.tenantId} (which is gone, without a record)`, report);
        count++;
      }
      if (count === 0 && options.tenant !== undefined)
        throw new UserError(`There is no tenant "${options.tenant}".`);
    });
  },
  { once: true },
);

function known(anchor: AnchorIndex, published: readonly AuditKey[], trust: readonly string[]) {
  const keys = trustedKeys(anchor, published, trust);
  if (keys.size === 0)
    throw new UserError("There is no key to verify with: name an anchor (--anchors), or keys (--keys).");
  return keys;
}

function summarise(name: string, { seals, verified, purged, waiting, findings }: Report): string {
  const parts = [
    `${verified} rows verified in ${seals} seals`,
    ...(purged > 0 ? [`${purged} gone by retention`] : []),
    ...(waiting > 0 ? [`${waiting} not sealed yet`] : []),
  ];
  return `${name}: ${findings.length === 0 ? "intact" : "NOT INTACT"}; ${parts.join(", ")}.`;
}

async function readKeys(path: string): Promise<AuditKey[]> {
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    throw new UserError(`Cannot read ${path}: ${error.code}.`);
  });
  const parsed = z.looseObject({ keys: z.array(keyLine) }).safeParse(parseJson(text));
  if (!parsed.success) throw new UserError(`${path} is not what /.well-known/audit-keys.json answers.`);
  return parsed.data.keys;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function parse() {
  try {
    const { values } = parseArgs({
      options: {
        tenant: { type: "string" },
        export: { type: "string" },
        partial: { type: "boolean" },
        anchors: { type: "string" },
        keys: { type: "string" },
        trust: { type: "string", multiple: true },
      },
    });
    if (values.export !== undefined && values.tenant !== undefined)
      throw new Error("--export and --tenant exclude each other: the file says whose log it is");
    return values;
  } catch (error) {
    throw new UserError(`${error instanceof Error ? error.message : String(error)}.\n\n${USAGE}`);
  }
}
