// Roles of ours, by name: every cluster has others too, and its own logins of analysts.
const OUR_ROLES = "'^(erp|api)_'";

// What an owner may do with its own objects goes without saying. An object without an access list has PostgreSQL's
// default one, which for functions and types includes PUBLIC.
const granted = (list: string, kind: string, owner: string) => `
  cross join lateral aclexplode(coalesce(${list}, acldefault('${kind}', ${owner}))) as a (grantor, grantee, privilege, grantable)
  where a.grantee <> ${owner}`;
const grantee = "coalesce((select rolname from pg_roles where oid = a.grantee), 'PUBLIC')";
const privilege = "lower(a.privilege) || case when a.grantable then ' (with grant option)' else '' end";

const systemSchema = "n.nspname ~ '^pg_' or n.nspname = 'information_schema'";
const toolsSchema = "n.nspname in ('graphile_worker', 'graphile_migrate')";

/** Each query answers rows of (grantee, privilege, object). */
export const privilegeQueries: Readonly<Record<string, string>> = {
  roles: `
    select rolname as grantee, 'is' as privilege,
           concat_ws(
             ', ',
             case when rolcanlogin then 'login' else 'nologin' end,
             case when rolinherit then 'inherit' else 'noinherit' end,
             case when rolsuper then 'superuser' end,
             case when rolcreaterole then 'createrole' end,
             case when rolcreatedb then 'createdb' end,
             case when rolreplication then 'replication' end,
             case when rolbypassrls then 'bypassrls' end,
             'with ' || array_to_string(rolconfig, ', ')
           ) as object
      from pg_roles where rolname ~ ${OUR_ROLES}`,

  memberships: `
    select u.rolname as grantee, 'member of' as privilege,
           format('%s (inherit %s, set %s, admin %s)', g.rolname, m.inherit_option::text, m.set_option::text, m.admin_option::text) as object
      from pg_auth_members m
      join pg_roles u on u.oid = m.member
      join pg_roles g on g.oid = m.roleid
     where (u.rolname ~ ${OUR_ROLES} or g.rolname ~ ${OUR_ROLES}) and u.rolname !~ '^bi_'`,

  database: `
    select ${grantee} as grantee, ${privilege} as privilege, 'the database' as object
      from pg_database d ${granted("d.datacl", "d", "d.datdba")} and d.datname = current_database()
    union all
    select pg_get_userbyid(datdba), 'owns', 'the database' from pg_database where datname = current_database()`,

  schemas: `
    select ${grantee} as grantee, ${privilege} as privilege, n.nspname as object
      from pg_namespace n ${granted("n.nspacl", "n", "n.nspowner")} and not (${systemSchema})`,

  types: `
    select ${grantee} as grantee, ${privilege} as privilege, t.oid::regtype::text as object
      from pg_type t
      join pg_namespace n on n.oid = t.typnamespace
      left join pg_class c on c.oid = t.typrelid
      ${granted("t.typacl", "T", "t.typowner")}
       and not (${systemSchema} or ${toolsSchema})
       and (t.typtype in ('e', 'd') or c.relkind = 'c')`,

  tables: `
    select ${grantee} as grantee, ${privilege} as privilege, c.oid::regclass::text as object
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      ${granted("c.relacl", "r", "c.relowner")}
       and not (${systemSchema} or ${toolsSchema})
       and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
    union all
    select ${grantee} as grantee, ${privilege} as privilege,
           format('%s (%s)', c.oid::regclass, string_agg(t.attname, ', ' order by t.attname collate "C")) as object
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      join pg_attribute t on t.attrelid = c.oid
      ${granted("t.attacl", "c", "c.relowner")}
       and not (${systemSchema} or ${toolsSchema})
     group by a.grantee, a.privilege, a.grantable, c.oid`,

  functions: `
    select ${grantee} as grantee, ${privilege} as privilege, f.oid::regprocedure::text as object
      from pg_proc f
      join pg_namespace n on n.oid = f.pronamespace
      ${granted("f.proacl", "f", "f.proowner")}
       and not (${systemSchema} or ${toolsSchema})`,

  "default privileges": `
    select ${grantee} as grantee, ${privilege} as privilege,
           concat_ws(
             ' ',
             'new',
             case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions' when 'T' then 'types' else 'schemas' end,
             'of ' || pg_get_userbyid(d.defaclrole),
             'in ' || (select nspname from pg_namespace where oid = d.defaclnamespace)
           ) as object
      from pg_default_acl d cross join lateral aclexplode(d.defaclacl) as a (grantor, grantee, privilege, grantable)`,
};
