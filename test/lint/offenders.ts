import type pg from "pg";
import { withQualifiedNames } from "../../src/db/catalogue/withQualifiedNames.ts";
import type { Rule } from "./rule.ts";

/** What breaks the rule, sorted. */
export async function offenders(rule: Rule, client: pg.ClientBase): Promise<string[]> {
  if ("find" in rule) return (await rule.find(client)).sort();
  const { rows } = await withQualifiedNames(client, () => client.query<{ offender: string }>(rule.sql));
  return rows.map(({ offender }) => offender).sort();
}
