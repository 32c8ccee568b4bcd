import { problems, ref, retryable, schemaOf } from "../http/openapiParts.ts";
import { seriesRequest } from "../series/request.ts";
import { auditLogRequest, eventsRequest } from "./request.ts";

const file = (description: string) => ({ schema: { type: "string", description } });

const exporting = (what: {
  operationId: string;
  summary: string;
  description: string;
  schema: string;
  permission?: string;
}) => ({
  post: {
    operationId: what.operationId,
    summary: what.summary,
    description: `${what.description} The answer is streamed: one that ends without its last chunk was cut off, and is not whole.`,
    security: [{ bearer: [] }],
    parameters: [
      {
        name: "format",
        in: "query",
        description: "Overrules Accept.",
        schema: { type: "string", enum: ["csv", "ndjson"], default: "csv" },
      },
    ],
    requestBody: {
      required: true,
      content: { "application/json": { schema: ref(what.schema) } },
    },
    responses: {
      "200": {
        description: "The export is in the audit log before the first byte leaves.",
        content: {
          "text/csv": file(
            "RFC 4180, in UTF-8, with a header. Text that a spreadsheet would take for a formula begins with an apostrophe.",
          ),
          "application/x-ndjson": file(
            "An object to a line. One that was cut off may end in an object whose one key is error.",
          ),
        },
      },
      "400": problems("Not JSON, or an argument is wrong."),
      "401": problems("No API key or access token, or one that is not valid."),
      "403": problems(`Without the permission ${what.permission ?? "analytics:export"}.`),
      "406": problems("Accept names neither CSV nor NDJSON."),
      "413": problems("The body is too large."),
      "415": problems("Another Content-Type or Content-Encoding."),
      "429": retryable("The tenant, or the server, has as many exports under way as it may."),
      "503": retryable("The database is busy or away, or it took too long to find the first rows."),
    },
  },
});

export const exportPaths = {
  "/v1/exports/series": exporting({
    operationId: "exportSeries",
    summary: "Exports a series",
    description: "What eventSeries of GraphQL answers, as a table: a column for each measure and metric.",
    schema: "SeriesExport",
  }),
  "/v1/exports/events": exporting({
    operationId: "exportEvents",
    summary: "Exports events",
    description: "Events as they are at one moment, in the order of time, any number of them.",
    schema: "EventsExport",
  }),
  "/v1/exports/audit_log": exporting({
    operationId: "exportAuditLog",
    summary: "Exports the audit log",
    description:
      "All sealed rows, in the order of their numbers: in NDJSON as docs/audit-format.md has them, for audit:verify; what is younger than a minute may not be sealed yet.",
    schema: "AuditLogExport",
    permission: "audit:read",
  }),
};
export const exportSchemas = {
  SeriesExport: schemaOf(seriesRequest),
  EventsExport: schemaOf(eventsRequest),
  AuditLogExport: schemaOf(auditLogRequest),
};
