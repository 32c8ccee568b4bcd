import { bytesOfUuid, uuidOfBytes } from "./uuidBytes.ts";

/** `tenantId` is that of the session: an operator's own, whichever tenant was entered. */
export type RefreshToken = { tenantId: string; sessionId: string; secret: Buffer };

/** Opaque to clients: tenant and session (16 bytes each), then 32 secret bytes, base64url. */
export const formatRefreshToken = ({ tenantId, sessionId, secret }: RefreshToken): string =>
  Buffer.concat([bytesOfUuid(tenantId), bytesOfUuid(sessionId), secret]).toString("base64url");

export function parseRefreshToken(token: string): RefreshToken | undefined {
  const bytes = Buffer.from(token, "base64url");
  if (bytes.length !== 64 || bytes.toString("base64url") !== token) return undefined;
  return {
    tenantId: uuidOfBytes(bytes.subarray(0, 16)),
    sessionId: uuidOfBytes(bytes.subarray(16, 32)),
    secret: bytes.subarray(32),
  };
}
