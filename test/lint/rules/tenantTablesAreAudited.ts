import { OURS, type Rule } from "../rule.ts";

/** Tables of tenants, and their rows of ours, that leave no trace in the audit log, and why not. */
const UNRECORDED: Record<string, string> = {
  "public.audit_logs": "It is the log; its guard refuses changes.",
  "app_private.audit_seals": "Proves the log; its guard refuses changes.",
  "app_private.audit_purges": "The log has a record of each, written by the function that writes it.",
  "app_private.audit_anchorings": "Says what an anchor has.",
  "app_private.event_keys": "Goes with its event, and events are recorded by batch.",
  "app_private.event_counts": "Counts events.",
  "app_private.event_imports": "Says how far an import has come; its batches are recorded.",
  "app_hidden.event_rollups": "Computed from events.",
  "app_hidden.event_rollups_by_day": "Computed from events.",
  "app_hidden.event_marks": "Says what is to be computed.",
  "app_hidden.rollup_states": "Says what was computed.",
  "app_private.subject_states": "Says what was computed.",
  "public.rejected_records": "What a provider sent that was no event.",
  "app_private.sync_leases": "Says which worker is at a sync.",
  "app_private.credential_refreshes": "Says which worker is at it.",
  "app_private.refresh_seen": "What a full refresh has met.",
  "app_private.refresh_sweeps": "How far a full refresh has come; what it deletes is recorded.",
  "app_private.uploads": "Files on their way; who sent one is recorded by what writes it.",
  "app_private.upload_chunks": "Their bytes.",
  "app_private.webhook_deliveries": "What a provider sent; the events are recorded.",
  "app_private.retired_credentials": "Credentials that were replaced, which is recorded.",
  "app_private.tenant_deletions":
    "How far a deletion has come; the operator's log has its beginning and end.",
};
const unrecorded = Object.keys(UNRECORDED)
  .map((name) => `('${name}')`)
  .join(", ");

export const tenantTablesAreAudited: Rule = {
  name: "every table of a tenant has triggers that record inserts, updates and deletes in the audit log, or is listed with a reason",
  why: "Plain SQL and new functions change it, too: what no trigger records is forgotten sooner or later.",
  sql: `
    with unrecorded (name) as (values ${unrecorded}),
    tenant_table as (
      select c.oid, c.oid::regclass::text as name,
             (select coalesce(bit_or(t.tgtype::integer), 0) from pg_trigger t join pg_proc f on f.oid = t.tgfoid
               where t.tgrelid = c.oid and t.tgenabled in ('O', 'A') and f.oid::regproc::text in ('app_private.tg_audit', 'app_private.tg_audit_events')) as events
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
       where ${OURS} and c.relkind in ('r', 'p') and not c.relispartition
         and (
           c.oid = 'public.tenants'::regclass
           or exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped)
         )
    )
    select format('%s is not recorded on %s', t.name, event.name) as offender
      from tenant_table t
     cross join (values (4, 'insert'), (8, 'delete'), (16, 'update')) as event (bit, name)
     where t.events & event.bit = 0 and t.name not in (select u.name from unrecorded u)
    union all
    select u.name || ' is listed as unrecorded, but is no table of a tenant, or is recorded'
      from unrecorded u
     where not exists (select from tenant_table t where t.name = u.name and t.events = 0)`,
};
