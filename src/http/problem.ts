import type { Request, Response } from "express";
import { type ErrorCode, type Explained, explain } from "../graphql/errors.ts";

const statuses: Record<ErrorCode, number> = {
  UNAUTHENTICATED: 401,
  FORBIDDEN: 403,
  NOT_FOUND: 404,
  INVALID_INPUT: 400,
  CONFLICT: 409,
  LIMIT_EXCEEDED: 403,
  RATE_LIMITED: 429,
  QUERY_TOO_EXPENSIVE: 400,
  // Nothing was done: the same request may succeed in a moment.
  TIMEOUT: 503,
  UNAVAILABLE: 503,
  INTERNAL: 500,
};
const RETRY_AFTER_SECONDS = 5;

/** Errors of /v1 are problem details; elsewhere they have the form of GraphQL. */
export const isRest = ({ path }: Request) => path.startsWith("/v1/");

/** Answers with RFC 9457 problem details; `code` is one of those of GraphQL. */
export function sendProblem(
  response: Response,
  { code, message, extensions }: Explained,
  status = statuses[code],
): void {
  const retryAfter =
    code === "RATE_LIMITED" ? extensions.retryAfterSeconds : status === 503 ? RETRY_AFTER_SECONDS : undefined;
  if (retryAfter !== undefined) response.set("retry-after", String(retryAfter));
  // What is still to come of the request would be taken for the next one's beginning.
  if (status === 408) response.set("connection", "close");
  if (status === 401) response.set("www-authenticate", "Bearer");
  response
    .status(status)
    .type("application/problem+json")
    .send(
      JSON.stringify({
        type: "about:blank",
        title: code,
        status,
        detail: message,
        code,
        ...extensions,
        requestId: response.req.id,
      }),
    );
}

/** The same for an error; one that is not for clients is logged under the request's id, and masked. */
export function sendError(response: Response, error: unknown): void {
  const { code, message, extensions } = describeError(response, error);
  const { status, ...others } = extensions;
  const problem = { code, message, extensions: others };
  sendProblem(response, problem, typeof status === "number" ? status : undefined);
}

/** What the client of this response learns of an error. */
export function describeError(response: Response, error: unknown): Explained {
  const explained = explain(error);
  if (!explained) response.log.error({ err: error }, "unexpected error in a request");
  return (
    explained ?? {
      code: "INTERNAL",
      message: `Something went wrong on our side. It is logged under ${String(response.req.id)}.`,
      extensions: {},
    }
  );
}
