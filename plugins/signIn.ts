import { access, context, lambda, type SideEffectStep, sideEffect } from "postgraphile/grafast";
import { extendSchema } from "postgraphile/utils";
import { z } from "zod";
import type { Identity } from "../src/auth/requests.ts";
import type { SignIn } from "../src/auth/sessions.ts";

const loginInput = z.object({ tenant: z.string(), email: z.string(), password: z.string() });
const refreshInput = z.object({ refreshToken: z.string() });

/** From here on the operation is the new session's, so that its payload can read `user`. */
async function signIn(identity: Identity, signingIn: Promise<SignIn>): Promise<SignIn> {
  const result = await signingIn;
  identity.claims = result.claims;
  return result;
}

/** In TypeScript, because PostgreSQL has no argon2 and signs no tokens. */
export const SignInPlugin = extendSchema((build) => {
  const { users } = build.pgResources;
  if (!users) throw new Error("SignInPlugin needs the table public.users, which is not in the schema.");
  const $services = () => [context().get("identity"), context().get("sessions")] as const;
  const payload = (name: string) => ({
    [name]: {
      plans: {
        accessTokenExpiresAt: ($payload: SideEffectStep<unknown, SignIn>) =>
          lambda($payload, ({ accessTokenExpiresAt }) => accessTokenExpiresAt.toISOString()),
        user($payload: SideEffectStep<unknown, SignIn>) {
          return users.get({ id: access($payload, ["claims", "sub"]) });
        },
      },
    },
  });
  return {
    typeDefs: /* GraphQL */ `
      input LoginInput {
        """The tenant's slug."""
        tenant: String!
        email: String!
        password: String!
      }
      """The tokens of a session."""
      type LoginPayload {
        """Goes into the header Authorization: Bearer."""
        accessToken: String!
        """When to refresh the session."""
        accessTokenExpiresAt: Datetime!
        """Works once, in refreshSession."""
        refreshToken: String!
        user: User
      }
      input RefreshSessionInput {
        refreshToken: String!
      }
      """The tokens of a session."""
      type RefreshSessionPayload {
        """Goes into the header Authorization: Bearer."""
        accessToken: String!
        """When to refresh the session."""
        accessTokenExpiresAt: Datetime!
        """Works once, in refreshSession."""
        refreshToken: String!
        user: User
      }
      extend type Mutation {
        """Signs in. Must be the only field of its operation."""
        login(input: LoginInput!): LoginPayload
        """Exchanges a refresh token for new tokens. Must be the only field of its operation."""
        refreshSession(input: RefreshSessionInput!): RefreshSessionPayload
      }
    `,
    objects: {
      Mutation: {
        plans: {
          login: (_$root, args) =>
            sideEffect([...$services(), args.getRaw("input")], ([identity, sessions, input]) =>
              signIn(identity, sessions.login(loginInput.parse(input), identity.origin)),
            ),
          refreshSession: (_$root, args) =>
            sideEffect([...$services(), args.getRaw("input")], ([identity, sessions, input]) =>
              signIn(identity, sessions.refresh(refreshInput.parse(input).refreshToken, identity.origin)),
            ),
        },
      },
      ...payload("LoginPayload"),
      ...payload("RefreshSessionPayload"),
    },
  };
}, "SignInPlugin");
