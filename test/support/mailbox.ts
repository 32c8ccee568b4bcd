import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import PostalMime, { type Email } from "postal-mime";
import { type MailTransport, makeMailTransport } from "../../src/mail/transport.ts";
import { silent } from "./database.ts";
import { until } from "./until.ts";

export type Mailbox = {
  transport: MailTransport;
  folder: string;
  /** Waits for the newest of at least `count` mails of this purpose to somebody. */
  newest(to: string, purpose: string, count?: number): Promise<Email>;
  /** The token of its link. */
  token(to: string, purpose: string, count?: number): Promise<string>;
  remove(): Promise<void>;
};

/** Mails as they are written without SMTP_URL. */
export async function makeMailbox(): Promise<Mailbox> {
  const folder = await mkdtemp(join(tmpdir(), "erp-mail-"));
  const mailDir = join(folder, "mail");
  const transport = makeMailTransport(
    { SMTP_URL: undefined, MAIL_FROM: undefined, FRONTEND_URL: undefined },
    { mailDir, log: silent },
  );
  const all = async (to: string, purpose: string) => {
    const files = await readdir(mailDir).catch(() => []);
    const chosen = files.filter((name) => name.endsWith(".eml") && name.includes(`-${purpose}-`)).sort();
    const mails = await Promise.all(
      chosen.map(async (name) => PostalMime.parse(await readFile(join(mailDir, name)))),
    );
    return mails.filter((mail) => mail.to?.[0]?.address === to);
  };
  const newest: Mailbox["newest"] = async (to, purpose, count = 1) => {
    const mails = await until(
      () => all(to, purpose),
      (found) => found.length >= count,
    );
    const mail = mails.at(-1);
    if (!mail) throw new Error("There is no mail.");
    return mail;
  };
  return {
    transport,
    folder: mailDir,
    newest,
    async token(to, purpose, count) {
      const { text } = await newest(to, purpose, count);
      const [, token] = /#token=([\w-]+)/.exec(text ?? "") ?? [];
      if (!token) throw new Error(`There is no link in: ${text}`);
      return token;
    },
    remove: () => rm(folder, { recursive: true, force: true }),
  };
}
