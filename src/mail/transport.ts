import { randomBytes } from "node:crypto";
import { chmod, mkdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import nodemailer from "nodemailer";
import type { Logger } from "pino";
import { z } from "zod";
import { type Config, UserError } from "../config.ts";
import type { Message } from "./messages.ts";

const TIMEOUT_MS = 10_000;

export type Mail = Message & {
  to: string;
  /** Of the thing that is told: a mail that is sent again keeps it, so that a mailbox can show it once. */
  id: string;
};
export type MailTransport = {
  /** "refused": the server says that this mail can never be delivered. Throws when it may be tried again. */
  send(mail: Mail): Promise<"sent" | "refused">;
  close(): void;
};
type MailConfig = Pick<Config, "SMTP_URL" | "MAIL_FROM" | "FRONTEND_URL">;

/** Sends through SMTP_URL; without it, writes each mail into `mailDir` as .eml, and logs where. */
export function makeMailTransport(
  config: MailConfig,
  options: { mailDir: string; log: Logger },
): MailTransport {
  assertComplete(config);
  const from = config.MAIL_FROM;
  return config.SMTP_URL
    ? overSmtp(config.SMTP_URL, from, options.log)
    : intoFolder(options.mailDir, from, options.log);
}

function assertComplete(config: MailConfig) {
  if (config.SMTP_URL && !(config.FRONTEND_URL && config.MAIL_FROM))
    throw new UserError(
      "SMTP_URL needs FRONTEND_URL, where the links in mails lead, and MAIL_FROM, such as Acme <no-reply@acme.example>.",
    );
}

const DEFAULT_FROM = "erp-analytics <no-reply@localhost>";
const compose = ({ id, to, ...mail }: Mail, from: string | undefined) => {
  const sender = from ?? DEFAULT_FROM;
  const domain = /@([\w.-]+)>?\s*$/.exec(sender)?.[1] ?? "localhost";
  return {
    ...mail,
    from: sender,
    // Not as text, in which a comma would make two recipients of "a,b@c.example".
    to: { name: "", address: to },
    messageId: `<${id}@${domain}>`,
    // Nobody's holiday notice should come back.
    headers: { "Auto-Submitted": "auto-generated" },
    disableFileAccess: true,
    disableUrlAccess: true,
  };
};

function overSmtp(url: string, from: string | undefined, log: Logger): MailTransport {
  const smtp = nodemailer.createTransport({
    url,
    pool: true,
    connectionTimeout: TIMEOUT_MS,
    greetingTimeout: TIMEOUT_MS,
    socketTimeout: TIMEOUT_MS,
  });
  return {
    async send(mail) {
      try {
        await smtp.sendMail(compose(mail, from));
        return "sent";
      } catch (error) {
        const { permanent, reason } = describe(error);
        if (!permanent) throw new Error(reason);
        log.error({ mail: mail.id, reason }, "a mail was refused for good");
        return "refused";
      }
    },
    close: () => smtp.close(),
  };
}

const smtpError = z.object({
  message: z.string().catch("unknown"),
  code: z.string().optional().catch(undefined),
  command: z.string().optional().catch(undefined),
  responseCode: z.number().optional().catch(undefined),
});

/**
 * Permanent: the recipient or the message is refused (5xx). What ails the server, our login or MAIL_FROM may be mended.
 * The reason ends in the log and in the job's row: a server may quote the mail, so that nothing as long as a token passes.
 */
function describe(error: unknown): { permanent: boolean; reason: string } {
  const { message, code, command, responseCode = 0 } = smtpError.parse(error);
  const refused = responseCode >= 500 && responseCode < 600;
  const ofLogin = responseCode >= 530 && responseCode < 540;
  return {
    permanent: refused && !ofLogin && (command === "RCPT TO" || command === "DATA"),
    reason: `${[code, command].filter(Boolean).join(" ")}: ${message.replaceAll(/[\w-]{20,}/g, "…")}`,
  };
}

function intoFolder(mailDir: string, from: string | undefined, log: Logger): MailTransport {
  const writer = nodemailer.createTransport({ streamTransport: true, buffer: true });
  return {
    async send(mail) {
      const { message } = await writer.sendMail(compose(mail, from));
      await mkdir(mailDir, { recursive: true, mode: 0o700 });
      await chmod(mailDir, 0o700);
      const time = new Date().toISOString().replaceAll(":", "-");
      const file = join(mailDir, `${time}-${mail.purpose}-${randomBytes(3).toString("hex")}.eml`);
      // Whoever watches the folder sees whole mails only.
      await writeFile(`${file}.part`, message, { mode: 0o600 });
      await rename(`${file}.part`, file);
      log.info({ file }, `mail (${mail.purpose}): ${file}`);
      return "sent";
    },
    close() {},
  };
}
