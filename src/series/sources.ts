import { type SQL, sql } from "postgraphile/pg-sql2";
import {
  all,
  conditions,
  currencySpan,
  dimensionSql,
  isRollable,
  isRollableFilter,
  source,
} from "./expressions.ts";
import type { Pieces, Plan } from "./plan.ts";
import type { EventField, SeriesRequest } from "./request.ts";
import { measuresOf, type Output } from "./resolve.ts";

/** What is read: of which tenant and range, and by how much it lies before the buckets that its events count for. */
export type Range = {
  tenantId: string;
  request: SeriesRequest;
  plan: Plan;
  pieces: Pieces;
  back: string | null;
};

const columns = {
  TYPE: "event_type",
  NAME: "event_name",
  SOURCE: "source",
  CURRENCY: "currency",
  SUBJECT: "subject",
} as const;

/** Whether parts of a group can be added up: then the events are summed before they are grouped and ranked. */
export const isMergeable = (outputs: readonly Output[]): boolean =>
  outputs
    .flatMap(({ expression }) => measuresOf(expression))
    .every(({ measure, filters }) => isRollable(measure) && filters.every(isRollableFilter));

/** A column for a dimension that rollups do not know. */
export const ownColumn = (index: number): SQL => sql.identifier(`own${index + 1}`);
export const isOwn = ({ field }: { field?: EventField | null | undefined }): boolean =>
  !field || field === "SUBJECT";

/** Rows that are summed up as far as the outputs allow, each with its bucket. */
export function summedSource(range: Range, outputs: readonly Output[]): SQL {
  const { request, pieces } = range;
  const needs = needsOf(request, outputs);
  const rolled = pieces.days !== "{}" || pieces.quarters !== "{}";
  const branches: SQL[] = [];
  if (pieces.days !== "{}") branches.push(daysSource(range, needs));
  if (pieces.quarters !== "{}") branches.push(quartersSource(range, needs));
  if (!rolled || pieces.raw !== "{}") branches.push(sumsOfEvents(range, needs, rolled));
  return sql.join(branches, " union all ");
}

/** The events themselves, each with its bucket. */
export function eventsSource({ tenantId, request, plan, pieces, back }: Range): SQL {
  return sql`
    select ${source}.*, ${bucketOfTime(sql`${source}."timestamp"`, plan, back)} as bucket
      from public.analytics_events ${source}
     where ${inTenant(tenantId)} and ${within(sql`"timestamp"`, pieces)} and ${all(conditions(request.filter))}`;
}

type Needs = { fields: ReadonlySet<EventField>; aggregates: ReadonlySet<string>; own: readonly SQL[] };

function needsOf(request: SeriesRequest, outputs: readonly Output[]): Needs {
  const measures = outputs.flatMap(({ expression }) => measuresOf(expression));
  const fields = new Set<EventField>();
  for (const { field } of request.dimensions ?? []) if (field) fields.add(field);
  for (const { types, names, sources, currencies } of measures.flatMap(({ filters }) => filters)) {
    if (types) fields.add("TYPE");
    if (names) fields.add("NAME");
    if (sources) fields.add("SOURCE");
    if (currencies) fields.add("CURRENCY");
  }
  const spans = outputs.some(({ expression }) => currencySpan(expression, "rollups", request));
  if (spans) fields.add("CURRENCY");
  const aggregates = new Set(measures.map(({ measure }) => measure.aggregate as string));
  if (spans) aggregates.add("SPAN");
  const own = (request.dimensions ?? []).flatMap((dimension) =>
    isOwn(dimension) ? [dimensionSql(dimension)] : [],
  );
  return { fields, aggregates, own };
}

const inTenant = (tenantId: string) => sql`${source}.tenant_id = ${sql.value(tenantId)}::uuid`;
const within = (column: SQL, { from, to }: Pieces) =>
  sql`${source}.${column} >= ${sql.value(from)}::timestamptz and ${source}.${column} < ${sql.value(to)}::timestamptz`;
const fields = ["TYPE", "NAME", "SOURCE", "CURRENCY"] as const;

/** The fields, the dimensions that rollups do not know, the bucket and the sums, in one order for every branch. */
function selected(
  needs: Needs,
  bucket: SQL,
  sums: Record<"events" | "measured" | "total" | "lowest" | "highest", SQL>,
  own: readonly SQL[],
): SQL {
  const has = (...names: string[]) => names.some((name) => needs.aggregates.has(name));
  const nothing = sql`null::numeric`;
  return sql.join(
    [
      ...fields.map((field) => {
        const name = sql.identifier(columns[field]);
        return sql`${needs.fields.has(field) ? sql`${source}.${name}` : sql`null::text`} as ${name}`;
      }),
      ...own.map((expression, index) => sql`${expression} as ${ownColumn(index)}`),
      sql`${bucket} as bucket`,
      sql`${sums.events} as events`,
      sql`${has("AVERAGE", "SPAN") ? sums.measured : sql`null::bigint`} as measured`,
      sql`${has("SUM", "AVERAGE") ? sums.total : nothing} as total`,
      sql`${has("MIN") ? sums.lowest : nothing} as lowest`,
      sql`${has("MAX") ? sums.highest : nothing} as highest`,
    ],
    ", ",
  );
}
/** By position: expressions with parameters are never the same twice. */
const grouping = (needs: Needs, own: readonly SQL[]): SQL =>
  sql.join(
    [
      ...fields.flatMap((field, index) => (needs.fields.has(field) ? [index + 1] : [])),
      ...[...own, "bucket"].map((_, index) => fields.length + index + 1),
    ].map((position) => sql.literal(position)),
    ", ",
  );
const sumsOfRollups = {
  events: sql`sum(${source}.events)::bigint`,
  measured: sql`sum(${source}.measured)::bigint`,
  total: sql`sum(${source}.total)`,
  lowest: sql`min(${source}.lowest)`,
  highest: sql`max(${source}.highest)`,
};

/** The ranges of a multirange. */
const stretches = (multirange: SQL) =>
  sql`(select lower(r) as begins, upper(r) as ends from unnest(${multirange}) r) stretch`;

// In each branch the ranges are read one after another (`offset 0` keeps it so): each is a stretch of the index.

function daysSource({ tenantId, request, plan, pieces, back: range }: Range, needs: Needs): SQL {
  const back = moved(plan, range);
  const local = sql`(${source}.day::timestamp${back === null ? sql.blank : sql` + ${sql.value(back)}::interval`})`;
  const bucket = bucketSql(sql`null::timestamptz`, local, plan);
  const sums = {
    events: sql`${source}.events`,
    measured: sql`${source}.measured`,
    total: sql`${source}.total`,
    lowest: sql`${source}.lowest`,
    highest: sql`${source}.highest`,
  };
  return sql`
    select ${selected(needs, bucket, sums, [])}
      from ${stretches(sql`${sql.value(pieces.days)}::datemultirange`)}
     cross join lateral (
       select *, null::text as source from (
         select r.tenant_id, r.day, r.event_type, r.event_name, nullif(r.currency, '') as currency, r.events, r.measured, r.total, r.lowest, r.highest
           from app_hidden.event_rollups_by_day r
       ) ${source}
        where ${inTenant(tenantId)} and ${source}.day >= stretch.begins and ${source}.day < stretch.ends and ${all(conditions(request.filter))}
       offset 0
     ) ${source}`;
}

function quartersSource({ tenantId, request, plan, pieces, back }: Range, needs: Needs): SQL {
  const bucket = bucketOfTime(sql`${source}.bucket`, plan, back);
  return sql`
    select ${selected(needs, bucket, sumsOfRollups, [])}
      from ${stretches(sql`${sql.value(pieces.quarters)}::tstzmultirange`)}
     cross join lateral (
       select * from (
         select r.tenant_id, r.bucket, r.event_type, r.event_name, nullif(r.source, '') as source, nullif(r.currency, '') as currency,
                r.events, r.measured, r.total, r.lowest, r.highest
           from app_hidden.event_rollups r
       ) ${source}
        where ${inTenant(tenantId)} and ${source}.bucket >= stretch.begins and ${source}.bucket < stretch.ends and ${all(conditions(request.filter))}
       offset 0
     ) ${source}
     group by ${grouping(needs, [])}`;
}

function sumsOfEvents(
  { tenantId, request, plan, pieces, back }: Range,
  needs: Needs,
  inStretches: boolean,
): SQL {
  const bucket = bucketOfTime(sql`${source}."timestamp"`, plan, back);
  const value = sql`${source}.value`;
  const sums = {
    events: sql`count(*)`,
    measured: sql`count(${value})`,
    total: sql`sum(${value})`,
    lowest: sql`min(${value})`,
    highest: sql`max(${value})`,
  };
  const filter = all(conditions(request.filter));
  const from = inStretches
    ? sql`${stretches(sql`${sql.value(pieces.raw)}::tstzmultirange`)}
     cross join lateral (
       select * from public.analytics_events ${source}
        where ${inTenant(tenantId)} and ${source}."timestamp" >= stretch.begins and ${source}."timestamp" < stretch.ends and ${filter}
       offset 0
     ) ${source}`
    : sql`public.analytics_events ${source} where ${inTenant(tenantId)} and ${within(sql`"timestamp"`, pieces)} and ${filter}`;
  return sql`
    select ${selected(needs, bucket, sums, needs.own)}
      from ${from}
     group by ${grouping(needs, needs.own)}`;
}

/** The bucket: when it starts, or a number. */
function bucketSql(time: SQL, local: SQL, { unit, zone, shift }: Plan): SQL {
  if (unit === "all") return sql`0`;
  if (unit === "hour_of_day") return sql`extract(hour from ${local})::integer`;
  if (unit === "day_of_week") return sql`extract(dow from ${local})::integer`;
  return sql`app_hidden.bucket_of(${time}, ${local}, ${sql.literal(zone)}::text, ${sql.literal(unit)}, ${sql.literal(shift)}::interval)`;
}

/**
 * The bucket by the list of them, at a fraction of the price of the calendar, which is asked about days of changes alone:
 * there a bucket may begin at a time that clocks skip or repeat.
 */
function listed(time: SQL, calculated: SQL, { buckets, odd }: Plan): SQL {
  const starts = buckets.flatMap(({ start }) => start ?? []);
  if (odd === null || starts.length === 0) return calculated;
  const list = sql`${sql.value(starts)}::timestamptz[]`;
  const found = sql`(${list})[width_bucket(${time}, ${list})]`;
  return odd === "{}"
    ? found
    : sql`case when ${time} <@ ${sql.value(odd)}::tstzmultirange then ${calculated} else ${found} end`;
}

/** By how much a comparison moves what it counts. Hours of the day and days of the week are the same in either range. */
const moved = ({ unit }: Plan, back: string | null) =>
  unit === "hour_of_day" || unit === "day_of_week" ? null : back;

/** The bucket of a moment of the range, or of the later one for which it counts in a comparison. */
function bucketOfTime(time: SQL, plan: Plan, range: string | null): SQL {
  const back = moved(plan, range);
  const local = sql`(${time} at time zone ${sql.literal(plan.zone)}::text)`;
  if (back === null) return listed(time, bucketSql(time, local, plan), plan);
  if (plan.isAbsolute) {
    const later = sql`(${time} + ${sql.literal(back)}::interval)`;
    return bucketSql(later, sql`(${later} at time zone ${sql.literal(plan.zone)}::text)`, plan);
  }
  const later = sql`(${local} + ${sql.literal(back)}::interval)`;
  return bucketSql(sql`(${later} at time zone ${sql.literal(plan.zone)}::text)`, later, plan);
}
