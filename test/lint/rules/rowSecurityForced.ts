import { OURS, type Rule } from "../rule.ts";

export const rowSecurityForced: Rule = {
  name: "row security is enabled and forced on every table of a tenant, its partitions, and all of public",
  why: "A table without it shows every tenant to whoever gets a grant; unforced, its owner passes unseen.",
  sql: `
    select c.oid::regclass::text as offender
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     where ${OURS}
       and c.relkind in ('r', 'p')
       and (
         n.nspname = 'public'
         or exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped)
       )
       and not (c.relrowsecurity and c.relforcerowsecurity)`,
};
