import { API_ROLES, OURS, type Rule } from "../rule.ts";

export const requestsHaveFewRights: Rule = {
  name: "roles of requests cannot truncate, add triggers, refer to or maintain a table, make objects, or enter private schemas; analysts only read",
  why: "Truncate and references pass row security; in app_private are secrets; partitions have no policies for requests.",
  sql: `
    select format('%s may %s %s', r.rolname, lower(privilege.name), c.oid::regclass) as offender
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     cross join pg_roles r
     cross join (values ('TRUNCATE'), ('TRIGGER'), ('REFERENCES'), ('MAINTAIN')) as privilege (name)
     where ${OURS} and c.relkind in ('r', 'p', 'v', 'm', 'f') and (${API_ROLES})
       and has_table_privilege(r.oid, c.oid, privilege.name)
    union all
    select format('%s may use schema %s', r.rolname, n.nspname)
      from pg_namespace n
     cross join pg_roles r
     where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'public') and (${API_ROLES})
       and n.nspname <> case when r.rolname = 'erp_analyst' then 'analytics' else 'app_hidden' end
       and has_schema_privilege(r.oid, n.oid, 'USAGE')
    union all
    select format('%s may create in schema %s', r.rolname, n.nspname)
      from pg_namespace n
     cross join pg_roles r
     where (${API_ROLES}) and has_schema_privilege(r.oid, n.oid, 'CREATE')
    union all
    select r.rolname || ' may make temporary tables'
      from pg_roles r
     where (${API_ROLES}) and has_database_privilege(r.oid, current_database(), 'TEMPORARY')
    union all
    select format('%s may %s %s', r.rolname, lower(privilege.name), c.oid::regclass)
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     cross join pg_roles r
     cross join (values ('INSERT'), ('UPDATE'), ('DELETE')) as privilege (name)
     where ${OURS} and c.relkind in ('r', 'p', 'v', 'm', 'f') and r.rolname = 'erp_analyst'
       and (
         has_table_privilege(r.oid, c.oid, privilege.name)
         or (privilege.name <> 'DELETE' and has_any_column_privilege(r.oid, c.oid, privilege.name))
       )
    union all
    select format('%s may call %s', r.rolname, f.oid::regprocedure)
      from pg_proc f
      join pg_namespace n on n.oid = f.pronamespace
     cross join pg_roles r
     where ${OURS} and r.rolname = 'erp_analyst'
       and n.nspname <> 'analytics' and f.oid <> 'app_hidden.session_tenant_id()'::regprocedure
       and has_function_privilege(r.oid, f.oid, 'EXECUTE')`,
};
