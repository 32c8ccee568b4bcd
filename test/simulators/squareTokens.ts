import { randomBytes } from "node:crypto";
import { z } from "zod";
import { json, parse, Refusal } from "./squareProtocol.ts";

/** An application that a merchant has let in; without it, the access token is a personal one, which lasts. */
export type SquareOAuth = {
  clientId: string;
  /** Left out: the PKCE flow, whose refresh tokens are good for one use. */
  clientSecret?: string;
  refreshToken: string;
  lifetimeMs?: number;
};

const thirtyDaysMs = 30 * 86_400_000;
const request = z.object({
  client_id: z.string(),
  client_secret: z.string().optional(),
  grant_type: z.enum(["refresh_token"]),
  refresh_token: z.string(),
});

export type SquareTokens = ReturnType<typeof makeTokens>;

export function makeTokens(accessToken: string, clock: () => Date, oauth?: SquareOAuth) {
  const { lifetimeMs = thirtyDaysMs } = oauth ?? {};
  const end = () => clock().getTime() + lifetimeMs;
  const ends = new Map([[accessToken, oauth ? end() : Infinity]]);
  let refreshToken = oauth?.refreshToken;
  let revoked = false;
  const mint = () => `EAAA${randomBytes(30).toString("base64url")}`;

  return {
    /** Refuses a request that no valid token comes with. */
    check(authorization: string | undefined) {
      const end = ends.get(/^Bearer (.+)$/.exec(authorization ?? "")?.[1] ?? "");
      if (end === undefined) throw unauthorized("UNAUTHORIZED", "This request could not be authorized.");
      if (revoked) throw unauthorized("ACCESS_TOKEN_REVOKED", "The access token has been revoked.");
      if (end <= clock().getTime())
        throw unauthorized("ACCESS_TOKEN_EXPIRED", "The access token has expired.");
    },
    /** POST /oauth2/token: a new access token; the old one lasts until its own end. */
    renew(body: string) {
      const asked = parse(request, json(body));
      const known =
        oauth && !revoked && asked.client_id === oauth.clientId && asked.refresh_token === refreshToken;
      if (!known || asked.client_secret !== oauth.clientSecret)
        throw unauthorized("UNAUTHORIZED", "The application or its refresh token is not known.");
      const access_token = mint();
      ends.set(access_token, end());
      if (oauth.clientSecret === undefined) refreshToken = mint();
      return {
        access_token,
        token_type: "bearer",
        expires_at: new Date(end()).toISOString().replace(/\.\d+Z$/, "Z"),
        merchant_id: MERCHANT_ID,
        refresh_token: refreshToken,
      };
    },
    /** Every access token ends now. */
    expire() {
      for (const token of ends.keys()) ends.set(token, 0);
    },
    /** The merchant takes the permission back, or gives it again. */
    setRevoked: (next: boolean) => {
      revoked = next;
    },
  };
}

export const MERCHANT_ID = "MLSIMULATED01";

const unauthorized = (code: string, detail: string) =>
  new Refusal(401, code, detail, { category: "AUTHENTICATION_ERROR" });
