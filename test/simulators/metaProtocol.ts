import { createHash } from "node:crypto";
import { z } from "zod";
import type { MetaLevel } from "./metaData.ts";

type MetaErrorBody = { code: number; error_subcode?: number; message: string; is_transient?: boolean };

/** An error in Meta's shape. */
export class MetaRefusal extends Error {
  readonly status: number;
  readonly body: MetaErrorBody & { type: string; fbtrace_id: string };

  constructor(status: number, body: MetaErrorBody) {
    super(body.message);
    this.status = status;
    this.body = { ...body, type: "OAuthException", fbtrace_id: "AbCdEfGhIjKlMnOpQrStUv" };
  }
}

const error = (status: number, code: number, error_subcode: number | undefined, message: string) => ({
  status,
  body: { code, ...(error_subcode === undefined ? {} : { error_subcode }), message },
});
const reduce = "Please reduce the amount of data you're asking for, then retry your request";
const unknown = "An unknown error occurred";
const tooMany = "There have been too many calls to this ad-account. Wait a bit and try again.";

/** Everything that Meta is known to answer instead of rows. */
export const metaErrors = {
  appLimit: error(400, 4, 1504022, "Application request limit reached"),
  appLimitOther: error(400, 4, 1504039, "Application request limit reached"),
  appLimitPlain: error(400, 4, undefined, "Application request limit reached"),
  accountLimit: error(400, 17, 2446079, "User request limit reached"),
  customLimit: error(400, 613, 1487742, "Calls to this api have exceeded the rate limit."),
  insightsLimit: error(400, 80000, 2446079, tooMany),
  managementLimit: error(400, 80004, undefined, tooMany),
  tooMuchData: error(400, 100, 1487534, reduce),
  syncTimeout: error(400, 100, 1504018, "Your request timed out. Please try a smaller date range, or async."),
  syncTimeoutOther: error(500, 2, 1504038, "Service temporarily unavailable"),
  reportFailed: error(400, -2, 2490547, "Report failed"),
  intermittent: error(500, 2, 1504043, "Service temporarily unavailable"),
  badBreakdowns: error(400, 2, 1504041, "The breakdowns cannot be combined."),
  badMetrics: error(400, 2, 1504042, "The metrics cannot be combined."),
  unknown: error(500, 1, 99, unknown),
  reduceOne: error(500, 1, undefined, reduce),
  reduceTwo: error(500, 2, undefined, reduce),
  tokenExpired: error(401, 190, 463, "Error validating access token: Session has expired."),
  noPermission: error(
    403,
    200,
    undefined,
    "Ad account owner has NOT granted ads_management or ads_read permission",
  ),
  noAppPermission: error(403, 10, undefined, "Application does not have permission for this action"),
  invalidCursor: error(400, 100, undefined, "Invalid cursors values"),
  gone: error(
    400,
    100,
    33,
    "Unsupported get request. Object does not exist, cannot be loaded due to missing permissions.",
  ),
  beyondRetention: error(
    400,
    3018,
    undefined,
    "(#3018) The start date of the time range cannot be beyond 37 months from the current date",
  ),
} as const;
export type MetaErrorName = keyof typeof metaErrors;

export const refuse = (name: MetaErrorName) =>
  new MetaRefusal(metaErrors[name].status, metaErrors[name].body);
const invalid = (message: string) => new MetaRefusal(400, { code: 100, message: `(#100) ${message}` });

const identity = ["campaign_id", "campaign_name", "adset_id", "adset_name", "ad_id", "ad_name"];
const fieldsByLevel: Record<MetaLevel, string[]> = {
  account: [],
  campaign: identity.slice(0, 2),
  adset: identity.slice(0, 4),
  ad: identity,
};
const commonFields = [
  ...["account_id", "account_name", "account_currency", "date_start", "date_stop", "spend", "impressions"],
  ...["clicks", "reach", "actions", "action_values"],
];
const windows = ["1d_click", "7d_click", "28d_click", "1d_view", "1d_ev"];
const known = [
  ...["level", "fields", "time_range", "time_increment", "action_attribution_windows", "limit", "after"],
  ...["access_token", "appsecret_proof"],
];

export type InsightsQuery = {
  level: MetaLevel;
  fields: string[];
  since: string;
  until: string;
  windows: string[];
  /** Everything but limit and cursor: a cursor is good for this query only. */
  identity: string;
};

/** What a query of insights asks for; whatever Meta refuses, this does. */
export function readInsightsQuery(object: string, params: URLSearchParams, today: string): InsightsQuery {
  for (const name of params.keys())
    if (!known.includes(name)) throw invalid(`The parameter ${name} is not simulated`);
  const level = z
    .enum(["account", "campaign", "adset", "ad"])
    .safeParse(params.get("level") ?? "account").data;
  if (!level) throw invalid("Param level must be one of {ad, adset, campaign, account}");
  const fields = (params.get("fields") ?? "impressions,spend").split(",");
  const allowed = [...commonFields, ...fieldsByLevel[level]];
  for (const field of fields)
    if (!allowed.includes(field)) throw invalid(`${field} is not valid for fields param of level ${level}`);
  const range = z
    .strictObject({ since: z.iso.date(), until: z.iso.date() })
    .safeParse(json(params.get("time_range") ?? "")).data;
  if (!range) throw invalid("param time_range must be non-empty, with since and until as YYYY-MM-DD");
  if (range.since > range.until) throw invalid("param time_range[since] must be before time_range[until]");
  if (range.since < monthsBefore(today, 37)) throw refuse("beyondRetention");
  // Without it, Meta adds up all days: nobody here wants that.
  if (params.get("time_increment") !== "1") throw invalid("only time_increment=1 is simulated");
  const asked = z.array(z.string()).safeParse(json(params.get("action_attribution_windows") ?? "[]")).data;
  const unknownWindow = asked?.find((window) => !windows.includes(window));
  if (!asked || unknownWindow)
    throw invalid(`action_attribution_windows: ${unknownWindow ?? "list"} is not supported any more`);
  const query = { object, level, fields, ...range, windows: asked };
  const hash = createHash("sha256").update(JSON.stringify(query)).digest("base64url").slice(0, 12);
  return { ...query, identity: hash };
}

export function readLimit(params: URLSearchParams): number {
  const limit = Number(params.get("limit") ?? 25);
  if (!Number.isInteger(limit) || limit < 1 || limit > 5000) throw invalid("Param limit must be a number");
  return limit;
}

// A cursor is a place in a query, so that it outlives a restart; `resume`: where the page after it begins instead.
const place = z.object({ date: z.string(), index: z.int() });
const cursor = z.object({
  query: z.string(),
  ...place.shape,
  resume: place.optional(),
  nonce: z.int().optional(),
});
export type Place = z.output<typeof place>;
export type Cursor = z.output<typeof cursor>;

export const makeCursor = (content: Cursor) => Buffer.from(JSON.stringify(content)).toString("base64url");

export function openCursor(text: string | null, query: InsightsQuery): Cursor {
  if (text === null) return { query: query.identity, date: query.since, index: 0 };
  const content = cursor.safeParse(json(Buffer.from(text, "base64url").toString())).data;
  if (content?.query !== query.identity) throw refuse("invalidCursor");
  return content;
}

function monthsBefore(date: string, months: number): string {
  const [year = 0, month = 1, day = 1] = date.split("-").map(Number);
  const length = new Date(Date.UTC(year, month - months, 0)).getUTCDate();
  return new Date(Date.UTC(year, month - 1 - months, Math.min(day, length))).toISOString().slice(0, 10);
}

export function json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
