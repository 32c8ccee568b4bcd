import { z } from "zod";
import { type Connector, ProviderError } from "./connector.ts";
import { csv } from "./csv/index.ts";
import { metaAds } from "./meta-ads/index.ts";
import { square } from "./square/index.ts";

/** Every connector, in the order in which people see them. */
export const connectors: readonly Connector[] = [metaAds, square, csv];

/** The connector of a provider. */
export function connectorFor(provider: string, among: readonly Connector[] = connectors): Connector {
  const connector = among.find((one) => one.provider === provider);
  if (!connector)
    throw new ProviderError("permanent", `There is no connector for the provider "${provider}".`);
  return connector;
}

/**
 * Where a connector sends its requests: the provider's own hosts, or the operator's simulator. Never a host of the
 * tenant's choice, which could be any machine that we can reach.
 */
export function providerUrl({ hosts }: Connector, config: unknown, simulatorUrl: string | undefined): string {
  // Nobody is called.
  if (Object.keys(hosts).length === 0) return "";
  const { environment } = z.object({ environment: z.string() }).parse(config);
  const url = environment === "simulator" ? simulatorUrl : hosts[environment];
  if (!url) throw new ProviderError("permanent", `The environment "${environment}" is not available here.`);
  return url;
}
