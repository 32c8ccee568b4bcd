import { createHash, randomBytes, randomUUID } from "node:crypto";
import { base58 } from "@scure/base";
import { bytesOfUuid, uuidOfBytes } from "./uuidBytes.ts";

/** An API key as a request presents it. PostgreSQL checks it against the tables on every request. */
export type KeyClaims = { tenant_id: string; key_id: string; key_hash: string };
/** What a key is for: `live` in production. One of another deployment is refused before it is looked for. */
export type KeyEnvironment = "live" | "test";

const SECRET_BYTES = 32;

/** `erp_<environment>_<id>_<secret>`: id is tenant and key (16 bytes each), secret 32 random bytes, both in base58. */
export function generateApiKey(environment: KeyEnvironment, tenantId: string) {
  const id = randomUUID();
  const secret = randomBytes(SECRET_BYTES);
  const place = Buffer.concat([bytesOfUuid(tenantId), bytesOfUuid(id)]);
  return {
    id,
    text: `erp_${environment}_${base58.encode(place)}_${base58.encode(secret)}`,
    secretHash: sha256(secret),
  };
}

export function parseApiKey(text: string): { environment: string; claims: KeyClaims } | undefined {
  const [, environment, place, secret] =
    /^erp_([a-z]+)_([1-9A-HJ-NP-Za-km-z]{32,44})_([1-9A-HJ-NP-Za-km-z]{32,44})$/.exec(text) ?? [];
  if (!environment || !place || !secret) return undefined;
  const ids = Buffer.from(base58.decode(place));
  const secretBytes = Buffer.from(base58.decode(secret));
  if (ids.length !== 32 || secretBytes.length !== SECRET_BYTES) return undefined;
  return {
    environment,
    claims: {
      tenant_id: uuidOfBytes(ids.subarray(0, 16)),
      key_id: uuidOfBytes(ids.subarray(16)),
      key_hash: sha256(secretBytes).toString("hex"),
    },
  };
}

const sha256 = (data: Buffer) => createHash("sha256").update(data).digest();
