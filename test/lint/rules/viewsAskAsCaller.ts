import { OURS, type Rule } from "../rule.ts";

export const viewsAskAsCaller: Rule = {
  name: "views run as their caller, and no materialised view or foreign table is granted",
  why: "A view asks as its owner unless told otherwise, and the owner sees every tenant. The other two have no row security.",
  sql: `
    select c.oid::regclass::text as offender
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     where ${OURS}
       and c.relkind = 'v'
       and not exists (
         select from pg_options_to_table(c.reloptions) o where o.option_name = 'security_invoker' and o.option_value::boolean
       )
    union
    select c.oid::regclass::text
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      join pg_attribute t on t.attrelid = c.oid
     cross join lateral aclexplode(coalesce(c.relacl, '{}') || coalesce(t.attacl, '{}')) as a (grantor, grantee, privilege, grantable)
     where ${OURS} and c.relkind in ('m', 'f') and a.grantee <> c.relowner`,
};
