import { createReadStream } from "node:fs";
import { z } from "zod";
import type { AuditKey } from "../keys.ts";
import { type FoundRow, readRow } from "../row.ts";
import type { AnchorIndex } from "./anchorIndex.ts";
import { trustedSeals } from "./chain.ts";
import type { Report } from "./database.ts";
import { explainDifferences, noDifferences, SealedEntries } from "./differences.ts";
import { type Finding, Findings } from "./findings.ts";
import { type Purge, purgeFor, purgeOf } from "./purges.ts";

const head = z.looseObject({ sequence: z.int().positive().nullish(), tenantId: z.uuid() });

/**
 * Compares a file of rows with the anchor alone; of one tenant, whose id its rows say.
 * @param options.partial the file has some of the rows, such as those of one resource: none is missed
 */
export async function verifyExport(
  path: string,
  { anchor, keys, partial }: { anchor: AnchorIndex; keys: ReadonlyMap<string, AuditKey>; partial: boolean },
): Promise<Report & { tenantId: string | undefined }> {
  const findings = new Findings();
  const differences = noDifferences();
  const report = { seals: 0, verified: 0, purged: 0, waiting: 0 };
  const sealed = new SealedEntries();
  const purges: Purge[] = [];
  let tenantId: string | undefined;
  let lastSequence = 0;
  let place = 0;
  let count = 0;
  for await (const text of linesOf(path)) {
    count++;
    if (text.trim() === "") continue;
    let row: FoundRow;
    let line: z.output<typeof head>;
    try {
      line = head.parse(JSON.parse(text));
      row = readRow(text);
    } catch (error) {
      findings.add(unreadable(count, error));
      continue;
    }
    if (tenantId === undefined) {
      tenantId = line.tenantId;
      const sources = { tenantId, stored: undefined, lastStored: 0, anchor, keys };
      for await (const { seal, entries, lastSequence: last } of trustedSeals(sources, findings)) {
        entries.forEach((entry, index) => {
          sealed.add({ ...entry, sequence: seal.firstSequence + index, sealedAt: seal.sealedAt });
        });
        lastSequence = last;
        report.seals++;
      }
    }
    const entry = sealed.take(row);
    if (!entry) {
      differences.extra.push(row);
      continue;
    }
    if (!row.hash.equals(entry.hash)) differences.edited.push({ sealed: entry, row });
    else {
      report.verified++;
      const purge = purgeOf(row, entry.sealedAt);
      if (purge) purges.push(purge);
    }
    if (entry.sequence < place || (line.sequence ?? entry.sequence) !== entry.sequence)
      findings.add({
        kind: "reordered",
        rows: [entry.sequence, entry.sequence],
        ids: [row.id],
        when: [row.createdAt, row.createdAt],
        why: `line ${count} has another place in the file than in the log`,
      });
    place = Math.max(place, entry.sequence);
  }
  if (!partial)
    for (const entry of sealed.left())
      if (purgeFor(purges, entry)) report.purged++;
      else differences.missing.push(entry);
  explainDifferences(differences, lastSequence, findings);
  return { ...report, tenantId, findings: findings.all };
}

/** Ends in line feeds alone: node:readline also takes U+2028 for an end, which may stand in a text. */
async function* linesOf(path: string): AsyncGenerator<string> {
  let rest = "";
  for await (const chunk of createReadStream(path, "utf8")) {
    const lines = `${rest}${chunk}`.split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
  if (rest !== "") yield rest;
}

const unreadable = (count: number, error: unknown): Finding => ({
  kind: "edited",
  why: `line ${count} is no row of an audit log (${error instanceof Error ? error.message.slice(0, 100) : error})`,
});
