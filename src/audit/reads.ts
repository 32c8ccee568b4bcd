import {
  type DocumentNode,
  type GraphQLSchema,
  getNamedType,
  TypeInfo,
  valueFromASTUntyped,
  visit,
  visitWithTypeInfo,
} from "graphql";
import type pg from "pg";
import { z } from "zod";
import { claimsOf, type Identity, withRequest } from "../auth/requests.ts";

/** What a person who reads the record wants to know is shorter. Where something is left out, the record shows it. */
const LONGEST = 20_000;
const LONGEST_TEXT = 200;
const LONGEST_LIST = 50;
const DEEPEST = 16;
const LOG_TYPE = /^AuditLog/;

const recorded = z.tuple([z.object({ record: z.string() })]);

/** Fields of a document that read the audit log, with their arguments; by type, so that no way there is forgotten. */
export function findAuditReads(
  schema: GraphQLSchema,
  document: DocumentNode,
  variables: Readonly<Record<string, unknown>>,
): { field: string; arguments: object }[] {
  const found: { field: string; arguments: object }[] = [];
  const types = new TypeInfo(schema);
  const visitor = visitWithTypeInfo(types, {
    Field(node) {
      const parent = types.getParentType()?.name ?? "";
      const type = getNamedType(types.getType());
      if (!type || !LOG_TYPE.test(type.name) || LOG_TYPE.test(parent)) return;
      const given = (node.arguments ?? []).map(({ name, value }) => [
        name.value,
        valueFromASTUntyped(value, variables),
      ]);
      found.push({ field: node.name.value, arguments: Object.fromEntries(given) });
    },
  });
  visit(document, visitor);
  return found;
}

/**
 * Puts on record that somebody is about to read the log, or to take it away, in a transaction of its own: only with the
 * answer, as `auditRead` of the identity, row security shows the log. Rejects when it cannot be recorded; nothing may be
 * read then.
 */
export async function recordAuditRead(
  pool: pg.Pool,
  identity: Identity,
  action: "audit_log.read" | "audit_log.exported",
  request: unknown,
): Promise<string> {
  const text = JSON.stringify(abridged(request, 0));
  const { rows } = await withRequest(pool, identity, (client) =>
    client.query("select app_hidden.record_audit_read($1, $2, $3) as record", [
      claimsOf(identity).tenant_id,
      action,
      text.length > LONGEST ? JSON.stringify(`${text.slice(0, LONGEST)}...`) : text,
    ]),
  );
  return recorded.parse(rows)[0].record;
}

function abridged(value: unknown, depth: number): unknown {
  if (typeof value === "string")
    return value.length > LONGEST_TEXT ? `${value.slice(0, LONGEST_TEXT)}...` : value;
  if (typeof value !== "object" || value === null) return value;
  if (depth === DEEPEST) return "...";
  if (Array.isArray(value)) {
    const first = value.slice(0, LONGEST_LIST).map((one) => abridged(one, depth + 1));
    return value.length > LONGEST_LIST ? [...first, `... and ${value.length - LONGEST_LIST} more`] : first;
  }
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, abridged(one, depth + 1)]));
}
