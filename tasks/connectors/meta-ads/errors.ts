import { ProviderError, type ProviderErrorKind } from "../connector.ts";
import { accountScope, appScope } from "./settings.ts";

/** What a reader can do itself before the failure is the engine's. */
export type Remedy =
  /** Ask for fewer days, or campaign by campaign. */
  | "split"
  /** Have a report made, instead of waiting for the answer. */
  | "report"
  /** Ask for fewer rows at a time. */
  | "fewerRows"
  /** Give up the cursor, or the report, and begin the days again. */
  | "startAnew";

export class MetaError extends ProviderError {
  override name = "MetaError";
  readonly remedy: Remedy | undefined;

  constructor(
    kind: ProviderErrorKind,
    message: string,
    details: { code?: string; retryAfterMs?: number; scope?: string; cause?: unknown; remedy?: Remedy } = {},
  ) {
    super(kind, message, details);
    this.remedy = details.remedy;
  }
}

export type MetaFailure = {
  status: number;
  code?: number | undefined;
  subcode?: number | undefined;
  message?: string | undefined;
  /** How long the headers ask to wait, by limit. */
  wait: (scope: string) => number | undefined;
  accountId: string;
  appId: string;
};

type Verdict = { kind: ProviderErrorKind; limit?: "app" | "account"; remedy?: Remedy };

// The subcode decides first: code 2 stands for what passes and for what never will.
const bySubcode: Record<number, Verdict> = {
  1487534: { kind: "permanent", remedy: "split" },
  1504018: { kind: "transient", remedy: "report" },
  1504038: { kind: "transient", remedy: "report" },
  1504022: { kind: "throttled", limit: "app" },
  1504039: { kind: "throttled", limit: "app" },
  2446079: { kind: "throttled", limit: "account" },
  1487742: { kind: "throttled", limit: "account" },
  2490547: { kind: "transient" },
  1504043: { kind: "transient" },
  1504041: { kind: "permanent" },
  1504042: { kind: "permanent" },
};

// Blocked callers of the lowest tier are let in again after five minutes.
const defaultWaitMs = 300_000;

/** What to do about an error of Meta's, and a sentence for people, which has none of Meta's words about a token. */
export function metaError(failure: MetaFailure): MetaError {
  const { kind, limit, remedy } = verdict(failure);
  const { code, subcode, status } = failure;
  const name = code === undefined ? undefined : subcode ? `${code}/${subcode}` : String(code);
  const scope = limit === "app" ? appScope(failure.appId) : accountScope(failure.accountId);
  return new MetaError(kind, sentence(failure, kind, name ?? `HTTP ${status}`), {
    ...(name ? { code: name } : {}),
    ...(kind === "throttled" ? { scope, retryAfterMs: failure.wait(scope) ?? defaultWaitMs } : {}),
    ...(remedy ? { remedy } : {}),
  });
}

function verdict({ status, code, subcode }: MetaFailure): Verdict {
  const known = bySubcode[subcode ?? 0];
  if (known) return known;
  if (code === undefined) {
    if (status === 429) return { kind: "throttled", limit: "account" };
    if (status === 401 || status === 403) return { kind: "reauth" };
    return { kind: status >= 500 || status === 408 ? "transient" : "permanent" };
  }
  if (code === 4) return { kind: "throttled", limit: "app" };
  if (code === 17 || code === 32 || code === 613 || (code >= 80_000 && code <= 80_014))
    return { kind: "throttled", limit: "account" };
  if (code === 190 || code === 102 || code === 10 || (code >= 200 && code <= 299)) return { kind: "reauth" };
  // "Please reduce the amount of data you're asking for", or an unknown error that goes away when one does.
  if (code === 1 || code === 2) return { kind: "transient", remedy: "fewerRows" };
  // A parameter that was good a moment ago: the cursor or the report has expired.
  if (code === 100) return { kind: "permanent", remedy: "startAnew" };
  return { kind: status >= 500 || code < 0 ? "transient" : "permanent" };
}

function sentence({ code, message = "", accountId }: MetaFailure, kind: ProviderErrorKind, name: string) {
  if (code === 190 || code === 102)
    return `Meta does not accept the access token (${name}). Make a new one and enter it.`;
  const said = `${message.slice(0, 300)} (${name})`.trim();
  if (kind === "reauth")
    return `The access token may not read the ad account ${accountId}: ${said}. Give its user the account and the permission ads_read.`;
  if (kind === "throttled") return `Meta asks for patience: ${said}.`;
  return `Meta refused a call about the ad account ${accountId}: ${said}.`;
}
