import { defineConnector } from "../connector.ts";
import { testMeta } from "./accounts.ts";
import { insights } from "./insights.ts";
import { metaConfig, metaCredentials, metaHosts, metaLimits } from "./settings.ts";
import { metaWebhooks } from "./webhooks.ts";

/**
 * Meta's Ads Insights. Plain fetch instead of the SDK, which fixes host and version in itself, puts the token into every
 * URL, follows `paging.next` with an HTTP client of its own, and shows headers only mixed into the body.
 */
export const metaAds = defineConnector({
  provider: "meta-ads",
  name: "Meta Ads",
  config: metaConfig,
  credentials: metaCredentials,
  hosts: metaHosts,
  limits: metaLimits,
  appSecret: ({ appSecret }) => appSecret,
  test: testMeta,
  webhooks: metaWebhooks,
  streams: {
    accounts: insights("accounts", "Each day of each ad account."),
    campaigns: insights("campaigns", "Each day of each campaign."),
    ad_sets: insights("ad_sets", "Each day of each ad set."),
    ads: insights("ads", "Each day of each ad."),
  },
});
