import { readFile, stat } from "node:fs/promises";
import { type Config, UserError } from "../config.ts";
import type { Secrets } from "../secrets.ts";
import { type KeyRing, keyRingOf } from "./keyRing.ts";

/** The ring of `ENCRYPTION_KEYS` or `ENCRYPTION_KEYS_FILE` where one is set, else of the data folder's own keys, which are asked for only then. */
export async function loadKeyRing(
  config: Pick<Config, "ENCRYPTION_KEYS" | "ENCRYPTION_KEYS_FILE">,
  own: () => Promise<Pick<Secrets, "encryptionKeys">>,
): Promise<KeyRing> {
  const file = config.ENCRYPTION_KEYS_FILE;
  if (file === undefined)
    return keyRingOf(config.ENCRYPTION_KEYS, config.ENCRYPTION_KEYS ? [] : (await own()).encryptionKeys);
  if (config.ENCRYPTION_KEYS !== undefined)
    throw new UserError("ENCRYPTION_KEYS and ENCRYPTION_KEYS_FILE are both set. Keep one of them.");
  const refuse = (error: NodeJS.ErrnoException) => {
    throw new UserError(`Cannot read ENCRYPTION_KEYS_FILE: ${error.message}.`);
  };
  const { mode } = await stat(file).catch(refuse);
  if (mode & 0o077)
    throw new UserError(
      `${file} (ENCRYPTION_KEYS_FILE) has the mode ${(mode & 0o777).toString(8).padStart(4, "0")}: others may read it. Run: chmod 600 ${file}`,
    );
  return keyRingOf(await readFile(file, "utf8").catch(refuse), []);
}
