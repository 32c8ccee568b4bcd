import { createPrivateKey, createPublicKey, type KeyObject, randomUUID } from "node:crypto";
import jwt from "jsonwebtoken";
import { z } from "zod";

const claims = z.object({
  sub: z.uuid(),
  tenant_id: z.uuid(),
  role: z.enum(["SUPER_ADMIN", "ADMIN", "USER", "VIEWER"]),
  sid: z.uuid(),
});
/** Who a request says it is. PostgreSQL checks it against the tables on every request. */
export type Claims = z.output<typeof claims>;

const ACCESS_TOKEN_MINUTES = 15;

export type TokenService = {
  sign(claims: Claims): { token: string; expiresAt: Date };
  /** Undefined for any token that we did not sign, that has expired, or whose claims are not ours. */
  verify(token: string): Claims | undefined;
};

/** ES256 access tokens. Keys come from this fixed map: what a token's header says of keys is never followed. */
export function makeTokenService(
  tokenKeys: readonly { kid: string; privateKey: string }[],
  options: { issuer: string; audience: string },
): TokenService {
  const privateKeys = tokenKeys.map(({ kid, privateKey }) => ({ kid, key: createPrivateKey(privateKey) }));
  const publicKeys = new Map<string, KeyObject>(
    privateKeys.map(({ kid, key }) => [kid, createPublicKey(key)]),
  );
  const [signer] = privateKeys;
  if (!signer) throw new Error("There is no token key.");
  return {
    sign({ sub, ...rest }) {
      const expiresAt = Math.floor(Date.now() / 1000) + ACCESS_TOKEN_MINUTES * 60;
      const token = jwt.sign({ ...rest, exp: expiresAt }, signer.key, {
        algorithm: "ES256",
        keyid: signer.kid,
        subject: sub,
        issuer: options.issuer,
        audience: options.audience,
        jwtid: randomUUID(),
      });
      return { token, expiresAt: new Date(expiresAt * 1000) };
    },
    verify(token) {
      try {
        const header = jwt.decode(token, { complete: true })?.header;
        // `crit` names extensions that a verifier must understand; we know none.
        const key = header?.kid && !("crit" in header) ? publicKeys.get(header.kid) : undefined;
        if (!key) return undefined;
        const payload = jwt.verify(token, key, {
          algorithms: ["ES256"],
          issuer: options.issuer,
          audience: options.audience,
        });
        // jsonwebtoken accepts a token without `exp`.
        if (typeof payload === "string" || payload.exp === undefined) return undefined;
        return claims.safeParse(payload).data;
      } catch {
        return undefined;
      }
    },
  };
}
