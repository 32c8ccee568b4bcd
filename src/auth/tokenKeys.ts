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
import { withTransaction } from "../db/pools.ts";

const RELOAD_MS = 30_000;
const ASK_MS = 5_000;
const QUERY_MS = 5_000;
const NO_KEY =
  "The database has no key that signs access tokens: `npm run tokens:rotate -- --now` makes one.";
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

type Wrapping = Pick<KeyRing, "wrap">;
export type Rotation = { kid: string; signsFrom: Date; othersVerifyUntil: Date };

// Not now(): that is when the transaction began, maybe before another, which held the lock, made its key.
const LIVE = (key: string) => `(${key}.retired_at is null or ${key}.retired_at > clock_timestamp())`;

/** Makes the first key, as the owner, where none signs. Of several that start at once, one does. */
export const ensureTokenKey = (owner: pg.Pool, keyRing: Wrapping): Promise<void> =>
  changingKeys(owner, async (client) => {
    if (!(await hasSigner(client))) await add(client, keyRing, 0);
  });

/** Adds a key, which signs in ten minutes, or now; its predecessors verify until what they signed has expired. */
export const rotateTokenKey = (owner: pg.Pool, keyRing: Wrapping, options?: { now?: boolean }) =>
  changingKeys(owner, (client) => rotate(client, keyRing, options));

/** Retires a key that somebody else may have, at once, with the tokens that it signed. Undefined: it is not live. */
export const revokeTokenKey = (owner: pg.Pool, keyRing: Wrapping, kid: string) =>
  changingKeys(owner, async (client) => {
    const { rowCount } = await client.query(
      `update app_private.token_keys set retired_at = now() where kid = $1 and ${LIVE("token_keys")}`,
      [kid],
    );
    if (rowCount === 0) return undefined;
    const now = !(await hasSigner(client));
    // The key that signs now may be about to retire in favour of the one that was revoked.
    const { rows } = await client.query("select from app_private.token_keys where retired_at is null");
    return { successor: now || rows.length === 0 ? await rotate(client, keyRing, { now }) : undefined };
  });

async function rotate(client: pg.PoolClient, keyRing: Wrapping, { now = false } = {}): Promise<Rotation> {
  const { kid, signsFrom } = await add(client, keyRing, now ? 0 : PUBLISHED_MINUTES);
  // One that would begin to sign after its successor never does. What retired earlier signs no more, and keeps its date.
  const { rows } = await client.query(
    `update app_private.token_keys k
        set retired_at = case when k.signs_from >= successor.signs_from then now() else successor.signs_from + make_interval(mins => $2) end
       from app_private.token_keys successor
      where successor.kid = $1 and k.kid <> $1 and ${LIVE("k")}
        and (
          k.retired_at is null
          or k.signs_from >= (
            select max(p.signs_from) from app_private.token_keys p
             where p.kid <> $1 and ${LIVE("p")} and p.signs_from <= clock_timestamp()
          )
        )
     returning k.retired_at`,
    [kid, VERIFIES_MINUTES],
  );
  await client.query("delete from app_private.token_keys where retired_at < now() - interval '30 days'");
  const retirements = z.object({ retired_at: z.date() }).array().parse(rows);
  const last = Math.max(signsFrom.getTime(), ...retirements.map(({ retired_at }) => retired_at.getTime()));
  return { kid, signsFrom, othersVerifyUntil: new Date(last) };
}

async function hasSigner(client: pg.PoolClient): Promise<boolean> {
  const { rows } = await client.query(
    `select from app_private.token_keys where ${LIVE("token_keys")} and signs_from <= clock_timestamp() limit 1`,
  );
  return rows.length > 0;
}

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
     values ($1, $2, $3, $4, clock_timestamp() + make_interval(mins => $5)) returning signs_from`,
    [kid, JSON.stringify(jwk), kekId, wrapped, minutes],
  );
  return { kid, signsFrom: z.date().parse(rows[0]?.signs_from) };
}
