import type { z } from "zod";
import { ProviderError } from "../../tasks/connectors/connector.ts";

/** `errorClass` of integrations, streams and runs; docs/integrations.md says what to do about each. */
export type ErrorClass =
  | "needs_reauth"
  | "invalid_configuration"
  | "invalid_cursor"
  | "refused"
  | "unreachable"
  | "not_moving"
  | "suspicious_deletion"
  | "internal";

/** A failure that trying again does not mend, with a sentence for people. */
export class SyncError extends Error {
  override name = "SyncError";
  readonly errorClass: ErrorClass;
  constructor(errorClass: ErrorClass, message: string) {
    super(message);
    this.errorClass = errorClass;
  }
}

/** What becomes of a run, after everything that has to do with limits and leases. */
export type Failure = {
  errorClass: ErrorClass;
  sentence: string;
  isFinal: boolean;
  /** The provider's own code, for the log. */
  code?: string;
  afterMs?: number;
};

export function failureOf(error: unknown): Failure {
  if (error instanceof SyncError)
    return { errorClass: error.errorClass, sentence: error.message, isFinal: true };
  if (error instanceof ProviderError) {
    const { message: sentence, kind, code, retryAfterMs } = error;
    const known = {
      sentence,
      ...(code === undefined ? {} : { code }),
      ...(retryAfterMs === undefined ? {} : { afterMs: retryAfterMs }),
    };
    if (kind === "reauth") return { ...known, errorClass: "needs_reauth", isFinal: true };
    if (kind === "permanent") return { ...known, errorClass: "refused", isFinal: true };
    return { ...known, errorClass: "unreachable", isFinal: false };
  }
  return {
    errorClass: "internal",
    sentence: "The sync failed unexpectedly on our side.",
    isFinal: false,
  };
}

/** Where a value does not fit its schema; never the value, which may be secret. */
export const misfit = ({ issues }: z.ZodError): string =>
  issues.map(({ path, message }) => (path.length > 0 ? `${path.join(".")}: ${message}` : message)).join("; ");
