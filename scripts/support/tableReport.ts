import type pg from "pg";
import { OUR_SCHEMAS } from "../../src/db/catalogue/schemaQueries.ts";
import { withQualifiedNames } from "../../src/db/catalogue/withQualifiedNames.ts";

export type TableReport = {
  name: string;
  comment: string;
  rows: string;
  size: string;
  partitions: number;
  /** Its rows belong to tenants, so that row security must hold them apart. */
  ofTenants: boolean;
  rowSecurity: "forced" | "enabled" | "off";
  columns: string[][];
  indexes: string[][];
  foreignKeys: string[][];
  policies: string[][];
  grants: string[][];
};

/** Our tables as a person wants to read them; partitions are counted with their table. */
export function reportTables(client: pg.ClientBase): Promise<TableReport[]> {
  return withQualifiedNames(client, async () => {
    const { rows } = await client.query<TableReport>(REPORT, [OUR_SCHEMAS]);
    return rows;
  });
}

const list = (row: string, from: string, order: string) =>
  `coalesce((select json_agg(json_build_array(${row}) order by ${order}) from ${from}), '[]')`;
const lower = (words: string, text: string) => `regexp_replace(${text}, '${words}', lower('${words}'), 'g')`;

// Rows are what autovacuum counts: to count them exactly would read every table.
const REPORT = `
  with table_of_ours as (
    select c.*, n.nspname
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = any ($1) and c.relkind in ('r', 'p') and not c.relispartition
  )
  select c.oid::regclass::text as name,
         coalesce(obj_description(c.oid, 'pg_class'), '') as comment,
         to_char(coalesce(sum(s.n_live_tup), 0), 'FM999,999,999,999') as rows,
         pg_size_pretty(sum(pg_total_relation_size(p.relid))) as size,
         (count(*) filter (where p.level > 0))::integer as partitions,
         exists (
           select from pg_attribute a where a.attrelid = c.oid and (a.attname = 'tenant_id' or c.oid = to_regclass('public.tenants'))
         ) as "ofTenants",
         -- The weakest of the table and its partitions.
         case when bool_and(l.relrowsecurity and l.relforcerowsecurity) then 'forced' when bool_and(l.relrowsecurity) then 'enabled' else 'off' end as "rowSecurity",
         ${list(
           `a.attname, format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' else '' end,
            coalesce('default ' || pg_get_expr(d.adbin, d.adrelid), ''), coalesce(col_description(c.oid, a.attnum), '')`,
           "pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped",
           "a.attnum",
         )} as columns,
         ${list(
           `case when i.indisprimary then 'primary key' when i.indisunique then 'unique' else 'index' end,
            ${lower("WHERE", "regexp_replace(pg_get_indexdef(i.indexrelid), '^.* USING (btree )?', '')")}`,
           "pg_index i join pg_class x on x.oid = i.indexrelid where i.indrelid = c.oid",
           "i.indisprimary desc, i.indisunique desc, x.relname",
         )} as indexes,
         ${list(
           `regexp_replace(pg_get_constraintdef(k.oid), '^FOREIGN KEY (\\(.*?\\)) REFERENCES (\\S+)\\((.*?)\\).*$', '\\1 -> \\2 (\\3)'),
            lower(coalesce(substring(pg_get_constraintdef(k.oid) from ' (ON DELETE .*)$'), ''))`,
           "pg_constraint k where k.contype = 'f' and k.conrelid = c.oid",
           "k.conname",
         )} as "foreignKeys",
         ${list(
           `p.policyname, lower(p.cmd), array_to_string(p.roles, ', '), coalesce(p.qual, p.with_check)`,
           "pg_policies p where p.schemaname = c.nspname and p.tablename = c.relname",
           "p.policyname",
         )} as policies,
         ${list(
           "g.role, g.privileges",
           `(select role, string_agg(privilege, ', ' order by privilege) as privileges
               from (
                 select coalesce(r.rolname, 'PUBLIC') as role, lower(a.privilege) as privilege
                   from aclexplode(c.relacl) as a (grantor, grantee, privilege) left join pg_roles r on r.oid = a.grantee
                  where a.grantee <> c.relowner
                 union all
                 select coalesce(r.rolname, 'PUBLIC'), format('%s (%s)', lower(a.privilege), string_agg(t.attname, ', ' order by t.attnum))
                   from pg_attribute t
                  cross join aclexplode(t.attacl) as a (grantor, grantee, privilege)
                   left join pg_roles r on r.oid = a.grantee
                  where t.attrelid = c.oid
                  group by r.rolname, a.privilege
               ) as granted
              group by role) as g`,
           "g.role",
         )} as grants
    from table_of_ours c
   cross join lateral (
     select c.oid as relid, 0 as level, true as isleaf where c.relkind = 'r'
     union all
     select t.relid, t.level, t.isleaf from pg_partition_tree(c.oid) t where c.relkind = 'p'
   ) p
    join pg_class l on l.oid = p.relid
    left join pg_stat_user_tables s on s.relid = p.relid and p.isleaf
   group by c.oid, c.relname, c.relkind, c.relacl, c.relowner, c.nspname
   order by array_position($1, c.nspname::text), c.relname`;
