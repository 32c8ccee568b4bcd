import type { Rule } from "../rule.ts";

const GUARDED = ["app_private.audit_seals", "app_private.audit_purges"];
const guarded = GUARDED.map((name) => `('${name}')`).join(", ");

export const auditIsGuarded: Rule = {
  name: "the audit log, each of its partitions and what proves it refuse updates, deletions and truncation, and nobody has a grant for them",
  why: "Grants do not bind the owner; a trigger for TRUNCATE is not inherited by partitions.",
  sql: `
    with guarded as (
      select c.oid
        from pg_class c
       where c.oid = 'public.audit_logs'::regclass
          or c.oid in (select i.inhrelid from pg_inherits i where i.inhparent = 'public.audit_logs'::regclass)
          or c.oid::regclass::text in (select name from (values ${guarded}) as names (name))
    )
    select format('%s does not refuse %s', g.oid::regclass, event.name) as offender
      from guarded g
     cross join (values (8, 'delete'), (16, 'update'), (32, 'truncate')) as event (bit, name)
     where not exists (
       select from pg_trigger t join pg_proc f on f.oid = t.tgfoid
        where t.tgrelid = g.oid and t.tgtype::integer & event.bit > 0 and t.tgtype::integer & 2 > 0 and t.tgenabled in ('O', 'A') and t.tgqual is null
          and f.oid::regproc::text in ('app_private.tg_guard_audit', 'app_private.tg_guard_seals')
     )
    union all
    select format('%s may %s %s', r.rolname, lower(privilege.name), g.oid::regclass)
      from guarded g
     cross join pg_roles r
     cross join (values ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE')) as privilege (name)
     where not r.rolsuper and r.rolname !~ '^pg_' and r.rolname <> 'erp_user'
       and (
         has_table_privilege(r.oid, g.oid, privilege.name)
         or (privilege.name in ('INSERT', 'UPDATE') and has_any_column_privilege(r.oid, g.oid, privilege.name))
       )`,
};
