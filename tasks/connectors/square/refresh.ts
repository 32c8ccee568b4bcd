import { z } from "zod";
import { ProviderError } from "../connector.ts";
import { callSquare, type SquareCall } from "./api.ts";
import type { SquareCredentials } from "./settings.ts";

const dayMs = 86_400_000;
// A token lasts 30 days, and Square advises to renew it weekly: three weeks are left for an outage, ours or Square's.
const renewMs = 23 * dayMs;

const answer = z.object({
  access_token: z.string().min(1),
  expires_at: z.iso.datetime({ offset: true }),
  // The code flow gives the same again; that of PKCE is used up by this very call.
  refresh_token: z.string().min(1).optional(),
  merchant_id: z.string().min(1).optional(),
});

// Of a token that was taken back, or lacks a permission, a new one has no more.
const renewable = new Set(["ACCESS_TOKEN_EXPIRED", "UNAUTHORIZED"]);

/** A new access token, a week after the last, or when it has ended; undefined for a personal token. */
export async function refreshSquare(
  call: SquareCall & { refused?: ProviderError },
): Promise<SquareCredentials | undefined> {
  const { refreshToken, clientId, clientSecret, expiresAt } = call.credentials;
  if (refreshToken === undefined || clientId === undefined) return undefined;
  if (call.refused && !renewable.has(call.refused.code ?? "")) return undefined;
  const isKnown = expiresAt !== undefined && call.refused === undefined;
  const left = isKnown ? Date.parse(expiresAt) - call.now.getTime() : 0;
  if (left > renewMs) return undefined;
  const body = {
    client_id: clientId,
    ...(clientSecret === undefined ? {} : { client_secret: clientSecret }),
    grant_type: "refresh_token",
    refresh_token: refreshToken,
  };
  try {
    const renewed = await callSquare(
      call,
      { method: "POST", path: "/oauth2/token", body, anonymous: true },
      answer,
    );
    return {
      ...call.credentials,
      accessToken: renewed.access_token,
      expiresAt: renewed.expires_at,
      refreshToken: renewed.refresh_token ?? refreshToken,
      ...(renewed.merchant_id === undefined ? {} : { merchantId: renewed.merchant_id }),
    };
  } catch (error) {
    if (!(error instanceof ProviderError)) throw error;
    const passing = error.kind === "transient" || error.kind === "throttled";
    // While the old token lasts, an outage of this endpoint stops nothing.
    if (passing && left > dayMs) return undefined;
    // Whatever it is that Square does not accept, only a person can give something else.
    if (error.kind === "permanent" && error.code !== undefined)
      throw new ProviderError("reauth", error.message, { code: error.code });
    throw error;
  }
}
