import { z } from "zod";
import { type Connector, ProviderError } from "./connector.ts";
import { square, squareHosts } from "./square/index.ts";

type Entry = { connector: Connector; hosts: Record<string, string> };
const entries: Entry[] = [{ connector: square, hosts: squareHosts }];
const byProvider = new Map(entries.map((entry) => [entry.connector.provider, entry]));

/** The connector of a provider. */
export function connectorFor(provider: string): Connector {
  return entryFor(provider).connector;
}

/**
 * Where a connector sends its requests: the provider's own hosts, or the operator's simulator. Never a host of the
 * tenant's choice, which could be any machine that we can reach.
 */
export function providerUrl(provider: string, config: unknown, simulatorUrl: string | undefined): string {
  const { environment } = z.object({ environment: z.string() }).parse(config);
  const url = environment === "simulator" ? simulatorUrl : entryFor(provider).hosts[environment];
  if (!url) throw new ProviderError("permanent", `The environment "${environment}" is not available here.`);
  return url;
}

function entryFor(provider: string): Entry {
  const entry = byProvider.get(provider);
  if (!entry) throw new ProviderError("permanent", `There is no connector for the provider "${provider}".`);
  return entry;
}
