import type pg from "pg";
import { z } from "zod";
import { canonicalMembers } from "./canonical.ts";

const rowOfSeal = z.object({ sequence: z.coerce.number(), content: z.string() });

/**
 * A tenant's sealed rows in their order, as lines of NDJSON that can be verified without us: docs/audit-format.md. Rows that
 * retention took are not among them.
 */
export async function* sealedLines(
  client: Pick<pg.ClientBase, "query">,
  tenantId: string,
): AsyncGenerator<string[]> {
  for (let number = 1; ; number++) {
    const { rows } = await client.query({
      name: "sealed_rows",
      text: "select s.sequence, s.content from app_private.sealed_rows($1, $2) s order by s.sequence",
      values: [tenantId, number],
    });
    if (rows.length > 0) yield rowOfSeal.array().parse(rows).map(lineOfRow);
    else if (!(await hasSeal(client, tenantId, number))) return;
  }
}

/** Not by way of JSON.parse: it would round numbers. */
function lineOfRow({ sequence, content }: z.output<typeof rowOfSeal>): string {
  const columns = [...canonicalMembers(content)].map(([name, value]) => `${JSON.stringify(name)}:${value}`);
  return `{"sequence":${sequence},${columns.join(",")}}\n`;
}

async function hasSeal(client: Pick<pg.ClientBase, "query">, tenantId: string, number: number) {
  const { rowCount } = await client.query(
    "select from app_private.audit_seals where tenant_id = $1 and number >= $2 limit 1",
    [tenantId, number],
  );
  return rowCount === 1;
}
