import type { Request, RequestHandler } from "express";
import type pg from "pg";
import "pino-http";
import { withTransaction } from "../db/pools.ts";
import type { Claims, TokenService } from "./tokens.ts";

/** Where a request comes from, for the audit log. */
export type Origin = {
  ipAddress?: string | undefined;
  userAgent?: string | undefined;
  requestId?: string | undefined;
};

/** Who asks, and from where. `claims` is set by a sign-in, for what the same operation reads afterwards. */
export type Identity = { claims: Claims | undefined; readonly origin: Origin };

export const beginRequest = (identity: Identity) => ({
  name: "begin_request",
  text: "select app_hidden.begin_request($1)",
  values: [
    JSON.stringify({
      ...identity.claims,
      ip_address: identity.origin.ipAddress,
      user_agent: identity.origin.userAgent,
      request_id: identity.origin.requestId,
    }),
  ],
});

/** One transaction as nobody: what sign-in and refresh need before there is somebody. */
export function withRequest<Result>(
  pool: pg.Pool,
  origin: Origin,
  work: (client: pg.PoolClient) => Promise<Result>,
): Promise<Result> {
  return withTransaction(pool, async (client) => {
    await client.query(beginRequest({ claims: undefined, origin }));
    return work(client);
  });
}

const identities = new WeakMap<object, Identity>();

/** The identity that `authenticate` found for this request. */
export function identityOf(request: object): Identity {
  const identity = identities.get(request);
  if (!identity) throw new Error("This request has not passed authentication.");
  return identity;
}

/** Verifies the bearer token. A bad one is 401 here: nothing unparsed goes further. None is anonymous. */
export function authenticate(tokens: TokenService): RequestHandler {
  return (request, response, next) => {
    // "Bearer" alone is what a form sends before a token was pasted: nobody.
    const authorization = request.headers.authorization?.replace(/^Bearer\s*$/i, "") || undefined;
    const [, token] = /^Bearer ([\w.~+/-]+=*)$/i.exec(authorization ?? "") ?? [];
    const claims = token ? tokens.verify(token) : undefined;
    if (authorization !== undefined && !claims) {
      const message =
        "The access token is malformed, forged or expired. Refresh the session, or sign in again.";
      response
        .status(401)
        .set("WWW-Authenticate", 'Bearer error="invalid_token"')
        .json({ errors: [{ message, extensions: { code: "UNAUTHENTICATED", reason: "invalid_token" } }] });
      return;
    }
    identities.set(request, { claims, origin: originOf(request) });
    next();
  };
}

/** PostgreSQL takes neither NUL nor endless text: headers are cut to what an audit log needs. */
function originOf(request: Request): Origin {
  return {
    ipAddress: request.ip,
    userAgent: request.headers["user-agent"]?.slice(0, 500),
    requestId: typeof request.id === "string" ? request.id : undefined,
  };
}
