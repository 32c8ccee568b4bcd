import type pg from "pg";
import { z } from "zod";
import type { KeyRing } from "../crypto/keyRing.ts";
import { withTransaction } from "../db/pools.ts";
import { generateTokenKey } from "./tokenKeys.ts";

/** A new key is published for so long before it signs that every instance, and every cache of the JWKS, has it. */
const PUBLISHED_MINUTES = 10;
/** A replaced key verifies until the last token that it signed has expired. */
const VERIFIES_MINUTES = 20;

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
