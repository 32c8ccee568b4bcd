import { sideEffectWithPgClientTransaction } from "postgraphile/@dataplan/pg";
import { access, context, lambda, list, type SideEffectStep } from "postgraphile/grafast";
import { extendSchema } from "postgraphile/utils";
import { z } from "zod";
import { claimsOf } from "../src/auth/requests.ts";
import type { SignIn } from "../src/auth/sessions.ts";
import { ApiError } from "../src/graphql/errors.ts";
import { tokenFields } from "./tokenFields.ts";

const enterInput = z.object({
  tenantId: z.uuid("tenantId must be a UUID."),
  role: z.enum(["SUPER_ADMIN", "ADMIN", "USER", "VIEWER"]),
  reason: z.string(),
  minutes: z.int(),
});
const entered = z.object({ session_id: z.uuid(), expires_at: z.coerce.date() });
type Visit = SignIn & { endsAt: Date };

/** In TypeScript, because PostgreSQL signs no tokens. */
export const VisitsPlugin = extendSchema((build) => {
  const { tenants } = build.pgResources;
  if (!tenants) throw new Error("VisitsPlugin needs the table public.tenants, which is not in the schema.");
  return {
    typeDefs: /* GraphQL */ `
      input EnterTenantInput {
        tenantId: UUID!
        """ADMIN, USER or VIEWER."""
        role: UserRole!
        """5 to 500 characters. The tenant's admins read it in their audit log."""
        reason: String!
        """1 to 240."""
        minutes: Int!
      }
      """The tokens of a visit. They act in the tenant that was entered, and nowhere else; logout ends it."""
      type EnterTenantPayload {
        ${tokenFields}
        """When the visit ends, however often it is refreshed."""
        endsAt: Datetime!
        tenant: Tenant
      }
      extend type Mutation {
        """
        Lets an operator into a tenant for a while. What they do there is in its audit log under both names, as is the visit
        itself. Needs SUPER_ADMIN.
        """
        enterTenant(input: EnterTenantInput!): EnterTenantPayload
      }
    `,
    objects: {
      Mutation: {
        plans: {
          enterTenant: (_$root, args) =>
            sideEffectWithPgClientTransaction(
              tenants.executor,
              list([context().get("identity"), context().get("auth"), args.getRaw("input")]),
              async (client, [identity, { sessions }, input]): Promise<Visit> => {
                const { tenantId, role, reason, minutes } = enterInput.parse(input);
                const home = claimsOf(identity);
                if (!("sub" in home)) throw new ApiError("FORBIDDEN", "An API key enters no tenant.");
                let endsAt = new Date();
                const visit = await sessions.begin(home.tenant_id, async (refreshTokenHash) => {
                  const { rows } = await client.query<z.input<typeof entered>>({
                    text: "select * from app_hidden.enter_tenant($1, $2, $3, $4, $5)",
                    values: [tenantId, role, reason, minutes, refreshTokenHash],
                  });
                  const session = entered.parse(rows[0]);
                  endsAt = session.expires_at;
                  return {
                    claims: {
                      sub: home.sub,
                      tenant_id: tenantId,
                      role,
                      sid: session.session_id,
                      home_tenant_id: home.tenant_id,
                    },
                    endsAt,
                  };
                });
                return { ...visit, endsAt };
              },
            ),
        },
      },
      EnterTenantPayload: {
        plans: {
          accessTokenExpiresAt: ($visit: SideEffectStep<unknown, Visit>) =>
            lambda($visit, ({ accessTokenExpiresAt }) => accessTokenExpiresAt.toISOString()),
          endsAt: ($visit: SideEffectStep<unknown, Visit>) =>
            lambda($visit, ({ endsAt }) => endsAt.toISOString()),
          tenant: ($visit: SideEffectStep<unknown, Visit>) =>
            tenants.get({ id: access($visit, ["claims", "tenant_id"]) }),
        },
      },
    },
  };
}, "VisitsPlugin");
