import { type Request, type Response, Router } from "express";
import { z } from "zod";
import { makeBounded, makeBoundedEach } from "../auth/bounded.ts";
import type { LastUse } from "../auth/lastUse.ts";
import { claimsOf, type Identity, identityOf } from "../auth/requests.ts";
import { ApiError } from "../graphql/errors.ts";
import { decode, makeBytesInFlight, mediaTypeOf, readBody, unpackerOf, unsupported } from "../http/body.ts";
import { describeError, sendError, sendProblem } from "../http/problem.ts";
import { seriesRequest } from "../series/request.ts";
import type { ExportLimits } from "./limits.ts";
import { auditLogRequest, eventsRequest } from "./request.ts";
import type { ExportPermission, ExportService, Target } from "./service.ts";
import { openStream, type Stream } from "./stream.ts";
import { body, type Format, head, mediaTypes } from "./table.ts";

const MAX_BODY_BYTES = 100_000;
const BODIES = { overall: 16_000_000, each: 4_000_000 };
const BODY_TIMEOUT_MS = 20_000;
const RETRY_AFTER_SECONDS = 10;

const query = z.strictObject({
  format: z.enum(["csv", "ndjson"], { error: "format may be csv or ndjson." }).optional(),
});
const accepted: Record<string, Format> = {
  "text/csv": "csv",
  "application/x-ndjson": "ndjson",
  "application/ndjson": "ndjson",
};

type Start = (identity: Identity, target: Target) => Promise<void>;
type Exported = { name: string; permission: ExportPermission; parse: (input: unknown) => Start };

/** Series, events and the audit log as files, over HTTP. */
export function makeExportsRouter(
  exports: ExportService,
  lastUse: Pick<LastUse, "note">,
  limits: ExportLimits,
): Router {
  const bounds = { waiting: 0, retryAfterSeconds: RETRY_AFTER_SECONDS };
  const inTurn = makeBounded(
    { ...bounds, concurrency: limits.perInstance },
    "This server has as many exports under way as it can serve. Try again in a moment.",
  );
  const inTurnOfTenant = makeBoundedEach(
    { ...bounds, concurrency: limits.perTenant },
    `This tenant has ${limits.perTenant} exports under way. Wait until one has ended.`,
  );
  const hold = makeBytesInFlight(BODIES);
  async function readText(request: Request, tenantId: string): Promise<string> {
    const { unpack } = unpackerOf(request);
    const held = hold(tenantId);
    try {
      const reading = { unpack, hold: held, timeoutMs: BODY_TIMEOUT_MS, maxBytes: MAX_BODY_BYTES };
      return decode(await readBody(request, { ...reading, advice: "Ask for less in one export." }));
    } finally {
      held.release();
    }
  }

  /** In this order, so that nobody takes a tenant's turn, or makes us read, who may not. */
  async function answer(
    request: Request,
    response: Response,
    { name, permission, parse }: Exported,
  ): Promise<void> {
    const identity = identityOf(request);
    const { tenant_id } = claimsOf(identity);
    const format = formatOf(request);
    const mediaType = mediaTypeOf(request.headers["content-type"]);
    if (mediaType !== "application/json")
      throw unsupported(`Content-Type is "${mediaType}"; it must be application/json.`);
    await exports.authorize(identity, permission);
    const start = parse(readJson(await readText(request, tenant_id)));
    await inTurnOfTenant(tenant_id, () =>
      inTurn(async () => {
        const stream = openStream(response, limits);
        try {
          await start(identity, {
            format,
            signal: stream.signal,
            async send(columns, batches) {
              response.set({
                "content-type": mediaTypes[format],
                "content-disposition": `attachment; filename="${name}.${format}"`,
                "cache-control": "no-store",
              });
              await stream.write(head(columns, format));
              for await (const rows of batches) await stream.write(body(columns, rows, format));
            },
          });
          if (identity.claims) lastUse.note(identity.claims);
          stream.end();
        } catch (error) {
          fail(response, stream, error, format);
        }
      }),
    );
  }

  const post = (exported: Exported) =>
    Router()
      .post(`/v1/exports/${exported.name}`, (request, response) => {
        answer(request, response, exported).catch((error: unknown) => {
          // Whoever hung up gets no answer.
          if (!request.socket.destroyed) sendError(response, error);
        });
      })
      .all(`/v1/exports/${exported.name}`, (_request, response) => {
        response.set("allow", "POST");
        sendProblem(response, { code: "INVALID_INPUT", message: "Exports are POSTed.", extensions: {} }, 405);
      });
  return Router()
    .use(
      post({
        name: "series",
        permission: "analytics:export",
        parse(input) {
          const parsed = seriesRequest.parse(input);
          return (identity, target) => exports.series(identity, parsed, target);
        },
      }),
    )
    .use(
      post({
        name: "events",
        permission: "analytics:export",
        parse(input) {
          const parsed = eventsRequest.parse(input);
          return (identity, target) => exports.events(identity, parsed, target);
        },
      }),
    )
    .use(
      post({
        name: "audit_log",
        permission: "audit:read",
        parse(input) {
          const parsed = auditLogRequest.parse(input);
          return (identity, target) => exports.auditLog(identity, parsed, target);
        },
      }),
    );
}

/** Before the first byte, a problem; after it, an end that nobody takes for the end of the data. */
function fail(response: Response, stream: Stream, error: unknown, format: Format): void {
  if (stream.signal.aborted) return;
  if (!response.headersSent) {
    sendError(response, error);
    return;
  }
  const { code, message } = describeError(response, error);
  response.log.warn({ err: error, code }, "an export was cut off");
  stream.cut(
    format === "ndjson"
      ? `${JSON.stringify({ error: { code, message, requestId: response.req.id } })}\n`
      : "",
  );
}

function formatOf(request: Request): Format {
  const { format } = query.parse(request.query);
  const wanted = request.accepts(Object.keys(accepted));
  const found = format ?? (wanted ? accepted[wanted] : undefined);
  if (found) return found;
  throw new ApiError("INVALID_INPUT", `Accept may be ${Object.keys(accepted).join(", ")}.`, { status: 406 });
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError("INVALID_INPUT", "The body is not JSON.", { reason: "not_json" });
  }
}
