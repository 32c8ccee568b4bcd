import { ApiError } from "../graphql/errors.ts";
import type { EventField, SeriesRequest } from "../series/request.ts";
import type { Series } from "../series/series.ts";
import { PROPERTY } from "./request.ts";
import type { Column, Row } from "./table.ts";

const fieldNames: Record<EventField, string> = {
  TYPE: "eventType",
  NAME: "eventName",
  SOURCE: "source",
  CURRENCY: "currency",
  SUBJECT: "subject",
};

/**
 * A series as a table: the bucket, its dimensions, and a column for each measure and metric.
 * @throws ApiError INVALID_INPUT (reason column_name) when two columns would have one name
 */
export function seriesTable(request: SeriesRequest, series: Series): { columns: Column[]; rows: Row[] } {
  const text = (name: string): Column => ({ name, kind: "text" });
  const number = (name: string): Column => ({ name, kind: "number" });
  const columns = [
    text("start"),
    text("label"),
    ...(request.dimensions ?? []).map(({ field, property }) =>
      text(field ? fieldNames[field] : `${PROPERTY}${property}`),
    ),
    ...(request.top ? [text("isOther")] : []),
    ...series.columns.map(({ name }) => number(name)),
    ...(request.compare ? series.columns.map(({ name }) => number(`${name}.compared`)) : []),
  ];
  const names = columns.map(({ name }) => name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined)
    throw new ApiError(
      "INVALID_INPUT",
      `Two columns would be called "${twice.slice(0, 120)}": give the measure another name, and ask for each dimension once.`,
      { reason: "column_name" },
    );
  const rows = series.rows.map(({ start, label, dimensions, isOther, values, compared }) => [
    start,
    label,
    ...dimensions,
    ...(request.top ? [isOther] : []),
    ...values,
    ...(request.compare ? (compared ?? values.map(() => null)) : []),
  ]);
  return { columns, rows };
}
