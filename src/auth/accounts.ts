import type pg from "pg";
import { z } from "zod";
import { ApiError } from "../graphql/errors.ts";
import { parseOneTimeToken } from "./oneTimeTokens.ts";
import { assertAcceptable, hashPassword, verifyPassword } from "./passwords.ts";
import { claimsOf, type Identity, withRequest } from "./requests.ts";
import type { SessionService, SignIn } from "./sessions.ts";

export type AccountService = {
  /** Makes an invited user active, and signs them in. */
  acceptInvitation(
    input: {
      token: string;
      password: string;
      firstName?: string | null | undefined;
      lastName?: string | null | undefined;
    },
    identity: Identity,
  ): Promise<SignIn>;
  /** Ends all sessions of the user. */
  resetPassword(input: { token: string; newPassword: string }, identity: Identity): Promise<void>;
  /** Proves an address, or changes to it. Returns it. */
  confirmEmail(token: string, identity: Identity): Promise<string>;
  /** Ends the user's other sessions. */
  changePassword(input: { currentPassword: string; newPassword: string }, identity: Identity): Promise<void>;
  /** Mails a link to the new address, which becomes the user's when it is followed. */
  changeEmail(input: { currentPassword: string; newEmail: string }, identity: Identity): Promise<void>;
};

const found = z.object({
  email: z.string(),
  first_name: z.string().nullable(),
  last_name: z.string().nullable(),
  tenant_name: z.string(),
  tenant_slug: z.string(),
});
const accepted = z.object({
  user_id: z.uuid(),
  role: z.enum(["SUPER_ADMIN", "ADMIN", "USER", "VIEWER"]),
  session_id: z.uuid(),
});
const confirmed = z.object({ email: z.string() });
const ownPassword = z.object({ password_hash: z.string(), about: z.string().array() });

/**
 * What people do with their own accounts. Each in transactions of its own, since hashing takes tens of milliseconds: none is
 * open meanwhile, and what was checked before is checked again by the statement that changes it.
 */
export function makeAccountService(pool: pg.Pool, sessions: Pick<SessionService, "begin">): AccountService {
  const call = (identity: Identity, text: string, values: unknown[]) =>
    withRequest(pool, identity, (client) => client.query(text, values));

  const parseLink = (token: string) => {
    const link = parseOneTimeToken(token);
    if (link) return link;
    throw new ApiError(
      "INVALID_INPUT",
      "This is not the token of a link that we mailed. Copy the whole link.",
      { reason: "invalid_link" },
    );
  };
  /** The password is hashed only for a link that works. */
  async function hashFor(
    identity: Identity,
    link: { tenantId: string; tokenId: string; hash: Buffer },
    purpose: string,
    password: string,
    names: readonly (string | null | undefined)[] = [],
  ) {
    const { rows } = await call(identity, "select * from app_hidden.find_token($1, $2, $3, $4)", [
      link.tenantId,
      link.tokenId,
      link.hash,
      [purpose],
    ]);
    const who = found.parse(rows[0]);
    const about = [who.email, who.first_name, who.last_name, who.tenant_name, who.tenant_slug, ...names];
    await assertAcceptable(
      password,
      about.filter((word) => word != null),
    );
    return hashPassword(password);
  }
  async function checkOwn(identity: Identity, password: string) {
    const { rows } = await call(identity, "select * from app_hidden.own_password($1)", [
      claimsOf(identity).tenant_id,
    ]);
    const [own] = ownPassword.array().parse(rows);
    if (!(await verifyPassword(own?.password_hash, password)) || !own)
      throw new ApiError("FORBIDDEN", "The current password is wrong.", { reason: "wrong_password" });
    await call(identity, "select app_hidden.own_password_matched($1)", [claimsOf(identity).tenant_id]);
    return own;
  }
  /** Whoever accepts or resets is nobody yet, even in a browser that is signed in as somebody else. */
  const nobody = ({ origin }: Identity): Identity => ({ claims: undefined, origin });

  return {
    async acceptInvitation({ token, password, firstName, lastName }, identity) {
      const link = parseLink(token);
      const hash = await hashFor(nobody(identity), link, "invitation", password, [firstName, lastName]);
      return sessions.begin(link.tenantId, async (refreshTokenHash) => {
        const { rows } = await call(
          nobody(identity),
          "select * from app_hidden.accept_invitation($1, $2, $3, $4, $5, $6, $7)",
          [
            link.tenantId,
            link.tokenId,
            link.hash,
            hash,
            firstName ?? null,
            lastName ?? null,
            refreshTokenHash,
          ],
        );
        const { user_id, role, session_id } = accepted.parse(rows[0]);
        return { claims: { sub: user_id, tenant_id: link.tenantId, role, sid: session_id } };
      });
    },
    async resetPassword({ token, newPassword }, identity) {
      const link = parseLink(token);
      const hash = await hashFor(nobody(identity), link, "password_reset", newPassword);
      await call(nobody(identity), "select app_hidden.reset_password($1, $2, $3, $4)", [
        link.tenantId,
        link.tokenId,
        link.hash,
        hash,
      ]);
    },
    async confirmEmail(token, identity) {
      const link = parseLink(token);
      const { rows } = await call(identity, "select app_hidden.confirm_email($1, $2, $3) as email", [
        link.tenantId,
        link.tokenId,
        link.hash,
      ]);
      return confirmed.parse(rows[0]).email;
    },
    async changePassword({ currentPassword, newPassword }, identity) {
      const own = await checkOwn(identity, currentPassword);
      await assertAcceptable(newPassword, own.about);
      await call(identity, "select app_hidden.change_password($1, $2, $3)", [
        identity.claims?.tenant_id,
        own.password_hash,
        await hashPassword(newPassword),
      ]);
    },
    async changeEmail({ currentPassword, newEmail }, identity) {
      const own = await checkOwn(identity, currentPassword);
      await call(identity, "select app_hidden.request_email_change($1, $2, $3)", [
        identity.claims?.tenant_id,
        own.password_hash,
        newEmail,
      ]);
    },
  };
}
