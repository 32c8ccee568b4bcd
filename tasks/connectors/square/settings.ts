import { z } from "zod";
import type { PageRequest } from "../connector.ts";

export const squareConfig = z.object({
  environment: z
    .enum(["production", "sandbox", "simulator"])
    .meta({ title: "Environment", description: "Square itself, its sandbox, or the operator's simulator." }),
  locationIds: z.array(z.string().min(1).max(50)).min(1).max(500).meta({
    title: "Locations",
    description: "Ids of the shops to read, as the Square Dashboard lists them.",
  }),
  pageSize: z
    .int()
    .min(1)
    .max(500)
    .default(100)
    .meta({ title: "Page size", description: "Orders per request; of payments and refunds at most 100." }),
  backfillDays: z
    .int()
    .min(1)
    .max(3650)
    .default(365)
    .meta({ title: "Past", description: "How many days back the first sync goes." }),
  apiVersion: z.iso.date().default("2026-01-22").meta({
    title: "API version",
    description: "The version of Square's API that is asked for; the default is the one that was tested.",
  }),
});
export type SquareConfig = z.output<typeof squareConfig>;

const secret = z.string().min(1).max(2000);

/** A personal access token is alone and lasts; one of OAuth ends after 30 days and comes with what renews it. */
export const squareCredentials = z
  .object({
    accessToken: secret.meta({
      title: "Access token",
      description: "From the Square Developer Console, or from OAuth.",
      writeOnly: true,
    }),
    refreshToken: secret
      .optional()
      .meta({ title: "Refresh token", description: "From OAuth: renews the access token.", writeOnly: true }),
    expiresAt: z.iso
      .datetime({ offset: true })
      .optional()
      .meta({ title: "Expiry", description: "When the access token of OAuth ends." }),
    clientId: z
      .string()
      .min(1)
      .max(200)
      .optional()
      .meta({ title: "Application ID", description: "Of the OAuth application." }),
    clientSecret: secret.optional().meta({
      title: "Application secret",
      description: "Of the OAuth application; not needed for tokens of its PKCE flow.",
      writeOnly: true,
    }),
    merchantId: z
      .string()
      .min(1)
      .max(200)
      .optional()
      .meta({ title: "Merchant ID", description: "From OAuth: who shares the account's limits." }),
    webhookSignatureKey: secret.optional().meta({
      title: "Webhook signature key",
      description: "Of the webhook subscription; without it, no webhook is accepted.",
      writeOnly: true,
    }),
  })
  .refine(({ refreshToken, clientId }) => refreshToken === undefined || clientId !== undefined, {
    path: ["clientId"],
    error: "A refresh token needs the ID of its application.",
  });
export type SquareCredentials = z.output<typeof squareCredentials>;

/** Square's own hosts, for the engine's choice of `baseUrl`. */
export const squareHosts = {
  production: "https://connect.squareup.com",
  sandbox: "https://connect.squareupsandbox.com",
} as const;

/** Square does not publish its limits; they are assumed to be each account's. */
export const accountLimit = (config: SquareConfig, { merchantId }: SquareCredentials) =>
  `account:${merchantId ?? config.locationIds.toSorted()[0]}`;

export type SquareRequest<Checkpoint> = PageRequest<SquareConfig, SquareCredentials, Checkpoint>;
