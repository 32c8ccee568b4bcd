import { sideEffectWithPgClientTransaction } from "postgraphile/@dataplan/pg";
import { access, context, list, type SideEffectStep } from "postgraphile/grafast";
import { extendSchema } from "postgraphile/utils";
import { z } from "zod";
import { generateApiKey } from "../src/auth/apiKeys.ts";
import { claimsOf } from "../src/auth/requests.ts";

const createInput = z.object({
  name: z.string(),
  scopes: z.array(z.string()),
  expiresAt: z.string().nullish(),
});
type Created = { id: string; secret: string };

/** In TypeScript, because PostgreSQL must not see the secret. */
export const ApiKeysPlugin = extendSchema((build) => {
  const { api_keys: apiKeys } = build.pgResources;
  if (!apiKeys) throw new Error("ApiKeysPlugin needs the table public.api_keys, which is not in the schema.");
  return {
    typeDefs: /* GraphQL */ `
      input CreateApiKeyInput {
        name: String!
        """
        analytics:read (what a VIEWER reads), analytics:export, audit:read, events:write, integrations:sync. Only
        events:write may stand alone. Nobody grants what they do not have.
        """
        scopes: [String!]!
        """When it ends by itself; null: never."""
        expiresAt: Datetime
      }
      type CreateApiKeyPayload {
        apiKey: ApiKey
        """The whole key, for the header Authorization: Bearer. It is shown this once, and kept nowhere."""
        secret: String!
      }
      extend type Mutation {
        """Makes an API key. Needs api_keys:manage, and the feature api_keys."""
        createApiKey(input: CreateApiKeyInput!): CreateApiKeyPayload
      }
    `,
    objects: {
      Mutation: {
        plans: {
          createApiKey: (_$root, args) =>
            sideEffectWithPgClientTransaction(
              apiKeys.executor,
              list([context().get("identity"), context().get("keyEnvironment"), args.getRaw("input")]),
              async (client, [identity, environment, input]): Promise<Created> => {
                const { name, scopes, expiresAt } = createInput.parse(input);
                const { tenant_id } = claimsOf(identity);
                const { id, text, secretHash } = generateApiKey(environment, tenant_id);
                await client.query({
                  text: "select app_hidden.create_api_key($1, $2, $3, $4, $5, $6)",
                  values: [tenant_id, id, name, scopes, expiresAt ?? null, secretHash],
                });
                return { id, secret: text };
              },
            ),
        },
      },
      CreateApiKeyPayload: {
        plans: {
          apiKey: ($payload: SideEffectStep<unknown, Created>) => apiKeys.get({ id: access($payload, "id") }),
        },
      },
    },
  };
}, "ApiKeysPlugin");
