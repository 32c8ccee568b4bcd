import { createHash, createHmac } from "node:crypto";
import type { KeyRing } from "../crypto/keyRing.ts";
import { bytesOfUuid, uuidOfBytes } from "./uuidBytes.ts";

const PURPOSE = "one-time-token";

/**
 * The token of a link that is mailed: tenant and id (16 bytes each), then an HMAC of "one-time-token" and both (32
 * bytes), base64url. The worker derives it from the row's id when it sends the mail, so that neither PostgreSQL nor a job
 * ever holds it.
 */
export function deriveOneTimeToken(
  keyRing: Pick<KeyRing, "derive">,
  { tenantId, tokenId }: { tenantId: string; tokenId: string },
): { token: string; hash: Buffer } {
  const [key] = keyRing.derive(PURPOSE);
  if (!key) throw new Error("There is no key to derive one-time tokens from.");
  const place = Buffer.concat([bytesOfUuid(tenantId), bytesOfUuid(tokenId)]);
  const bytes = Buffer.concat([place, createHmac("sha256", key).update(PURPOSE).update(place).digest()]);
  return { token: bytes.toString("base64url"), hash: sha256(bytes) };
}

/** Undefined for what cannot be such a token. `hash` is what PostgreSQL knows it by. */
export function parseOneTimeToken(
  token: string,
): { tenantId: string; tokenId: string; hash: Buffer } | undefined {
  const bytes = Buffer.from(token, "base64url");
  if (bytes.length !== 64 || bytes.toString("base64url") !== token) return undefined;
  return {
    tenantId: uuidOfBytes(bytes.subarray(0, 16)),
    tokenId: uuidOfBytes(bytes.subarray(16, 32)),
    hash: sha256(bytes),
  };
}

const sha256 = (data: Buffer) => createHash("sha256").update(data).digest();
