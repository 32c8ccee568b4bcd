import { loadOneWithPgClient } from "postgraphile/@dataplan/pg";
import { context, lambda, list, object, type Step } from "postgraphile/grafast";
import { extendSchema } from "postgraphile/utils";
import { claimsOf } from "../src/auth/requests.ts";
import { ApiError } from "../src/graphql/errors.ts";
import { DEFAULT_ROWS, MAX_ROWS, seriesRequest } from "../src/series/request.ts";
import { readSeries, type Series, type SeriesRow } from "../src/series/series.ts";
import { seriesTypes } from "./eventSeriesTypes.ts";

const names = [
  "from",
  "to",
  "granularity",
  "timeZone",
  "weekStart",
  "fiscalYearStart",
  "filter",
  "dimensions",
  "measures",
  "metrics",
  "fillGaps",
  "top",
  "compare",
  "mixCurrencies",
] as const;

/** A row, and where in it the columns are. */
type PlacedRow = SeriesRow & { columns: Series["columns"] };

function page(series: Series, first: unknown, offset: unknown): PlacedRow[] {
  const [count, start] = [first ?? DEFAULT_ROWS, offset ?? 0];
  if (typeof count !== "number" || count < 0 || count > MAX_ROWS)
    throw new ApiError("INVALID_INPUT", `first is a number from 0 to ${MAX_ROWS}.`);
  if (typeof start !== "number" || start < 0)
    throw new ApiError("INVALID_INPUT", "offset must not be negative.");
  return series.rows.slice(start, start + count).map((row) => ({ ...row, columns: series.columns }));
}

function pick(columns: Series["columns"], values: (string | null)[] | null, of: unknown): string | null {
  const index = columns.findIndex(({ name }) => name === of);
  if (index < 0)
    throw new ApiError(
      "INVALID_INPUT",
      `of is "${String(of).slice(0, 60)}"; this series has ${columns.map(({ name }) => `"${name}"`).join(", ")}.`,
    );
  return values?.[index] ?? null;
}

/** In TypeScript, because the statement depends on what is asked, and SQL that writes SQL is read by nobody. */
export const EventSeriesPlugin = extendSchema((build) => {
  const { analytics_events: events } = build.pgResources;
  if (!events)
    throw new Error("EventSeriesPlugin needs the table public.analytics_events, which is not in the schema.");
  const picking =
    (of: "values" | "compared") => ($row: Step<PlacedRow>, args: { getRaw(name: string): Step }) =>
      lambda([$row, args.getRaw("of")], ([row, name]) => pick(row.columns, row[of], name));
  const totalling =
    (of: "values" | "compared") => ($series: Step<Series>, args: { getRaw(name: string): Step }) =>
      lambda([$series, args.getRaw("of")], ([series, name]) => pick(series.columns, series.totals[of], name));
  return {
    typeDefs: seriesTypes,
    objects: {
      Query: {
        plans: {
          eventSeries: (_$root, args) =>
            loadOneWithPgClient(
              events.executor,
              list([
                context().get("identity"),
                object(Object.fromEntries(names.map((name) => [name, args.getRaw(name)]))),
              ]),
              async (client, lookups) => {
                const answers: Promise<Series>[] = [];
                // One after another: they share a connection. A savepoint each: one that fails leaves the others alone.
                for (const [identity, input] of lookups) {
                  const answer = client.withTransaction(async (inner) => {
                    const { tenant_id } = claimsOf(identity);
                    return readSeries((query) => inner.query(query), tenant_id, seriesRequest.parse(input));
                  });
                  await answer.catch(() => {});
                  answers.push(answer);
                }
                return answers;
              },
            ),
        },
      },
      EventSeries: {
        plans: {
          rows: ($series: Step<Series>, args) =>
            lambda([$series, args.getRaw("first"), args.getRaw("offset")], ([series, first, offset]) =>
              page(series, first, offset),
            ),
          rowCount: ($series: Step<Series>) => lambda($series, (series) => series.rows.length),
          total: totalling("values"),
          comparedTotal: totalling("compared"),
        },
      },
      EventSeriesRow: { plans: { value: picking("values"), compared: picking("compared") } },
    },
  };
}, "EventSeriesPlugin");
