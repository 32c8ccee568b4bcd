import { z } from "zod";
import { filterSchema, microsecondsOf, time } from "../series/request.ts";

const MAX_COLUMNS = 50;
const MAX_NAME = 100;
/** Columns of this prefix are properties. No measure has a point in its name. */
export const PROPERTY = "properties.";

export const eventColumns = [
  "id",
  "timestamp",
  "eventType",
  "eventName",
  "value",
  "currency",
  "subject",
  "source",
  "sourceId",
  "properties",
] as const;
export type EventColumn = (typeof eventColumns)[number];
const known: ReadonlySet<string> = new Set(eventColumns);

const column = z
  .string()
  .refine((name) => known.has(name) || (name.startsWith(PROPERTY) && name.length > PROPERTY.length), {
    error: ({ input }) =>
      `columns has "${String(input).slice(0, 60)}"; there are ${eventColumns.join(", ")}, and ${PROPERTY} followed by the name of a property.`,
  })
  .refine(
    (name) => name.length <= PROPERTY.length + MAX_NAME,
    `columns has a property whose name has more than ${MAX_NAME} characters.`,
  )
  .refine(
    (name) => name.isWellFormed() && !name.includes("\0"),
    "columns has a character that cannot be stored (U+0000, or half a surrogate pair).",
  );

/** Which events are exported, and what of them. */
export const eventsRequest = z
  .object({
    from: time("from"),
    to: time("to").meta({ description: "Not included." }),
    filter: filterSchema.nullish(),
    columns: z
      .array(column)
      .min(1, "columns must not be empty.")
      .max(MAX_COLUMNS, `columns has at most ${MAX_COLUMNS} entries.`)
      .nullish()
      .meta({
        description: `In their order, of ${eventColumns.join(", ")}; ${PROPERTY}NAME is a property. Default: all but single properties.`,
      }),
  })
  .strict()
  .superRefine(({ from, to, columns }, context) => {
    if (microsecondsOf(from) >= microsecondsOf(to))
      context.addIssue({ code: "custom", message: "from must be before to." });
    const twice = columns?.find((name, index) => columns.indexOf(name) !== index);
    if (twice !== undefined)
      context.addIssue({ code: "custom", message: `columns has "${twice.slice(0, 120)}" twice.` });
  });
export type EventsRequest = z.output<typeof eventsRequest>;

/** Of when rows of the audit log are exported; without either, the whole log. */
export const auditLogRequest = z
  .object({
    from: time("from").nullish(),
    to: time("to").nullish().meta({ description: "Not included." }),
  })
  .strict()
  .superRefine(({ from, to }, context) => {
    if (from != null && to != null && microsecondsOf(from) >= microsecondsOf(to))
      context.addIssue({ code: "custom", message: "from must be before to." });
  });
export type AuditLogRequest = z.output<typeof auditLogRequest>;
