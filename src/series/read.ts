import { type SQL, sql } from "postgraphile/pg-sql2";
import { z } from "zod";
import { currencySpan, dimensionSql, expressionSql, outputSql, type Reading, source } from "./expressions.ts";
import { iso, type Pieces, type Plan, type Run } from "./plan.ts";
import { MAX_ROWS, type SeriesRequest } from "./request.ts";
import type { Output } from "./resolve.ts";
import { eventsSource, isMergeable, isOwn, ownColumn, summedSource } from "./sources.ts";

const row = z.object({
  kind: z.enum(["group", "total", "empty", "ranking"]),
  key: z.string().nullable(),
  dimensions: z.string().nullable().array(),
  is_other: z.boolean(),
  /** Among the groups that `top` asks for; null for the others. */
  rank: z.coerce.number().nullable(),
  values: z.string().nullable().array(),
  /** First and last currency of each output's amounts. */
  currencies: z.string().nullable().array().array(),
});
/** A group's values; the total's; those of a group without events; of the ranking, the currencies that it would mix. */
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
  const reading: Reading = isMergeable(outputs) ? "rollups" : "events";
  const dimensions = request.dimensions ?? [];
  const ds = dimensions.map((_, index) => sql.identifier(`d${index + 1}`));
  const range = { tenantId, request, plan, pieces, back };
  let owns = 0;
  const keys = dimensions.map((dimension) =>
    reading === "rollups" && isOwn(dimension) ? sql`${source}.${ownColumn(owns++)}` : dimensionSql(dimension),
  );
  // What is summed is read once, though it is ranked, grouped and totalled; events are read as often as that takes.
  const base =
    reading === "rollups"
      ? sql`summed as materialized (${summedSource(range, outputs)}), `
      : sql`summed as not materialized (${eventsSource(range)}), `;
  const keyed = sql`${base}source as not materialized (
      select ${source}.*${sql.join(
        keys.map((key, index) => sql`, ${key} as ${ds[index] ?? sql.null}`),
        "",
      )}
        from summed ${source}
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
  const rankedBy = by && currencySpan(by.expression, reading, request);
  // Over all groups, also those that do not make it.
  const mixture = rankedBy
    ? sql`, min(r.first) filter (where r.first <> r.last) over () as first, max(r.last) filter (where r.first <> r.last) over () as last`
    : sql.blank;
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
            select ${list}, row_number() over (order by r.value desc nulls last, ${list}) as place${mixture}
              from (
                select ${list}, ${expressionSql(by.expression, reading)} as value${
                  rankedBy ? sql`, ${rankedBy.first} as first, ${rankedBy.last} as last` : sql.blank
                }
                  from source ${source} group by ${list}
              ) r
             order by place limit ${sql.value(top.first)}::integer
          )`
      : sql.blank;
  const from = top
    ? sql`(select ${source}.*, ranked.place from source ${source} ${top.others === false ? sql`join` : sql`left join`} ranked on ${same}) ${source}`
    : sql`source ${source}`;
  const shown = ds.map((d) =>
    top ? sql`case when ${source}.place is not null then ${source}.${d} end` : sql`${source}.${d}`,
  );
  const place = top ? sql`${source}.place` : sql`0`;
  const spans = outputs.map(({ expression }) => currencySpan(expression, reading, request));
  const computed = sql`array[${sql.join(
    outputs.map(({ expression }) => sql`(${outputSql(expression, reading)})::text`),
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
    select 'empty', null, ${none}, false, null, ${computed} from source ${source} where false${
      top && rankedBy && !ranked
        ? sql`
    union all
    select 'ranking', null, ${none}, false, null, '{}'::text[], jsonb_build_array(jsonb_build_array(r.first, r.last)) from ranked r where r.place = 1`
        : sql.blank
    }`;
}
