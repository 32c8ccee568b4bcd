import type { IncomingMessage } from "node:http";
import { createBrotliDecompress, createGunzip, createInflate } from "node:zlib";
import { ApiError } from "../graphql/errors.ts";

type Unpacker = ReturnType<typeof createGunzip | typeof createInflate | typeof createBrotliDecompress>;

export const MAX_BODY_BYTES = 5 * 1024 * 1024;

/** How a Content-Encoding is unpacked. gzip may have several members, which leaves what follows them to readBody. */
export const unpackers = new Map<string, () => Unpacker>([
  ["gzip", createGunzip],
  ["deflate", () => createInflate({ rejectGarbageAfterEnd: true })],
  ["br", () => createBrotliDecompress({ rejectGarbageAfterEnd: true })],
]);

/** Bytes that one request holds in memory. */
export type Hold = { add(bytes: number): void; release(): void };

/** So that memory is bounded whatever clients send: what all bodies together, and those of one owner, may take. */
export function makeBytesInFlight(limits: { overall: number; each: number }) {
  let overall = 0;
  const owners = new Map<string, number>();
  const change = (owner: string, bytes: number) => {
    const own = (owners.get(owner) ?? 0) + bytes;
    overall += bytes;
    if (own > 0) owners.set(owner, own);
    else owners.delete(owner);
    return overall <= limits.overall && own <= limits.each;
  };
  return (owner: string): Hold => {
    let held = 0;
    return {
      add(bytes) {
        held += bytes;
        if (!change(owner, bytes))
          throw new ApiError("RATE_LIMITED", "Too much is being sent at a time. Try again in a moment.", {
            retryAfterSeconds: 1,
          });
      },
      release() {
        change(owner, -held);
        held = 0;
      },
    };
  };
}

type Reading = {
  unpack?: (() => Unpacker) | undefined;
  hold: Hold;
  timeoutMs: number;
  maxBytes?: number;
  /** What whoever sends a larger one should do. */
  advice?: string;
};

/** The unpacked body. Rejects when it is too large, too slow, cut off, or not of its encoding. */
export function readBody(request: IncomingMessage, options: Reading): Promise<Buffer> {
  const { unpack, hold, timeoutMs, maxBytes = MAX_BODY_BYTES } = options;
  const { advice = "Send fewer events at a time." } = options;
  const tooLarge = () =>
    unreadable(
      `A body has at most ${maxBytes.toLocaleString("en")} bytes, unpacked. ${advice}`,
      "too_large",
      413,
    );
  if (Number(request.headers["content-length"] ?? 0) > maxBytes) return Promise.reject(tooLarge());
  return new Promise((resolve, reject) => {
    const unpacker = unpack?.();
    const source = unpacker ?? request;
    const chunks: Buffer[] = [];
    let length = 0;
    let packed = 0;
    const count = (chunk: Buffer) => {
      packed += chunk.length;
    };
    const stop = () => {
      clearTimeout(slow);
      source.off("data", take).off("end", finish);
      if (unpacker) {
        request.off("data", count).off("end", finish);
        request.unpipe(unpacker);
        unpacker.destroy();
      }
      // What is still to come is dropped.
      request.resume();
    };
    const fail = (error: Error) => {
      stop();
      reject(error);
    };
    const take = (chunk: Buffer) => {
      try {
        length += chunk.length;
        if (length > maxBytes) throw tooLarge();
        hold.add(chunk.length);
        chunks.push(chunk);
      } catch (error) {
        fail(error instanceof Error ? error : new Error(String(error)));
      }
    };
    const finish = () => {
      // Of zeros and what follows them, gzip says nothing: it ends, and passes over the rest, however late that comes.
      if (unpacker && !request.readableEnded) return void request.once("end", finish);
      if (unpacker && unpacker.bytesWritten < packed) return fail(notPacked());
      stop();
      resolve(Buffer.concat(chunks));
    };
    const slow = setTimeout(
      () => fail(unreadable(`The body did not come within ${timeoutMs / 1000} seconds.`, "too_slow", 408)),
      timeoutMs,
    );
    source.on("data", take).on("end", finish);
    request.on("error", fail).on("close", () => {
      if (!request.complete) fail(unreadable("The body was cut off.", "cut_off"));
    });
    unpacker?.on("error", () => fail(notPacked()));
    if (unpacker) request.on("data", count).pipe(unpacker);
  });
}

const notPacked = () => unreadable("The body is not of its Content-Encoding.", "not_packed");
const unreadable = (message: string, reason: string, status = 400) =>
  new ApiError("INVALID_INPUT", message, { reason, status });

/** Without parameters, in small letters; empty when there is none. */
export const mediaTypeOf = (contentType = ""): string =>
  contentType.split(";")[0]?.trim().toLowerCase() ?? "";

export const unsupported = (message: string) => new ApiError("INVALID_INPUT", message, { status: 415 });

/** How the body of a request is unpacked. Throws INVALID_INPUT (415) when nobody here knows how. */
export function unpackerOf({ headers }: IncomingMessage) {
  const encoding = (headers["content-encoding"] ?? "identity").trim().toLowerCase();
  const unpack = unpackers.get(encoding);
  if (!unpack && encoding !== "identity")
    throw unsupported(
      `Content-Encoding is "${encoding}"; it may be ${[...unpackers.keys()].join(", ")} or identity.`,
    );
  return { unpack, isPacked: unpack !== undefined };
}

const utf8 = new TextDecoder("utf-8", { fatal: true });
/** Throws INVALID_INPUT. */
export function decode(body: Buffer): string {
  try {
    return utf8.decode(body);
  } catch {
    throw new ApiError("INVALID_INPUT", "The body is not UTF-8.", { reason: "not_utf8" });
  }
}
