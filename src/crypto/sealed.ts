import { z } from "zod";
import { type KeyRing, unseal } from "./keyRing.ts";

/** A ciphertext of a tenant with the key that it is under, read in one statement, so that a rotation never comes between. */
export const sealed = z.object({
  version: z.number(),
  key_version: z.number(),
  ciphertext: z.instanceof(Buffer),
  kek_id: z.string(),
  wrapped_key: z.instanceof(Buffer),
});
export type Sealed = z.output<typeof sealed>;

/** Credentials that were replaced moved as they were: they open as what they had been. */
export const CREDENTIALS = "integration_credentials";

/** Throws when the ring lacks the key, or when ciphertext or key were altered or belong elsewhere. */
export function openCredentials(
  keyRing: Pick<KeyRing, "unwrap">,
  { tenantId, integrationId }: { tenantId: string; integrationId: string },
  { version, key_version, ciphertext, kek_id, wrapped_key }: Sealed,
): string {
  const dataKey = keyRing.unwrap(wrapped_key, kek_id, { tenantId, version: key_version });
  return unseal(ciphertext, dataKey, { tenantId, table: CREDENTIALS, rowId: integrationId, version });
}
