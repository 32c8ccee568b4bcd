/** What Square answers when it refuses: status, category, code and detail. */
export const refusals = {
  rateLimited: [429, "RATE_LIMIT_ERROR", "RATE_LIMITED", "Too many requests have been made."],
  serverError: [500, "API_ERROR", "INTERNAL_SERVER_ERROR", "An internal error has occurred."],
  badGateway: [502, "API_ERROR", "BAD_GATEWAY", "A bad gateway error occurred."],
  unavailable: [503, "API_ERROR", "SERVICE_UNAVAILABLE", "Service Unavailable."],
  gatewayTimeout: [504, "API_ERROR", "GATEWAY_TIMEOUT", "A gateway timeout occurred."],
  requestTimeout: [408, "API_ERROR", "REQUEST_TIMEOUT", "The request timed out."],
  unauthorized: [401, "AUTHENTICATION_ERROR", "UNAUTHORIZED", "This request could not be authorized."],
  tokenExpired: [401, "AUTHENTICATION_ERROR", "ACCESS_TOKEN_EXPIRED", "The access token has expired."],
  tokenRevoked: [401, "AUTHENTICATION_ERROR", "ACCESS_TOKEN_REVOKED", "The access token has been revoked."],
  forbidden: [403, "AUTHENTICATION_ERROR", "FORBIDDEN", "You have insufficient permissions."],
  insufficientScopes: [403, "AUTHENTICATION_ERROR", "INSUFFICIENT_SCOPES", "The merchant has not given it."],
  badRequest: [400, "INVALID_REQUEST_ERROR", "BAD_REQUEST", "Bad request."],
  invalidValue: [400, "INVALID_REQUEST_ERROR", "INVALID_VALUE", "Invalid value."],
  invalidVersion: [400, "INVALID_REQUEST_ERROR", "INVALID_SQUARE_VERSION_FORMAT", "Invalid Square-Version."],
  /** Befalls requests with a cursor alone. */
  invalidCursor: [400, "INVALID_REQUEST_ERROR", "INVALID_CURSOR", "The cursor has expired."],
  notFound: [404, "INVALID_REQUEST_ERROR", "NOT_FOUND", "Resource not found."],
} as const;

export type SquareFaultKind =
  | keyof typeof refusals
  /** No answer, ever. */
  | "hang"
  /** Headers and half of the body, then nothing more. */
  | "stall"
  /** The connection breaks in the middle of the body. */
  | "truncated"
  /** 200 with half of the JSON, as if that were all. */
  | "badJson"
  /** 200 with a page of HTML. */
  | "html"
  /** The page before once more, with its cursor. */
  | "repeatedPage"
  /** Two pages in the wrong order, and their records upside down. */
  | "reorderedPages"
  /** Something happens in the shop, just before the answer. */
  | "meanwhile";

export type SquareFault = {
  kind: SquareFaultKind;
  /** Seconds; without it a rate limit comes without the header. */
  retryAfter?: number;
  /** How many requests it befalls; once by default. */
  times?: number;
  /** How many requests that it could befall it lets pass first. */
  after?: number;
  /** Only requests of this path. */
  path?: string;
  /** What happens, for "meanwhile". */
  happens?: () => void;
};

export function makeFaults(first: SquareFault | undefined) {
  let fault = first;
  let passed = 0;
  let struck = 0;
  return {
    set(next: SquareFault | undefined) {
      fault = next;
      passed = 0;
      struck = 0;
    },
    /** How many requests it has befallen. */
    struck: () => struck,
    /** The fault that befalls this request, if one does. */
    take(path: string, hasCursor: boolean): SquareFault | undefined {
      if (!fault || (fault.path && fault.path !== path)) return undefined;
      if ((fault.kind === "invalidCursor" || fault.kind === "repeatedPage") && !hasCursor) return undefined;
      if (struck >= (fault.times ?? 1) || passed++ < (fault.after ?? 0)) return undefined;
      struck++;
      return fault;
    },
  };
}

export function refusalOf(kind: SquareFaultKind): { status: number; text: string } | undefined {
  const refusal = refusals[kind as keyof typeof refusals];
  if (!refusal) return undefined;
  const [status, category, code, detail] = refusal;
  return { status, text: JSON.stringify({ errors: [{ category, code, detail }] }) };
}
