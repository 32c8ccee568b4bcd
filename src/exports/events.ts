import { type SQL, sql } from "postgraphile/pg-sql2";
import { all, conditions, source as e } from "../series/expressions.ts";
import { iso } from "../series/plan.ts";
import { type EventColumn, type EventsRequest, eventColumns, PROPERTY } from "./request.ts";
import type { Column, Format } from "./table.ts";

/** Amounts as text: no reader of CSV or JSON takes a digit from them. */
const expressions: Record<EventColumn, { kind: Column["kind"]; of: SQL }> = {
  id: { kind: "text", of: sql`${e}.id::text` },
  timestamp: { kind: "text", of: sql`to_char(${e}."timestamp" at time zone 'UTC', ${iso})` },
  eventType: { kind: "text", of: sql`${e}.event_type` },
  eventName: { kind: "text", of: sql`${e}.event_name` },
  value: { kind: "number", of: sql`${e}.value::text` },
  currency: { kind: "text", of: sql`${e}.currency` },
  subject: { kind: "text", of: sql`${e}.subject` },
  source: { kind: "text", of: sql`${e}.source` },
  sourceId: { kind: "text", of: sql`${e}.source_id` },
  properties: { kind: "json", of: sql`${e}.properties::text` },
};
const isField = (name: string): name is EventColumn => name in expressions;

/** The events of a request: what is in its columns, and the statement that finds them, in the order of time. */
export function eventsTable(
  tenantId: string,
  { from, to, filter, columns }: EventsRequest,
  format: Format,
): { columns: Column[]; statement: { text: string; values: unknown[] } } {
  const selected = (columns ?? eventColumns).map((name) => {
    if (isField(name)) return { name, ...expressions[name] };
    const property = sql.value(name.slice(PROPERTY.length));
    return format === "csv"
      ? { name, kind: "text" as const, of: sql`${e}.properties ->> ${property}::text` }
      : { name, kind: "json" as const, of: sql`(${e}.properties -> ${property}::text)::text` };
  });
  const { text, values } = sql.compile(sql`
    select ${sql.join(
      selected.map(({ of }) => of),
      ", ",
    )}
      from public.analytics_events ${e}
     where ${e}.tenant_id = ${sql.value(tenantId)}::uuid
       and ${e}."timestamp" >= ${sql.value(from)}::timestamptz and ${e}."timestamp" < ${sql.value(to)}::timestamptz
       and ${all(conditions(filter))}
     order by ${e}."timestamp", ${e}.id`);
  return { columns: selected.map(({ name, kind }) => ({ name, kind })), statement: { text, values } };
}
