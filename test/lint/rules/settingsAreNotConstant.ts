import { OURS, type Rule } from "../rule.ts";

export const settingsAreNotConstant: Rule = {
  name: "no immutable function reads a setting, and the planner can look into current_tenant_id()",
  why: "The value of an immutable function stays in cached plans: the next tenant gets this tenant's rows. One that is not inlined serves no index.",
  sql: `
    select f.oid::regprocedure || ' is immutable and reads a setting' as offender
      from pg_proc f
      join pg_namespace n on n.oid = f.pronamespace
     where ${OURS}
       and f.prokind = 'f'
       and f.provolatile = 'i'
       and pg_get_functiondef(f.oid) ~* 'current_setting|app_hidden\\.current_'
    union all
    select 'app_hidden.current_tenant_id() is not a plain stable, parallel safe SQL function'
     where not exists (
       select
         from pg_proc f
         join pg_language l on l.oid = f.prolang
        where f.oid = to_regprocedure('app_hidden.current_tenant_id()')
          and l.lanname = 'sql' and f.provolatile = 's' and f.proparallel = 's'
          and f.proconfig is null and not f.prosecdef and not f.proretset
     )`,
};
