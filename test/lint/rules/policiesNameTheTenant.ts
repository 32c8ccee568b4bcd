import { OURS, type Rule } from "../rule.ts";

export const policiesNameTheTenant: Rule = {
  name: "every policy begins with the tenant, in using and in with check, and reads no table",
  why: "Isolation must not depend on whatever else a policy says. The owner, and the operator on tenants, are the exceptions. A login of analysts sets what it likes: its tenant is its name's.",
  // PostgreSQL prints (a and b and c) flat and in parentheses, so that a first member is a condition of the whole.
  sql: `
    with policy as (
      select p.polrelid::regclass::text as table_name, p.polname, p.polcmd,
             array(select coalesce(r.rolname, 'PUBLIC') from unnest(p.polroles) role (oid) left join pg_roles r on r.oid = role.oid) as roles,
             pg_get_expr(p.polqual, p.polrelid) as visible, pg_get_expr(p.polwithcheck, p.polrelid) as written,
             case p.polrelid::regclass::text when 'public.tenants' then 'id' else 'tenant_id' end as tenant
        from pg_policy p
        join pg_class c on c.oid = p.polrelid
        join pg_namespace n on n.oid = c.relnamespace
       where ${OURS}
    ),
    required as (
      select policy.*, side.name as side, side.expression
        from policy
       cross join lateral (values ('using', visible, 'rwd*'), ('with check', written, 'aw*')) as side (name, expression, commands)
       where position(polcmd::text in side.commands) > 0
    )
    select format('%s on %s: %s %s', polname, table_name, side, coalesce(expression, 'is missing')) as offender
      from required
     where (
         expression is null
         or expression ~ '\\mSELECT\\M'
         or 'erp_analyst' = any (roles)
         or not (
           expression = format('(%s = app_hidden.current_tenant_id())', tenant)
           or starts_with(expression, format('((%s = app_hidden.current_tenant_id()) AND ', tenant))
         )
       )
       and not (
         polname = 'select_analyst' and polcmd = 'r' and roles = '{erp_analyst}'
         and expression is not distinct from format('(%s = app_hidden.session_tenant_id())', tenant)
       )
       and not (polname = 'owner_all' and polcmd = '*' and roles = '{erp_user}' and expression is not distinct from 'true')
       and not (
         table_name = 'public.tenants' and polname in ('select_super_admin', 'update_super_admin')
         and polcmd = case polname when 'select_super_admin' then 'r' else 'w' end
         and roles = '{api_super_admin}' and expression is not distinct from 'true'
       )`,
};
