import type { z } from "zod";
import type { ByteSource } from "../../src/events/import/lines.ts";

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
  /** The provider no longer has it. */
  deleted?: boolean;
};

export type UnparsableRecord = { sourceId?: string; reason: string; record: unknown };

/** What one call to a provider gave. The engine saves all of it in one transaction. */
export type Page<Checkpoint> = {
  events: EventInput[];
  unparsable: UnparsableRecord[];
  checkpoint: Checkpoint;
  /** True when the stream has caught up; the next run then starts from `checkpoint`. */
  done: boolean;
  /** Everything that happened at the provider until then has been read, RFC 3339; left out while it is not known. */
  highWater?: string;
  /**
   * On the last page of a full refresh: all records whose sourceId begins so, and whose timestamp is since then and before
   * `until`, were in its pages. Those that were not are gone, and are deleted. Only where the provider lists everything that
   * it has.
   */
  complete?: { sourceIdPrefix: string; since: string; until?: string };
  /** From 0 to 1, where the connector can tell. */
  progress?: number;
  /** What the provider's usage headers ask of everybody who shares a limit, beginning now. */
  pauses?: Pause[];
};

/** `scope` is one of the connector's `limits`. */
export type Pause = { scope: string; milliseconds: number; reason: string };

/** What every call to a provider has. */
export type Call<Config, Credentials> = {
  config: Config;
  credentials: Credentials;
  now: Date;
  signal: AbortSignal;
  /** The engine's: it counts, refuses private addresses, and never follows a redirect. */
  fetch: typeof globalThis.fetch;
  /** Chosen by the engine, never by a tenant: a tenant who names the host makes us call anything. */
  baseUrl: string;
  /** The files of this integration, for a connector that reads those instead of calling anybody. */
  files?: Files;
};

/** Files that people uploaded for one integration. */
export type Files = {
  /** The oldest that waits to be read. */
  next(): Promise<UploadedFile | undefined>;
  /** It was read to its end, and what it held is saved: its bytes go. */
  release(id: string): Promise<void>;
};

export type UploadedFile = {
  id: string;
  name: string;
  size: number;
  /** The integration's config when the file came, as it was then. */
  config: unknown;
  /** Between these, events are taken. */
  earliest: Date;
  latest: Date;
  /** Those that events may have. */
  currencies: ReadonlySet<string>;
  handle: ByteSource;
};

export type PageRequest<Config, Credentials, Checkpoint> = Call<Config, Credentials> & {
  /** Undefined on the first run of a stream, of a full refresh and of a backfill: each has a checkpoint of its own. */
  checkpoint: Checkpoint | undefined;
  /** A backfill reads only what happened in it, half-open; undefined otherwise. */
  range?: { since: Date; until: Date };
};

export type Stream<Config = unknown, Credentials = unknown, Checkpoint = unknown> = {
  /** For people, in one line. */
  description?: string;
  checkpoint: z.ZodType<Checkpoint>;
  fetchPage(request: PageRequest<Config, Credentials, Checkpoint>): Promise<Page<Checkpoint>>;
};

/** What a provider sent to `POST /v1/webhooks/<integrationId>`. */
export type Delivery = {
  headers: Headers;
  rawBody: Buffer;
  /** The address that the provider was told, byte for byte. */
  url: string;
};

export type Webhooks<Config, Credentials> = {
  /** Answers a GET of the provider that asks whether the address is ours; undefined refuses. */
  handshake?(query: URLSearchParams, credentials: Credentials): string | undefined;
  /** Compares in constant time. The engine asks again with the credentials before, while those may still be in use. */
  verify(delivery: Delivery, credentials: Credentials): boolean;
  /**
   * Called only after `verify`. The same `id` is processed once. `sentAt` is when this was sent, as its signature proves; outside the
   * tolerance it is refused. Undefined where a redelivery would come with the time of the first: that of an event is not it.
   */
  identify(delivery: Delivery): { id: string; sentAt: Date | undefined };
  /** What it holds as events, and the streams to sync soon because it only says that something changed. */
  read(
    delivery: Delivery,
    config: Config,
  ): Pick<Page<never>, "events" | "unparsable"> & { streams: string[] };
};

/**
 * A connector only fetches and maps. `Connector` without arguments is any connector: parse config, credentials and
 * checkpoint with its own schemas, then pass the results on.
 */
export type Connector<Config = unknown, Credentials = unknown> = {
  provider: string;
  /** As people know it: "Meta Ads". */
  name: string;
  /** For a form: each field of both schemas has a title and a description (`.meta`). */
  config: z.ZodType<Config>;
  credentials: z.ZodType<Credentials>;
  /** False where nobody is asked who we are; app_private.needs_credentials says the same to SQL. */
  needsCredentials?: boolean;
  /** True where asking for a page has no effects: the next one is then fetched while the one before is being saved. */
  readsAhead?: boolean;
  /** Base URLs by `config.environment`; none where nobody is called. */
  hosts: Record<string, string>;
  streams: Record<string, Stream<Config, Credentials>>;
  /** The cheapest call that proves settings and credentials; `account` is a name that a person recognises. */
  test(call: Call<Config, Credentials>): Promise<{ account: string }>;
  /**
   * Names of the provider's limits that a call counts against, such as `app:<id>` and `account:<id>`: while one is
   * paused, nobody calls. Not secret.
   */
  limits?(config: Config, credentials: Credentials): string[];
  /**
   * Limits whose names begin with `app:` are shared by all tenants who know the app's secret; all others are a tenant's
   * own. Otherwise whoever names another's app or account could bring that one's syncs to a stop.
   */
  appSecret?(credentials: Credentials): string;
  /**
   * New credentials when those at hand are about to end, or when the provider refused them with `refused`; undefined while they
   * last, and where others would fare no better. One caller at a time.
   */
  refresh?(call: Call<Config, Credentials> & { refused?: ProviderError }): Promise<Credentials | undefined>;
  webhooks?: Webhooks<Config, Credentials>;
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
 * `transient`: try again soon. `throttled`: try again after `retryAfterMs`, and nobody who shares `scope` before. `reauth`: a
 * person must renew the credentials. `permanent`: the same request will fail again.
 */
export type ProviderErrorKind = "transient" | "throttled" | "reauth" | "permanent";

export class ProviderError extends Error {
  override name = "ProviderError";
  readonly kind: ProviderErrorKind;
  /** The provider's own code, for the log. */
  readonly code: string | undefined;
  readonly retryAfterMs?: number;
  /** Which of the connector's limits was hit; all of them where it is undefined. */
  readonly scope: string | undefined;

  constructor(
    kind: ProviderErrorKind,
    message: string,
    details: { code?: string; retryAfterMs?: number; scope?: string; cause?: unknown } = {},
  ) {
    super(message, { cause: details.cause });
    this.kind = kind;
    this.code = details.code;
    this.scope = details.scope;
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
