import { createHmac } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { setTimeout as wait } from "node:timers/promises";
import { addDays } from "../../scripts/demo/calendar.ts";
import {
  localDate,
  type MetaAccount,
  type MetaFigures,
  type MetaLevel,
  makeWorld,
  restatementKey,
} from "./metaData.ts";
import { type MetaFault, makeFaults } from "./metaFaults.ts";
import { MetaRefusal, openCursor, readInsightsQuery, readLimit, refuse } from "./metaProtocol.ts";
import { makeReports } from "./metaReports.ts";
import { cursorTo, pageOf, truthOf, type View, weightOf } from "./metaRows.ts";
import { askHandshake, sendWebhook, type WebhookOptions } from "./metaWebhooks.ts";

export type MetaSimulatorOptions = {
  port: number;
  host?: string;
  accessToken: string;
  appId?: string;
  appSecret: string;
  accounts?: readonly MetaAccount[];
  seed?: number;
  latencyMs?: number;
  /** The clock; a Date stands still. */
  now?: Date | (() => Date);
  /** Today's figures grow by the hour. */
  live?: boolean;
  /** Above so many rows a query is too much, and above so many it is too much for a synchronous answer. */
  maxRows?: number;
  maxSyncRows?: number;
  /** How often a report is asked for before it is there. */
  reportPolls?: number;
  faults?: MetaFault;
};
export type MetaSimulator = Awaited<ReturnType<typeof startMetaSimulator>>;

const oneAccount: MetaAccount = {
  ...{ id: "4410882", name: "Acme Outfitters", timeZone: "America/New_York", currency: "USD" },
  ...{ campaigns: 3, adSets: 2, ads: 2 },
};
const stateless = { call_count: 3, total_cputime: 2, total_time: 2 };

/** A server that answers as Meta's Marketing API does, with believable advertising behind it. */
export async function startMetaSimulator(options: MetaSimulatorOptions) {
  const { host = "127.0.0.1", latencyMs = 50, appId = "1234567890", appSecret } = options;
  const world = makeWorld(options.accounts ?? [oneAccount], options.seed ?? 1);
  const clock = () => (options.now instanceof Date ? options.now : (options.now?.() ?? new Date()));
  const restatements = new Map<string, MetaFigures | null>();
  const view = (stated: View["restatements"] = restatements): View => ({
    ...{ world, restatements: stated, now: clock().getTime(), live: options.live ?? false },
  });
  const faults = makeFaults(options.faults);
  const reports = makeReports(options.reportPolls ?? 1);
  const requests: { method: string; path: string; params: Record<string, string>; time: number }[] = [];
  let accessToken = options.accessToken;
  let callsLeft = Number.POSITIVE_INFINITY;
  let usage: Record<string, unknown> = {};

  async function answer(request: IncomingMessage, response: ServerResponse) {
    const url = new URL(request.url ?? "/", "http://simulator");
    const method = request.method ?? "GET";
    const params = method === "POST" ? new URLSearchParams(await readBody(request)) : url.searchParams;
    const path = url.pathname.replace(/^\/v[\d.]+\//, "");
    // Without what is secret: tests print this.
    const { appsecret_proof, access_token, ...shown } = Object.fromEntries(params);
    requests.push({ method, path, params: shown, time: Date.now() });
    // A demo may run for weeks.
    if (requests.length > 10_000) requests.shift();
    await wait(latencyMs);

    const fault = faults.take(method, path, params.has("after"));
    if (fault?.kind === "hang") return;
    const { status, content } = route(method, url, params, request, fault);
    const isText = fault?.kind === "badGateway" || fault?.kind === "badJson";
    const text = isText ? "<html><body>Sorry, something went wrong.</body></html>" : JSON.stringify(content);
    response.writeHead(fault?.kind === "badGateway" ? 502 : status, {
      "content-type": isText ? "text/html" : "application/json; charset=UTF-8",
      "content-length": Buffer.byteLength(text),
      ...usageHeaders(),
      ...fault?.headers,
    });
    if (fault?.kind !== "truncated") return response.end(text);
    response.write(text.slice(0, text.length / 2), () => response.destroy());
  }

  function route(
    method: string,
    url: URL,
    params: URLSearchParams,
    request: IncomingMessage,
    fault: MetaFault | undefined,
  ): { status: number; content: unknown } {
    try {
      const [, version = "", object = "", edge] =
        /^\/(v\d+\.\d)\/(\w+)(?:\/(\w+))?$/.exec(url.pathname) ?? [];
      if (!/^v2\d\.\d$/.test(version))
        throw new MetaRefusal(400, {
          code: 2635,
          message: `(#2635) ${version || "None"} is not a living version.`,
        });
      authenticate(request, params);
      if (fault?.error) throw refuse(fault.error, fault.message);
      const report = reports.find(object);
      if (report && edge === undefined) return { status: 200, content: reports.poll(report, fault) };
      if (report && edge === "insights")
        return rows(report.query, report.scope, view(report.restatements), params, fault);
      const scope = scopeOf(object);
      if (!scope) throw refuse("gone");
      if (edge === undefined && method === "GET")
        return { status: 200, content: describe(scope.account, params) };
      if (edge !== "insights") throw refuse("gone");
      const query = readInsightsQuery(object, params, localDate(clock().getTime(), scope.account.timeZone));
      const weight = weightOf(view(), scope, query);
      if (weight > (options.maxRows ?? Number.POSITIVE_INFINITY)) throw refuse("tooMuchData");
      if (method === "POST") return { status: 200, content: reports.start({ query, scope, restatements }) };
      if (weight > (options.maxSyncRows ?? Number.POSITIVE_INFINITY)) throw refuse("syncTimeout");
      return rows(query, scope, view(), params, fault);
    } catch (error) {
      if (error instanceof MetaRefusal) return { status: error.status, content: { error: error.body } };
      throw error;
    }
  }

  function authenticate({ headers }: IncomingMessage, params: URLSearchParams) {
    const token = headers.authorization?.replace(/^Bearer /, "") ?? params.get("access_token") ?? "";
    if (callsLeft-- <= 0) throw refuse("tokenExpired");
    if (token !== accessToken)
      throw new MetaRefusal(400, { code: 190, message: `Malformed access token ${token}` });
    const proof = createHmac("sha256", appSecret).update(token).digest("hex");
    if (params.get("appsecret_proof") !== proof)
      throw new MetaRefusal(400, {
        code: 100,
        message: "Invalid appsecret_proof provided in the API argument",
      });
  }

  function scopeOf(object: string) {
    if (object.startsWith("act_")) {
      const account = world.accountOf(object.slice(4));
      return account && { account };
    }
    const account = world.accountOfCampaign(object);
    return account && { account, campaign: object };
  }

  function rows(
    query: ReturnType<typeof readInsightsQuery>,
    scope: NonNullable<ReturnType<typeof scopeOf>>,
    seen: View,
    params: URLSearchParams,
    fault: MetaFault | undefined,
  ) {
    const limit = readLimit(params);
    const from = openCursor(params.get("after"), query);
    const page = pageOf(seen, scope, query, from, limit);
    let next = page.next && cursorTo(from.resume ?? page.next, query);
    if (fault?.kind === "repeatedPage") next = cursorTo(from, query, { nonce: (from.nonce ?? 0) + 1 });
    if (fault?.kind === "reorderedPages" && page.next) {
      // The second page comes first, then the first, then the third.
      const second = pageOf(seen, scope, query, page.next, limit);
      const resume = second.next ?? { date: addDays(query.until, 1), index: 0 };
      page.rows = second.rows.reverse();
      next = cursorTo(from, query, { resume });
    }
    const cursors = { before: cursorTo(from, query), after: next ?? "" };
    const address = `https://graph.facebook.com/next?access_token=${accessToken}&after=${next}`;
    const paging = page.rows.length === 0 ? undefined : { cursors, ...(next ? { next: address } : {}) };
    return { status: 200, content: { data: page.rows.map(faults.corrupt), ...(paging ? { paging } : {}) } };
  }

  function describe(account: MetaAccount, params: URLSearchParams) {
    const all: Record<string, string> = {
      ...{ account_id: account.id, name: account.name, currency: account.currency },
      timezone_name: account.timeZone,
    };
    const fields = (params.get("fields") ?? "account_id").split(",");
    for (const field of fields)
      if (!(field in all))
        throw new MetaRefusal(400, {
          code: 100,
          message: `(#100) Tried accessing nonexisting field (${field})`,
        });
    return { ...Object.fromEntries(fields.map((field) => [field, all[field]])), id: `act_${account.id}` };
  }

  function usageHeaders(): Record<string, string> {
    const business = [{ type: "ads_insights", ...stateless, estimated_time_to_regain_access: 0 }];
    const all = {
      "x-business-use-case-usage": { [world.accounts[0]?.id ?? ""]: business },
      "x-app-usage": stateless,
      "x-ad-account-usage": {
        acc_id_util_pct: 1.5,
        reset_time_duration: 0,
        ads_api_access_tier: "standard_access",
      },
      "x-fb-ads-insights-throttle": {
        app_id_util_pct: 0.2,
        acc_id_util_pct: 1,
        ads_api_access_tier: "standard_access",
      },
      ...usage,
    };
    return Object.fromEntries(Object.entries(all).map(([name, value]) => [name, JSON.stringify(value)]));
  }

  const server = createServer((request, response) => {
    answer(request, response).catch((error: unknown) =>
      response.destroy(Error("simulator", { cause: error })),
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(options.port, host, resolve);
  });
  const address = server.address();
  const port = typeof address === "object" && address ? address.port : options.port;

  return {
    url: `http://${host}:${port}`,
    appId,
    appSecret,
    accounts: world.accounts,
    requests,
    setFault: faults.set,
    struck: faults.struck,
    /** Breaks rows on their way out. */
    setCorruption: faults.setCorruption,
    /** What the usage headers say, by header. */
    setUsage: (next: Record<string, unknown>) => {
      usage = next;
    },
    /** The token is good for so many calls more, until it is renewed. */
    expireToken: (calls = 0) => {
      callsLeft = calls;
    },
    renewToken: (token: string) => {
      accessToken = token;
      callsLeft = Number.POSITIVE_INFINITY;
    },
    /** Changes an ad's day; null takes the row away. */
    restate(ad: string, date: string, change: Partial<MetaFigures> | null) {
      const nothing = { spend: 0, impressions: 1, clicks: 0, reach: 1, purchases: 0, purchaseValue: 0 };
      const before = world.figuresOf(ad, date, restatements) ?? nothing;
      restatements.set(restatementKey(ad, date), change && { ...before, ...change });
    },
    /** The ads of an account, in order. */
    ads: (account = world.accounts[0]) =>
      account ? world.entitiesOf(account, "ad").map(({ names }) => names.ad_id ?? "") : [],
    /** What a destination must hold of an account's days, both included, by `sourceId`. */
    truth: (level: MetaLevel, since: string, until: string, account = world.accounts[0]) =>
      account
        ? [...truthOf(view(), account, level, since, until)].sort((a, b) =>
            a.sourceId < b.sourceId ? -1 : 1,
          )
        : [],
    sendWebhook: (url: string, webhook: WebhookOptions) => sendWebhook(url, appSecret, webhook),
    askHandshake,
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function readBody(request: IncomingMessage): Promise<string> {
  let body = "";
  for await (const chunk of request.setEncoding("utf8")) body += chunk;
  return body;
}
