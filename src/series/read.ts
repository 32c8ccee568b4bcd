import { type SQL, sql } from "postgraphile/pg-sql2";
import { z } from "zod";
import {
  all,
  conditions,
  currencySpan,
  dimensionSql,
  expressionSql,
  type Reading,
  source,
} from "./expressions.ts";
import { iso, type Pieces, type Plan, type Run, type Unit } from "./plan.ts";
import { MAX_ROWS, type SeriesRequest } from "./request.ts";
import type { Output } from "./resolve.ts";

const row = z.object({
  kind: z.enum(["group", "total", "empty"]),
  key: z.string().nullable(),
  dimensions: z.string().nullable().array(),
  is_other: z.boolean(),
  /** Among the groups that `top` asks for; null for the others. */
  rank: z.coerce.number().nullable(),
  values: z.string().nullable().array(),
  /** First and last currency of each output's amounts. */
  currencies: z.string().nullable().array().array(),
});
/** A group's values; the total's; and those of a group without events. */
export type Row = z.output<typeof row>;
export type Group = { dimensions: (string | null)[]; is_other: boolean };

/** Reads the groups of a range. `back`: by how much the range lies before the buckets that its events count for. */
export async function readGroups(
  run: Run,
  tenantId: string,
  request: SeriesRequest,
  outputs: readonly Output[],
  plan: Plan,
  range: { pieces: Pieces; back: string | null; ranked?: Group[] },
): Promise<Row[]> {
  const { text, values } = sql.compile(statement(tenantId, request, outputs, plan, range));
  const { rows } = await run({ text, values });
  return row.array().parse(rows);
}

function statement(
  tenantId: string,
  request: SeriesRequest,
  outputs: readonly Output[],
  plan: Plan,
  { pieces, back, ranked }: { pieces: Pieces; back: string | null; ranked?: Group[] },
): SQL {
  const reading: Reading = pieces.days === "{}" && pieces.quarters === "{}" ? "events" : "rollups";
  const dimensions = request.dimensions ?? [];
  const ds = dimensions.map((_, index) => sql.identifier(`d${index + 1}`));
  const sourceSql =
    reading === "events"
      ? eventsSource(tenantId, request, plan, pieces, back)
      : rollupsSource(tenantId, request, plan, pieces, back);
  const keyed = sql`source as not materialized (
      select ${source}.*${sql.join(
        dimensions.map((dimension, index) => sql`, ${dimensionSql(dimension)} as ${ds[index] ?? sql.null}`),
        "",
      )}
        from (${sourceSql}) ${source}
    )`;
  const { top } = request;
  const by = outputs.find(({ name }) => name === (top?.by ?? outputs[0]?.name));
  const list = sql.join(ds, ", ");
  const same = sql.join(
    ds.map(
      (d) =>
        sql`coalesce(${source}.${d}, '') = coalesce(ranked.${d}, '') and (${source}.${d} is null) = (ranked.${d} is null)`,
    ),
    " and ",
  );
  const ranking =
    top && by
      ? ranked
        ? sql`, ranked as materialized (
            select ${sql.join(
              ds.map((d, index) => sql`r.value ->> ${sql.literal(index)} as ${d}`),
              ", ",
            )}, r.ordinality as place
              from jsonb_array_elements(${sql.value(JSON.stringify(ranked.map((group) => group.dimensions)))}::jsonb) with ordinality r
          )`
        : sql`, ranked as materialized (
            select ${list}, row_number() over (order by ${expressionSql(by.expression, reading)} desc nulls last, ${list}) as place
              from source ${source} group by ${list} order by place limit ${sql.value(top.first)}::integer
          )`
      : sql.blank;
  const from = top
    ? sql`(select ${source}.*, ranked.place from source ${source} ${top.others === false ? sql`join` : sql`left join`} ranked on ${same}) ${source}`
    : sql`source ${source}`;
  const shown = ds.map((d) =>
    top ? sql`case when ${source}.place is not null then ${source}.${d} end` : sql`${source}.${d}`,
  );
  const place = top ? sql`${source}.place` : sql`0`;
  const spans = outputs.map(({ expression }) =>
    request.mixCurrencies ? undefined : currencySpan(expression, reading, request.filter),
  );
  const computed = sql`array[${sql.join(
    outputs.map(({ expression }) => sql`(${expressionSql(expression, reading)})::text`),
    ", ",
  )}] as values, jsonb_build_array(${sql.join(
    spans.map((span) =>
      span ? sql`jsonb_build_array(${span.first}, ${span.last})` : sql`jsonb_build_array(null, null)`,
    ),
    ", ",
  )}) as currencies`;
  const none = sql`'{}'::text[]`;
  const key =
    plan.unit === "all"
      ? sql`'all'`
      : plan.unit === "hour_of_day" || plan.unit === "day_of_week"
        ? sql`g.bucket::text`
        : sql`to_char(g.bucket at time zone 'UTC', ${iso})`;
  return sql`
    with ${keyed}${ranking},
    keyed as not materialized (
      select ${source}.*${sql.join(
        shown.map((one, index) => sql`, ${one} as ${sql.identifier(`shown${index}`)}`),
        "",
      )}, ${place} as rank from ${from}
    ),
    grouped as (
      select grouping(${source}.bucket) = 1 as is_total, ${source}.bucket, ${source}.rank,
             ${
               ds.length > 0
                 ? sql`array[${sql.join(
                     shown.map((_, index) => sql`${source}.${sql.identifier(`shown${index}`)}`),
                     ", ",
                   )}]`
                 : none
             } as dimensions,
             ${computed}
        from keyed ${source}
       group by grouping sets (
         (${source}.bucket, ${source}.rank${sql.join(
           shown.map((_, index) => sql`, ${source}.${sql.identifier(`shown${index}`)}`),
           "",
         )}), ()
       )
    )
    (select case when g.is_total then 'total' else 'group' end as kind, ${key} as key, g.dimensions,
            ${top ? sql`g.rank is null and not g.is_total` : sql`false`} as is_other, g.rank, g.values, g.currencies
       from grouped g
      order by g.is_total desc, g.bucket, g.rank nulls last, g.dimensions
      limit ${sql.literal(MAX_ROWS + 2)})
    union all
    select 'empty', null, ${none}, false, null, ${computed} from source ${source} where false`;
}

/** The bucket: when it starts, or a number. */
function bucketSql(time: SQL, local: SQL, { unit, zone, shift }: Plan): SQL {
  if (unit === "all") return sql`0`;
  if (unit === "hour_of_day") return sql`extract(hour from ${local})::integer`;
  if (unit === "day_of_week") return sql`extract(dow from ${local})::integer`;
  return sql`app_hidden.bucket_of(${time}, ${local}, ${sql.value(zone)}::text, ${sql.literal(unit)}, ${sql.value(shift)}::interval)`;
}

const truncated = new Set<Unit>(["hour", "day", "week", "month", "quarter", "year"]);

/** The bucket of a moment of the range, or of the later one for which it counts in a comparison. */
function bucketOfTime(time: SQL, plan: Plan, back: string | null): SQL {
  const local = sql`(${time} at time zone ${sql.value(plan.zone)}::text)`;
  // What bucket_of does, at a third of the price.
  if (back === null && plan.shift === "00:00:00" && truncated.has(plan.unit))
    return sql`date_trunc(${sql.literal(plan.unit)}, ${time}, ${sql.value(plan.zone)}::text)`;
  if (back === null) return bucketSql(time, local, plan);
  const later = sql`(${local} + ${sql.value(back)}::interval)`;
  return bucketSql(sql`(${later} at time zone ${sql.value(plan.zone)}::text)`, later, plan);
}

function eventsSource(
  tenantId: string,
  { filter }: SeriesRequest,
  plan: Plan,
  { from, to }: Pieces,
  back: string | null,
): SQL {
  return sql`
    select ${source}.*, ${bucketOfTime(sql`${source}."timestamp"`, plan, back)} as bucket
      from public.analytics_events ${source}
     where ${source}.tenant_id = ${sql.value(tenantId)}::uuid
       and ${source}."timestamp" >= ${sql.value(from)}::timestamptz and ${source}."timestamp" < ${sql.value(to)}::timestamptz
       and ${all(conditions(filter))}`;
}

function rollupsSource(
  tenantId: string,
  { filter }: SeriesRequest,
  plan: Plan,
  { days, quarters, raw }: Pieces,
  back: string | null,
): SQL {
  const tenant = sql`${source}.tenant_id = ${sql.value(tenantId)}::uuid`;
  const measures = sql`${source}.event_type, ${source}.event_name, ${source}.events, ${source}.measured, ${source}.total, ${source}.lowest, ${source}.highest`;
  // A stretch at a time (offset 0 keeps it so): each is a range of the index.
  const stretches = (multirange: SQL) =>
    sql`(select lower(r) as begins, upper(r) as ends from unnest(${multirange}) r) stretch`;
  const local = sql`(${source}.day::timestamp${back === null ? sql.blank : sql` + ${sql.value(back)}::interval`})`;
  const branches: SQL[] = [];
  if (days !== "{}")
    branches.push(sql`
      select ${measures}, null::text as source, nullif(${source}.currency, '') as currency,
             ${bucketSql(sql`null::timestamptz`, local, plan)} as bucket
        from ${stretches(sql`${sql.value(days)}::datemultirange`)}
       cross join lateral (
         select * from app_hidden.event_rollups_by_day ${source}
          where ${tenant} and ${source}.day >= stretch.begins and ${source}.day < stretch.ends and ${all(conditions(filter))}
         offset 0
       ) ${source}`);
  if (quarters !== "{}")
    branches.push(sql`
      select ${measures}, ${source}.source, ${source}.currency, ${bucketOfTime(sql`${source}.bucket`, plan, back)} as bucket
        from ${stretches(sql`${sql.value(quarters)}::tstzmultirange`)}
       cross join lateral (
         select * from (
           select r.tenant_id, r.bucket, r.event_type, r.event_name, nullif(r.source, '') as source, nullif(r.currency, '') as currency,
                  r.events, r.measured, r.total, r.lowest, r.highest
             from app_hidden.event_rollups r
         ) ${source}
          where ${tenant} and ${source}.bucket >= stretch.begins and ${source}.bucket < stretch.ends and ${all(conditions(filter))}
         offset 0
       ) ${source}`);
  if (raw !== "{}")
    branches.push(sql`
      select ${source}.event_type, ${source}.event_name, 1::bigint as events, (${source}.value is not null)::integer::bigint as measured,
             ${source}.value as total, ${source}.value as lowest, ${source}.value as highest, ${source}.source, ${source}.currency,
             ${bucketOfTime(sql`${source}."timestamp"`, plan, back)} as bucket
        from ${stretches(sql`${sql.value(raw)}::tstzmultirange`)}
       cross join lateral (
         select * from public.analytics_events ${source}
          where ${tenant} and ${source}."timestamp" >= stretch.begins and ${source}."timestamp" < stretch.ends and ${all(conditions(filter))}
         offset 0
       ) ${source}`);
  return sql.join(branches, " union all ");
}
