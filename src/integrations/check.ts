import { z } from "zod";
import type { Connector } from "../../tasks/connectors/connector.ts";
import { connectors } from "../../tasks/connectors/index.ts";
import { findFlaw } from "../events/text.ts";
import { ApiError } from "../graphql/errors.ts";
import { makeRedact } from "../sync/redact.ts";
import { environmentsOf } from "./catalogue.ts";
import { keysOf, misfits, refuseMisfit } from "./misfits.ts";

const withEnvironment = z.looseObject({ environment: z.string().optional() });

/** The connector of a provider that somebody typed. */
export function connectorNamed(provider: string): Connector {
  const connector = connectors.find((one) => one.provider === provider);
  if (connector) return connector;
  const known = connectors.map((one) => one.provider).join(", ");
  throw new ApiError(
    "INVALID_INPUT",
    `provider: There is no connector for ${JSON.stringify(provider.slice(0, 63))}. There are: ${known}.`,
    { reason: "unknown_provider", field: "provider" },
  );
}

/**
 * The settings of an integration as its connector reads them, or INVALID_INPUT with every place where they do not fit.
 * Stored is what was given: a default that changes one day changes for whoever never chose.
 */
export function checkConfig<Config>(
  connector: Connector<Config>,
  given: unknown,
  simulatorUrl: string | undefined,
): Config {
  const config = objectOr(given, "config");
  const flaw = findFlaw(config);
  if (flaw?.reason === "not_storable")
    refuseMisfit("config", [
      { path: pathOf(flaw.pointer), says: "has a character that cannot be stored (NUL, or half of one)" },
    ]);
  const { problems, value } = misfits(connector.config, config);
  const secretKeys = keysOf(connector.credentials);
  refuseMisfit(
    "config",
    problems.map(({ path, says, unknown }) => ({
      path,
      says:
        unknown && secretKeys.has(String(path.at(-1)))
          ? "is a credential, and settings are not secret: use setIntegrationCredentials"
          : says,
    })),
  );
  const { environment } = withEnvironment.parse(value);
  const environments = environmentsOf(connector, simulatorUrl);
  if (environment !== undefined && !environments.includes(environment))
    refuseMisfit("config", [
      { path: ["environment"], says: `is not available here; there are: ${environments.join(", ")}` },
    ]);
  return connector.config.parse(config);
}

/** Credentials as a connector reads them, or INVALID_INPUT with the places, and nothing of the values. */
export function checkCredentials<Credentials>(
  connector: Connector<unknown, Credentials>,
  given: unknown,
): Credentials {
  const credentials = objectOr(given, "credentials");
  const { problems } = misfits(connector.credentials, credentials);
  const redact = makeRedact(credentials);
  const known = [...keysOf(connector.credentials)].join(", ");
  refuseMisfit(
    "credentials",
    problems.map(({ path, says, unknown }) =>
      // Somebody may paste a secret where a name belongs, and a schema's own sentence may quote what it refuses.
      unknown
        ? { path: [], says: `has a field that is not known here; there are: ${known}` }
        : { path, says: redact(says) === says ? says : "does not fit" },
    ),
  );
  return connector.credentials.parse(credentials);
}

const pathOf = (pointer: string): PropertyKey[] =>
  pointer
    .split("/")
    .slice(1)
    .map((part) => (/^\d+$/.test(part) ? Number(part) : part.replaceAll("~1", "/").replaceAll("~0", "~")));

function objectOr(given: unknown, root: string): Record<string, unknown> {
  const object = z.record(z.string(), z.unknown()).safeParse(given);
  if (!object.success) refuseMisfit(root, [{ path: [], says: "must be an object" }]);
  return object.data ?? {};
}
