import { z } from "zod";

export const MAX_ROWS = 10_000;
export const DEFAULT_ROWS = 1_000;
const MAX_YEARS = 25;

export const granularities = [
  "QUARTER_HOUR",
  "HOUR",
  "DAY",
  "WEEK",
  "MONTH",
  "QUARTER",
  "YEAR",
  "HOUR_OF_DAY",
  "DAY_OF_WEEK",
  "ALL",
] as const;
export const aggregates = [
  "COUNT",
  "SUM",
  "AVERAGE",
  "MIN",
  "MAX",
  "MEDIAN",
  "PERCENTILE",
  "DISTINCT_COUNT",
] as const;
export const fields = ["TYPE", "NAME", "SOURCE", "CURRENCY", "SUBJECT"] as const;
export type Granularity = (typeof granularities)[number];
export type EventField = (typeof fields)[number];

const list = <Item extends z.ZodType>(name: string, item: Item, longest: number) =>
  z.array(item).max(longest, `${name} has at most ${longest} entries.`);
/** Texts that PostgreSQL can store: what it cannot, no event has. */
const text = (name: string, longest: number) =>
  z
    .string()
    .max(longest, `${name} has at most ${longest} characters.`)
    .refine(
      (value) => value.isWellFormed() && !value.includes("\0"),
      `${name} has a character that cannot be stored (U+0000, or half a surrogate pair).`,
    );
const values = (name: string) => list(name, text(name, 500).nullable(), 200);
const propertyName = (name: string) => text(name, 100).min(1, `${name} must not be empty.`);
const number = (name: string) =>
  z
    .string()
    .regex(/^[+-]?\d{1,30}(\.\d{1,30})?$/, `${name} must be a number of at most 30 digits on either side.`);

const propertyFilter = z
  .object({
    name: propertyName("filter.properties.name"),
    in: values("filter.properties.in").nullish(),
    notIn: values("filter.properties.notIn").nullish(),
    exists: z.boolean().nullish(),
    atLeast: number("filter.properties.atLeast").nullish(),
    below: number("filter.properties.below").nullish(),
  })
  .strict();
export const filterSchema = z
  .object({
    types: values("filter.types").nullish(),
    names: values("filter.names").nullish(),
    sources: values("filter.sources").nullish(),
    currencies: values("filter.currencies").nullish(),
    subjects: values("filter.subjects").nullish(),
    value: z
      .object({
        atLeast: number("filter.value.atLeast").nullish(),
        below: number("filter.value.below").nullish(),
      })
      .strict()
      .nullish(),
    properties: list("filter.properties", propertyFilter, 10).nullish(),
  })
  .strict();
export type Filter = z.output<typeof filterSchema>;

export const measureName = z.string().regex(/^[a-z][A-Za-z0-9_]{0,49}$/, {
  error: ({ input }) =>
    `"${String(input).slice(0, 60)}" cannot name a measure: it must begin with a small letter and have at most 50 letters, digits and underscores.`,
});
export const measureSchema = z
  .object({
    name: measureName,
    aggregate: z.enum(aggregates),
    of: z.enum(["VALUE", "SUBJECT"]).nullish(),
    property: propertyName("measures.property").nullish(),
    percentile: z
      .number()
      .gt(0, "measures.percentile must be above 0 and below 100.")
      .lt(100, "measures.percentile must be above 0 and below 100.")
      .nullish(),
    filter: filterSchema.nullish(),
  })
  .strict()
  .superRefine(({ name, aggregate, of, property, percentile }, context) => {
    const complain = (message: string) => context.addIssue({ code: "custom", message });
    if (of && property) complain(`Measure "${name}" has both of and property; it may have one.`);
    if (aggregate === "COUNT" && (of || property))
      complain(
        `Measure "${name}" counts events: it has neither of nor property. DISTINCT_COUNT counts values.`,
      );
    if ((aggregate === "PERCENTILE") !== (percentile != null))
      complain(`Measure "${name}": percentile goes with the aggregate PERCENTILE, and with no other.`);
    if (aggregate === "DISTINCT_COUNT" && !property && of !== "SUBJECT")
      complain(`Measure "${name}": DISTINCT_COUNT needs a property, or of: SUBJECT.`);
    if (aggregate !== "DISTINCT_COUNT" && of === "SUBJECT")
      complain(`Measure "${name}": a subject can only be counted, with DISTINCT_COUNT.`);
  });
export type Measure = z.output<typeof measureSchema>;

const dimension = z
  .object({ field: z.enum(fields).nullish(), property: propertyName("dimensions.property").nullish() })
  .strict()
  .refine(({ field, property }) => (field == null) !== (property == null), {
    error: "A dimension is either a field or a property.",
  });
export type Dimension = z.output<typeof dimension>;

export const time = (name: string) =>
  z.iso
    .datetime({
      offset: true,
      error: `${name} must be an RFC 3339 date and time with an offset, such as 2026-03-01T00:00:00-05:00.`,
    })
    .refine((text) => !/[+-](1[5-9]|2\d):\d\d$/.test(text), {
      error: `${name} has an offset of 15 hours or more.`,
    })
    .refine((text) => year(text) >= 1900 && year(text) < 2200, {
      error: `${name} must lie between 1900 and 2200.`,
    });
/** Since 1970. Date.parse takes milliseconds alone. */
export const microsecondsOf = (text: string): bigint =>
  BigInt(Date.parse(text)) * 1000n + BigInt((/\.\d{3}(\d{1,3})/.exec(text)?.[1] ?? "").padEnd(3, "0"));
const year = (text: string) => new Date(text).getUTCFullYear();

/** What a series is asked with. Messages name the argument, and say what to do. */
export const seriesRequest = z
  .object({
    from: time("from"),
    to: time("to"),
    granularity: z.enum(granularities),
    timeZone: z.string().nullish(),
    weekStart: z
      .int()
      .min(0, "weekStart is a day from 0 (Sunday) to 6.")
      .max(6, "weekStart is a day from 0 (Sunday) to 6.")
      .nullish(),
    fiscalYearStart: z
      .int()
      .min(1, "fiscalYearStart is a month from 1 to 12.")
      .max(12, "fiscalYearStart is a month from 1 to 12.")
      .nullish(),
    filter: filterSchema.nullish(),
    dimensions: list("dimensions", dimension, 3).nullish(),
    measures: list("measures", measureSchema, 10).nullish(),
    metrics: list("metrics", text("metrics", 100), 10).nullish(),
    fillGaps: z.boolean().nullish(),
    top: z
      .object({
        first: z
          .int()
          .min(1, "top.first is a number from 1 to 100.")
          .max(100, "top.first is a number from 1 to 100."),
        by: z.string().nullish(),
        others: z.boolean().nullish(),
      })
      .strict()
      .nullish(),
    compare: z.enum(["PREVIOUS_PERIOD", "PREVIOUS_YEAR"]).nullish(),
    mixCurrencies: z.boolean().nullish(),
  })
  .strict()
  .superRefine(({ from, to, measures, metrics, dimensions, top }, context) => {
    const complain = (message: string) => context.addIssue({ code: "custom", message });
    if (microsecondsOf(from) >= microsecondsOf(to)) complain("from must be before to.");
    else if (Date.parse(to) - Date.parse(from) > MAX_YEARS * 366 * 86_400_000)
      complain(`A series spans at most ${MAX_YEARS} years; move from and to closer together.`);
    const names = [...(measures ?? []).map(({ name }) => name), ...(metrics ?? [])];
    if (names.length === 0) complain("A series needs measures or metrics.");
    const twice = names.find((name, index) => names.indexOf(name) !== index);
    if (twice !== undefined)
      complain(`"${twice}" names two measures or metrics; each needs a name of its own.`);
    if (top && !dimensions?.length) complain("top ranks groups: it needs dimensions.");
    if (top?.by && !names.includes(top.by))
      complain(`top.by is "${top.by}", which is none of the measures and metrics.`);
  });
export type SeriesRequest = z.output<typeof seriesRequest>;
