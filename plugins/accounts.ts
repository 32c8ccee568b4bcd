import { context, sideEffect } from "postgraphile/grafast";
import { extendSchema } from "postgraphile/utils";
import { z } from "zod";

const resetInput = z.object({ token: z.string(), newPassword: z.string() });
const confirmInput = z.object({ token: z.string() });
const passwordInput = z.object({ currentPassword: z.string(), newPassword: z.string() });
const emailInput = z.object({ currentPassword: z.string(), newEmail: z.string() });

/** In TypeScript, because PostgreSQL has no argon2, and must not see the tokens of links. */
export const AccountsPlugin = extendSchema(() => {
  const $services = () => [context().get("identity"), context().get("auth")] as const;
  return {
    typeDefs: /* GraphQL */ `
      input ResetPasswordInput {
        """From the link in the mail."""
        token: String!
        """12 to 1,000 characters, and hard to guess."""
        newPassword: String!
      }
      type ResetPasswordPayload {
        """All sessions have ended: sign in."""
        done: Boolean!
      }
      input ConfirmEmailInput {
        """From the link in the mail."""
        token: String!
      }
      type ConfirmEmailPayload {
        """The address that is proved."""
        email: String!
      }
      input ChangePasswordInput {
        currentPassword: String!
        """12 to 1,000 characters, and hard to guess."""
        newPassword: String!
      }
      type ChangePasswordPayload {
        """All other sessions have ended."""
        done: Boolean!
      }
      input ChangeEmailInput {
        currentPassword: String!
        newEmail: String!
      }
      type ChangeEmailPayload {
        """The e-mail changes when the link that was mailed to the new address is followed."""
        done: Boolean!
      }
      extend type Mutation {
        """Sets a new password with a link that requestPasswordReset mailed. Must be the only field of its operation."""
        resetPassword(input: ResetPasswordInput!): ResetPasswordPayload
        """Follows a link of requestEmailVerification or changeEmail. Must be the only field of its operation."""
        confirmEmail(input: ConfirmEmailInput!): ConfirmEmailPayload
        """Changes one's own password, and ends one's other sessions. Must be the only field of its operation."""
        changePassword(input: ChangePasswordInput!): ChangePasswordPayload
        """Mails a link to a new address. Must be the only field of its operation."""
        changeEmail(input: ChangeEmailInput!): ChangeEmailPayload
      }
    `,
    objects: {
      Mutation: {
        plans: {
          resetPassword: (_$root, args) =>
            sideEffect([...$services(), args.getRaw("input")], async ([identity, { accounts }, input]) => {
              await accounts.resetPassword(resetInput.parse(input), identity);
              return { done: true };
            }),
          confirmEmail: (_$root, args) =>
            sideEffect([...$services(), args.getRaw("input")], async ([identity, { accounts }, input]) => ({
              email: await accounts.confirmEmail(confirmInput.parse(input).token, identity),
            })),
          changePassword: (_$root, args) =>
            sideEffect([...$services(), args.getRaw("input")], async ([identity, { accounts }, input]) => {
              await accounts.changePassword(passwordInput.parse(input), identity);
              return { done: true };
            }),
          changeEmail: (_$root, args) =>
            sideEffect([...$services(), args.getRaw("input")], async ([identity, { accounts }, input]) => {
              await accounts.changeEmail(emailInput.parse(input), identity);
              return { done: true };
            }),
        },
      },
    },
  };
}, "AccountsPlugin");
