import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from "node:crypto";
import { UserError } from "../config.ts";

/**
 * Envelope encryption. A key-encryption key of the ring wraps each tenant's data key, which seals secrets; it also wraps
 * the private keys of access tokens and of audit seals.
 * A sealed value is AES-256-GCM: nonce (12 bytes), ciphertext, tag (16 bytes). The additional data binds it to its
 * place, so that a ciphertext copied to another row or tenant does not open.
 */
export type KeyRing = {
  /** Id of the key that wraps. */
  readonly current: string;
  wrap(key: Buffer, place: KeyPlace): { kekId: string; wrapped: Buffer };
  /** Throws when the ring lacks `kekId`, or the wrapped key belongs elsewhere. */
  unwrap(wrapped: Buffer, kekId: string, place: KeyPlace): Buffer;
  /** A key of 32 bytes for another purpose from each of the ring (HKDF-SHA256), the current one's first. */
  derive(purpose: string): Buffer[];
};
/** A tenant's data key, or the private key that signs access tokens or audit seals. */
export type KeyPlace = { tenantId: string; version: number } | { tokenKey: string } | { auditKey: string };
export type SecretPlace = { tenantId: string; table: string; rowId: string; version: number };

/** @param encryptionKeys 32 bytes each, base64; the first wraps, all unwrap. */
export function makeKeyRing(encryptionKeys: readonly { id: string; key: string }[]): KeyRing {
  const keys = new Map(encryptionKeys.map(({ id, key }) => [id, Buffer.from(key, "base64")]));
  for (const [id, key] of keys)
    if (key.length !== 32)
      throw new UserError(`Encryption key "${id}" has ${key.length} bytes instead of 32.`);
  if (keys.size < encryptionKeys.length)
    throw new UserError("Two encryption keys have the same id. Give each an id of its own.");
  const current = encryptionKeys[0]?.id;
  if (current === undefined) throw new UserError("There is no encryption key.");
  const find = (id: string) => {
    const key = keys.get(id);
    if (!key) throw new MissingKeyError(`The key ring has no key "${id}": add it to ENCRYPTION_KEYS.`);
    return key;
  };
  const placeOfKey = (place: KeyPlace) =>
    "tokenKey" in place
      ? additionalData("token_keys", place.tokenKey)
      : "auditKey" in place
        ? additionalData("audit_keys", place.auditKey)
        : additionalData("tenant_keys", place.tenantId, place.version);
  return {
    current,
    wrap: (key, place) => ({
      kekId: current,
      wrapped: encrypt(key, find(current), placeOfKey(place)),
    }),
    unwrap: (wrapped, kekId, place) => decrypt(wrapped, find(kekId), placeOfKey(place)),
    derive: (purpose) =>
      [...keys.values()].map((key) => Buffer.from(hkdfSync("sha256", key, "", purpose, 32))),
  };
}

/** A key-encryption key that somebody wrapped with, and this ring lacks. */
export class MissingKeyError extends Error {
  override name = "MissingKeyError";
}

export const generateDataKey = () => randomBytes(32);

export function seal(plaintext: string, dataKey: Buffer, place: SecretPlace): Buffer {
  return encrypt(Buffer.from(plaintext, "utf8"), dataKey, placeOfSecret(place));
}

/** Throws when the ciphertext was altered or belongs to another place. */
export function unseal(ciphertext: Buffer, dataKey: Buffer, place: SecretPlace): string {
  return decrypt(ciphertext, dataKey, placeOfSecret(place)).toString("utf8");
}

/** The ring of `ENCRYPTION_KEYS` where it is set, else of the data folder's own keys. */
export const keyRingOf = (
  setting: string | undefined,
  own: readonly { id: string; key: string }[],
): KeyRing => makeKeyRing(setting ? parseEncryptionKeys(setting) : own);

/** `id:base64` pairs, separated by commas or line breaks. */
function parseEncryptionKeys(text: string): { id: string; key: string }[] {
  return text
    .trim()
    .split(/,|\r?\n/)
    .map((pair) => {
      const [, id, key] = /^\s*([\w-]+):([A-Za-z0-9+/=]+)\s*$/.exec(pair) ?? [];
      if (!id || !key)
        throw new UserError(
          "ENCRYPTION_KEYS must be a list of id:base64 pairs, separated by commas or, in a file, line breaks.",
        );
      return { id, key };
    });
}

const placeOfSecret = (place: SecretPlace) =>
  additionalData(place.table, place.tenantId, place.rowId, place.version);
const additionalData = (...parts: (string | number)[]) => Buffer.from(JSON.stringify(parts), "utf8");

function encrypt(plaintext: Buffer, key: Buffer, aad: Buffer): Buffer {
  const nonce = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", key, nonce).setAAD(aad);
  return Buffer.concat([nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}

function decrypt(sealed: Buffer, key: Buffer, aad: Buffer): Buffer {
  if (sealed.length < 28) throw new Error("A sealed value has at least 28 bytes.");
  const decipher = createDecipheriv("aes-256-gcm", key, sealed.subarray(0, 12), { authTagLength: 16 })
    .setAAD(aad)
    .setAuthTag(sealed.subarray(-16));
  return Buffer.concat([decipher.update(sealed.subarray(12, -16)), decipher.final()]);
}
