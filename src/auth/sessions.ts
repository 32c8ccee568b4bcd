import { createHash, randomBytes } from "node:crypto";
import type pg from "pg";
import { z } from "zod";
import { ApiError } from "../graphql/errors.ts";
import { verifyPassword } from "./passwords.ts";
import { type Origin, withRequest } from "./requests.ts";
import type { Claims, TokenService } from "./tokens.ts";

export type SignIn = {
  accessToken: string;
  accessTokenExpiresAt: Date;
  refreshToken: string;
  claims: Claims;
};
export type SessionService = {
  /** The same error for an unknown tenant, an unknown user and a wrong password. */
  login(input: { tenant: string; email: string; password: string }, origin: Origin): Promise<SignIn>;
  /** Exchanges a refresh token, which works once, for new tokens. */
  refresh(refreshToken: string, origin: Origin): Promise<SignIn>;
};

const role = z.enum(["SUPER_ADMIN", "ADMIN", "USER", "VIEWER"]);
const account = z.object({ tenant_id: z.uuid(), user_id: z.uuid(), role, password_hash: z.string() });
const opened = z.object({ sid: z.uuid() });
const rotated = z.object({ user_id: z.uuid(), role });

export function makeSessionService(pool: pg.Pool, tokens: TokenService): SessionService {
  const signedIn = (claims: Claims, refreshToken: string): SignIn => {
    const { token, expiresAt } = tokens.sign(claims);
    return { accessToken: token, accessTokenExpiresAt: expiresAt, refreshToken, claims };
  };
  return {
    async login({ tenant, email, password }, origin) {
      const found = await withRequest(pool, origin, (client) =>
        client.query("select * from app_hidden.find_login($1, $2)", [printable(tenant), printable(email)]),
      );
      const [row] = account.array().parse(found.rows);
      // Hashing takes tens of milliseconds: no transaction is open meanwhile.
      const correct = await verifyPassword(row?.password_hash, password);
      if (!row || !correct)
        throw new ApiError("UNAUTHENTICATED", "Unknown tenant or e-mail, or wrong password.");
      const secret = randomBytes(32);
      const { rows } = await withRequest(pool, origin, (client) =>
        client.query("select app_hidden.open_session($1, $2, $3) as sid", [
          row.tenant_id,
          row.user_id,
          sha256(secret),
        ]),
      );
      const { sid } = opened.parse(rows[0]);
      const claims = { sub: row.user_id, tenant_id: row.tenant_id, role: row.role, sid };
      return signedIn(claims, formatRefreshToken({ tenantId: row.tenant_id, sessionId: sid, secret }));
    },
    async refresh(refreshToken, origin) {
      const presented = parseRefreshToken(refreshToken);
      if (!presented)
        throw new ApiError("UNAUTHENTICATED", "This is not a refresh token.", { reason: "revoked" });
      const { tenantId, sessionId, secret } = presented;
      const successor = randomBytes(32);
      const { rows } = await withRequest(pool, origin, (client) =>
        client.query("select * from app_hidden.rotate_session($1, $2, $3, $4)", [
          tenantId,
          sessionId,
          sha256(secret),
          sha256(successor),
        ]),
      );
      const user = rotated.parse(rows[0]);
      const claims = { sub: user.user_id, tenant_id: tenantId, role: user.role, sid: sessionId };
      return signedIn(claims, formatRefreshToken({ tenantId, sessionId, secret: successor }));
    },
  };
}

const sha256 = (data: Buffer) => createHash("sha256").update(data).digest();
/** PostgreSQL's text has no NUL; nor has anybody's name, so that U+FFFD in its place finds nobody. */
const printable = (text: string) => text.toWellFormed().replaceAll("\0", "\uFFFD");

type RefreshToken = { tenantId: string; sessionId: string; secret: Buffer };

/** Opaque to clients: tenant and session (16 bytes each), then 32 random bytes, base64url. */
function formatRefreshToken({ tenantId, sessionId, secret }: RefreshToken): string {
  const ids = [tenantId, sessionId].map((id) => Buffer.from(id.replaceAll("-", ""), "hex"));
  return Buffer.concat([...ids, secret]).toString("base64url");
}

function parseRefreshToken(token: string): RefreshToken | undefined {
  const bytes = Buffer.from(token, "base64url");
  if (bytes.length !== 64 || bytes.toString("base64url") !== token) return undefined;
  const uuid = (part: Buffer) =>
    part.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
  return {
    tenantId: uuid(bytes.subarray(0, 16)),
    sessionId: uuid(bytes.subarray(16, 32)),
    secret: bytes.subarray(32),
  };
}
