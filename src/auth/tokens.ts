import { randomUUID } from "node:crypto";
import jwt from "jsonwebtoken";
import { z } from "zod";
import type { TokenKey, TokenKeys } from "./tokenKeys.ts";

const claims = z.object({
  sub: z.uuid(),
  tenant_id: z.uuid(),
  role: z.enum(["SUPER_ADMIN", "ADMIN", "USER", "VIEWER"]),
  sid: z.uuid(),
  /** The tenant of an operator who entered `tenant_id`. */
  home_tenant_id: z.uuid().optional(),
});
/** Who a request says it is. PostgreSQL checks it against the tables on every request. */
export type Claims = z.output<typeof claims>;

export const ACCESS_TOKEN_MINUTES = 15;
/** What jsonwebtoken lets pass: no expiry, no time of issue, or any time between them. */
const span = z
  .object({ iat: z.int(), exp: z.int() })
  .refine(({ iat, exp }) => exp - iat <= ACCESS_TOKEN_MINUTES * 60);

export type TokenService = {
  /** The token lives for 15 minutes, or until `notAfter`. */
  sign(claims: Claims, options?: { notAfter?: Date }): { token: string; expiresAt: Date };
  /** Undefined for any token that we did not sign, that has expired, or whose claims are not ours. */
  verify(token: string): Promise<Claims | undefined>;
  /** The public keys, for /.well-known/jwks.json. */
  jwks(): { keys: TokenKey["publicJwk"][] };
};

/** When a token ends that was verified. */
export const expiryOf = (token: string): Date =>
  new Date(z.object({ exp: z.int() }).parse(jwt.decode(token)).exp * 1000);

/** ES256 access tokens. Keys come from our own store: what a token's header says of keys is never followed. */
export function makeTokenService(
  keys: TokenKeys,
  options: { issuer: string; audience: string; now?: () => Date },
): TokenService {
  const { issuer, audience, now = () => new Date() } = options;
  const seconds = () => Math.floor(now().getTime() / 1000);
  // jsonwebtoken skips the check against an absent value.
  if (!issuer || !audience) throw new Error("Access tokens need an issuer and an audience.");
  return {
    sign({ sub, ...rest }, { notAfter } = {}) {
      const iat = seconds();
      const latest = notAfter ? Math.floor(notAfter.getTime() / 1000) : Number.POSITIVE_INFINITY;
      const exp = Math.min(iat + ACCESS_TOKEN_MINUTES * 60, latest);
      const signer = keys.signer();
      const token = jwt.sign({ ...rest, iat, exp }, signer.privateKey, {
        algorithm: "ES256",
        keyid: signer.kid,
        subject: sub,
        issuer,
        audience,
        jwtid: randomUUID(),
      });
      return { token, expiresAt: new Date(exp * 1000) };
    },
    async verify(token) {
      try {
        const header = jwt.decode(token, { complete: true })?.header;
        // `crit` names extensions that a verifier must understand; we know none.
        if (!header?.kid || header.typ !== "JWT" || "crit" in header) return undefined;
        const key = await keys.find(header.kid);
        if (!key) return undefined;
        const payload = jwt.verify(token, key.publicKey, {
          algorithms: ["ES256"],
          issuer,
          audience,
          clockTimestamp: seconds(),
        });
        return span.safeParse(payload).success ? claims.safeParse(payload).data : undefined;
      } catch {
        return undefined;
      }
    },
    jwks: () => ({ keys: keys.all().map(({ publicJwk }) => publicJwk) }),
  };
}
