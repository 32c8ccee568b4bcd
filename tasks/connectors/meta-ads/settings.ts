import { z } from "zod";
import type { Call, PageRequest } from "../connector.ts";

/** The streams, by level of what is advertised. */
export const levels = ["accounts", "campaigns", "ad_sets", "ads"] as const;
export type Level = (typeof levels)[number];

const attributionWindows = ["1d_click", "7d_click", "28d_click", "1d_view"] as const;

export const metaConfig = z.object({
  environment: z.enum(["production", "simulator"]).meta({
    title: "Environment",
    description: "Meta itself, or the operator's simulator.",
  }),
  accountIds: z
    .array(z.string().regex(/^(act_)?\d{1,20}$/, "is not the number of an ad account, with or without act_"))
    .min(1)
    .max(50)
    .meta({ title: "Ad accounts", description: 'Numbers of the ad accounts, such as "act_4410882".' }),
  levels: z.array(z.enum(levels)).min(1).default(["campaigns"]).meta({
    title: "Levels",
    description:
      "Which figures to fetch. Each level counts the same money: never add two of them together. Fine levels take longer.",
  }),
  backfillDays: z
    .int()
    .min(1)
    // 37 months, of which Meta keeps the figures.
    .max(1125)
    .default(365)
    .meta({ title: "Days to begin with", description: "How far back the first sync goes." }),
  attributionWindows: z
    .array(z.enum(attributionWindows, `may be ${attributionWindows.join(", ")}; Meta gives no others.`))
    // Click windows contain one another; a click and a view window do not.
    .refine((windows) => windows.filter((window) => window.endsWith("_click")).length <= 1, {
      message: "may have one window of clicks, since the longer ones contain the shorter",
    })
    .default([])
    .meta({
      title: "Attribution windows",
      description:
        "Within which time after a click or a view a conversion counts; none: as set in the account. A change applies to days that are read from then on.",
    }),
  conversionAction: z
    .string()
    .regex(/^[\w.]{1,100}$/)
    .default("omni_purchase")
    .meta({
      title: "Conversion",
      description: "The action type that counts as a conversion, in Meta's spelling.",
    }),
  pageSize: z.int().min(1).max(1000).default(500).meta({
    title: "Rows per page",
    description: "The connector asks for fewer when Meta cannot give that many.",
  }),
  usageThreshold: z.int().min(1).max(100).default(95).meta({
    title: "Usage threshold",
    description: "Calls pause when Meta says that so many percent of a limit are used up.",
  }),
  deletionDelayHours: z.int().min(0).max(168).default(20).meta({
    title: "Hours before a deletion",
    description: "A row that Meta gives no longer is deleted when two syncs, so far apart, have missed it.",
  }),
  apiVersion: z
    .string()
    .regex(/^v\d{1,3}\.\d$/)
    .default("v25.0")
    .meta({ title: "API version", description: "The version of Meta's Marketing API." }),
});
export type MetaConfig = z.output<typeof metaConfig>;

export const metaCredentials = z.object({
  accessToken: z.string().min(1).max(2000).meta({
    title: "Access token",
    description: "Of a system user with the permission ads_read, who was given the ad accounts.",
    writeOnly: true,
  }),
  appId: z
    .string()
    .regex(/^\d{1,20}$/)
    .meta({ title: "App ID", description: "The app that the token was made for." }),
  appSecret: z.string().min(1).max(200).meta({
    title: "App secret",
    description: "Signs every call, and proves that a webhook comes from Meta.",
    writeOnly: true,
  }),
  verifyToken: z.string().min(1).max(200).optional().meta({
    title: "Verify token",
    description: "For webhooks: what you enter at Meta beside the callback URL. Any text of yours.",
    writeOnly: true,
  }),
});
export type MetaCredentials = z.output<typeof metaCredentials>;

export const metaHosts = { production: "https://graph.facebook.com" } as const;

export type MetaCall = Call<MetaConfig, MetaCredentials>;
export type MetaRequest<Checkpoint> = PageRequest<MetaConfig, MetaCredentials, Checkpoint>;

/** Without "act_", each once. */
export const accountIdsOf = (config: MetaConfig): string[] => [
  ...new Set(config.accountIds.map((id) => id.replace("act_", ""))),
];

export const appScope = (appId: string) => `app:${appId}`;
export const accountScope = (accountId: string) => `account:${accountId}`;

export const metaLimits = (config: MetaConfig, credentials: MetaCredentials): string[] => [
  appScope(credentials.appId),
  ...accountIdsOf(config).map(accountScope),
];
