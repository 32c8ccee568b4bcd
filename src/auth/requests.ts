import { isIP } from "node:net";
import type { Request, RequestHandler } from "express";
import type pg from "pg";
import type { Logger } from "pino";
import "pino-http";
import { withTransaction } from "../db/pools.ts";
import { ApiError } from "../graphql/errors.ts";
import { isRest, sendProblem } from "../http/problem.ts";
import { type KeyClaims, type KeyEnvironment, parseApiKey } from "./apiKeys.ts";
import type { Claims, TokenService } from "./tokens.ts";

/** Where a request comes from, for the audit log and for limits. */
export type Origin = {
  /** Host header, without the port: a custom domain names its tenant. */
  host?: string | undefined;
  ipAddress?: string | undefined;
  userAgent?: string | undefined;
  requestId?: string | undefined;
};

/** Who asks, and from where. `claims` is set by a sign-in, for what the same operation reads afterwards. */
export type Identity = {
  claims: Claims | KeyClaims | undefined;
  readonly origin: Origin;
  /** The record, in the audit log, that this request reads that log: without it, it reads nothing of it. */
  auditRead?: string;
};

export const beginRequest = (identity: Identity) => ({
  name: "begin_request",
  text: "select app_hidden.begin_request($1)",
  values: [
    JSON.stringify({
      ...identity.claims,
      ip_address: identity.origin.ipAddress,
      user_agent: identity.origin.userAgent,
      request_id: identity.origin.requestId,
      audit_read: identity.auditRead,
    }),
  ],
});

/** Longer than transaction_timeout (60 s): past it, the server behind the connection no longer answers. */
export const DEADLINE_MS = 65_000;

/** One transaction as this identity, beside the operation's own: what it did stays done whatever the operation does. */
export function withRequest<Result>(
  pool: pg.Pool,
  identity: Identity,
  work: (client: pg.PoolClient) => Promise<Result>,
  options: { begin?: string; deadlineMs?: number } = {},
): Promise<Result> {
  return withTransaction(
    pool,
    async (client) => {
      await client.query(beginRequest(identity));
      return work(client);
    },
    { deadlineMs: DEADLINE_MS, ...options },
  );
}

/** UNAUTHENTICATED for nobody. */
export function claimsOf({ claims }: Identity): Claims | KeyClaims {
  if (!claims) throw new ApiError("UNAUTHENTICATED", SIGN_IN_FIRST);
  return claims;
}
export const SIGN_IN_FIRST = "Sign in first: send an access token.";

const identities = new WeakMap<object, Identity>();

/** The identity that `authenticate` found for this request. */
export function identityOf(request: object): Identity {
  const identity = identities.get(request);
  if (!identity) throw new Error("This request has not passed authentication.");
  return identity;
}

/** For what is no request of Express's own, such as a socket. */
export const rememberIdentity = (request: object, identity: Identity) =>
  void identities.set(request, identity);

/** What an Authorization header, or what a socket sends in its place, says; a sentence where it says nothing that holds. */
export async function readAuthorization(
  header: string | undefined,
  tokens: TokenService,
  environment: KeyEnvironment,
): Promise<{ claims: Identity["claims"]; token: string | undefined } | { refusal: string }> {
  // "Bearer" alone is what a form sends before a token was pasted: nobody.
  const authorization = header?.replace(/^Bearer\s*$/i, "") || undefined;
  const [, token] = /^Bearer ([\w.~+/-]+=*)$/i.exec(authorization ?? "") ?? [];
  const key = token?.startsWith("erp_") ? parseApiKey(token) : undefined;
  if (key && key.environment !== environment)
    return {
      refusal: `This is an API key of a "${key.environment}" deployment; this one is "${environment}".`,
    };
  const claims = key ? key.claims : token ? await tokens.verify(token) : undefined;
  if (authorization === undefined || claims) return { claims, token };
  return {
    refusal: token?.startsWith("erp_")
      ? "The API key is malformed: copy the whole of it."
      : "The access token is malformed, forged or expired. Refresh the session, or sign in again.",
  };
}

/** Reads the bearer token or API key. A bad one is 401 here: nothing unparsed goes further. None is anonymous. */
export function authenticate(
  tokens: TokenService,
  environment: KeyEnvironment,
  log: Pick<Logger, "warn">,
): RequestHandler {
  let warned = false;
  return async (request, response, next) => {
    const refuse = (message: string) => {
      if (isRest(request))
        return sendProblem(response, {
          code: "UNAUTHENTICATED",
          message,
          extensions: { reason: "invalid_token" },
        });
      response
        .status(401)
        .set("WWW-Authenticate", 'Bearer error="invalid_token"')
        .json({ errors: [{ message, extensions: { code: "UNAUTHENTICATED", reason: "invalid_token" } }] });
    };

    const read = await readAuthorization(request.headers.authorization, tokens, environment);
    if ("refusal" in read) return refuse(read.refusal);
    const origin = originOf(request);
    if (request.ip && !origin.ipAddress && !warned) {
      warned = true;
      log.warn(
        { address: request.ip.slice(0, 100) },
        "a proxy of TRUST_PROXY sends something that is no address in X-Forwarded-For; limits take all such clients for one",
      );
    }
    identities.set(request, { claims: read.claims, origin });
    next();
  };
}

/** PostgreSQL takes neither NUL nor endless text: headers are cut to what an audit log needs. */
export function originOf(request: Request): Origin {
  return {
    host: request.hostname?.slice(0, 253),
    ipAddress: plainAddress(request.ip),
    userAgent: request.headers["user-agent"]?.slice(0, 500),
    requestId: typeof request.id === "string" ? request.id : undefined,
  };
}

/** As PostgreSQL's inet takes it: an IPv4 address as such, and no zone. Some proxies add the port. */
export function plainAddress(address: string | undefined): string | undefined {
  const plain = address
    ?.replace(/^\[(.*)\](?::\d+)?$/, "$1")
    .replace(/^([\d.]+):\d+$/, "$1")
    .replace(/^::ffff:(?=[\d.]+$)/i, "")
    .replace(/%.*$/, "");
  return plain && isIP(plain) > 0 ? plain : undefined;
}
