import { createHmac } from "node:crypto";

export type WebhookOptions = {
  accountId: string;
  /** Signs with another secret. */
  forged?: boolean;
  /** How often the same bytes are sent. */
  times?: number;
  /** When it happened; Meta repeats a delivery for 36 hours. */
  happenedAt?: Date;
  /** Instead of a notice of Meta's. */
  body?: string;
};

/** What Meta's server sends: a notice of an ad account, signed over its very bytes. */
export function makeWebhook(appSecret: string, options: WebhookOptions) {
  const notice = {
    object: "ad_account",
    entry: [
      {
        id: options.accountId,
        time: Math.floor((options.happenedAt ?? new Date()).getTime() / 1000),
        changes: [
          {
            field: "in_process_ad_objects",
            value: { id: "23850001", level: "CAMPAIGN", status_name: "Active" },
          },
        ],
      },
    ],
  };
  // As Meta does, with characters beyond ASCII escaped.
  const body = options.body ?? JSON.stringify(notice).replaceAll("/", "\\/");
  const signature = createHmac("sha256", options.forged ? "another secret" : appSecret)
    .update(body)
    .digest("hex");
  return {
    body,
    headers: { "content-type": "application/json", "x-hub-signature-256": `sha256=${signature}` },
  };
}

/** Sends it; gives the answers' statuses. */
export async function sendWebhook(
  url: string,
  appSecret: string,
  options: WebhookOptions,
): Promise<number[]> {
  const { body, headers } = makeWebhook(appSecret, options);
  const statuses: number[] = [];
  for (let sent = 0; sent < (options.times ?? 1); sent++)
    statuses.push((await fetch(url, { method: "POST", headers, body })).status);
  return statuses;
}

/** Meta's question whether an address is the app's; the answer must be the challenge. */
export async function askHandshake(url: string, verifyToken: string, challenge = "1158201444") {
  const query = new URLSearchParams({
    "hub.mode": "subscribe",
    "hub.verify_token": verifyToken,
    "hub.challenge": challenge,
  });
  const response = await fetch(`${url}?${query}`);
  return { status: response.status, text: await response.text() };
}
