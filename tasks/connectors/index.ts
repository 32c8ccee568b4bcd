import { z } from "zod";
import { type Connector, ProviderError } from "./connector.ts";
import { metaAds } from "./meta-ads/index.ts";
import { square } from "./square/index.ts";

/** Every connector, in the order in which people see them. */
export const connectors: readonly Connector[] = [metaAds, square];
const byProvider = new Map(connectors.map((connector) => [connector.provider, connector]));

/** The connector of a provider. */
export function connectorFor(provider: string): Connector {
  const connector = byProvider.get(provider);
  if (!connector)
    throw new ProviderError("permanent", `There is no connector for the provider "${provider}".`);
  return connector;
}

/**
 * Where a connector sends its requests: the provider's own hosts, or the operator's simulator. Never a host of the
 * tenant's choice, which could be any machine that we can reach.
 */
export function providerUrl(provider: string, config: unknown, simulatorUrl: string | undefined): string {
  const { environment } = z.object({ environment: z.string() }).parse(config);
  const url = environment === "simulator" ? simulatorUrl : connectorFor(provider).hosts[environment];
  if (!url) throw new ProviderError("permanent", `The environment "${environment}" is not available here.`);
  return url;
}
