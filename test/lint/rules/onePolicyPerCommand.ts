import { OURS, type Rule } from "../rule.ts";

export const onePolicyPerCommand: Rule = {
  name: "a role has one policy for each command that it may use, and none for the others",
  why: "Policies of one role and command are joined by `or`: slow, and the widest wins. A grant without a policy shows nothing.",
  sql: `
    with policy as (
      select p.polrelid, coalesce(r.rolname, 'PUBLIC') as role, command.name as command
        from pg_policy p
       cross join unnest(p.polroles) as role (oid)
        left join pg_roles r on r.oid = role.oid
       cross join (values ('r', 'SELECT'), ('a', 'INSERT'), ('w', 'UPDATE'), ('d', 'DELETE')) as command (code, name)
       where p.polpermissive and p.polcmd::text in (command.code, '*')
    ),
    permitted as (
      select c.oid, r.rolname as role, command.name as command
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
       cross join pg_roles r
       cross join (values ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) as command (name)
       where ${OURS}
         and c.relkind in ('r', 'p')
         and c.relrowsecurity
         and r.rolname ~ '^(api|erp)_'
         and (
           has_table_privilege(r.oid, c.oid, command.name)
           or (command.name <> 'DELETE' and has_any_column_privilege(r.oid, c.oid, command.name))
         )
    )
    select format(
             '%s, %s on %s: %s policies%s', coalesce(m.role, p.role), lower(coalesce(m.command, p.command)),
             coalesce(m.oid, p.polrelid)::regclass, count(p.role), case when count(m.role) = 0 then ', no grant' end
           ) as offender
      from policy p
      full join permitted m on (m.oid, m.role, m.command) = (p.polrelid, p.role, p.command)
     group by coalesce(m.role, p.role), coalesce(m.command, p.command), coalesce(m.oid, p.polrelid)
    having count(p.role) <> 1 or count(m.role) = 0`,
};
