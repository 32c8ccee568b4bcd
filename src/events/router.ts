import { type Request, type Response, Router } from "express";
import { z } from "zod";
import { makeFair } from "../auth/bounded.ts";
import type { LastUse } from "../auth/lastUse.ts";
import { networkOf } from "../auth/networks.ts";
import { claimsOf, type Identity, identityOf } from "../auth/requests.ts";
import { ApiError } from "../graphql/errors.ts";
import { decode, makeBytesInFlight, mediaTypeOf, readBody, unpackerOf, unsupported } from "../http/body.ts";
import { sendError, sendProblem } from "../http/problem.ts";
import { type Batch, readJson, readNdjson } from "./batch.ts";
import { openApi } from "./openapi.ts";
import type { EventService, Receipt } from "./service.ts";

/** A body that is larger, or does not say how large it is, is read only for whoever may write. */
const SMALL_BYTES = 100_000;
const MIB = 1024 * 1024;
/** Of strangers, whose keys were not looked up yet, by network address; of the others by tenant. */
const STRANGERS = { bytes: { overall: 64 * MIB, each: 16 * MIB }, timeoutMs: 5_000 };
const TENANTS = { bytes: { overall: 128 * MIB, each: 32 * MIB }, timeoutMs: 20_000 };
/**
 * A turn is for a body that is there: whoever sends slowly holds up nobody. What it parses to is memory, too. All turns
 * together leave connections of the pool to everybody else, and those of one tenant leave some to the others.
 */
const SMALL = { concurrency: 6, waiting: 2_000, perKey: { concurrency: 4, waiting: 500 } };
const LARGE = { concurrency: 5, waiting: 1_000, perKey: { concurrency: 4, waiting: 50 } };
const CHECKS = { concurrency: 4, waiting: 2_000, perKey: { concurrency: 2, waiting: 200 } };
/** For so long a key that was looked up has its tenant's turns without being looked up before. */
const PROVEN_MS = 60_000;
const MOST_PROVEN = 10_000;

const query = z.strictObject({
  onConflict: z
    .enum(["update", "reject"], { error: "onConflict may be update or reject." })
    .default("update"),
  atomic: z
    .enum(["true", "false"], { error: "atomic may be true or false." })
    .default("false")
    .transform((text) => text === "true"),
});
const readers = new Map<string, (text: string) => Batch>([
  ["application/json", readJson],
  ["application/x-ndjson", readNdjson],
  ["application/ndjson", readNdjson],
]);

/** Events over HTTP: `POST /v1/events`, and what it is in OpenAPI. */
export function makeEventsRouter(events: EventService, lastUse: Pick<LastUse, "note">): Router {
  const busy = "Too many batches are being written. Try again in a moment.";
  const [inSmallTurn, inLargeTurn] = [makeFair(SMALL, busy), makeFair(LARGE, busy)];
  const inCheck = makeFair(CHECKS, busy);
  const proven = makeProven();
  const [ofStranger, ofTenant] = [makeBytesInFlight(STRANGERS.bytes), makeBytesInFlight(TENANTS.bytes)];

  async function ingest(request: Request, response: Response) {
    const options = query.parse(request.query);
    const read = readerOf(request.headers["content-type"]);
    const { unpack, isPacked } = unpackerOf(request);
    const identity = identityOf(request);
    const { tenant_id } = claimsOf(identity);
    const isProven = proven.has(identity);
    const mayBeLarge = isPacked || !(Number(request.headers["content-length"]) <= SMALL_BYTES);
    // Any text is a key of any tenant's, until it was looked up: strangers wait for those of their own network.
    if (mayBeLarge || !isProven) {
      await inCheck(networkOf(identity.origin.ipAddress), () => events.authorize(identity));
      proven.add(identity);
    }
    const hold = mayBeLarge ? ofTenant(tenant_id) : ofStranger(identity.origin.ipAddress ?? "");
    try {
      const { timeoutMs } = mayBeLarge ? TENANTS : STRANGERS;
      const body = await readBody(request, { unpack, hold, timeoutMs });
      const inTurn = body.length > SMALL_BYTES ? inLargeTurn : inSmallTurn;
      await inTurn(tenant_id, async () => {
        const batch = read(decode(body));
        const receipts = await events.write(identity, batch, options);
        if (identity.claims) lastUse.note(identity.claims);
        sendReceipts(response, receipts, batch.isSingle);
      });
    } finally {
      hold.release();
    }
  }

  return Router()
    .get("/v1/openapi.json", (_request, response) => void response.json(openApi))
    .post("/v1/events", (request, response) => {
      ingest(request, response).catch((error: unknown) => {
        // Whoever hung up gets no answer.
        if (request.socket.destroyed) return;
        sendError(response, retryable(error));
      });
    })
    .all("/v1/events", (_request, response) => {
      response.set("allow", "POST");
      sendProblem(response, { code: "INVALID_INPUT", message: "Events are POSTed.", extensions: {} }, 405);
    });
}

/** Whose tenant is known for sure: that of an access token, which is signed, and of keys that were looked up lately. */
function makeProven() {
  const keys = new Map<string, number>();
  const keyOf = ({ claims }: Identity) =>
    claims && "key_id" in claims ? `${claims.key_id} ${claims.key_hash}` : undefined;
  return {
    has(identity: Identity) {
      const key = keyOf(identity);
      return key === undefined || (keys.get(key) ?? 0) > performance.now();
    },
    add(identity: Identity) {
      const key = keyOf(identity);
      if (key === undefined) return;
      if (keys.size >= MOST_PROVEN) keys.clear();
      keys.set(key, performance.now() + PROVEN_MS);
    },
  };
}

function readerOf(contentType = ""): (text: string) => Batch {
  const mediaType = mediaTypeOf(contentType);
  const [, charset] = /;\s*charset\s*=\s*"?([^";\s]*)/i.exec(contentType) ?? [];
  if (charset !== undefined && !/^utf-?8$/i.test(charset))
    throw unsupported(`The charset is "${charset}"; it may be utf-8.`);
  const read = readers.get(mediaType);
  if (!read)
    throw unsupported(`Content-Type is "${mediaType}"; it may be ${[...readers.keys()].join(", ")}.`);
  return read;
}

const inTheWay = z.object({ code: z.enum(["40001", "40P01", "55P03"]) });

/** Elsewhere somebody must look again at what they change; here the same batch can just be sent again. */
const retryable = (error: unknown) =>
  inTheWay.safeParse(error).success
    ? new ApiError("UNAVAILABLE", "Others are writing the same events. Nothing was written: send it again.")
    : error;

/** 202 once anything of the batch is there; otherwise 422, or 409 when all were conflicts. */
function sendReceipts(response: Response, receipts: readonly Receipt[], isSingle: boolean) {
  const counts = { accepted: 0, updated: 0, deleted: 0, duplicate: 0, rejected: 0, withheld: 0 };
  for (const { outcome } of receipts) counts[outcome]++;
  const { withheld, ...others } = counts;
  const answer = {
    ...others,
    ...(withheld > 0 ? { withheld } : {}),
    events: receipts.map((receipt, index) => describe(receipt, index, isSingle ? "" : `/${index}`)),
  };
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

/** `prefix`: where in the body the event is; a line of NDJSON counts as an element of an array. */
function describe(
  { outcome, id, timestamp, code, reason, pointer, detail }: Receipt,
  index: number,
  prefix: string,
) {
  const place = { index, status: outcome };
  if (code !== null) return { ...place, code, reason, pointer: `${prefix}${pointer ?? ""}`, detail };
  return id === null ? place : { ...place, id, timestamp };
}
