import { randomUUID } from "node:crypto";
import { GraphQLError } from "graphql";
import type { Logger } from "pino";
import { isSafeError } from "postgraphile/grafast";
import { z } from "zod";
import { isConnectionFailure } from "../db/failures.ts";

/** Every `extensions.code` that the API answers with. docs/errors.md says what to do about each. */
export type ErrorCode =
  | "UNAUTHENTICATED"
  | "FORBIDDEN"
  | "NOT_FOUND"
  | "INVALID_INPUT"
  | "CONFLICT"
  | "LIMIT_EXCEEDED"
  | "RATE_LIMITED"
  | "QUERY_TOO_EXPENSIVE"
  | "TIMEOUT"
  | "UNAVAILABLE"
  | "INTERNAL";

/** An error whose message is meant for the client. */
export class ApiError extends Error {
  override name = "ApiError";
  readonly code: ErrorCode;
  readonly extensions: Record<string, unknown>;
  constructor(code: ErrorCode, message: string, extensions: Record<string, unknown> = {}) {
    super(message);
    this.code = code;
    this.extensions = extensions;
  }
}

const databaseError = z.object({
  code: z.string().regex(/^[0-9A-Z]{5}$/),
  message: z.string(),
  detail: z.string().optional(),
  hint: z.string().optional(),
  table: z.string().optional(),
  column: z.string().optional(),
  constraint: z.string().optional(),
});
type DatabaseError = z.output<typeof databaseError>;

/** The GraphQL field that a constraint of one column is about, by PostgreSQL's way of naming constraints. */
function fieldOf({ table, column, constraint }: DatabaseError): string | undefined {
  const [, ofConstraint] =
    /^(?:tenant_id_)?([a-z_]+?)_(?:check|fkey|key)\d*$/.exec(constraint?.replace(`${table}_`, "") ?? "") ??
    [];
  return (column ?? ofConstraint)?.replaceAll(/_([a-z])/g, (_match, letter) => letter.toUpperCase());
}

/** SQLSTATE → what the client learns. Our own states (EA...) speak for themselves; PostgreSQL's say nothing of the schema. */
const bySqlState: Record<string, { code: ErrorCode; message?: string }> = {
  EA400: { code: "INVALID_INPUT" },
  EA401: { code: "UNAUTHENTICATED" },
  EA402: { code: "LIMIT_EXCEEDED" },
  EA403: { code: "FORBIDDEN" },
  EA404: { code: "NOT_FOUND" },
  EA409: { code: "CONFLICT" },
  EA429: { code: "RATE_LIMITED" },
  "42501": { code: "FORBIDDEN", message: "Your role does not permit this." },
  "22P02": { code: "INVALID_INPUT", message: "A value is not of the expected form." },
  "22003": { code: "INVALID_INPUT", message: "A number is out of range." },
  "22007": { code: "INVALID_INPUT", message: "A date or time is not of the expected form." },
  "22008": { code: "INVALID_INPUT", message: "A date or time is out of range." },
  "22021": { code: "INVALID_INPUT", message: "A text has a character that cannot be stored." },
  "22P05": { code: "INVALID_INPUT", message: "A text has a character that cannot be stored." },
  "22025": { code: "INVALID_INPUT", message: "A pattern ends in its escape character." },
  "2201X": { code: "INVALID_INPUT", message: "An offset must not be negative." },
  "2201W": { code: "INVALID_INPUT", message: "A limit must not be negative." },
  "22001": { code: "INVALID_INPUT", message: "A text is too long." },
  "22023": { code: "INVALID_INPUT", message: "A value is not permitted here." },
  "23502": { code: "INVALID_INPUT", message: "A required value is missing." },
  "23503": {
    code: "CONFLICT",
    message: "It refers to something that does not exist, or something still refers to it.",
  },
  "23505": { code: "CONFLICT", message: "There is one with this value already." },
  "23514": { code: "INVALID_INPUT", message: "A value is not permitted here." },
  "40001": { code: "CONFLICT", message: "Somebody else changed this at the same time. Try again." },
  "40P01": { code: "CONFLICT", message: "Somebody else changed this at the same time. Try again." },
  "55P03": { code: "CONFLICT", message: "Somebody else is changing this. Try again." },
  "57014": { code: "TIMEOUT", message: "This took longer than your role permits. Ask for less." },
  "25P04": { code: "TIMEOUT", message: "This took longer than your role permits. Ask for less." },
  "25006": { code: "UNAVAILABLE", message: "The database takes no changes now. Try again in a moment." },
  "25P03": { code: "UNAVAILABLE", message: "The database gave up waiting for us. Try again." },
  "53100": { code: "UNAVAILABLE", message: "The database has no room left." },
  "53200": { code: "UNAVAILABLE", message: "The database has no memory left. Try again in a moment." },
  "53300": { code: "UNAVAILABLE", message: "The database has no connection free. Try again in a moment." },
  "57P01": { code: "UNAVAILABLE", message: "The database is restarting. Try again in a moment." },
  "57P02": { code: "UNAVAILABLE", message: "The database is restarting. Try again in a moment." },
  "57P03": { code: "UNAVAILABLE", message: "The database is starting. Try again in a moment." },
  "57P05": { code: "UNAVAILABLE", message: "The database closed the connection. Try again." },
};

/** What our own errors say beside their sentence. */
const detailOf = (code: ErrorCode, { detail, hint }: DatabaseError): Record<string, unknown> => {
  if (!detail) return {};
  return code === "RATE_LIMITED"
    ? { retryAfterSeconds: Number(detail), ...(hint?.includes("events_per_") ? { limit: hint } : {}) }
    : { reason: detail };
};

export const NO_SUCH_ROW = "There is no such row, or you may not change it.";

/** What a client learns of an error. */
export type Explained = { code: ErrorCode; message: string; extensions: Record<string, unknown> };

/** What a client learns of an error that did not come from GraphQL itself; undefined when it must not learn anything. */
export function explain(error: unknown): Explained | undefined {
  if (error instanceof ApiError)
    return { code: error.code, message: error.message, extensions: error.extensions };
  if (error instanceof z.ZodError)
    return {
      code: "INVALID_INPUT",
      message: error.issues.map(sentence).join(" "),
      extensions: {},
    };
  if (!(error instanceof Error)) return undefined;
  const fromDatabase = databaseError.safeParse(error).data;
  const known = fromDatabase && bySqlState[fromDatabase.code];
  if (known) {
    const ours = fromDatabase.code.startsWith("EA");
    const field = fromDatabase.code.startsWith("23") ? fieldOf(fromDatabase) : undefined;
    return {
      code: known.code,
      message: `${field ? `${field}: ` : ""}${known.message ?? fromDatabase.message}`,
      extensions: {
        ...(ours ? detailOf(known.code, fromDatabase) : {}),
        ...(field ? { field } : {}),
      },
    };
  }
  if (isConnectionFailure(error))
    return {
      code: "UNAVAILABLE",
      message: "The database cannot be reached. Try again in a moment.",
      extensions: {},
    };
  return undefined;
}

/** graphql-js quotes the whole input object in which one field is wrong: a password or credentials, too. */
export function withoutValues(message: string): string {
  const [, variable, before = "", reason] =
    /^(Variable "\$\w+") got invalid value ([\s\S]*); ([^;]*)$/.exec(message) ?? [];
  if (variable) return `${variable}${/ at "[\w.[\]]+"$/.exec(before)?.[0] ?? ""}: ${reason}`;
  return message.replace(/^(Expected value of type "[^"]*"), found [[{][\s\S]*$/, "$1.");
}

/** Our own messages name the argument. Those of zod do not. */
const sentence = ({ path, message }: z.core.$ZodIssue) =>
  path.length > 0 && /^(Invalid|Unrecognized|Too) /.test(message)
    ? `${z.core.toDotPath(path)}: ${message}.`
    : message;

/** What a client learns of any error: a code and a sentence. What is unexpected is logged under an id and masked. */
export function makeMaskError(log: Logger) {
  return (error: GraphQLError): GraphQLError => {
    const cause = error.originalError ?? undefined;
    const answer = (message: string, extensions: Record<string, unknown>) =>
      new GraphQLError(message, {
        nodes: error.nodes ?? null,
        source: error.source ?? null,
        positions: error.positions ?? null,
        path: error.path ?? null,
        originalError: cause ?? null,
        extensions,
      });
    const masked = (unexpected: Error) => {
      const errorId = randomUUID();
      log.error({ err: unexpected, errorId, path: error.path }, "unexpected error in a GraphQL operation");
      return answer(`Something went wrong on our side. It is logged under ${errorId}.`, {
        code: "INTERNAL",
        errorId,
      });
    };
    const explained = explain(cause);
    if (explained) return answer(explained.message, { ...explained.extensions, code: explained.code });
    // Written by graphql-js for the client, such as of a variable that does not fit.
    if ((!cause && !error.path) || cause instanceof GraphQLError)
      return answer(withoutValues(error.message), { code: "INVALID_INPUT", ...error.extensions });
    if (!cause) return masked(error);
    if (isSafeError(cause)) return answer(cause.message, { code: "INVALID_INPUT", ...cause.extensions });
    if (cause instanceof RangeError && /call stack/.test(cause.message))
      return answer("A value is nested too deeply.", { code: "INVALID_INPUT" });
    // @dataplan/pg's delete has no code of its own for this.
    if (/^No values were deleted in collection/.test(cause.message))
      return answer(NO_SUCH_ROW, { code: "NOT_FOUND" });
    if (/^Grafast refuses to continue processing at planning depth/.test(cause.message))
      return answer("This is nested too deeply.", { code: "QUERY_TOO_EXPENSIVE" });
    if (/^No subscription type/.test(cause.message))
      return answer("There are no subscriptions.", { code: "INVALID_INPUT" });
    if (/^(Execution|Planning) timeout/i.test(cause.message))
      return answer("This took too long. Ask for less.", { code: "TIMEOUT" });

    return masked(cause);
  };
}
