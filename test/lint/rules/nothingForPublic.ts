import { OURS, type Rule } from "../rule.ts";

export const nothingForPublic: Rule = {
  name: "PUBLIC may do nothing, now or by default",
  why: "Every login of the cluster is PUBLIC, those of other databases too; PostgreSQL gives it every new function.",
  // Types are left out: to use one gives no access to data.
  sql: `
    with object as (
      select 'schema ' || n.nspname as name, coalesce(n.nspacl, acldefault('n', n.nspowner)) as acl from pg_namespace n where ${OURS}
      union all
      select 'table ' || c.oid::regclass::text, c.relacl from pg_class c join pg_namespace n on n.oid = c.relnamespace where ${OURS}
      union all
      select format('column %s.%I', a.attrelid::regclass, a.attname), a.attacl
        from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace where ${OURS}
      union all
      select 'function ' || f.oid::regprocedure::text, coalesce(f.proacl, acldefault('f', f.proowner))
        from pg_proc f join pg_namespace n on n.oid = f.pronamespace where ${OURS}
      union all
      select 'the database', coalesce(datacl, acldefault('d', datdba)) from pg_database where datname = current_database()
      union all
      select 'new objects of ' || pg_get_userbyid(defaclrole), defaclacl from pg_default_acl
    )
    select format('%s: %s', name, lower(a.privilege)) as offender
      from object cross join lateral aclexplode(acl) as a (grantor, grantee, privilege, grantable)
     where a.grantee = 0
    union all
    select 'new functions of erp_user: execute'
     where not exists (
       select from pg_default_acl where defaclrole = 'erp_user'::regrole and defaclnamespace = 0 and defaclobjtype = 'f'
     )`,
};
