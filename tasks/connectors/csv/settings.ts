import { z } from "zod";
import { ENCODINGS } from "../../../src/events/import/records.ts";
import { flawOfFormat, hasOffset } from "./formats.ts";

const column = z
  .string()
  .min(1)
  .max(200)
  .meta({ title: "Column", description: "As the header names it; without a header, its number, from 1." });

const textOf = (title: string, description: string, text: z.ZodType<string> = z.string().min(1).max(200)) =>
  z
    .union([
      z.strictObject({ constant: text.meta({ title: "The same for every row" }) }),
      z.strictObject({
        column,
        values: z.record(z.string(), text).optional().meta({
          title: "Values",
          description: "What each text of the column stands for. A row with any other text is left aside.",
        }),
      }),
    ])
    .meta({ title, description });

const isTimeZone = (name: string) => {
  try {
    return new Intl.DateTimeFormat("en", { timeZone: name }).resolvedOptions().timeZone !== "";
  } catch {
    return false;
  }
};

const timeZone = z
  .string()
  .max(100)
  .refine(isTimeZone, { error: ({ input }) => `"${input}" is no time zone, such as Europe/Berlin.` })
  .meta({ title: "Time zone", description: "Of times that do not say their offset, such as Europe/Berlin." });
const format = z
  .string()
  .max(100)
  .superRefine((text, context) => {
    const flaw = flawOfFormat(text);
    if (flaw) context.addIssue({ code: "custom", message: flaw });
  })
  .meta({
    title: "Format",
    description:
      "iso, unix (seconds), unixMs, or a pattern of yyyy, yy, MM, M, dd, d, HH, H, hh, h, a (AM or PM), mm, ss, S and X (an offset), such as dd.MM.yyyy HH:mm.",
  });
/** A time without an offset means another moment to everybody. Of iso, each says it or not. */
const isClear = (when: { format: string; timeZone?: string | undefined }) =>
  when.timeZone !== undefined || when.format === "iso" || hasOffset(when.format);
const ZONE_MISSING = {
  path: ["timeZone"],
  error: "Times of this format do not say their offset: name their time zone.",
};
const time = z.strictObject({ column, format, timeZone: timeZone.optional() });

export const propertyKinds = [
  "text",
  "integer",
  "decimal",
  "boolean",
  "date",
  "timestamp",
  "reference",
] as const;
const property = z
  .strictObject({
    column,
    kind: z.enum(propertyKinds).default("text").meta({
      title: "Kind",
      description:
        "decimal: an exact number, as text; reference: the id of another event of this integration.",
    }),
    format: format.optional().meta({ title: "Format", description: "Of a date or timestamp." }),
    timeZone: timeZone.optional(),
    eventType: z.string().min(1).max(100).optional().meta({
      title: "Event type",
      description: "Of the event that a reference means.",
    }),
  })
  .refine(
    ({ kind, format: pattern }) => (kind === "date" || kind === "timestamp") === (pattern !== undefined),
    {
      path: ["format"],
      error: "Dates and timestamps have a format, and nothing else has.",
    },
  )
  .refine(({ kind, eventType }) => (kind === "reference") === (eventType !== undefined), {
    path: ["eventType"],
    error: "References say which eventType they mean, and nothing else does.",
  })
  .refine(
    ({ kind, format: pattern, timeZone: zone }) =>
      kind !== "timestamp" || pattern === undefined || isClear({ format: pattern, timeZone: zone }),
    ZONE_MISSING,
  );

export const csvConfig = z.object({
  encoding: z.enum(ENCODINGS).default("utf8").meta({
    title: "Encoding",
    description: "latin1 is Windows-1252. A byte order mark must agree with it.",
  }),
  delimiter: z.enum([",", ";", "\t", "|"]).default(",").meta({
    title: "Delimiter",
    description: "What stands between two cells.",
  }),
  hasHeader: z.boolean().default(true).meta({
    title: "The first row names the columns",
    description: "Otherwise, columns are called by their numbers, from 1.",
  }),
  decimalSeparator: z.enum([".", ","]).default(".").meta({
    title: "Decimal separator",
    description: "12.50 or 12,50. The other one, blanks and apostrophes may stand between groups of digits.",
  }),
  eventType: textOf("Event type", "Such as order.", z.string().min(1).max(100)),
  eventName: textOf("Event name", "Such as order_completed."),
  timestamp: time.refine(isClear, ZONE_MISSING).meta({ title: "Time", description: "When it happened." }),
  value: z
    .strictObject({
      column,
      isNegated: z.boolean().default(false).meta({
        title: "With the opposite sign",
        description: "For refunds, which the file has as positive amounts.",
      }),
    })
    .optional()
    .meta({ title: "Value", description: "The main measure, in major units of the currency." }),
  currency: textOf(
    "Currency",
    "ISO 4217, such as EUR.",
    z.string().regex(/^[A-Z]{3}$/, "A currency is an ISO 4217 code, such as EUR."),
  ).optional(),
  sourceId: z
    .strictObject({ columns: z.array(column).min(1).max(5) })
    .optional()
    .meta({
      title: "Id",
      description:
        "The columns that together tell each record from all others. Without it, the whole row is its id: rows that are alike count once, and a corrected row is a new one.",
    }),
  sourceVersion: z.strictObject({ column }).optional().meta({
    title: "Version",
    description: "A whole number that grows when the record changes: an older one never wins.",
  }),
  properties: z
    .record(z.string().min(1).max(100), property)
    .refine((all) => Object.keys(all).length <= 200, "A mapping has at most 200 properties.")
    .default({})
    .meta({ title: "Properties", description: "What else is kept of a row, by the property's name." }),
});
export type CsvConfig = z.output<typeof csvConfig>;
export type CsvProperty = CsvConfig["properties"][string];
export type CsvText = CsvConfig["eventType"];

export const csvCredentials = z.object({});
export type CsvCredentials = z.output<typeof csvCredentials>;
