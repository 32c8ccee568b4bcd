import { type SQL, sql } from "postgraphile/pg-sql2";
import type { Dimension, Filter, Measure, SeriesRequest } from "./request.ts";
import { type Expression, measuresOf } from "./resolve.ts";

/** What a series reads: events, or rows of rollups, `s` in either case. */
export type Reading = "events" | "rollups";

/** Amounts of docs/events.md beside `value`: in the event's currency. */
const AMOUNTS = new Set(["tax", "discount", "tip", "fee", "refunded", "conversionValue"]);

const s = sql.identifier(Symbol("source"));
/** The name of the rows that expressions are about. */
export const source = s;

const columns = {
  TYPE: sql`${s}.event_type`,
  NAME: sql`${s}.event_name`,
  SOURCE: sql`${s}.source`,
  CURRENCY: sql`${s}.currency`,
  SUBJECT: sql`${s}.subject`,
};
const text = (name: string) => sql`(${s}.properties ->> ${sql.value(name)}::text)`;
/** A number, or text that is one; null otherwise. */
const number = (name: string) =>
  sql`(case when ${text(name)} ~ '^[+-]?[0-9]{1,30}(\\.[0-9]{1,30})?$' then ${text(name)}::numeric end)`;

/** Texts of a property are cut: they are repeated in every row of their group. */
export const dimensionSql = ({ field, property }: Dimension): SQL =>
  field ? columns[field] : sql`left(${text(property ?? "")}, 500)`;

const isOneOf = (operand: SQL, wanted: readonly (string | null)[]): SQL => {
  const texts = wanted.filter((one) => one !== null);
  const among = sql`${operand} = any (${sql.value(texts)}::text[])`;
  return texts.length < wanted.length ? sql`(${among} or ${operand} is null)` : among;
};

/** Conditions that an event fulfils when it passes the filter. */
export function conditions(filter: Filter | null | undefined): SQL[] {
  if (!filter) return [];
  const { types, names, sources, currencies, subjects, value, properties } = filter;
  const found: SQL[] = [];
  if (types) found.push(isOneOf(columns.TYPE, types));
  if (names) found.push(isOneOf(columns.NAME, names));
  if (sources) found.push(isOneOf(columns.SOURCE, sources));
  if (currencies) found.push(isOneOf(columns.CURRENCY, currencies));
  if (subjects) found.push(isOneOf(columns.SUBJECT, subjects));
  if (value?.atLeast != null) found.push(sql`${s}.value >= ${sql.value(value.atLeast)}::numeric`);
  if (value?.below != null) found.push(sql`${s}.value < ${sql.value(value.below)}::numeric`);
  for (const { name, in: among, notIn, exists, atLeast, below } of properties ?? []) {
    if (among) found.push(isOneOf(text(name), among));
    if (notIn) found.push(sql`(${isOneOf(text(name), notIn)}) is not true`);
    if (exists != null) found.push(exists ? sql`${text(name)} is not null` : sql`${text(name)} is null`);
    if (atLeast != null) found.push(sql`${number(name)} >= ${sql.value(atLeast)}::numeric`);
    if (below != null) found.push(sql`${number(name)} < ${sql.value(below)}::numeric`);
  }
  return found;
}

export const all = (found: readonly SQL[]): SQL =>
  found.length > 0
    ? sql.join(
        found.map((one) => sql`(${one})`),
        " and ",
      )
    : sql`true`;

const filtered = (aggregate: SQL, filters: readonly Filter[]): SQL => {
  const found = filters.flatMap(conditions);
  return found.length > 0 ? sql`${aggregate} filter (where ${all(found)})` : aggregate;
};

/** Whether rollups know enough: they hold count, sum, least and greatest of `value`. */
export const isRollable = ({ aggregate, property }: Measure): boolean =>
  !property && ["COUNT", "SUM", "AVERAGE", "MIN", "MAX"].includes(aggregate);
export const isRollableFilter = (filter: Filter | null | undefined): boolean =>
  !filter?.subjects && !filter?.value && !filter?.properties;

/** With as many decimals as the rounding of a whole output needs: by itself, numeric stops at 16 digits. */
const divide = (dividend: SQL, divisor: SQL): SQL =>
  sql`((${dividend} + 0.0000000000000000000000000000000000000000::numeric) / nullif(${divisor}, 0))`;

function measureSql(measure: Measure, filters: readonly Filter[], reading: Reading): SQL {
  const { aggregate, property, percentile } = measure;
  const total = (column: SQL) => filtered(sql`sum(${column})`, filters);
  if (reading === "rollups") {
    if (aggregate === "COUNT") return sql`coalesce(${total(sql`${s}.events`)}, 0)`;
    if (aggregate === "SUM") return sql`coalesce(${total(sql`${s}.total`)}, 0)`;
    if (aggregate === "MIN") return filtered(sql`min(${s}.lowest)`, filters);
    if (aggregate === "MAX") return filtered(sql`max(${s}.highest)`, filters);
    return divide(total(sql`${s}.total`), total(sql`${s}.measured`));
  }
  const operand = property ? number(property) : sql`${s}.value`;
  if (aggregate === "COUNT") return filtered(sql`count(*)`, filters);
  if (aggregate === "SUM") return sql`coalesce(${total(operand)}, 0)`;
  if (aggregate === "AVERAGE") return divide(total(operand), filtered(sql`count(${operand})`, filters));
  if (aggregate === "MIN") return filtered(sql`min(${operand})`, filters);
  if (aggregate === "MAX") return filtered(sql`max(${operand})`, filters);
  if (aggregate === "DISTINCT_COUNT")
    return filtered(sql`count(distinct ${property ? text(property) : columns.SUBJECT})`, filters);
  // A little less: in floating point, 0.55 of 100 are more than 55, which would be the 56th.
  const ranked = (order: SQL, share: number) =>
    filtered(
      sql`percentile_disc(${sql.value(share * (1 - 1e-13))}::float8) within group (order by ${order})`,
      filters,
    );
  if (aggregate === "PERCENTILE") return ranked(operand, (percentile ?? 50) / 100);
  // The lower and the upper middle: exact, where percentile_cont would compute in floating point.
  return sql`((${ranked(operand, 0.5)} - ${ranked(sql`- ${operand}`, 0.5)}) * 0.5)`;
}

/** The value of an output, over the rows of a group. What is divided by zero is null. */
export function expressionSql(expression: Expression, reading: Reading): SQL {
  if (expression.kind === "number") return sql`${sql.value(expression.text)}::numeric`;
  if (expression.kind === "measure") return measureSql(expression.measure, expression.filters, reading);
  if (expression.kind === "negative") return sql`(- ${expressionSql(expression.of, reading)})`;
  const left = expressionSql(expression.left, reading);
  const right = expressionSql(expression.right, reading);
  if (expression.operator === "+") return sql`(${left} + ${right})`;
  if (expression.operator === "-") return sql`(${left} - ${right})`;
  if (expression.operator === "*") return sql`(${left} * ${right})`;
  return divide(left, right);
}

/** The same as a column of the answer: what was divided has ten decimals at the most. */
export function outputSql(expression: Expression, reading: Reading): SQL {
  const value = expressionSql(expression, reading);
  return isRounded(expression) ? sql`trim_scale(round(${value}, 10))` : value;
}

function isRounded(expression: Expression): boolean {
  if (expression.kind === "measure")
    return expression.measure.aggregate === "AVERAGE" || expression.measure.aggregate === "MEDIAN";
  if (expression.kind === "negative") return isRounded(expression.of);
  if (expression.kind === "number") return false;
  return expression.operator === "/" || isRounded(expression.left) || isRounded(expression.right);
}

const namesOneCurrency = (filter: Filter | null | undefined) =>
  filter?.currencies?.length === 1 && filter.currencies[0] !== null;

/** The first and the last currency of the amounts in a group: different ones are not added. Undefined where there is but one. */
export function currencySpan(
  expression: Expression,
  reading: Reading,
  { filter, mixCurrencies }: Pick<SeriesRequest, "filter" | "mixCurrencies">,
) {
  if (mixCurrencies) return undefined;
  const amounts = measuresOf(expression).filter(
    ({ measure: { aggregate, property } }) =>
      aggregate !== "COUNT" && aggregate !== "DISTINCT_COUNT" && (!property || AMOUNTS.has(property)),
  );
  const sure = amounts.every(({ filters }) => filters.some(namesOneCurrency)) && amounts.length === 1;
  if (amounts.length === 0 || sure || namesOneCurrency(filter)) return undefined;
  const span = (aggregate: "min" | "max") =>
    sql.join(
      amounts.map(({ measure: { property }, filters }) => {
        const counts =
          reading === "rollups"
            ? sql`${s}.measured > 0`
            : sql`${property ? number(property) : sql`${s}.value`} is not null`;
        const name = sql.identifier(aggregate);
        return sql`${name}(coalesce(${columns.CURRENCY}, '') collate "C") filter (where ${all([counts, ...filters.flatMap(conditions)])})`;
      }),
      ", ",
    );
  return { first: sql`least(${span("min")})`, last: sql`greatest(${span("max")})` };
}
