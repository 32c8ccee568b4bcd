import { type PgClient, sideEffectWithPgClientTransaction, withPgClient } from "postgraphile/@dataplan/pg";
import { access, context, list, type Step, sideEffect } from "postgraphile/grafast";
import { extendSchema } from "postgraphile/utils";
import { z } from "zod";
import { claimsOf } from "../src/auth/requests.ts";

const credentialsInput = z.object({
  integrationId: z.uuid("integrationId must be a UUID."),
  credentials: z.unknown().optional(),
});
const testInput = z.object({
  provider: z.string(),
  config: z.unknown().optional(),
  credentials: z.unknown().optional(),
  integrationId: z.uuid("integrationId must be a UUID.").nullish(),
});

/** In TypeScript, because connectors are, and because PostgreSQL must not see credentials. */
export const IntegrationsPlugin = extendSchema((build) => {
  const { integrations } = build.pgResources;
  if (!integrations)
    throw new Error("IntegrationsPlugin needs the table public.integrations, which is not in the schema.");
  return {
    typeDefs: /* GraphQL */ `
      """A kind of source, such as a point of sale, that integrations pull from."""
      type Provider {
        """What Integration.provider holds."""
        provider: String!
        """As people know it."""
        name: String!
        """JSON Schema 2020-12 of Integration.config, with titles and descriptions for a form."""
        configSchema: JSON!
        """JSON Schema 2020-12 of what setIntegrationCredentials takes. Fields that are writeOnly are secret."""
        credentialsSchema: JSON!
        """The values of config.environment that work here; empty where there is nothing to choose."""
        environments: [String!]!
        """What is read, each from a place of its own."""
        streams: [ProviderStream!]!
        """Whether the provider can tell us of changes by itself."""
        webhooks: Boolean!
      }
      type ProviderStream {
        name: String!
        description: String
      }
      input SetIntegrationCredentialsInput {
        integrationId: UUID!
        """As Provider.credentialsSchema says. Kept encrypted; no answer ever shows them again."""
        credentials: JSON!
      }
      type SetIntegrationCredentialsPayload {
        integration: Integration
      }
      input TestIntegrationConnectionInput {
        provider: String!
        """As Provider.configSchema says."""
        config: JSON!
        """As Provider.credentialsSchema says. Without them, those that the integration has are tried."""
        credentials: JSON
        """An integration that exists, whose own credentials may be tried."""
        integrationId: UUID
      }
      type TestIntegrationConnectionPayload {
        """Whether the provider accepted the credentials, and the settings are about what they reach."""
        ok: Boolean!
        """What they reach, by a name that a person recognises."""
        account: String
        """As Integration.errorClass: needs_reauth, refused (change the settings) or unreachable (try again)."""
        errorClass: String
        """What went wrong, as a sentence."""
        error: String
      }
      extend type Query {
        """What can be connected here."""
        availableProviders: [Provider!]!
      }
      extend type Mutation {
        """Gives an integration its credentials. One in ERROR is tried again. Needs integrations:manage."""
        setIntegrationCredentials(input: SetIntegrationCredentialsInput!): SetIntegrationCredentialsPayload
        """
        Tries settings and credentials with one call to the provider, and keeps nothing. It takes at most ten seconds; 20 in
        five minutes. Must be the only field of its operation. Needs integrations:manage.
        """
        testIntegrationConnection(input: TestIntegrationConnectionInput!): TestIntegrationConnectionPayload
      }
    `,
    objects: {
      Query: {
        plans: {
          availableProviders: () =>
            withPgClient(
              integrations.executor,
              list([context().get("identity"), context().get("integrations")]),
              async (client, [identity, service]) => {
                claimsOf(identity);
                // Whoever may no longer ask is refused by what goes out before this.
                await client.query({ text: "select" });
                return service.providers();
              },
            ),
        },
      },
      Mutation: {
        plans: {
          setIntegrationCredentials: (_$root, args) =>
            sideEffectWithPgClientTransaction(
              integrations.executor,
              list([context().get("identity"), context().get("integrations"), args.getRaw("input")]),
              async (client: PgClient, [identity, service, input]) => {
                const { integrationId, credentials } = credentialsInput.parse(input);
                const { tenant_id: tenantId } = claimsOf(identity);
                await service.setCredentials(
                  (query) => client.query(query),
                  tenantId,
                  integrationId,
                  credentials,
                );
                return { id: integrationId };
              },
            ),
          testIntegrationConnection: (_$root, args) =>
            sideEffect(
              [context().get("identity"), context().get("integrations"), args.getRaw("input")],
              ([identity, service, input]) => service.test(identity, testInput.parse(input)),
            ),
        },
      },
      SetIntegrationCredentialsPayload: {
        plans: {
          integration: ($payload: Step<{ id: string }>) => integrations.get({ id: access($payload, "id") }),
        },
      },
    },
  };
}, "IntegrationsPlugin");
