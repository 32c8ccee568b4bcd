import { type Request, type Response, Router } from "express";
import { z } from "zod";
import { makeBounded } from "../auth/bounded.ts";
import type { LastUse } from "../auth/lastUse.ts";
import { claimsOf, type Identity, identityOf } from "../auth/requests.ts";
import { makeBodyReader, mediaTypeOf } from "../http/body.ts";
import { sendError, sendProblem } from "../http/problem.ts";
import { type Batch, readJson, readNdjson } from "./batch.ts";
import { openApi } from "./openapi.ts";
import type { EventService, Receipt } from "./service.ts";

export const MAX_BODY_BYTES = 5 * 1024 * 1024;
/** A body that is larger, or does not say how large it is, is read only for whoever may write. */
const SMALL_BYTES = 100_000;
/** So that memory is bounded whatever clients send: a body, what it parses to and what goes to PostgreSQL, at a time. */
const SMALL = { concurrency: 200, waiting: 2_000 };
const LARGE = { concurrency: 8, waiting: 200 };

const query = z.strictObject({
  onConflict: z
    .enum(["update", "reject"], { error: "onConflict may be update or reject." })
    .default("update"),
  atomic: z
    .enum(["true", "false"], { error: "atomic may be true or false." })
    .default("false")
    .transform((text) => text === "true"),
});
const readers: Record<string, (text: string) => Batch> = {
  "application/json": readJson,
  "application/x-ndjson": readNdjson,
  "application/ndjson": readNdjson,
};

/** Events over HTTP: `POST /v1/events`, and what it is in OpenAPI. */
export function makeEventsRouter(events: EventService, lastUse: Pick<LastUse, "note">): Router {
  const busy = "Too many batches are being written. Try again in a moment.";
  const [inSmallTurn, inLargeTurn] = [makeBounded(SMALL, busy), makeBounded(LARGE, busy)];
  const readBody = makeBodyReader(MAX_BODY_BYTES, "Send fewer events at a time.");

  async function ingest(request: Request, response: Response, identity: Identity, isLarge: boolean) {
    const options = query.parse(request.query);
    const mediaType = mediaTypeOf(request);
    const read = readers[mediaType];
    if (!read) {
      const message = `Content-Type is "${mediaType}"; it may be ${Object.keys(readers).join(", ")}.`;
      return sendProblem(response, { code: "INVALID_INPUT", message, extensions: {} }, 415);
    }
    claimsOf(identity);
    if (isLarge) await events.authorize(identity);
    const batch = read(await readBody(request, response));
    const receipts = await events.write(identity, batch, options);
    if (identity.claims) lastUse.note(identity.claims);
    sendReceipts(response, receipts);
  }

  return Router()
    .get("/v1/openapi.json", (_request, response) => void response.json(openApi))
    .post("/v1/events", (request, response) => {
      const { "content-length": length, "content-encoding": encoding } = request.headers;
      const isLarge = length === undefined || Number(length) > SMALL_BYTES || encoding !== undefined;
      const inTurn = isLarge ? inLargeTurn : inSmallTurn;
      inTurn(() => ingest(request, response, identityOf(request), isLarge)).catch((error: unknown) => {
        // Whoever hung up gets no answer.
        if (!request.socket.destroyed) sendError(response, error);
      });
    })
    .all("/v1/events", (_request, response) => {
      response.set("allow", "POST");
      sendProblem(response, { code: "INVALID_INPUT", message: "Events are POSTed.", extensions: {} }, 405);
    });
}

/** 202 once anything of the batch is there; otherwise 422, or 409 when all were conflicts. */
function sendReceipts(response: Response, receipts: readonly Receipt[]) {
  const counts = { accepted: 0, updated: 0, duplicate: 0, rejected: 0, withheld: 0 };
  for (const { outcome } of receipts) counts[outcome]++;
  const { withheld, ...others } = counts;
  const answer = { ...others, ...(withheld > 0 ? { withheld } : {}), events: receipts.map(describe) };
  if (counts.rejected === 0 || counts.rejected + withheld < receipts.length)
    return void response.status(202).json(answer);
  const conflicts = receipts.every(({ code }) => code === "CONFLICT" || code === null);
  const message =
    withheld > 0
      ? `Nothing was written: ${counts.rejected} of ${receipts.length} events were rejected, and atomic was asked for.`
      : "No event was written.";
  const code = conflicts ? "CONFLICT" : "INVALID_INPUT";
  sendProblem(response, { code, message, extensions: answer }, conflicts ? 409 : 422);
}

/** A pointer into the body: of a line of NDJSON, or of a single event, too, the index comes first. */
function describe({ outcome, id, timestamp, code, reason, pointer, detail }: Receipt, index: number) {
  const place = { index, status: outcome };
  if (code !== null) return { ...place, code, reason, pointer: `/${index}${pointer ?? ""}`, detail };
  return id === null ? place : { ...place, id, timestamp };
}
