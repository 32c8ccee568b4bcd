import { access, context, lambda, type SideEffectStep, sideEffect } from "postgraphile/grafast";
import { extendSchema } from "postgraphile/utils";
import { z } from "zod";
import type { Identity } from "../src/auth/requests.ts";
import type { SignIn } from "../src/auth/sessions.ts";
import { tokenFields } from "./tokenFields.ts";

const loginInput = z.object({
  tenant: z.string().nullish(),
  domain: z.string().nullish(),
  email: z.string(),
  password: z.string(),
});
const refreshInput = z.object({ refreshToken: z.string() });
const acceptInput = z.object({
  token: z.string(),
  password: z.string(),
  firstName: z.string().nullish(),
  lastName: z.string().nullish(),
});

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
  const $identity = () => context().get("identity");
  const $auth = () => context().get("auth");
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
        tenant: String
        """The tenant's custom domain, instead of its slug. With neither, the Host header names it."""
        domain: String
        email: String!
        password: String!
      }
      """The tokens of a session."""
      type LoginPayload {
        ${tokenFields}
        user: User
      }
      input RefreshSessionInput {
        refreshToken: String!
      }
      """The tokens of a session."""
      type RefreshSessionPayload {
        ${tokenFields}
        """Null for an operator who entered a tenant."""
        user: User
      }
      input AcceptInvitationInput {
        """From the link in the mail."""
        token: String!
        """12 to 1,000 characters, and hard to guess."""
        password: String!
        firstName: String
        lastName: String
      }
      """The tokens of the first session."""
      type AcceptInvitationPayload {
        ${tokenFields}
        user: User
      }
      extend type Mutation {
        """Signs in. Must be the only field of its operation."""
        login(input: LoginInput!): LoginPayload
        """
        Exchanges a refresh token for new tokens. Each works once; sent again within 30 seconds, it gives the same answer
        again, and later it ends the session. Must be the only field of its operation.
        """
        refreshSession(input: RefreshSessionInput!): RefreshSessionPayload
        """Sets the password of an invited user, and signs them in. Must be the only field of its operation."""
        acceptInvitation(input: AcceptInvitationInput!): AcceptInvitationPayload
      }
    `,
    objects: {
      Mutation: {
        plans: {
          login: (_$root, args) =>
            sideEffect([$identity(), $auth(), args.getRaw("input")], ([identity, { sessions }, input]) =>
              signIn(identity, sessions.login(loginInput.parse(input), identity.origin)),
            ),
          refreshSession: (_$root, args) =>
            sideEffect([$identity(), $auth(), args.getRaw("input")], ([identity, { sessions }, input]) =>
              signIn(identity, sessions.refresh(refreshInput.parse(input).refreshToken, identity.origin)),
            ),
          acceptInvitation: (_$root, args) =>
            sideEffect([$identity(), $auth(), args.getRaw("input")], ([identity, { accounts }, input]) =>
              signIn(identity, accounts.acceptInvitation(acceptInput.parse(input), identity)),
            ),
        },
      },
      ...payload("LoginPayload"),
      ...payload("RefreshSessionPayload"),
      ...payload("AcceptInvitationPayload"),
    },
  };
}, "SignInPlugin");
