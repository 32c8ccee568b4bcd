import { sideEffectWithPgClientTransaction } from "postgraphile/@dataplan/pg";
import { context, list } from "postgraphile/grafast";
import { wrapPlans } from "postgraphile/utils";
import { z } from "zod";
import { claimsOf } from "../src/auth/requests.ts";

const create = z.object({ integration: z.object({ provider: z.string(), config: z.unknown().optional() }) });
const update = z.object({ id: z.string(), patch: z.object({ config: z.unknown().optional() }) });
const found = z.object({ provider: z.string() });
const MANAGE = "select app_hidden.require_permission('integrations:manage')";

/** In TypeScript, where connectors have their schemas. The generated mutations then write what fits. */
export const IntegrationConfigPlugin = wrapPlans(
  (build) => {
    const { integrations } = build.pgResources ?? {};
    if (!integrations)
      throw new Error(
        "IntegrationConfigPlugin needs the table public.integrations, which is not in the schema.",
      );
    const { executor } = integrations;
    return {
      Mutation: {
        createIntegration(plan, _$source, fieldArgs) {
          sideEffectWithPgClientTransaction(
            executor,
            list([context().get("identity"), context().get("integrations"), fieldArgs.getRaw("input")]),
            async (client, [identity, service, input]) => {
              claimsOf(identity);
              await client.query({ text: MANAGE });
              const { provider, config } = create.parse(input).integration;
              service.checkConfig(provider, config ?? {});
            },
          );
          return plan();
        },
        updateIntegration(plan, _$source, fieldArgs) {
          sideEffectWithPgClientTransaction(
            executor,
            list([context().get("identity"), context().get("integrations"), fieldArgs.getRaw("input")]),
            async (client, [identity, service, input]) => {
              const { id, patch } = update.parse(input);
              if (patch.config === undefined) return;
              const { tenant_id: tenantId } = claimsOf(identity);
              await client.query({ text: MANAGE });
              const { rows } = await client.query<z.input<typeof found>>({
                text: "select provider from public.integrations where tenant_id = $1 and id = $2",
                values: [tenantId, id],
              });
              // One that is not there is answered by the update itself.
              if (rows[0]) service.checkConfig(found.parse(rows[0]).provider, patch.config);
            },
          );
          return plan();
        },
      },
    };
  },
  {
    name: "IntegrationConfigPlugin",
    description: "Refuses settings of integrations that their connectors could not read",
  },
);
