import type { PgSelectSingleStep } from "postgraphile/@dataplan/pg";
import { context, lambda, list } from "postgraphile/grafast";
import { extendSchema } from "postgraphile/utils";

/** In TypeScript, because PostgreSQL does not know how we are reached, nor which connectors take webhooks. */
export const WebhookUrlPlugin = extendSchema((build) => {
  if (!build.pgResources.integrations)
    throw new Error("WebhookUrlPlugin needs the table public.integrations, which is not in the schema.");
  return {
    typeDefs: /* GraphQL */ `
      extend type Integration {
        """
        Where the provider sends its webhooks: enter it there as it is, since signatures cover it byte for byte. Null where the
        provider sends none, or PUBLIC_URL is not set.
        """
        webhookUrl: String
      }
    `,
    objects: {
      Integration: {
        plans: {
          webhookUrl: ($integration: PgSelectSingleStep) =>
            lambda(
              list([context().get("webhookUrls"), $integration.get("id"), $integration.get("provider")]),
              ([webhookUrls, id, provider]) => webhookUrls({ id, provider }) ?? null,
            ),
        },
      },
    },
  };
}, "WebhookUrlPlugin");
