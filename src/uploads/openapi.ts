import { z } from "zod";
import { csvConfig } from "../../tasks/connectors/csv/settings.ts";
import { problems, ref, retryable, schemaOf } from "../http/openapiParts.ts";

const upload = z.object({
  id: z.uuid(),
  fileName: z.string(),
  bytes: z.int().meta({ description: "Unpacked." }),
  columns: z.array(z.string()),
});
const files = z.object({
  files: z.array(
    z.object({
      id: z.uuid(),
      fileName: z.string(),
      bytes: z.int(),
      state: z
        .enum(["receiving", "ready", "done"])
        .meta({ description: "ready: it waits to be read, or is being read." }),
      createdAt: z.iso.datetime(),
      readyAt: z.iso.datetime().nullable(),
      doneAt: z.iso.datetime().nullable(),
    }),
  ),
});
const column = z.object({
  name: z.string(),
  kind: z.enum(["empty", "integer", "decimal", "time", "currency", "boolean", "text"]),
  format: z.string().optional(),
  isUnique: z.boolean(),
  examples: z.array(z.string()),
});
const preview = z.object({
  columns: z.array(column).meta({ description: "What the first 200 lines hold." }),
  config: z.unknown().meta({ description: "The mapping that was tried; null where none could be proposed." }),
  isProposed: z
    .boolean()
    .meta({ description: "Nobody gave a mapping: this one is a guess. Save it when it is right." }),
  problems: z
    .array(z.object({ pointer: z.string(), column: z.string(), detail: z.string() }))
    .meta({ description: "Columns that the mapping names, and the file does not have." }),
  rows: z
    .array(
      z.object({
        line: z.int(),
        event: z.unknown().optional(),
        outcome: z.enum(["accepted", "updated", "duplicate", "rejected"]).optional(),
        rejection: z
          .object({ reason: z.string(), pointer: z.string().nullable(), detail: z.string().nullable() })
          .optional(),
        problem: z
          .object({ column: z.string().optional(), detail: z.string(), sentence: z.string() })
          .optional(),
        text: z.string().optional(),
      }),
    )
    .meta({ description: "The first 20." }),
});

const id = {
  name: "id",
  in: "path",
  required: true,
  description: "The integration.",
  schema: { type: "string", format: "uuid" },
};
const config = {
  name: "config",
  in: "query",
  description: "A mapping to try, as JSON; without it, the integration's, or one that is proposed.",
  content: { "application/json": { schema: ref("CsvConfig") } },
};
const file = {
  required: true,
  description: "The file itself; Content-Encoding may be gzip, deflate or br.",
  content: Object.fromEntries(
    ["text/csv", "text/tab-separated-values", "text/plain", "application/gzip"].map((type) => [
      type,
      { schema: { type: "string", contentMediaType: type } },
    ]),
  ),
};
const refusals = {
  "400": problems("A parameter is wrong, the integration takes no files, or the file was cut off."),
  "401": problems("No API key or access token, or one that is not valid."),
  "403": problems(
    "Without the permission, or beyond a limit of the plan: upload_bytes, waiting_bytes or waiting_uploads.",
  ),
  "404": problems("No such integration."),
  "405": problems("Another method."),
  "408": problems("The file came too slowly."),
  "409": problems("The integration is disabled, or the upload was given up meanwhile."),
  "415": problems("Another Content-Type or Content-Encoding."),
  "422": problems("The file cannot be read, or does not fit the mapping; `problems` names the columns."),
  "429": retryable("The tenant, or the server, receives as many files as it may."),
  "503": retryable("The database is busy or away."),
};
const json = (description: string, schema: string) => ({
  description,
  content: { "application/json": { schema: ref(schema) } },
});
const security = [{ bearer: [] }];

export const uploadPaths = {
  "/v1/integrations/{id}/files": {
    post: {
      operationId: "uploadFile",
      summary: "Uploads a CSV file, or shows what it would become",
      description:
        "Needs integrations:sync; a preview, that or integrations:manage. The file is read in the background; one that is sent again adds nothing, and a corrected one updates, where the mapping has id columns.",
      security,
      parameters: [
        id,
        { name: "name", in: "query", schema: { type: "string", maxLength: 255, default: "upload.csv" } },
        {
          name: "preview",
          in: "query",
          description: "Stores nothing. The first MiB is enough.",
          schema: { type: "boolean", default: false },
        },
        config,
      ],
      requestBody: file,
      responses: {
        "200": json("The preview.", "CsvPreview"),
        "202": json("Stored; it is read soon.", "Upload"),
        ...refusals,
      },
    },
    get: {
      operationId: "listFiles",
      summary: "The newest 100 files of an integration",
      security,
      parameters: [id],
      responses: { "200": json("Those that were read stay on record for 90 days.", "Uploads"), ...refusals },
    },
  },
  "/v1/integrations/{id}/files/{file}": {
    delete: {
      operationId: "deleteFile",
      summary: "Deletes a file; what was read of it stays",
      security,
      parameters: [
        id,
        { name: "file", in: "path", required: true, schema: { type: "string", format: "uuid" } },
      ],
      responses: { "204": { description: "It is gone." }, ...refusals },
    },
  },
  "/v1/csv/preview": {
    post: {
      operationId: "previewCsv",
      summary: "Shows what a CSV file would become, before there is an integration",
      security,
      parameters: [config],
      requestBody: file,
      responses: { "200": json("The preview.", "CsvPreview"), ...refusals },
    },
  },
};
export const uploadSchemas = {
  CsvConfig: schemaOf(csvConfig),
  CsvPreview: schemaOf(preview),
  Upload: schemaOf(upload),
  Uploads: schemaOf(files),
};
