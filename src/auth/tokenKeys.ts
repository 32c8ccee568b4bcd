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
import type { KeyRing } from "../crypto/keyRing.ts";
import { withTransaction } from "../db/pools.ts";

const RELOAD_MS = 30_000;
const MIN_RELOAD_MS = 5_000;
/** A new key is published for so long before it signs that every instance, and every cache of the JWKS, has it. */
const PUBLISHED_MINUTES = 10;
/** A replaced key verifies until the last token that it signed has expired. */
const VERIFIES_MINUTES = 20;

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
  privateKey: KeyObject;
  signsFrom: Date;
};
/** The keys that verify now; of those that may sign, the newest does. */
export type TokenKeys = {
  signer(): TokenKey;
  /** Looks again, once in five seconds at the most, for one that it does not know: another instance may have it. */
  find(kid: string): Promise<TokenKey | undefined>;
  all(): readonly TokenKey[];
};
export type TokenKeyStore = TokenKeys & { reload(): Promise<void>; close(): void };

/** Keys in memory. */
export const tokenKeysOf = (keys: () => readonly TokenKey[]): TokenKeys => ({
  signer() {
    const now = new Date();
    const [newest] = keys()
      .filter(({ signsFrom }) => signsFrom <= now)
      .sort((a, b) => b.signsFrom.getTime() - a.signsFrom.getTime());
    if (!newest) throw new Error("There is no key that signs access tokens.");
    return newest;
  },
  find: async (kid) => keys().find((key) => key.kid === kid),
  all: keys,
});

/** The keys in the database, read anew every half minute, so that all instances have the same. */
export async function openTokenKeys(options: {
  pool: pg.Pool;
  keyRing: Pick<KeyRing, "unwrap">;
  log: Logger;
}): Promise<TokenKeyStore> {
  const { pool, keyRing, log } = options;
  let keys = await load(pool, keyRing);
  let loadedAt = Date.now();
  let loading: Promise<void> | undefined;
  const reload = () => {
    loading ??= load(pool, keyRing)
      .then((loaded) => {
        keys = loaded;
      })
      // The keys that are known go on working.
      .catch((error: Error) => log.warn({ err: error }, "could not read the token keys"))
      .finally(() => {
        loadedAt = Date.now();
        loading = undefined;
      });
    return loading;
  };
  const timer = setInterval(() => void reload(), RELOAD_MS).unref();
  const known = tokenKeysOf(() => keys);
  return {
    ...known,
    async find(kid) {
      const found = await known.find(kid);
      if (found || Date.now() - loadedAt < MIN_RELOAD_MS) return found;
      await reload();
      return known.find(kid);
    },
    reload,
    close: () => clearInterval(timer),
  };
}

async function load(pool: pg.Pool, keyRing: Pick<KeyRing, "unwrap">): Promise<TokenKey[]> {
  const { rows } = await pool.query("select * from app_hidden.token_keys()");
  const keys = storedKey.array().parse(rows);
  if (keys.length === 0) throw new Error("The database has no key that signs access tokens.");
  return keys.map(({ kid, public_jwk, kek_id, wrapped_private_key, signs_from }) => ({
    kid,
    publicJwk: public_jwk,
    publicKey: createPublicKey({ key: public_jwk, format: "jwk" }),
    privateKey: createPrivateKey({
      key: keyRing.unwrap(wrapped_private_key, kek_id, { tokenKey: kid }),
      format: "der",
      type: "pkcs8",
    }),
    signsFrom: signs_from,
  }));
}

export function generateTokenKey(signsFrom = new Date()): TokenKey {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const kid = randomBytes(9).toString("base64url");
  const jwk = publicJwk.parse({ ...publicKey.export({ format: "jwk" }), kid, alg: "ES256", use: "sig" });
  return { kid, publicJwk: jwk, publicKey, privateKey, signsFrom };
}

type Wrapping = Pick<KeyRing, "wrap">;

/** Makes the first key, as the owner, where there is none. Of several that start at once, one does. */
export const ensureTokenKey = (owner: pg.Pool, keyRing: Wrapping): Promise<void> =>
  changingKeys(owner, async (client) => {
    const { rows } = await client.query(
      "select from app_private.token_keys where signs_from <= now() and (retired_at is null or retired_at > now())",
    );
    if (rows.length === 0) await add(client, keyRing, 0);
  });

/** Adds a key, which signs in ten minutes, or now; its predecessors verify until what they signed has expired. */
export const rotateTokenKey = (
  owner: pg.Pool,
  keyRing: Wrapping,
  { now = false } = {},
): Promise<{ kid: string; signsFrom: Date }> =>
  changingKeys(owner, async (client) => {
    const added = await add(client, keyRing, now ? 0 : PUBLISHED_MINUTES);
    await client.query(
      `update app_private.token_keys set retired_at = $2::timestamptz + make_interval(mins => $3)
        where kid <> $1 and retired_at is null`,
      [added.kid, added.signsFrom, VERIFIES_MINUTES],
    );
    await client.query("delete from app_private.token_keys where retired_at < now() - interval '30 days'");
    return added;
  });

/** Retires a key that somebody else may have, at once, with the tokens that it signed. False: there is no such key. */
export const revokeTokenKey = (owner: pg.Pool, keyRing: Wrapping, kid: string): Promise<boolean> =>
  changingKeys(owner, async (client) => {
    const { rowCount } = await client.query(
      "update app_private.token_keys set retired_at = now() where kid = $1 and (retired_at is null or retired_at > now())",
      [kid],
    );
    if (rowCount === 0) return false;
    const { rows } = await client.query(
      "select from app_private.token_keys where signs_from <= now() and (retired_at is null or retired_at > now())",
    );
    if (rows.length === 0) await add(client, keyRing, 0);
    return true;
  });

function changingKeys<Result>(
  owner: pg.Pool,
  work: (client: pg.PoolClient) => Promise<Result>,
): Promise<Result> {
  return withTransaction(owner, async (client) => {
    await client.query("select pg_advisory_xact_lock(hashtextextended('app_private.token_keys', 0))");
    return work(client);
  });
}

async function add(client: pg.PoolClient, keyRing: Wrapping, minutes: number) {
  const { kid, publicJwk: jwk, privateKey } = generateTokenKey();
  const der = privateKey.export({ format: "der", type: "pkcs8" });
  const { kekId, wrapped } = keyRing.wrap(der, { tokenKey: kid });
  const { rows } = await client.query(
    `insert into app_private.token_keys (kid, public_jwk, kek_id, wrapped_private_key, signs_from)
     values ($1, $2, $3, $4, now() + make_interval(mins => $5)) returning signs_from`,
    [kid, JSON.stringify(jwk), kekId, wrapped, minutes],
  );
  return { kid, signsFrom: z.date().parse(rows[0]?.signs_from) };
}
