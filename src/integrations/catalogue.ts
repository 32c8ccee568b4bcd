import { z } from "zod";
import type { Connector } from "../../tasks/connectors/connector.ts";
import { connectors } from "../../tasks/connectors/index.ts";

type JsonSchema = z.core.JSONSchema.BaseSchema;
/** What a frontend needs to offer a provider. */
export type Provider = {
  provider: string;
  name: string;
  /** JSON Schema 2020-12 of `config`. */
  configSchema: JsonSchema;
  /** JSON Schema 2020-12 of `credentials`. */
  credentialsSchema: JsonSchema;
  /** Values of `config.environment` that work here. */
  environments: string[];
  streams: { name: string; description: string | null }[];
  webhooks: boolean;
};

/** Every provider that there is a connector for. */
export const describeProviders = (simulatorUrl: string | undefined): Provider[] =>
  connectors.map((connector) => ({
    provider: connector.provider,
    name: connector.name,
    configSchema: configSchema(connector, simulatorUrl),
    credentialsSchema: jsonSchema(connector.credentials),
    environments: environmentsOf(connector, simulatorUrl),
    streams: Object.entries(connector.streams).map(([name, { description }]) => ({
      name,
      description: description ?? null,
    })),
    webhooks: connector.webhooks !== undefined,
  }));

/** The environments of a connector, without the simulator where there is none. */
export function environmentsOf(connector: Connector, simulatorUrl: string | undefined): string[] {
  return environmentNames(jsonSchema(connector.config)).filter((name) =>
    name === "simulator" ? simulatorUrl !== undefined : connector.hosts[name] !== undefined,
  );
}

function configSchema(connector: Connector, simulatorUrl: string | undefined): JsonSchema {
  const schema = jsonSchema(connector.config);
  const environment = schema.properties?.environment;
  return {
    ...schema,
    properties: {
      ...schema.properties,
      ...(typeof environment === "object" && environment.enum
        ? { environment: { ...environment, enum: environmentsOf(connector, simulatorUrl) } }
        : {}),
    },
  };
}

const environmentNames = (schema: JsonSchema): string[] => {
  const environment = schema.properties?.environment;
  const names = typeof environment === "object" ? environment.enum : undefined;
  return (names ?? []).filter((name) => typeof name === "string");
};

const made = new WeakMap<z.ZodType, JsonSchema>();

/** Of what is given, not of what becomes of it: a default is optional. */
function jsonSchema(schema: z.ZodType): JsonSchema {
  const known = made.get(schema);
  if (known) return known;
  const { "~standard": _standard, ...json } = z.toJSONSchema(schema, {
    io: "input",
    target: "draft-2020-12",
    unrepresentable: "any",
    override: ({ jsonSchema: json }) => {
      // What a schema does not know is refused.
      if (json.type === "object" && json.properties) json.additionalProperties ??= false;
      if (json.writeOnly && json.type === "string") json.format ??= "password";
    },
  });
  made.set(schema, json);
  return json;
}
