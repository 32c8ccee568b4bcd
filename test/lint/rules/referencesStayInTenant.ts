import { OURS, type Rule } from "../rule.ts";

export const referencesStayInTenant: Rule = {
  name: "references between tables of tenants carry tenant_id, say what a deletion does, and are indexed",
  why: "Without tenant_id a row can point into another tenant. Without an index, a deletion reads the whole referring table.",
  sql: `
    with reference as (
      select k.*,
             array(select a.attname::text from unnest(k.conkey) with ordinality u (attnum, place)
                     join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum order by u.place) as columns,
             array(select a.attname::text from unnest(k.confkey) with ordinality u (attnum, place)
                     join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.attnum order by u.place) as targets,
             array(select a.attname::text from unnest(k.confdelsetcols) as u (attnum)
                     join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum) as emptied,
             exists (select from pg_attribute a where a.attrelid = k.confrelid and a.attname = 'tenant_id') as into_tenant,
             k.confrelid = 'public.tenants'::regclass as to_tenants
        from pg_constraint k
        join pg_namespace n on n.oid = k.connamespace
       where k.contype = 'f' and ${OURS}
    ),
    problem as (
      select r.*, 'does not start with tenant_id on both sides' as what from reference r
       where (into_tenant and (columns[1] <> 'tenant_id' or targets[1] <> 'tenant_id'))
          or (to_tenants and (columns <> '{tenant_id}' or targets <> '{id}'))
      union all
      select r.*, 'does not state on delete' from reference r where confdeltype = 'a'
      union all
      select r.*, 'empties tenant_id' from reference r
       where confdeltype in ('n', 'd') and 'tenant_id' = any (columns) and (emptied = '{}' or 'tenant_id' = any (emptied))
      union all
      select r.*, 'is not checked' from reference r where not (convalidated and conenforced)
      union all
      select r.*, 'has no index' from reference r
       where not exists (
         select
           from pg_index i
          where i.indrelid = r.conrelid and i.indpred is null and i.indisvalid
            and i.indnkeyatts >= cardinality(r.conkey)
            and (i.indkey::smallint[])[0:cardinality(r.conkey) - 1] @> r.conkey
       )
    )
    select format('%s on %s (%s) %s', conname, conrelid::regclass, array_to_string(columns, ', '), what) as offender from problem`,
};
