import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
} from "node:crypto";
import type pg from "pg";
import type { Logger } from "pino";
import { z } from "zod";
import { UserError } from "../config.ts";
import type { KeyRing } from "../crypto/keyRing.ts";

const RELOAD_MS = 30_000;
const ASK_MS = 5_000;
const QUERY_MS = 5_000;
const NO_KEY =
  "The database has no key that signs access tokens: `npm run tokens:rotate -- --now` makes one.";

const publicJwk = z.object({
  kty: z.literal("EC"),
  crv: z.literal("P-256"),
  x: z.string(),
  y: z.string(),
  kid: z.string(),
  alg: z.literal("ES256"),
  use: z.literal("sig"),
});
const storedKey = z.object({
  kid: z.string(),
  public_jwk: publicJwk,
  kek_id: z.string(),
  wrapped_private_key: z.instanceof(Buffer),
  signs_from: z.date(),
});
export type TokenKey = {
  kid: string;
  publicJwk: z.output<typeof publicJwk>;
  publicKey: KeyObject;
  /** Without it, the key only verifies. */
  privateKey: KeyObject | undefined;
  signsFrom: Date;
};
export type SigningKey = TokenKey & { privateKey: KeyObject };
/** The keys that verify now; of those that may sign, the newest does. */
export type TokenKeys = {
  signer(): SigningKey;
  /** Looks again, once in five seconds at the most, for one that it does not know: another instance may have made it. */
  find(kid: string): Promise<TokenKey | undefined>;
  all(): readonly TokenKey[];
};
export type TokenKeyStore = TokenKeys & { reload(): Promise<void>; close(): void };

/** Keys in memory. */
export const tokenKeysOf = (
  keys: () => readonly TokenKey[],
  now: () => Date = () => new Date(),
): TokenKeys => ({
  signer() {
    const newestFirst = keys()
      .filter((key): key is SigningKey => key.privateKey !== undefined)
      .sort((a, b) => b.signsFrom.getTime() - a.signsFrom.getTime());
    // PostgreSQL's clock may be ahead of ours: a first key signs all the same.
    const signer = newestFirst.find(({ signsFrom }) => signsFrom <= now()) ?? newestFirst.at(-1);
    if (!signer) throw new Error("There is no key that signs access tokens.");
    return signer;
  },
  find: async (kid) => keys().find((key) => key.kid === kid),
  all: keys,
});

/**
 * The keys in the database, read anew every half minute, so that all instances have the same.
 * Refuses to open without a key, or with one that it cannot unwrap.
 */
export async function openTokenKeys(options: {
  pool: pg.Pool;
  keyRing: Pick<KeyRing, "unwrap">;
  log: Logger;
  now?: () => Date;
}): Promise<TokenKeyStore> {
  const { pool, keyRing, log, now = () => new Date() } = options;
  let keys = await load(pool, keyRing, (error) => {
    throw error;
  });
  if (keys.length === 0) throw new UserError(NO_KEY);
  let askedAt = Number.NEGATIVE_INFINITY;
  let loading: Promise<void> | undefined;
  // Verifies only: one key that this ring cannot unwrap must not keep us from hearing that another was revoked.
  const tolerate = (error: Error) => log.warn({ err: error }, "a token key signs nothing here");
  const reload = () => {
    loading ??= load(pool, keyRing, tolerate)
      .then((loaded) => {
        keys = loaded;
        if (keys.length === 0) log.error(NO_KEY);
      })
      .catch((error: Error) =>
        log.warn({ err: error }, "could not read the token keys; the known ones go on"),
      )
      .finally(() => {
        loading = undefined;
      });
    return loading;
  };
  const timer = setInterval(() => void reload(), RELOAD_MS).unref();
  const known = tokenKeysOf(() => keys, now);
  return {
    ...known,
    async find(kid) {
      const found = await known.find(kid);
      // Whoever invents ids costs one query in five seconds.
      const mayAsk = now().getTime() - askedAt >= ASK_MS;
      if (found || !(loading || mayAsk)) return found;
      if (mayAsk) askedAt = now().getTime();
      await reload();
      return known.find(kid);
    },
    reload,
    close: () => clearInterval(timer),
  };
}

async function load(
  pool: pg.Pool,
  keyRing: Pick<KeyRing, "unwrap">,
  onSealed: (error: Error) => void,
): Promise<TokenKey[]> {
  // A server that no longer answers must not hold up all reloads to come.
  const query = { text: "select * from app_hidden.token_keys()", query_timeout: QUERY_MS };
  const { rows } = await pool.query(query);
  return storedKey
    .array()
    .parse(rows)
    .map(({ kid, public_jwk, kek_id, wrapped_private_key, signs_from }) => {
      let privateKey: KeyObject | undefined;
      try {
        const der = keyRing.unwrap(wrapped_private_key, kek_id, { tokenKey: kid });
        privateKey = createPrivateKey({ key: der, format: "der", type: "pkcs8" });
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        onSealed(
          new UserError(
            `Cannot unwrap token key "${kid}" (${reason}) All instances need the key "${kek_id}" in ENCRYPTION_KEYS or secrets.json.`,
          ),
        );
      }
      const publicKey = createPublicKey({ key: public_jwk, format: "jwk" });
      return { kid, publicJwk: public_jwk, publicKey, privateKey, signsFrom: signs_from };
    });
}

export function generateTokenKey(signsFrom = new Date()): SigningKey {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const kid = randomBytes(9).toString("base64url");
  const jwk = publicJwk.parse({ ...publicKey.export({ format: "jwk" }), kid, alg: "ES256", use: "sig" });
  return { kid, publicJwk: jwk, publicKey, privateKey, signsFrom };
}
