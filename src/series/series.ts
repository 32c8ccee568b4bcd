import { ApiError } from "../graphql/errors.ts";
import { loadMetrics } from "./catalogue.ts";
import { type Plan, planSeries, type Run, readable } from "./plan.ts";
import { type Group, type Row, readGroups } from "./read.ts";
import { MAX_ROWS, type SeriesRequest } from "./request.ts";
import { type Metric, type Output, resolveOutputs } from "./resolve.ts";

export type SeriesRow = {
  /** When the bucket begins; null where buckets are no stretches of time. */
  start: string | null;
  label: string;
  dimensions: (string | null)[];
  isOther: boolean;
  values: (string | null)[];
  compared: (string | null)[] | null;
};
export type Freshness = {
  source: "ROLLUPS" | "EVENTS" | "BOTH";
  rolledUpAt: string | null;
  pendingQuarterHours: number | null;
};
export type Series = {
  columns: { name: string; unit: string | null; format: string | null }[];
  rows: SeriesRow[];
  totals: { values: (string | null)[]; compared: (string | null)[] | null };
  timeZone: string;
  freshness: Freshness;
};

/**
 * Answers a series, exactly as the events are in this transaction.
 * @throws ApiError INVALID_INPUT (reasons unknown_metric, circular, formula, unknown_name, mixed_currencies) or
 * QUERY_TOO_EXPENSIVE
 */
export async function readSeries(
  run: Run,
  tenantId: string,
  request: SeriesRequest,
  metrics?: ReadonlyMap<string, Metric>,
): Promise<Series> {
  const catalogue = metrics ?? (request.metrics?.length ? await loadMetrics(run, tenantId) : new Map());
  const outputs = resolveOutputs(request, catalogue);
  const plan = await planSeries(run, tenantId, request, readable(request, outputs));
  const rows = await readGroups(run, tenantId, request, outputs, plan, { pieces: plan.current, back: null });
  const groups = rows.filter(({ kind }) => kind === "group");
  assertFewEnough(groups.length);
  assertOneCurrency(groups, outputs);
  const by = outputs.filter(({ name }) => name === (request.top?.by ?? outputs[0]?.name));
  assertOneCurrency(
    rows.filter(({ kind }) => kind === "ranking"),
    by,
  );
  const ranked = request.top
    ? distinct(groups)
        .filter(({ is_other }) => !is_other)
        .sort((a, b) => (a.rank ?? 0) - (b.rank ?? 0))
    : undefined;
  const previous = plan.previous
    ? await readGroups(run, tenantId, request, outputs, plan, {
        pieces: plan.previous,
        back: plan.back,
        ...(ranked ? { ranked } : {}),
      })
    : undefined;
  const earlier = previous?.filter(({ kind }) => kind === "group") ?? [];
  assertFewEnough(earlier.length);
  assertOneCurrency(earlier, outputs);
  return {
    columns: outputs.map(({ name, unit, format }) => ({ name, unit, format })),
    rows: arrange(request, plan, rows, previous),
    totals: { values: total(rows, outputs), compared: previous ? total(previous, outputs) : null },
    timeZone: plan.zone,
    freshness: freshness(plan),
  };
}

const groupKey = ({ dimensions, is_other }: Group) => JSON.stringify([is_other, dimensions]);
/** Of each group, the first row. */
const distinct = (rows: readonly Row[]): Row[] => [
  ...new Map(rows.toReversed().map((one) => [groupKey(one), one])).values(),
];

/** The rows in their order: buckets, and within each its groups. Gaps are filled with what no event amounts to. */
function arrange(
  request: SeriesRequest,
  plan: Plan,
  rows: readonly Row[],
  previous: readonly Row[] | undefined,
): SeriesRow[] {
  const groups = rows.filter(({ kind }) => kind === "group");
  const earlier = previous?.filter(({ kind }) => kind === "group") ?? [];
  const empty = rows.find(({ kind }) => kind === "empty")?.values ?? [];
  const at = (bucket: string | null, group: Group) => `${bucket} ${groupKey(group)}`;
  const now = new Map(groups.map((one) => [at(one.key, one), one.values]));
  const then = new Map(earlier.map((one) => [at(one.key, one), one.values]));
  const described = (
    bucket: Plan["buckets"][number],
    group: Group,
    values: (string | null)[],
  ): SeriesRow => ({
    start: bucket.start,
    label: bucket.label,
    dimensions: group.dimensions,
    isOther: group.is_other,
    values,
    compared: previous ? (then.get(at(bucket.key, group)) ?? empty) : null,
  });
  const combinations = inOrder(distinct([...groups, ...earlier]));
  if (request.fillGaps !== false) {
    const wanted = request.dimensions?.length ? combinations : [{ dimensions: [], is_other: false }];
    assertFewEnough(plan.buckets.length * wanted.length);
    return plan.buckets.flatMap((bucket) =>
      wanted.map((group) => described(bucket, group, now.get(at(bucket.key, group)) ?? empty)),
    );
  }
  const filled = plan.buckets.flatMap((bucket) =>
    combinations.flatMap((group) => {
      const values = now.get(at(bucket.key, group));
      return values || then.has(at(bucket.key, group)) ? [described(bucket, group, values ?? empty)] : [];
    }),
  );
  assertFewEnough(filled.length);
  return filled;
}

/** Groups by rank where they are ranked, else by their dimensions; the others last. */
function inOrder(all: Row[]): Group[] {
  const compare = (a: string | null, b: string | null) =>
    a === b ? 0 : a === null ? 1 : b === null || a < b ? -1 : 1;
  return all.sort(
    (a, b) =>
      Number(a.is_other) - Number(b.is_other) ||
      (a.rank ?? 0) - (b.rank ?? 0) ||
      a.dimensions.reduce((order, one, index) => order || compare(one, b.dimensions[index] ?? null), 0),
  );
}

function total(rows: readonly Row[], outputs: readonly Output[]): (string | null)[] {
  const found = rows.find(({ kind }) => kind === "total") ?? rows.find(({ kind }) => kind === "empty");
  // What the groups keep apart by currency has no total.
  return outputs.map((_, index) => (mixes(found, index) ? null : (found?.values[index] ?? null)));
}

const mixes = (row: Row | undefined, index: number) => {
  const [first, last] = row?.currencies[index] ?? [];
  return first !== last;
};

const amounts = ({ currencies }: Row, index: number) =>
  currencies[index]?.map((one) => one || "amounts without a currency").join(" and ");

function assertOneCurrency(groups: readonly Row[], outputs: readonly Output[]) {
  for (const group of groups)
    for (const [index, { name }] of outputs.entries())
      if (mixes(group, index))
        throw new ApiError(
          "INVALID_INPUT",
          group.is_other
            ? `"${name}" would add ${amounts(group, index)} in the rest that is not among the top: leave it out with top.others: false, filter by one currency, or ask for mixCurrencies.`
            : `"${name}" would add ${amounts(group, index)}: add the dimension CURRENCY, filter by one currency, or ask for mixCurrencies.`,
          { reason: "mixed_currencies" },
        );
}

function assertFewEnough(count: number) {
  if (count > MAX_ROWS)
    throw new ApiError(
      "QUERY_TOO_EXPENSIVE",
      `The answer has more than ${MAX_ROWS.toLocaleString("en")} rows: take a coarser granularity, fewer dimensions, or top.`,
    );
}

function freshness({ current, marked, refreshed_at }: Plan): Freshness {
  const rolled = current.days !== "{}" || current.quarters !== "{}";
  const source = !rolled ? "EVENTS" : current.raw === "{}" ? "ROLLUPS" : "BOTH";
  return { source, rolledUpAt: refreshed_at, pendingQuarterHours: marked };
}
