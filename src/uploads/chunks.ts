import type { IncomingMessage } from "node:http";
import type { Transform } from "node:stream";
import { z } from "zod";
import { ApiError } from "../graphql/errors.ts";
import type { UploadLimits } from "./limits.ts";

type Patience = Pick<UploadLimits, "stallMs" | "durationMs">;

const unreadable = (message: string, reason: string, status = 400) =>
  new ApiError("INVALID_INPUT", message, { reason, status });

/**
 * The unpacked body in chunks of `size` bytes, the last one shorter; no more of it is in memory than a chunk, and is asked of
 * the client only when it is wanted. Throws when it is cut off, too slow, or not packed as it says. Whoever stops before its end
 * calls `drop`.
 */
export async function* readChunks(
  request: IncomingMessage,
  { unpack, size, stallMs, durationMs }: { unpack: (() => Transform) | undefined; size: number } & Patience,
): AsyncGenerator<Buffer, undefined> {
  const source = unpack ? unpackerOf(request, unpack()) : request;
  const ends = Date.now() + durationMs;
  // Not `for await`, which would destroy the socket that the answer needs.
  const pieces: AsyncIterator<Buffer> = source.iterator({ destroyOnReturn: false });
  let kept: Buffer[] = [];
  let length = 0;
  try {
    for (;;) {
      const { value, done } = await within(Math.min(stallMs, ends - Date.now()), pieces.next());
      if (done) break;
      kept.push(value);
      length += value.length;
      if (length < size) continue;
      const bytes = Buffer.concat(kept, length);
      let at = 0;
      for (; length - at >= size; at += size) yield bytes.subarray(at, at + size);
      kept = at < length ? [bytes.subarray(at)] : [];
      length -= at;
    }
    if (!request.complete) throw cutOff();
    if (length > 0) yield Buffer.concat(kept, length);
    return undefined;
  } catch (error) {
    throw readable(error, request);
  } finally {
    if (source !== request) source.destroy();
  }
}

const GRACE_MS = 5_000;

/** What is still to come is read and forgotten for a moment, so that the client gets to read the answer. */
export function drop(request: IncomingMessage): void {
  if (request.complete) return;
  // What reads by "readable" keeps it from flowing.
  request.unpipe().removeAllListeners("readable").resume();
  const hangUp = setTimeout(() => request.destroy(), GRACE_MS).unref();
  request.once("close", () => clearTimeout(hangUp)).once("end", () => clearTimeout(hangUp));
}

function unpackerOf(request: IncomingMessage, unpacker: Transform): Transform {
  request.on("close", () => {
    if (!request.complete) unpacker.destroy(cutOff());
  });
  // Reported by whoever reads.
  unpacker.on("error", () => {});
  return request.pipe(unpacker);
}

const cutOff = () => unreadable("The file was cut off.", "cut_off");

/** What zlib says of bytes that it cannot unpack. */
const packing = z.object({ code: z.string().regex(/^(Z_|ERR_BROTLI|ERR__ERROR)/) });

function readable(error: unknown, request: IncomingMessage): unknown {
  if (error instanceof ApiError) return error;
  if (packing.safeParse(error).success)
    return unreadable(
      "The file is not packed as it says, or was cut off before it was packed.",
      "not_packed",
    );
  return request.complete ? error : cutOff();
}

async function within<Result>(milliseconds: number, work: Promise<Result>): Promise<Result> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () =>
        reject(
          unreadable("The file came too slowly. Pack it with gzip, or send it in parts.", "too_slow", 408),
        ),
      Math.max(milliseconds, 0),
    );
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
    work.catch(() => {});
  }
}
