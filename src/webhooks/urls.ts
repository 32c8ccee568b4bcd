import type { Connector } from "../../tasks/connectors/connector.ts";

export const WEBHOOKS = "/v1/webhooks";

/** The address that a provider is told for an integration, which signatures cover byte for byte; undefined where there is none. */
export type WebhookUrls = (integration: { id: string; provider: string }) => string | undefined;

/** @param publicUrl without it, nobody knows how we are reached */
export function makeWebhookUrls(
  publicUrl: string | undefined,
  connectors: readonly Connector[],
): WebhookUrls {
  const providers = new Set(connectors.filter(({ webhooks }) => webhooks).map(({ provider }) => provider));
  const base = publicUrl?.replace(/\/+$/, "");
  return ({ id, provider }) =>
    base !== undefined && providers.has(provider) ? `${base}${WEBHOOKS}/${id}` : undefined;
}
