import { sql } from "postgraphile/pg-sql2";
import { z } from "zod";
import { ApiError } from "../graphql/errors.ts";
import { isRollable, isRollableFilter } from "./expressions.ts";
import { type Filter, type Granularity, MAX_ROWS, type SeriesRequest } from "./request.ts";
import { measuresOf, type Output } from "./resolve.ts";

/** Runs a statement in the transaction of the request. */
export type Run = (query: { text: string; values: unknown[] }) => Promise<{ rows: readonly unknown[] }>;

const pieces = z.object({
  days: z.string(),
  quarters: z.string(),
  raw: z.string(),
  from: z.string(),
  to: z.string(),
});
/** Where a range is read: days and quarters of an hour of rollups, and the events of `raw`; multiranges. */
export type Pieces = z.output<typeof pieces>;
const bucket = z.object({ key: z.string(), start: z.string().nullable(), label: z.string() });
export type Bucket = z.output<typeof bucket>;
const planned = z.object({
  zone: z.string(),
  shift: z.string(),
  back: z.string().nullable(),
  /** The days about changes of clocks; null when most of the answer comes from days. */
  odd: z.string().nullable(),
  marked: z.number().nullable(),
  refreshed_at: z.string().nullable(),
  current: pieces,
  previous: pieces.nullable(),
  buckets: bucket.array(),
});
/** isAbsolute: `back` is as long a time, and not a distance on the calendar. */
export type Plan = z.output<typeof planned> & { unit: Unit; isAbsolute: boolean };

export const units = {
  QUARTER_HOUR: "quarter_hour",
  HOUR: "hour",
  DAY: "day",
  WEEK: "week",
  MONTH: "month",
  QUARTER: "quarter",
  YEAR: "year",
  HOUR_OF_DAY: "hour_of_day",
  DAY_OF_WEEK: "day_of_week",
  ALL: "all",
} as const satisfies Record<Granularity, string>;
export type Unit = (typeof units)[Granularity];

const shortest: Partial<Record<Unit, number>> = {
  quarter_hour: 900,
  hour: 3_600,
  day: 82_800,
  week: 600_000,
};
const labels: Partial<Record<Unit, string>> = {
  quarter_hour: 'YYYY-MM-DD"T"HH24:MI',
  hour: 'YYYY-MM-DD"T"HH24:MI',
  day: "YYYY-MM-DD",
  week: "YYYY-MM-DD",
  month: "YYYY-MM",
  quarter: "YYYY-MM",
  year: "YYYY",
};
/** How a moment is written as text, to the microsecond. */
export const iso = sql`'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'`;

/** Whether the rollups can answer, and whether those by day, which know no source. */
export function readable(request: SeriesRequest, outputs: readonly Output[]) {
  const measures = outputs.flatMap(({ expression }) => measuresOf(expression));
  const filters: (Filter | null | undefined)[] = [
    request.filter,
    ...measures.flatMap(({ filters }) => filters),
  ];
  const fields = request.dimensions ?? [];
  const rollups =
    measures.every(({ measure }) => isRollable(measure)) &&
    filters.every(isRollableFilter) &&
    fields.every(({ field }) => field && field !== "SUBJECT");
  const days =
    rollups &&
    !["QUARTER_HOUR", "HOUR", "HOUR_OF_DAY"].includes(request.granularity) &&
    filters.every((filter) => !filter?.sources) &&
    fields.every(({ field }) => field !== "SOURCE");
  return { rollups, days };
}

let zones: ReadonlySet<string> | undefined;
const zoneNames = z.array(z.object({ name: z.string() }));

/** PostgreSQL's names, read once: it also takes abbreviations and formulas, which mean something else than they seem to. */
async function knownZones(run: Run): Promise<ReadonlySet<string>> {
  if (!zones) {
    const { rows } = await run({
      text: "select name from pg_timezone_names where name <> 'Factory'",
      values: [],
    });
    zones = new Set(zoneNames.parse(rows).map(({ name }) => name));
  }
  return zones;
}

/** Settles what the tenant's settings say, which buckets there are, and where each moment is read from. */
export async function planSeries(
  run: Run,
  tenantId: string,
  request: SeriesRequest,
  can: { rollups: boolean; days: boolean },
): Promise<Plan> {
  const { from, to, granularity, compare } = request;
  const unit = units[granularity];
  if (request.timeZone != null && !(await knownZones(run)).has(request.timeZone))
    throw new ApiError(
      "INVALID_INPUT",
      `timeZone "${request.timeZone.slice(0, 60)}" is unknown; it must be an IANA name such as Europe/Berlin.`,
    );
  const seconds = (Date.parse(to) - Date.parse(from)) / 1000;
  if (seconds / (shortest[unit] ?? Number.POSITIVE_INFINITY) > MAX_ROWS)
    throw new ApiError(
      "QUERY_TOO_EXPENSIVE",
      `More than ${MAX_ROWS.toLocaleString("en")} buckets of granularity ${granularity}: take a coarser one, or move from and to closer together.`,
    );
  const format = labels[unit];
  const buckets = format
    ? sql`select b as at, to_char(b at time zone 'UTC', ${iso}) as key, to_char(b at time zone 'UTC', ${iso}) as start,
             to_char(b at time zone p.zone, ${sql.value(format)}) as label
        from app_hidden.buckets_between(p.from, p.to, p.zone, ${sql.value(unit)}, p.shift) b`
    : unit === "hour_of_day"
      ? sql`select null::timestamptz as at, h::text as key, null as start, lpad(h::text, 2, '0') as label from generate_series(0, 23) h`
      : unit === "day_of_week"
        ? // 4 January 1970 was a Sunday.
          sql`select null::timestamptz as at, d::text as key, null as start, to_char(date '1970-01-04' + d, 'FMDAY') as label
                from generate_series(0, 6) with ordinality o (n, place)
               cross join lateral (select (n + p.week_start) % 7) d (d)`
        : sql`select null::timestamptz as at, 'all' as key, null as start, 'all' as label`;
  // Hours pass at the same pace whatever the clocks do.
  const isAbsolute = compare === "PREVIOUS_PERIOD" && (unit === "hour" || unit === "quarter_hour");
  const back = !compare
    ? sql`null::interval`
    : isAbsolute
      ? sql`l.to - l.from`
      : compare === "PREVIOUS_YEAR"
        ? // Whole weeks, so that Mondays meet Mondays.
          sql.literal(unit === "week" || unit === "day_of_week" ? "364 days" : "1 year")
        : // By day or week, the last days of a longer month would all meet the last one of a shorter month.
          sql`case
          when ${sql.literal(!shortest[unit])} and l.local_from = date_trunc('month', l.local_from) and l.local_to = date_trunc('month', l.local_to)
            then make_interval(months => (extract(year from age(l.local_to, l.local_from)) * 12 + extract(month from age(l.local_to, l.local_from)))::integer)
          else l.local_to - l.local_from
        end`;
  /** The first time of which `back` later is not before `local`. */
  const earliest = (local: ReturnType<typeof sql>) =>
    sql`case when ${local} - back + back < ${local} then date_trunc('day', ${local} - back) + interval '1 day' else ${local} - back end`;
  const piecesOf = (
    name: ReturnType<typeof sql.identifier>,
    begin: ReturnType<typeof sql>,
    end: ReturnType<typeof sql>,
  ) => sql`jsonb_build_object(
      'days', coalesce(${name}.days, '{}'), 'quarters', coalesce(${name}.quarters, '{}'),
      'raw', coalesce(${name}.raw, tstzmultirange(tstzrange(${begin}, ${end}))),
      'from', to_char(${begin} at time zone 'UTC', ${iso}), 'to', to_char(${end} at time zone 'UTC', ${iso}))`;
  const [current, previous] = [sql.identifier("current"), sql.identifier("previous")];
  // Two statements see one state only in a snapshot.
  const usable = sql`${sql.value(can.rollups)}::boolean and current_setting('transaction_isolation') = 'repeatable read'`;
  const { text, values } = sql.compile(sql`
    with setting as (
      select ${sql.value(from)}::timestamptz as from, ${sql.value(to)}::timestamptz as to,
             coalesce(${sql.value(request.timeZone ?? null)}::text, t.settings ->> 'timeZone', 'UTC') as zone,
             coalesce(${sql.value(request.weekStart ?? null)}::integer, (t.settings ->> 'weekStart')::integer, 1) as week_start,
             coalesce(${sql.value(request.fiscalYearStart ?? null)}::integer, (t.settings ->> 'fiscalYearStart')::integer, 1) - 1 as fiscal
        from public.tenants t where t.id = ${sql.value(tenantId)}
    ),
    l as (
      select setting.*, setting.from at time zone zone as local_from, setting.to at time zone zone as local_to from setting
    ),
    p as materialized (
      select l.*, case ${sql.value(unit)}
               when 'week' then make_interval(days => (week_start + 6) % 7)
               when 'quarter' then make_interval(months => fiscal % 3)
               when 'year' then make_interval(months => fiscal)
               else interval '0'
             end as shift,
             (${back})::interval as back
        from l
    ),
    q as materialized (
      select p.*, e.begins as previous_from, greatest(e.begins, e.ends) as previous_to from p
       cross join lateral (${
         isAbsolute
           ? sql`select p.from - back as begins, p.from as ends`
           : // A year before 29 February is the 28th, whose events count for the 28th.
             sql`select ${earliest(sql`local_from`)} at time zone zone as begins, ${earliest(sql`local_to`)} at time zone zone as ends`
       }) e
    )
    select p.zone, p.shift::text, p.back::text, ${current}.marked,
           to_char(${current}.refreshed_at at time zone 'UTC', ${iso}) as refreshed_at,
           case when coalesce(${current}.days, '{}') = '{}' then (
             select coalesce(range_agg(tstzrange((z.day - 1)::timestamp at time zone 'UTC', (z.day + 2)::timestamp at time zone 'UTC')), '{}')
               from app_hidden.zone_days(p.zone, (p.from at time zone 'UTC')::date - 2, (p.to at time zone 'UTC')::date + 2) z
              where not z.is_plain
           ) end::text as odd,
           ${piecesOf(current, sql`p.from`, sql`p.to`)} as current,
           case when p.back is not null then ${piecesOf(previous, sql`p.previous_from`, sql`p.previous_to`)} end as previous,
           (select coalesce(jsonb_agg(jsonb_build_object('key', b.key, 'start', b.start, 'label', b.label) order by b.at), '[]')
              from (${buckets}) b) as buckets
      from q p
      left join lateral app_hidden.plan_series(${sql.value(tenantId)}, p.from, p.to, p.zone, ${sql.value(can.days)}) ${current} on ${usable}
      left join lateral app_hidden.plan_series(${sql.value(tenantId)}, p.previous_from, p.previous_to, p.zone, ${sql.value(can.days)}) ${previous}
        on p.back is not null and ${usable}`);
  const { rows } = await run({ text, values });
  if (rows.length === 0) throw new ApiError("NOT_FOUND", "The tenant of this request is gone.");
  const plan = { ...planned.parse(rows[0]), unit, isAbsolute };
  if (plan.buckets.length > MAX_ROWS)
    throw new ApiError(
      "QUERY_TOO_EXPENSIVE",
      `${plan.buckets.length.toLocaleString("en")} buckets are more than ${MAX_ROWS.toLocaleString("en")}: take a coarser granularity, or move from and to closer together.`,
    );
  return plan;
}
