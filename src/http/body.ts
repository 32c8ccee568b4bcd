import { promisify } from "node:util";
import express, { type Request, type Response } from "express";
import { z } from "zod";
import { ApiError } from "../graphql/errors.ts";

const TIMEOUT_MS = 20_000;
const httpError = z.object({ status: z.int().min(400).max(499), type: z.string().optional() });
const utf8 = new TextDecoder("utf-8", { fatal: true });

/** Without parameters, in small letters; empty when there is none. */
export const mediaTypeOf = (request: Request): string =>
  (request.headers["content-type"] ?? "").split(";")[0]?.trim().toLowerCase() ?? "";

/**
 * Reads bodies of at most `maxBytes`, unpacked, as text.
 * @param advice what whoever sends a larger one should do
 */
export function makeBodyReader(maxBytes: number, advice: string) {
  const raw = promisify(express.raw({ type: () => true, limit: maxBytes, inflate: true }));
  return async (request: Request, response: Response): Promise<string> => {
    const slow = setTimeout(() => request.destroy(), TIMEOUT_MS);
    try {
      await raw(request, response);
    } catch (error) {
      throw readable(error, maxBytes, advice);
    } finally {
      clearTimeout(slow);
    }
    const { body } = request;
    request.body = undefined;
    try {
      return Buffer.isBuffer(body) ? utf8.decode(body) : "";
    } catch {
      throw new ApiError("INVALID_INPUT", "The body is not UTF-8.", { reason: "not_utf8" });
    }
  };
}

/** What body-parser says of a body that it could not read. */
function readable(error: unknown, maxBytes: number, advice: string): unknown {
  const { data } = httpError.safeParse(error);
  if (!data) return error;
  if (data.status === 413)
    return new ApiError(
      "INVALID_INPUT",
      `A body has at most ${maxBytes.toLocaleString("en")} bytes, unpacked. ${advice}`,
      {
        reason: "too_large",
        status: 413,
      },
    );
  if (data.status === 415)
    return new ApiError("INVALID_INPUT", "Content-Encoding may be gzip, deflate, br or identity.", {
      status: 415,
    });
  return new ApiError(
    "INVALID_INPUT",
    "The body could not be read: it was cut off, or is not of its Content-Encoding.",
    {
      ...(data.type ? { reason: data.type } : {}),
    },
  );
}
