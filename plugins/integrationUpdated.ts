import { context, lambda, listen, type Step, sideEffect } from "postgraphile/grafast";
import { extendSchema } from "postgraphile/utils";
import { ApiError } from "../src/graphql/errors.ts";

/** In TypeScript, because PostgreSQL notifies, and has nobody to send it to. */
export const IntegrationUpdatedPlugin = extendSchema((build) => {
  const { integrations } = build.pgResources;
  if (!integrations)
    throw new Error(
      "IntegrationUpdatedPlugin needs the table public.integrations, which is not in the schema.",
    );
  return {
    typeDefs: /* GraphQL */ `
      extend type Subscription {
        """
        An integration as it is now, and again whenever it or its sync has changed, at most four times a second. It ends with an
        error when the integration is gone, or when you may no longer see it.
        """
        integrationUpdated(id: UUID!): Integration
      }
    `,
    objects: {
      Subscription: {
        plans: {
          integrationUpdated: {
            subscribePlan: (_$root, { $id }) =>
              listen(
                context().get("integrationChanges"),
                lambda($id, (id) => String(id).toLowerCase()),
              ),
            plan($id: Step<string>) {
              const $integration = integrations.get({ id: $id });
              sideEffect($integration.get("id"), (id) => {
                if (id == null)
                  throw new ApiError("NOT_FOUND", "There is no such integration, or not any more.");
              });
              return $integration;
            },
          },
        },
      },
    },
  };
}, "IntegrationUpdatedPlugin");
