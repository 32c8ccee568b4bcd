import type { Task } from "graphile-worker";
import { z } from "zod";
import { deriveOneTimeToken } from "../src/auth/oneTimeTokens.ts";
import { linkMessage, noticeMessage, type Recipient } from "../src/mail/messages.ts";
import { withTenant } from "../src/worker/withTenant.ts";
import type { TaskServices } from "./index.ts";

const payload = z.union([
  z.object({ tenantId: z.uuid(), tokenId: z.uuid() }),
  z.object({
    tenantId: z.uuid(),
    userId: z.uuid(),
    notice: z.enum(["password_changed", "email_change_requested", "email_changed"]),
    email: z.string(),
  }),
]);
const recipient = z.object({
  first_name: z.string().nullable(),
  tenant_name: z.string(),
  tenant_slug: z.string(),
});
const ofLink = recipient.extend({
  purpose: z.enum(["invitation", "email_verification", "email_change", "password_reset"]),
  email: z.string(),
  invited_by: z.string().nullable(),
  expires_at: z.date(),
});

/**
 * Sends one mail. It goes out after the transaction that stores the token's hash: a worker that dies in between, or right
 * after sending, sends it again, with the same token and Message-ID.
 */
export const sendMail =
  ({ pool, keyRing, mail, frontendUrl }: TaskServices): Task =>
  async (input, { job }) => {
    const told = payload.parse(input);
    const { tenantId } = told;
    if ("notice" in told) {
      const { rows } = await withTenant(pool, tenantId, "send_mail", (client) =>
        client.query("select * from app_hidden.mail_for_notice($1, $2)", [tenantId, told.userId]),
      );
      if (rows.length === 0) return;
      const message = noticeMessage(told.notice, recipientOf(recipient.parse(rows[0])));
      await mail.send({ ...message, to: told.email, id: `notice-${job.id}` });
      return;
    }
    const { token, hash } = deriveOneTimeToken(keyRing, told);
    const { rows } = await withTenant(pool, tenantId, "send_mail", (client) =>
      client.query("select * from app_hidden.mail_for_token($1, $2, $3)", [tenantId, told.tokenId, hash]),
    );
    // It was used, replaced or has expired meanwhile.
    if (rows.length === 0) return;
    const row = ofLink.parse(rows[0]);
    const link = { invitedBy: row.invited_by, token, expiresAt: row.expires_at };
    const message = linkMessage(row.purpose, recipientOf(row), link, frontendUrl);
    await mail.send({ ...message, to: row.email, id: told.tokenId });
  };

const recipientOf = (row: z.output<typeof recipient>): Recipient => ({
  firstName: row.first_name,
  tenantName: row.tenant_name,
  tenantSlug: row.tenant_slug,
});
