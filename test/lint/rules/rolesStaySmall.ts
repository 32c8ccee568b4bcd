import { API_ROLES, OURS, type Rule } from "../rule.ts";

export const rolesStaySmall: Rule = {
  name: "roles of requests own nothing and are nobody's member; no role of ours passes row security; the owner owns all",
  why: "Owners, superusers and bypassrls pass row security, and members gain the policies of what they are members of.",
  sql: `
    select r.rolname || ' owns ' || pg_describe_object(d.classid, d.objid, d.objsubid) as offender
      from pg_shdepend d
      join pg_roles r on r.oid = d.refobjid
     where d.refclassid = 'pg_authid'::regclass and d.deptype = 'o'
       and d.dbid in (0, (select oid from pg_database where datname = current_database()))
       and (${API_ROLES} or r.rolname ~ '^bi_')
    union all
    select r.rolname || ' has an attribute that passes row security or makes roles'
      from pg_roles r
     where r.rolname ~ '^(api|erp|bi)_'
       and (r.rolsuper or r.rolbypassrls or r.rolcreaterole or r.rolcreatedb or r.rolreplication)
    union all
    select format('%s is a member of %s', r.rolname, m.roleid::regrole)
      from pg_auth_members m
      join pg_roles r on r.oid = m.member
     where (${API_ROLES} or r.rolname ~ '^bi_')
       and (r.rolname <> 'erp_authenticator' or m.inherit_option or m.admin_option)
       and not (
         r.rolname ~ '^bi_[0-9a-f]{32}_' and m.roleid = 'erp_analyst'::regrole and not (m.set_option or m.admin_option)
       )
    union all
    select format('%s is a member of erp_analyst', r.rolname)
      from pg_auth_members m
      join pg_roles r on r.oid = m.member
     where m.roleid = 'erp_analyst'::regrole
       and not (${API_ROLES} or r.rolname ~ '^bi_') and (r.rolname <> 'erp_user' or m.inherit_option or m.set_option)
    union all
    select format('%s is owned by %s', c.oid::regclass, pg_get_userbyid(c.relowner))
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     where ${OURS} and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and c.relowner <> 'erp_user'::regrole
    union all
    select format('%s is owned by %s', f.oid::regprocedure, pg_get_userbyid(f.proowner))
      from pg_proc f
      join pg_namespace n on n.oid = f.pronamespace
     where ${OURS} and f.proowner <> 'erp_user'::regrole`,
};
