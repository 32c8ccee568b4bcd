import { z } from "zod";
import { exportPaths, exportSchemas } from "../exports/openapi.ts";
import { problem, problems, ref, retryable, schemaOf } from "../http/openapiParts.ts";
import { uploadPaths, uploadSchemas } from "../uploads/openapi.ts";
import { webhookPaths } from "../webhooks/openapi.ts";
import { MAX_EVENTS } from "./batch.ts";
import { MAX_DEPTH } from "./text.ts";

const DATE = String.raw`(?:(?:\d\d[2468][048]|\d\d[13579][26]|\d\d0[48]|[02468][048]00|[13579][26]00)-02-29|\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8])))`;
const TIME = String.raw`(?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d{1,9})?(?:[Zz]|[+-](?:0\d|1[0-5]):[0-5]\d)`;

const text = (longest: number) => z.string().min(1).max(longest);

/** An event as clients send it. The database decides; this describes. */
export const event = z
  .strictObject({
    eventType: text(100).meta({ description: "Category, such as order. Required for a new event." }),
    eventName: text(200).meta({
      description: "What happened, such as order_completed. Required for a new event.",
    }),
    timestamp: z
      .string()
      .regex(new RegExp(`^${DATE}[Tt]${TIME}$`))
      .nullable()
      .meta({
        format: "date-time",
        description:
          "When it happened: RFC 3339 with T, seconds, and Z or an offset of less than 16 hours. Left out, it is the time of arrival.",
      }),
    value: z
      .union([z.number().gt(-1e30).lt(1e30), z.string().regex(/^[+-]?\d{1,30}(\.\d{1,30})?$/)])
      .nullable()
      .meta({
        description:
          "The main measure, in major units of currency: at most 30 digits before the point and 30 after it, as a number or as text.",
      }),
    currency: z
      .string()
      .regex(/^[A-Z]{3}$/)
      .nullable()
      .meta({ description: "ISO 4217." }),
    properties: z
      .record(z.string(), z.unknown())
      .nullable()
      .meta({
        description: `Whatever else is known: at most 32,768 bytes of JSON, ${MAX_DEPTH} levels deep.`,
      }),
    source: text(200).nullable().meta({ description: "Where the event comes from." }),
    sourceId: text(500).nullable().meta({
      description:
        "The record's id at its source. One (source, sourceId) is one event, however often it is sent.",
    }),
    id: text(500).nullable().meta({ description: "Another name of sourceId." }),
    sourceVersion: z
      .union([
        z.number().meta({ type: "integer", exclusiveMinimum: -1e18, exclusiveMaximum: 1e18 }),
        z.string().regex(/^-?\d{1,18}$/),
      ])
      .nullable()
      .meta({
        description:
          "Grows whenever the source restates the record: an older one never wins. A whole number, or text of at most 18 digits.",
      }),
    deleted: z.boolean().nullable().meta({
      description:
        "True: the record is gone at its source (source and sourceId say which), and the event goes too. It comes back only with a newer sourceVersion.",
    }),
  })
  .partial()
  .meta({ description: "A field that is left out of a restatement keeps its value; null clears it." });

const receipt = z.object({
  index: z.int().min(0).meta({ description: "The event's place in the body, from 0." }),
  status: z.enum(["accepted", "updated", "deleted", "duplicate", "rejected", "withheld"]),
  id: z
    .uuid()
    .optional()
    .meta({ description: "With timestamp, the primary key of the event, where there is or was one." }),
  timestamp: z.iso.datetime().optional(),
  code: z.enum(["INVALID_INPUT", "CONFLICT"]).optional(),
  reason: z.string().optional().meta({ description: "Such as not_a_time or unknown_currency." }),
  pointer: z
    .string()
    .optional()
    .meta({ description: "RFC 6901, into the body; of NDJSON, as if it were an array." }),
  detail: z.string().optional().meta({ description: "For people." }),
});
const counts = {
  accepted: z.int(),
  updated: z.int(),
  deleted: z.int(),
  duplicate: z.int(),
  rejected: z.int(),
  withheld: z.int().optional(),
};
export const receipts = z.object({ ...counts, events: z.array(receipt) });

const refusals = { allOf: [ref("Problem"), ref("Receipts")] };

/** OpenAPI 3.1. */
export const openApi = {
  openapi: "3.1.0",
  info: {
    title: "erp-analytics: events, exports and webhooks",
    version: "1",
    description:
      "Events come in here, each exactly once, and leave as files; providers say here that something has changed. Everything else is GraphQL, at /graphql.",
  },
  paths: {
    "/v1/events": {
      post: {
        operationId: "writeEvents",
        summary: "Writes events",
        description: `One event, an array of at most ${MAX_EVENTS}, or NDJSON, in UTF-8; Content-Encoding may be gzip, deflate or br. What was not answered with 202 may be sent again: events with a sourceId (or id) are never counted twice.`,
        security: [{ bearer: [] }],
        parameters: [
          {
            name: "onConflict",
            in: "query",
            description:
              "What happens to an event that differs from the stored one of the same source and sourceId.",
            schema: { type: "string", enum: ["update", "reject"], default: "update" },
          },
          {
            name: "atomic",
            in: "query",
            description: "All events, or none.",
            schema: { type: "boolean", default: false },
          },
        ],
        requestBody: {
          required: true,
          content: {
            "application/json": {
              schema: { oneOf: [ref("Event"), { type: "array", maxItems: MAX_EVENTS, items: ref("Event") }] },
            },
            "application/x-ndjson": { schema: { type: "string", description: "An event to a line." } },
            "application/ndjson": { schema: { type: "string", description: "The same." } },
          },
        },
        responses: {
          "202": {
            description: "Committed. Says of each event what became of it.",
            content: { "application/json": { schema: ref("Receipts") } },
          },
          "400": problems("Not JSON, too many events, or an unknown parameter."),
          "401": problems("No API key or access token, or one that is not valid."),
          "403": problems("Without the permission events:write."),
          "405": {
            ...problems("Events are POSTed."),
            headers: { Allow: { description: "POST", schema: { type: "string" } } },
          },
          "408": problems("The body came too slowly."),
          "409": problems("Nothing was written: every event differs from the stored one.", refusals),
          "413": problems("The body is too large."),
          "415": problems("Another Content-Type, charset or Content-Encoding."),
          "422": problems("Nothing was written.", refusals),
          "429": retryable(
            "Beyond a limit of the plan, which `limit` names (key_events_per_minute, events_per_minute or events_per_day), or of the server.",
          ),
          "503": retryable("The database is busy or away. Nothing is known to be written: send it again."),
        },
      },
    },
    ...exportPaths,
    ...webhookPaths,
    ...uploadPaths,
  },
  components: {
    securitySchemes: {
      bearer: {
        type: "http",
        scheme: "bearer",
        description: "An API key with the scope events:write or analytics:export, or an access token.",
      },
    },
    schemas: {
      Event: schemaOf(event),
      Receipts: schemaOf(receipts),
      ...exportSchemas,
      ...uploadSchemas,
      Problem: schemaOf(problem),
    },
  },
};
