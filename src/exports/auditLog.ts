import type pg from "pg";
import { z } from "zod";
import { canonicalMembers } from "../audit/canonical.ts";
import { SEALED_COLUMNS } from "../audit/row.ts";
import { microsecondsOf } from "../series/request.ts";
import type { AuditLogRequest } from "./request.ts";
import type { Column, Format, Row } from "./table.ts";

const sealedRow = z.object({ seal: z.string(), sequence: z.string(), content: z.string() });

/** NDJSON has the sealed form itself, as audit:verify takes it; CSV has text for people. */
export const auditLogColumns = (format: Format): Column[] => [
  { name: "sequence", kind: format === "csv" ? "number" : "json" },
  ...SEALED_COLUMNS.map(
    (name): Column => ({ name, kind: format === "csv" && name !== "changes" ? "text" : "json" }),
  ),
];

/** The sealed rows of a tenant within a time, seal by seal. Rows that retention took are not among them. */
export async function* auditLogRows(
  client: Pick<pg.ClientBase, "query">,
  tenantId: string,
  { from, to }: AuditLogRequest,
  format: Format,
): AsyncGenerator<Row[]> {
  const [since, until] = [from, to].map((time) => (time == null ? undefined : microsecondsOf(time)));
  for (let after = "0"; ; ) {
    const { rows } = await client.query({
      name: "read_sealed_rows",
      text: "select seal, sequence, content from app_hidden.read_sealed_rows($1, $2)",
      values: [tenantId, after],
    });
    const sealed = sealedRow.array().parse(rows);
    const [first] = sealed;
    if (!first) return;
    after = first.seal;
    const wanted = sealed
      .map(({ sequence, content }) => ({ sequence, members: canonicalMembers(content) }))
      .filter(({ members }) => {
        const time = microsecondsOf(JSON.parse(members.get("createdAt") ?? "null"));
        return !(since !== undefined && time < since) && !(until !== undefined && time >= until);
      });
    yield wanted.map(({ sequence, members }) => [
      sequence,
      ...SEALED_COLUMNS.map((name) => {
        const json = members.get(name) ?? "null";
        return format === "csv" && name !== "changes" ? plain(json) : json;
      }),
    ]);
  }
}

function plain(json: string): string | null {
  const value: unknown = JSON.parse(json);
  return value === null ? null : String(value);
}
