import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { z } from "zod";
import type { Delivery, Webhooks } from "../connector.ts";
import { accountIdsOf, type MetaConfig, type MetaCredentials } from "./settings.ts";

const notice = z.object({
  object: z.string(),
  entry: z.array(z.object({ id: z.union([z.string(), z.int().transform(String)]) })),
});

/** Both of one length, so that the comparison tells nothing, not even that. */
const isSame = (a: string, b: string) =>
  timingSafeEqual(createHash("sha256").update(a).digest(), createHash("sha256").update(b).digest());

/** Meta tells that something about an ad account changed, never the figures: those are fetched. */
export const metaWebhooks: Webhooks<MetaConfig, MetaCredentials> = {
  handshake(query, { verifyToken }) {
    const isMeant = query.get("hub.mode") === "subscribe" && verifyToken !== undefined;
    const challenge = query.get("hub.challenge");
    if (!isMeant || challenge === null || !isSame(query.get("hub.verify_token") ?? "", verifyToken))
      return undefined;
    // It goes back in our name; Meta's is a number.
    return /^\w{1,100}$/.test(challenge) ? challenge : undefined;
  },
  verify({ headers, rawBody }, { appSecret }) {
    const expected = `sha256=${createHmac("sha256", appSecret).update(rawBody).digest("hex")}`;
    return isSame(headers.get("x-hub-signature-256") ?? "", expected);
  },
  // Meta numbers no deliveries and dates none: what it repeats, for 36 hours, is the same to the byte.
  identify: ({ rawBody }) => ({
    id: createHash("sha256").update(rawBody).digest("hex"),
    sentAt: undefined,
  }),
  read(delivery, config) {
    const parsed = notice.safeParse(parseJson(delivery));
    if (!parsed.success) {
      const record = delivery.rawBody.toString();
      return { events: [], unparsable: [{ reason: z.prettifyError(parsed.error), record }], streams: [] };
    }
    const accountIds = accountIdsOf(config);
    const isOurs =
      parsed.data.object === "ad_account" &&
      parsed.data.entry.some(({ id }) => accountIds.includes(id.replace("act_", "")));
    return { events: [], unparsable: [], streams: isOurs ? config.levels : [] };
  },
};

function parseJson({ rawBody }: Delivery): unknown {
  try {
    return JSON.parse(rawBody.toString());
  } catch {
    return undefined;
  }
}
