import { z } from "zod";
import { ApiError } from "../graphql/errors.ts";
import { loadMetrics, metricSchema } from "./catalogue.ts";
import type { Run } from "./plan.ts";
import { type Filter, seriesRequest } from "./request.ts";
import { type Metric, resolveMetric, unusedMeasures, usesMetric } from "./resolve.ts";
import { readSeries } from "./series.ts";

const TRIAL_DAYS = 30;
const LOCK = "select app_hidden.lock_metrics($1)";

const refuse = (message: string, reason: string) => new ApiError("INVALID_INPUT", message, { reason });

/**
 * Whether a metric is one that eventSeries can answer, and so are all that use it.
 * @param values what a create or an update says; an update keeps the rest
 * @throws ApiError INVALID_INPUT (reasons metric, formula, unknown_name, unused_measure, circular, in_use, unknown_event)
 */
export async function checkMetric(
  run: Run,
  tenantId: string,
  values: Record<string, unknown>,
  id: string | undefined,
): Promise<void> {
  await run({ text: LOCK, values: [tenantId] });
  const catalogue = await loadMetrics(run, tenantId);
  const before = id === undefined ? undefined : [...catalogue.values()].find((one) => one.id === id);
  // The update itself says that there is no such row.
  if (id !== undefined && !before) return;
  const draft = metricSchema.parse({
    ...(before ?? { measures: [], filter: null, unit: null, format: null }),
    ...Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)),
  });
  const names = draft.measures.map(({ name }) => name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw refuse(`measures has two of the name "${twice}".`, "metric");
  if (names.includes(draft.name))
    throw refuse(`The measure "${draft.name}" has the metric's own name; call it otherwise.`, "metric");
  const [unused] = unusedMeasures(draft);
  if (unused !== undefined)
    throw refuse(`The formula does not use the measure "${unused}".`, "unused_measure");

  const after = new Map<string, Metric>(catalogue);
  if (before && before.name !== draft.name) after.delete(before.name);
  after.set(draft.name, draft);
  resolveMetric(draft.name, after, []);
  for (const name of after.keys())
    try {
      resolveMetric(name, after, []);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      // What did not work before is not this change's fault.
      if (!works(name, catalogue)) continue;
      throw refuse(`The metric "${name}" would no longer work: ${error.message}`, "in_use");
    }
  await assertEventsExist(run, tenantId, draft);
  await trial(run, tenantId, draft.name, after);
}

/**
 * Whether a metric may go.
 * @throws ApiError CONFLICT (reason in_use) while another one uses it
 */
export async function checkDeletion(run: Run, tenantId: string, id: string): Promise<void> {
  await run({ text: LOCK, values: [tenantId] });
  const metrics = [...(await loadMetrics(run, tenantId)).values()];
  const metric = metrics.find((one) => one.id === id);
  const user = metric && metrics.find((one) => one.id !== id && usesMetric(one, metric.name));
  if (user)
    throw new ApiError(
      "CONFLICT",
      `The metric "${user.name}" uses "${metric.name}": change or delete it first.`,
      {
        reason: "in_use",
      },
    );
}

function works(name: string, catalogue: ReadonlyMap<string, Metric>): boolean {
  try {
    resolveMetric(name, catalogue, []);
    return true;
  } catch {
    return false;
  }
}

/** A name that no event has is a slip, unless there are no events yet. */
async function assertEventsExist(run: Run, tenantId: string, { measures, filter }: Metric) {
  const filters: Filter[] = [filter, ...measures.map((measure) => measure.filter)].flatMap(
    (one) => one ?? [],
  );
  const types = [...new Set(filters.flatMap((one) => one.types ?? []))];
  const eventNames = [...new Set(filters.flatMap((one) => one.names ?? []))];
  const properties = [...new Set(measures.flatMap(({ property }) => property ?? []))];
  const numbers = measures.flatMap(({ aggregate, property }) =>
    aggregate === "DISTINCT_COUNT" ? [] : (property ?? []),
  );
  const { rows } = await run({
    text: `
      select what, wanted
        from (
          select 'event of the type' as what, wanted from unnest($2::text[]) wanted
           where not exists (select from public.analytics_events e where e.tenant_id = $1 and e.event_type = wanted)
          union all
          select 'event of the name', wanted from unnest($3::text[]) wanted
           where not exists (select from public.analytics_events e where e.tenant_id = $1 and e.event_name = wanted)
          union all
          select 'event with the property', wanted from unnest($4::text[]) wanted
           where not exists (select from public.analytics_events e where e.tenant_id = $1 and e.properties ? wanted)
          union all
          select 'event with a number as the property', wanted from unnest($5::text[]) wanted
           where not exists (
             select from public.analytics_events e
              where e.tenant_id = $1 and e.properties ? wanted and e.properties ->> wanted ~ '^[+-]?[0-9]{1,30}(\\.[0-9]{1,30})?$'
           )
        ) missing
       where exists (select from public.analytics_events e where e.tenant_id = $1)
       limit 1`,
    values: [tenantId, types, eventNames, properties, [...new Set(numbers)]],
  });
  const [missing] = z.array(z.object({ what: z.string(), wanted: z.string() })).parse(rows);
  if (missing) throw refuse(`There is no ${missing.what} "${missing.wanted}".`, "unknown_event");
}

/** Asks for it once, over the last days. */
async function trial(run: Run, tenantId: string, name: string, catalogue: ReadonlyMap<string, Metric>) {
  const to = new Date();
  const request = seriesRequest.parse({
    from: new Date(to.getTime() - TRIAL_DAYS * 86_400_000).toISOString(),
    to: to.toISOString(),
    granularity: "ALL",
    metrics: [name],
    mixCurrencies: true,
  });
  await readSeries(run, tenantId, request, catalogue);
}
