export type Purpose = "invitation" | "email_verification" | "email_change" | "password_reset";
export type Notice = "password_changed" | "email_change_requested" | "email_changed";
export type Message = { purpose: Purpose | Notice; subject: string; text: string; html: string };

export type Recipient = { firstName: string | null; tenantName: string; tenantSlug: string };
export type Link = { invitedBy: string | null; token: string; expiresAt: Date };

const DEFAULT_FRONTEND = "http://localhost:3000";
const MOST_LETTERS = 80;
/** Somebody who invites and has no name is called by the e-mail. */
const EMAIL = /^[\w.+-]+@[\w.-]+$/;
/** With the dots that other scripts write, which browsers take for one too. */
const DOT_BEFORE_LETTER = /([.\u3002\uff0e\uff61\u2024])(?=[^\s.])/g;

const pages: Record<Purpose, string> = {
  invitation: "accept-invitation",
  email_verification: "confirm-email",
  email_change: "confirm-email",
  password_reset: "reset-password",
};

/** Behind `#`, which browsers send to no server and put into no Referer. */
function linkTo(frontendUrl: string | undefined, purpose: Purpose, token: string): string {
  const url = new URL(frontendUrl ?? DEFAULT_FRONTEND);
  url.pathname = `${url.pathname.replace(/\/+$/, "")}/${pages[purpose]}`;
  url.search = "";
  url.hash = `token=${token}`;
  return url.href;
}

export function linkMessage(
  purpose: Purpose,
  recipient: Recipient,
  { invitedBy, token, expiresAt }: Link,
  frontendUrl: string | undefined,
): Message {
  const tenant = plain(recipient.tenantName);
  const inviter = invitedBy === null ? "The operator" : plain(invitedBy);
  const said: Record<Purpose, { subject: string; sentence: string; button: string; otherwise: string }> = {
    invitation: {
      subject: `Invitation to ${tenant}`,
      sentence: `${inviter} invites you to ${tenant}. Choose a password to begin.`,
      button: "Accept the invitation",
      otherwise: "If you do not know what this is about, ignore this mail: nothing happens.",
    },
    email_verification: {
      subject: `Confirm your e-mail for ${tenant}`,
      sentence: `Confirm that this is your e-mail address for ${tenant}.`,
      button: "Confirm the address",
      otherwise: "If you have no account there, ignore this mail.",
    },
    email_change: {
      subject: `Confirm your new e-mail for ${tenant}`,
      sentence: `You asked to use this address for your account at ${tenant}. It is used once you confirm it; then your other sessions end.`,
      button: "Use this address",
      otherwise: "If you did not ask for this, ignore this mail: nothing changes.",
    },
    password_reset: {
      subject: `Reset your password for ${tenant}`,
      sentence: `Somebody, probably you, asked to reset the password of your account at ${tenant}. All its sessions end when you set a new one.`,
      button: "Set a new password",
      otherwise: "If it was not you, ignore this mail: your password stays as it is.",
    },
  };
  const { subject, sentence, button, otherwise } = said[purpose];
  const until = `The link works once, until ${utc(expiresAt)}.`;
  return compose(purpose, recipient, subject, [sentence, until, otherwise], {
    url: linkTo(frontendUrl, purpose, token),
    button,
  });
}

export function noticeMessage(notice: Notice, recipient: Recipient): Message {
  const tenant = plain(recipient.tenantName);
  if (notice === "email_change_requested")
    return compose(notice, recipient, `Another e-mail address for ${tenant} was asked for`, [
      `Somebody who knows your password asked to use another address for your account at ${tenant} (${recipient.tenantSlug}). It is used once that address is confirmed.`,
      "If it was not you, change your password now: that ends the request.",
    ]);
  const what = notice === "password_changed" ? "password" : "e-mail address";
  // After a change of the e-mail, this address can reset nothing any more.
  const too = notice === "password_changed" ? ", and reset your password" : "";
  return compose(notice, recipient, `Your ${what} for ${tenant} was changed`, [
    `The ${what} of your account at ${tenant} (${recipient.tenantSlug}) was just changed, and your other sessions have ended.`,
    `If it was not you, ask an admin of your tenant to suspend the account${too}.`,
  ]);
}

function compose(
  purpose: Message["purpose"],
  { firstName }: Recipient,
  subject: string,
  paragraphs: string[],
  link?: { url: string; button: string },
): Message {
  const greeting = firstName ? `Hello ${plain(firstName)},` : "Hello,";
  const [first = "", ...rest] = paragraphs;
  const text = [greeting, first, ...(link ? [link.url] : []), ...rest].join("\n\n");
  const html = [
    `<p>${escaped(greeting)}</p>`,
    `<p>${escaped(first)}</p>`,
    ...(link ? [`<p><a href="${escaped(link.url)}">${escaped(link.button)}</a></p>`] : []),
    ...rest.map((paragraph) => `<p>${escaped(paragraph)}</p>`),
  ].join("\n");
  return { purpose, subject, text: `${text}\n`, html: `${html}\n` };
}

const utc = (date: Date) => `${date.toISOString().slice(0, 16).replace("T", " ")} UTC`;

/** What people typed: one line, of a length that leaves no room for a letter of their own, and without an address to follow. */
function plain(text: string): string {
  const line = text
    .toWellFormed()
    .replaceAll(/[\p{C}\p{Z}\s]+/gu, " ")
    .trim();
  const short = [...line].slice(0, MOST_LETTERS).join("");
  // Mail programs make a link of whatever looks like one: "evil.example" does, "evil. example" does not.
  return EMAIL.test(line) ? short : short.replaceAll(/:?\/\/+/g, " ").replaceAll(DOT_BEFORE_LETTER, "$1 ");
}

const escaped = (text: string) =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
