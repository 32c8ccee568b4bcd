import { createHash, createHmac, randomBytes } from "node:crypto";
import type pg from "pg";
import { z } from "zod";
import type { KeyRing } from "../crypto/keyRing.ts";
import { ApiError } from "../graphql/errors.ts";
import { makeFair } from "./bounded.ts";
import { networkOf } from "./networks.ts";
import { hashPassword, needsRehash, verifyPassword } from "./passwords.ts";
import { formatRefreshToken, parseRefreshToken, type RefreshToken } from "./refreshTokens.ts";
import { makeRefusals } from "./refusals.ts";
import { type Identity, type Origin, withRequest } from "./requests.ts";
import type { Claims, TokenService } from "./tokens.ts";

/** The tenant by its slug, or by its custom domain. With neither, the Host header names the domain. */
export type TenantName = { tenant?: string | null | undefined; domain?: string | null | undefined };
export type SignIn = {
  accessToken: string;
  accessTokenExpiresAt: Date;
  refreshToken: string;
  claims: Claims;
};
export type SessionService = {
  /** The same error, as late, for an unknown tenant, an unknown user and a wrong password. */
  login(input: TenantName & { email: string; password: string }, origin: Origin): Promise<SignIn>;
  /** Exchanges a refresh token for new tokens. Presented again within 30 s, it gives the same successor. */
  refresh(refreshToken: string, origin: Origin): Promise<SignIn>;
  /** The first tokens of a session that SQL opens for the hash of its refresh token. */
  begin(homeTenantId: string, open: (refreshTokenHash: Buffer) => Promise<NewSession>): Promise<SignIn>;
};
export type NewSession = { claims: Claims; endsAt?: Date };

const role = z.enum(["SUPER_ADMIN", "ADMIN", "USER", "VIEWER"]);
const account = z.object({
  tenant_id: z.uuid(),
  user_id: z.uuid(),
  password_hash: z.string(),
  refusal: z.string().nullable(),
});
/** `hint`: whom it refuses, where only this network is. */
const throttled = z.object({
  code: z.literal("EA429"),
  detail: z.coerce.number(),
  hint: z.enum(["network", "account"]).optional().catch(undefined),
});
const opened = z.object({ session_id: z.uuid(), role });
const rotated = z.discriminatedUnion("outcome", [
  z.object({ outcome: z.literal("reused") }),
  z.object({
    outcome: z.enum(["rotated", "repeated"]),
    user_id: z.uuid(),
    tenant_id: z.uuid(),
    role,
    home_tenant_id: z.uuid().nullable(),
    expires_at: z.date(),
    valid_hash: z.instanceof(Buffer),
  }),
]);
const REFUSALS: Record<string, string> = {
  user_inactive: "This account is deactivated. Ask an admin of your tenant.",
  user_suspended: "This account is suspended. Ask an admin of your tenant.",
  tenant_suspended: "This tenant is suspended. Ask its admin, or the operator.",
  tenant_cancelled: "This tenant was cancelled.",
  trial_ended: "The trial of this tenant has ended. Ask the operator for a plan.",
};
const SESSION_ENDED = "This session has ended. Sign in again.";
/** More rotations than a client makes within the 30 s for which a used token is repeated. */
const LONGEST_CHAIN = 200;

export function makeSessionService(
  pool: pg.Pool,
  tokens: TokenService,
  keyRing: Pick<KeyRing, "derive">,
  clock = () => performance.now(),
): SessionService {
  const successorKeys = keyRing.derive("refresh-token");
  const [currentKey] = successorKeys;
  if (!currentKey) throw new Error("There is no key to derive refresh tokens from.");
  // A flood of sign-ins waits for its own network, and leaves the pool's other connections to everybody else.
  const inTurn = makeFair(
    { concurrency: 5, waiting: 2_000, perKey: { concurrency: 2, waiting: 10 } },
    "Too many people are signing in from here. Try again in a moment.",
  );
  const refusals = makeRefusals(clock);
  const nobody = (origin: Origin): Identity => ({ claims: undefined, origin });
  const signedIn = ({ claims, endsAt }: NewSession, refreshToken: RefreshToken): SignIn => {
    const { token, expiresAt } = tokens.sign(claims, endsAt ? { notAfter: endsAt } : {});
    return {
      accessToken: token,
      accessTokenExpiresAt: expiresAt,
      refreshToken: formatRefreshToken(refreshToken),
      claims,
    };
  };
  const begin: SessionService["begin"] = async (homeTenantId, open) => {
    const secret = randomBytes(32);
    const session = await open(sha256(secret));
    return signedIn(session, { tenantId: homeTenantId, sessionId: session.claims.sid, secret });
  };

  return {
    begin,
    async login({ email, password, ...name }, origin) {
      const named = { tenant: printable(name.tenant), domain: printable(name.domain ?? origin.host) };
      const account = [named.tenant, named.tenant === null ? named.domain : null, printable(email.trim())];
      const call = (text: string, ...more: unknown[]) =>
        withRequest(pool, nobody(origin), (client) => client.query(text, [...account, ...more]));
      const network = networkOf(origin.ipAddress);
      const typed = JSON.stringify([network, ...account.map((text) => text?.toLowerCase())]);
      const places = { network, account: sha256(Buffer.from(typed)).toString("base64") };
      const refuseAgain = () => {
        const seconds = Math.max(...Object.values(places).map(refusals.secondsLeft));
        if (seconds > 0)
          throw new ApiError("RATE_LIMITED", `Too many attempts. Try again in ${seconds} seconds.`, {
            retryAfterSeconds: seconds,
          });
      };
      refuseAgain();
      const { row, correct } = await inTurn(network, async () => {
        refuseAgain();
        const found = await call("select * from app_hidden.begin_sign_in($1, $2, $3)").catch(
          async (error) => {
            const { data } = throttled.safeParse(error);
            if (data?.hint) refusals.note(places[data.hint], data.detail);
            if (data) await call("select app_hidden.note_throttled_sign_in($1, $2, $3)");
            throw error;
          },
        );
        const [row] = accounts.parse(found.rows);
        // Hashing takes tens of milliseconds: no transaction is open meanwhile.
        return { row, correct: await verifyPassword(row?.password_hash, password) };
      });
      const refusal = correct && row ? row.refusal : "wrong_credentials";
      if (!row || refusal) {
        await call("select app_hidden.refuse_sign_in($1, $2, $3, $4)", refusal);
        // Who knows the password may know why it does not help.
        const reason = refusal && REFUSALS[refusal];
        if (reason) throw new ApiError("FORBIDDEN", reason, { reason: refusal });
        throw new ApiError("UNAUTHENTICATED", "Unknown tenant or e-mail, or wrong password.");
      }
      // A sign-in that is correct does not fail because too many passwords are being hashed: the next one may do it.
      const newHash = needsRehash(row.password_hash) ? await hashPassword(password).catch(() => null) : null;
      return begin(row.tenant_id, async (refreshTokenHash) => {
        const { rows } = await withRequest(pool, nobody(origin), (client) =>
          client.query("select * from app_hidden.open_session($1, $2, $3, $4, $5)", [
            row.tenant_id,
            row.user_id,
            refreshTokenHash,
            row.password_hash,
            newHash,
          ]),
        );
        const session = opened.parse(rows[0]);
        return {
          claims: {
            sub: row.user_id,
            tenant_id: row.tenant_id,
            role: session.role,
            sid: session.session_id,
          },
        };
      });
    },

    async refresh(refreshToken, origin) {
      const presented = parseRefreshToken(refreshToken);
      if (!presented)
        throw new ApiError("UNAUTHENTICATED", "This is not a refresh token.", { reason: "revoked" });
      const { tenantId, sessionId } = presented;
      const { rows } = await withRequest(pool, nobody(origin), (client) =>
        client.query("select * from app_hidden.rotate_session($1, $2, $3, $4)", [
          tenantId,
          sessionId,
          sha256(presented.secret),
          sha256(successorOf(presented, currentKey).secret),
        ]),
      );
      const session = rotated.parse(rows[0]);
      if (session.outcome === "reused")
        throw new ApiError("UNAUTHENTICATED", SESSION_ENDED, { reason: "revoked" });
      const valid = findValid(presented, session.valid_hash);
      if (!valid) throw new ApiError("UNAUTHENTICATED", SESSION_ENDED, { reason: "revoked" });
      const claims: Claims = {
        sub: session.user_id,
        tenant_id: session.tenant_id,
        role: session.role,
        sid: sessionId,
        ...(session.home_tenant_id ? { home_tenant_id: session.home_tenant_id } : {}),
      };
      return signedIn({ claims, endsAt: session.expires_at }, valid);
    },
  };

  /** The token that is valid now: the successor, or a successor of it, if another tab was faster still. */
  function findValid(presented: RefreshToken, validHash: Buffer): RefreshToken | undefined {
    // By each key of the ring, so that a new key breaks no grace window.
    for (const key of successorKeys) {
      let token = presented;
      for (let steps = 0; steps < LONGEST_CHAIN; steps++) {
        token = successorOf(token, key);
        if (sha256(token.secret).equals(validHash)) return token;
      }
    }
    return undefined;
  }
}

/** Only its hash is stored, and whoever lost the answer can be given the same token again. */
function successorOf(token: RefreshToken, key: Buffer): RefreshToken {
  const place = `${token.tenantId} ${token.sessionId} `;
  return { ...token, secret: createHmac("sha256", key).update(place).update(token.secret).digest() };
}

const accounts = account.array();
const sha256 = (data: Buffer) => createHash("sha256").update(data).digest();

/** PostgreSQL's text has no NUL; nor has anybody's name, so that U+FFFD in its place finds nobody. */
function printable(text: string): string;
function printable(text: string | null | undefined): string | null;
function printable(text: string | null | undefined): string | null {
  return text?.toWellFormed().replaceAll("\0", "\uFFFD") ?? null;
}
