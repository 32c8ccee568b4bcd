import { OURS, type Rule } from "../rule.ts";

export const settingsAreNotConstant: Rule = {
  name: "no immutable function reads a setting or the login, and the planner can look into the tenant's functions",
  why: "The value of an immutable function stays in cached plans: the next tenant gets this tenant's rows. One that is not inlined serves no index.",
  sql: `
    select f.oid::regprocedure || ' is immutable and reads a setting or the login' as offender
      from pg_proc f
      join pg_namespace n on n.oid = f.pronamespace
     where ${OURS}
       and f.prokind = 'f'
       and f.provolatile = 'i'
       and pg_get_functiondef(f.oid) ~* 'current_setting|session_user|app_hidden\\.(current|session)_'
    union all
    select name || ' is not a plain stable, parallel safe SQL function'
      from (values ('app_hidden.current_tenant_id()'), ('app_hidden.session_tenant_id()')) as tenant (name)
     where not exists (
       select
         from pg_proc f
         join pg_language l on l.oid = f.prolang
        where f.oid = to_regprocedure(tenant.name)
          and l.lanname = 'sql' and f.provolatile = 's' and f.proparallel = 's'
          and f.proconfig is null and not f.prosecdef and not f.proretset
     )
    union all
    select 'app_hidden.session_tenant_id() depends on more than the login'
      from pg_proc f
     where f.oid = 'app_hidden.session_tenant_id()'::regprocedure
       and (f.prosqlbody is null or pg_get_function_sqlbody(f.oid) ~* 'current_|select|app_')`,
};
