import { ApiError } from "../graphql/errors.ts";
import { type Formula, namesOf, parseFormula } from "./formula.ts";
import type { Filter, Measure, SeriesRequest } from "./request.ts";

/** A metric of a tenant's catalogue. */
export type Metric = {
  name: string;
  formula: string;
  measures: Measure[];
  filter: Filter | null;
  unit: string | null;
  format: string | null;
};

/** What is computed: a measure, with every filter that applies to it, or arithmetic on such. */
export type Expression =
  | { kind: "number"; text: string }
  | { kind: "measure"; measure: Measure; filters: Filter[] }
  | { kind: "negative"; of: Expression }
  | { kind: "binary"; operator: "+" | "-" | "*" | "/"; left: Expression; right: Expression };
/** One column of the answer. */
export type Output = { name: string; expression: Expression; unit: string | null; format: string | null };

const refuse = (message: string, reason: string) => new ApiError("INVALID_INPUT", message, { reason });

/** The columns that a request asks for. */
export function resolveOutputs(
  { measures, metrics }: Pick<SeriesRequest, "measures" | "metrics">,
  catalogue: ReadonlyMap<string, Metric>,
): Output[] {
  return [
    ...(measures ?? []).map((measure) => ({
      name: measure.name,
      expression: { kind: "measure" as const, measure, filters: measure.filter ? [measure.filter] : [] },
      unit: null,
      format: null,
    })),
    ...(metrics ?? []).map((name) => {
      const { unit, format } = find(name, catalogue);
      return { name, expression: resolveMetric(name, catalogue, []), unit, format };
    }),
  ];
}

/** Of measures and numbers, with those of the metrics below. */
const MAX_PARTS = 200;

/** What a metric computes. Throws INVALID_INPUT for names that are unknown, and for formulas that go in a circle. */
export function resolveMetric(
  name: string,
  catalogue: ReadonlyMap<string, Metric>,
  path: readonly string[],
  parts = { left: MAX_PARTS },
): Expression {
  if (path.includes(name))
    throw refuse(`The formula of "${name}" goes in a circle: ${[...path, name].join(" → ")}.`, "circular");
  const metric = find(name, catalogue);
  const own = metric.filter ? [metric.filter] : [];
  const resolve = (formula: Formula): Expression => {
    const measure =
      formula.kind === "name" ? metric.measures.find((one) => one.name === formula.name) : undefined;
    if ((measure || formula.kind === "number") && parts.left-- <= 0)
      throw refuse(
        `The formula of "${path[0] ?? name}" comes down to more than ${MAX_PARTS} measures and numbers.`,
        "formula",
      );
    if (formula.kind === "number") return formula;
    if (formula.kind === "negative") return { kind: "negative", of: resolve(formula.of) };
    if (formula.kind === "binary")
      return { ...formula, left: resolve(formula.left), right: resolve(formula.right) };
    if (measure)
      return { kind: "measure", measure, filters: measure.filter ? [measure.filter, ...own] : own };
    if (!catalogue.has(formula.name))
      throw refuse(
        `The formula of "${name}" uses "${formula.name}", which is neither a measure of it nor a metric.`,
        "unknown_name",
      );
    return narrow(resolveMetric(formula.name, catalogue, [...path, name], parts), own);
  };
  return resolve(parseFormula(metric.formula));
}

/** Whether a metric's formula names another metric. */
export const usesMetric = (
  { formula, measures }: Pick<Metric, "formula" | "measures">,
  other: string,
): boolean => namesOf(parseFormula(formula)).has(other) && !measures.some(({ name }) => name === other);

/** The names, of a metric, that its formula does not use. */
export function unusedMeasures({ formula, measures }: Pick<Metric, "formula" | "measures">): string[] {
  const used = namesOf(parseFormula(formula));
  return measures.map(({ name }) => name).filter((name) => !used.has(name));
}

/** Every measure of an expression. */
export function measuresOf(expression: Expression): { measure: Measure; filters: Filter[] }[] {
  if (expression.kind === "measure") return [expression];
  if (expression.kind === "negative") return measuresOf(expression.of);
  if (expression.kind === "binary") return [...measuresOf(expression.left), ...measuresOf(expression.right)];
  return [];
}

function narrow(expression: Expression, filters: Filter[]): Expression {
  if (filters.length === 0 || expression.kind === "number") return expression;
  if (expression.kind === "measure") return { ...expression, filters: [...expression.filters, ...filters] };
  if (expression.kind === "negative") return { ...expression, of: narrow(expression.of, filters) };
  return { ...expression, left: narrow(expression.left, filters), right: narrow(expression.right, filters) };
}

function find(name: string, catalogue: ReadonlyMap<string, Metric>): Metric {
  const metric = catalogue.get(name);
  if (!metric)
    throw refuse(
      `There is no metric "${name}". The field metrics lists those of this tenant.`,
      "unknown_metric",
    );
  return metric;
}
