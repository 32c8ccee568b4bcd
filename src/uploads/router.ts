import type { Transform } from "node:stream";
import { createGunzip } from "node:zlib";
import { type Request, type Response, Router } from "express";
import { z } from "zod";
import { csvConfig } from "../../tasks/connectors/csv/settings.ts";
import { makeBounded, makeBoundedEach } from "../auth/bounded.ts";
import type { LastUse } from "../auth/lastUse.ts";
import { claimsOf, type Identity, identityOf } from "../auth/requests.ts";
import { ApiError } from "../graphql/errors.ts";
import { mediaTypeOf, unpackers } from "../http/body.ts";
import { sendError, sendProblem } from "../http/problem.ts";
import { drop, readChunks } from "./chunks.ts";
import { CHUNK_BYTES, type UploadLimits } from "./limits.ts";
import type { Head } from "./preview.ts";
import { badConfig, type UploadService } from "./service.ts";

const MEDIA_TYPES = ["text/csv", "text/tab-separated-values", "text/plain", "application/csv"];
const OTHERS = ["application/vnd.ms-excel", "application/octet-stream"];
const PACKED = ["application/gzip", "application/x-gzip"];
const FILES = "/v1/integrations/:id/files";
const PREVIEW = "/v1/csv/preview";
const RETRY_AFTER_SECONDS = 10;

const isFlag = z.enum(["true", "false"], { error: "preview may be true or false." }).default("false");
const configText = z.string().max(10_000, "config has at most 10,000 characters.").optional();
const query = z.strictObject({
  name: z
    .string()
    .trim()
    .min(1, "name must not be empty.")
    .max(255, "name has at most 255 characters.")
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what a name must not have
    .regex(/^[^\0-\x1f\x7f]*$/, "name has a control character.")
    .refine((name) => name.isWellFormed(), "name has half a character.")
    .default("upload.csv"),
  preview: isFlag,
  config: configText,
});
const previewQuery = z.strictObject({ config: configText });

/** Files for integrations: upload, preview, list and removal. */
export function makeUploadsRouter(
  uploads: UploadService,
  lastUse: Pick<LastUse, "note">,
  limits: UploadLimits,
): Router {
  const bounds = { waiting: 0, retryAfterSeconds: RETRY_AFTER_SECONDS };
  const inTurn = makeBounded(
    { ...bounds, concurrency: limits.perInstance },
    "This server receives as many files as it can. Try again in a moment.",
  );
  const inTurnOfTenant = makeBoundedEach(
    { ...bounds, concurrency: limits.perTenant },
    `This tenant sends ${limits.perTenant} files already. Wait until one is there.`,
  );
  const inTurns = <Result>(tenant: string, work: () => Promise<Result>) =>
    inTurnOfTenant(tenant, () => inTurn(work));

  async function reading<Result>(
    request: Request,
    unpack: (() => Transform) | undefined,
    work: (chunks: AsyncGenerator<Buffer, undefined>) => Promise<Result>,
  ): Promise<Result> {
    const chunks = readChunks(request, { ...limits, unpack, size: CHUNK_BYTES });
    try {
      return await work(chunks);
    } finally {
      await chunks.return(undefined);
    }
  }

  /** In this order, so that nobody makes us read who may not send. */
  async function preview(
    request: Request,
    identity: Identity,
    integrationId: string | null,
    config: string | undefined,
  ) {
    const unpack = unpackerOf(request);
    const settings = await uploads.settings(identity, integrationId);
    const given = configOf(config, settings.config);
    const { tenant_id } = claimsOf(identity);
    return inTurns(tenant_id, async () => {
      const head = await reading(request, unpack, (chunks) => readHead(chunks, limits.previewBytes));
      return uploads.preview(identity, head, { config: given, hints: settings.hints, integrationId });
    });
  }

  async function receive(request: Request, response: Response): Promise<void> {
    const { name: fileName, ...options } = query.parse(request.query);
    const identity = identityOf(request);
    const { tenant_id } = claimsOf(identity);
    const integrationId = idOf(request.params.id);
    if (options.preview === "true")
      return void response.json(await preview(request, identity, integrationId, options.config));
    if (options.config !== undefined)
      throw new ApiError(
        "INVALID_INPUT",
        "config is for a preview; an upload is read as its integration says.",
      );
    const unpack = unpackerOf(request);
    await uploads.settings(identity, integrationId);
    const chunks = readChunks(request, { ...limits, unpack, size: CHUNK_BYTES });
    const upload = await inTurns(tenant_id, () =>
      uploads.receive(identity, { integrationId, fileName }, chunks),
    );
    response.status(202).json(upload);
  }

  const handle =
    (work: (request: Request, response: Response) => Promise<void>) =>
    (request: Request, response: Response) => {
      work(request, response)
        .then(() => {
          const { claims } = identityOf(request);
          if (claims) lastUse.note(claims);
        })
        .catch((error: unknown) => {
          // Whoever hung up gets no answer.
          if (request.socket.destroyed) return;
          sendError(response, error);
        })
        .finally(() => drop(request));
    };
  const refuseOthers = (allow: string) => (_request: Request, response: Response) => {
    response.set("allow", allow);
    sendProblem(
      response,
      { code: "INVALID_INPUT", message: `Here, there is ${allow}.`, extensions: {} },
      405,
    );
  };

  return Router()
    .post(FILES, handle(receive))
    .get(
      FILES,
      handle(async (request, response) => {
        const files = await uploads.list(identityOf(request), idOf(request.params.id));
        response.json({ files });
      }),
    )
    .all(FILES, refuseOthers("GET, POST"))
    .delete(
      `${FILES}/:upload`,
      handle(async (request, response) => {
        await uploads.remove(identityOf(request), idOf(request.params.id), idOf(request.params.upload));
        response.status(204).end();
      }),
    )
    .all(`${FILES}/:upload`, refuseOthers("DELETE"))
    .post(
      PREVIEW,
      handle(async (request, response) => {
        const { config } = previewQuery.parse(request.query);
        response.json(await preview(request, identityOf(request), null, config));
      }),
    )
    .all(PREVIEW, refuseOthers("POST"));
}

const id = z.uuid();
function idOf(text: unknown): string {
  const { data } = id.safeParse(text);
  if (!data) throw new ApiError("NOT_FOUND", "There is nothing of this id: it is no UUID.");
  return data;
}

/** The config of the query; else the integration's, if that has become one. */
function configOf(text: string | undefined, stored: unknown) {
  if (text === undefined) return csvConfig.safeParse(stored).data;
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new ApiError("INVALID_INPUT", "config is not JSON.", { reason: "not_json" });
  }
  const { data, error } = csvConfig.safeParse(json);
  if (error) throw badConfig("config cannot be used.", error);
  return data;
}

function unpackerOf(request: Request) {
  const type = mediaTypeOf(request.headers["content-type"]);
  const isPacked = PACKED.includes(type);
  if (!isPacked && type !== "" && !MEDIA_TYPES.includes(type) && !OTHERS.includes(type))
    throw unsupported(
      type === "multipart/form-data"
        ? "Send the file itself as the body, without a form around it."
        : `Content-Type is "${type}"; it may be ${[...MEDIA_TYPES, ...PACKED].join(", ")}.`,
    );
  const encoding = (request.headers["content-encoding"] ?? "identity").trim().toLowerCase();
  const unpack = unpackers.get(encoding);
  if (!unpack && encoding !== "identity")
    throw unsupported(
      `Content-Encoding is "${encoding}"; it may be ${[...unpackers.keys()].join(", ")} or identity.`,
    );
  if (isPacked && unpack) throw unsupported("The file is packed twice: send it packed once.");
  return isPacked ? () => createGunzip() : unpack;
}
const unsupported = (message: string) => new ApiError("INVALID_INPUT", message, { status: 415 });

async function readHead(chunks: AsyncGenerator<Buffer, undefined>, most: number): Promise<Head> {
  const kept: Buffer[] = [];
  for (let length = 0; length < most; ) {
    const { value, done } = await chunks.next();
    if (done || !value) return { bytes: Buffer.concat(kept), isWhole: true };
    kept.push(value);
    length += value.length;
  }
  return { bytes: Buffer.concat(kept), isWhole: false };
}
