import type { z } from "zod";

/** An event as `docs/events.md` defines it. A connector leaves `source` to the engine. */
export type EventInput = {
  eventType: string;
  eventName: string;
  timestamp?: string;
  /** Exact decimal text in major units of `currency`. */
  value?: string | null;
  currency?: string | null;
  properties?: Record<string, unknown>;
  source?: string;
  sourceId?: string;
  sourceVersion?: string;
};

export type UnparsableRecord = { sourceId?: string; reason: string; record: unknown };

/** What one call to a provider gave. The engine saves all of it in one transaction. */
export type Page<Checkpoint> = {
  events: EventInput[];
  unparsable: UnparsableRecord[];
  checkpoint: Checkpoint;
  /** True when the stream has caught up; the next run then starts from `checkpoint`. */
  done: boolean;
};

export type PageRequest<Config, Credentials, Checkpoint> = {
  config: Config;
  credentials: Credentials;
  /** Undefined on the first run. */
  checkpoint: Checkpoint | undefined;
  now: Date;
  signal: AbortSignal;
  fetch: typeof globalThis.fetch;
  /** Chosen by the engine, never by a tenant: a tenant who names the host makes us call anything. */
  baseUrl: string;
};

export type Stream<Config = unknown, Credentials = unknown, Checkpoint = unknown> = {
  checkpoint: z.ZodType<Checkpoint>;
  fetchPage(request: PageRequest<Config, Credentials, Checkpoint>): Promise<Page<Checkpoint>>;
};

/**
 * A connector only fetches and maps. `Connector` without arguments is any connector: parse config, credentials and
 * checkpoint with its own schemas, then pass the results on.
 */
export type Connector<Config = unknown, Credentials = unknown> = {
  provider: string;
  config: z.ZodType<Config>;
  credentials: z.ZodType<Credentials>;
  streams: Record<string, Stream<Config, Credentials>>;
};

/** Infers a connector's types, keeps the names of its streams, and checks that they agree with its schemas. */
export function defineConnector<
  Config,
  Credentials,
  const Streams extends Record<string, Stream<Config, Credentials>>,
>(
  connector: Omit<Connector<Config, Credentials>, "streams"> & { streams: Streams },
): Omit<Connector<Config, Credentials>, "streams"> & { streams: Streams } {
  return connector;
}

/**
 * `transient`: try again soon. `throttled`: try again after `retryAfterMs`. `reauth`: a person must renew the
 * credentials. `permanent`: the same request will fail again.
 */
export type ProviderErrorKind = "transient" | "throttled" | "reauth" | "permanent";

export class ProviderError extends Error {
  override name = "ProviderError";
  readonly kind: ProviderErrorKind;
  /** The provider's own code, for the log. */
  readonly code: string | undefined;
  readonly retryAfterMs?: number;

  constructor(
    kind: ProviderErrorKind,
    message: string,
    details: { code?: string; retryAfterMs?: number; cause?: unknown } = {},
  ) {
    super(message, { cause: details.cause });
    this.kind = kind;
    this.code = details.code;
    if (details.retryAfterMs !== undefined) this.retryAfterMs = details.retryAfterMs;
  }
}

// Node's Intl follows everyday practice, not ISO 4217, for these 17 (Node 24.21, all others compared equal): it gives
// them no decimals, and 1250 minor units of COP would become 1250 instead of 12.50.
const roundedByIntl = new Set("AFN ALL COP HUF IDR IRR KPW LAK LBP MGA MMK PKR SLL SOS SYP YER".split(" "));
const exponents = new Map([["IQD", 3]]);

/** How many decimals the currency's minor unit has: JPY 0, USD 2, BHD 3. */
export function currencyExponent(currency: string): number {
  let exponent = exponents.get(currency);
  if (exponent === undefined) {
    const options = new Intl.NumberFormat("en", { style: "currency", currency }).resolvedOptions();
    exponent = roundedByIntl.has(currency) ? 2 : (options.maximumFractionDigits ?? 2);
    exponents.set(currency, exponent);
  }
  return exponent;
}

/** 1250 minor units of USD are "12.50", exactly, whatever their size. */
export function minorToDecimal(amount: bigint, currency: string): string {
  const exponent = currencyExponent(currency);
  const digits = (amount < 0n ? -amount : amount).toString().padStart(exponent + 1, "0");
  const whole = digits.slice(0, digits.length - exponent);
  const sign = amount < 0n ? "-" : "";
  return exponent === 0 ? sign + whole : `${sign}${whole}.${digits.slice(-exponent)}`;
}

/** An RFC 3339 timestamp as microseconds since 1970, for sources whose only version is "updated at". */
export function timestampVersion(timestamp: string): string {
  const beyondMilliseconds = /\.\d{3}(\d{1,3})/.exec(timestamp)?.[1] ?? "";
  return String(BigInt(Date.parse(timestamp)) * 1000n + BigInt(beyondMilliseconds.padEnd(3, "0")));
}
