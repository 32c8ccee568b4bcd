import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import type pg from "pg";
import { z } from "zod";
import { UserError } from "../config.ts";
import type { KeyRing } from "../crypto/keyRing.ts";
import { withTransaction } from "../db/pools.ts";
import { canonical } from "./canonical.ts";
import { isSignedBy, sha256, signText } from "./seal.ts";

/** A public key, as it is published and as it is a line of an anchor. */
export const keyLine = z.strictObject({
  type: z.literal("key"),
  version: z.literal(1),
  keyId: z.string().max(64),
  /** 32 bytes, base64. */
  publicKey: z.base64().length(44),
  createdAt: z.iso.datetime({ precision: 3 }),
  endorsedBy: z.string().max(64).nullable(),
  endorsement: z.base64().nullable(),
});
export type AuditKey = z.output<typeof keyLine>;
export type Signer = { keyId: string; privateKey: KeyObject };

/** The id is the key's own: nobody can give another key the same. */
export const keyIdOf = (publicKey: string): string =>
  sha256(Buffer.from(publicKey, "base64")).subarray(0, 12).toString("base64url");

export const publicKeyOf = (publicKey: string): KeyObject =>
  createPublicKey({
    key: { kty: "OKP", crv: "Ed25519", x: Buffer.from(publicKey, "base64").toString("base64url") },
    format: "jwk",
  });

const endorsed = ({ keyId, publicKey, createdAt }: AuditKey) =>
  canonical(JSON.stringify({ type: "key", version: 1, keyId, publicKey, createdAt }));

/** The keys that one of `trusted` vouches for, itself or through others. */
export function vouchedFor(keys: readonly AuditKey[], trusted: Iterable<string>): Map<string, AuditKey> {
  const genuine = keys.filter(({ keyId, publicKey }) => keyId === keyIdOf(publicKey));
  const vouched = new Map<string, AuditKey>();
  const roots = new Set(trusted);
  for (const key of genuine) if (roots.has(key.keyId)) vouched.set(key.keyId, key);
  for (let size = -1; size < vouched.size; ) {
    size = vouched.size;
    for (const key of genuine) {
      const endorser = vouched.get(key.endorsedBy ?? "");
      if (vouched.has(key.keyId) || !endorser || !key.endorsement) continue;
      if (isSignedBy(endorsed(key), key.endorsement, publicKeyOf(endorser.publicKey)))
        vouched.set(key.keyId, key);
    }
  }
  return vouched;
}

const storedKey = z.object({
  key_id: z.string(),
  public_key: z.instanceof(Buffer),
  created_at: z.date(),
  endorsed_by: z.string().nullable(),
  endorsement: z.instanceof(Buffer).nullable(),
});
const signingKey = z.object({
  key_id: z.string(),
  kek_id: z.string(),
  wrapped_private_key: z.instanceof(Buffer),
});

type Queryable = Pick<pg.Pool, "query"> | Pick<pg.ClientBase, "query">;

/** All public keys, the oldest first. */
export async function loadAuditKeys(database: Queryable): Promise<AuditKey[]> {
  const { rows } = await database.query("select * from app_hidden.audit_keys()");
  return storedKey
    .array()
    .parse(rows)
    .map((row) => ({
      type: "key",
      version: 1,
      keyId: row.key_id,
      publicKey: row.public_key.toString("base64"),
      createdAt: row.created_at.toISOString(),
      endorsedBy: row.endorsed_by,
      endorsement: row.endorsement?.toString("base64") ?? null,
    }));
}

/** The key that signs now. Throws when there is none, or it cannot be unwrapped here. */
export async function loadSigner(database: Queryable, keyRing: Pick<KeyRing, "unwrap">): Promise<Signer> {
  const { rows } = await database.query("select * from app_hidden.audit_signing_key()");
  const [stored] = signingKey.array().parse(rows);
  if (!stored) throw new UserError("No key signs audit seals: `npm run audit:rotate` makes one.");
  const place = { auditKey: stored.key_id };
  const der = keyRing.unwrap(stored.wrapped_private_key, stored.kek_id, place);
  return { keyId: stored.key_id, privateKey: createPrivateKey({ key: der, format: "der", type: "pkcs8" }) };
}

/** Makes the first key, as the owner, where there is none. */
export const ensureAuditKey = (owner: pg.Pool, keyRing: Pick<KeyRing, "wrap">): Promise<void> =>
  changingKeys(owner, async (client) => {
    const { rowCount } = await client.query("select * from app_hidden.audit_signing_key()");
    if (rowCount === 0) await add(client, keyRing, undefined);
  });

/**
 * A new key, which signs from the next seal on. The one before it vouches for it, then its private half is destroyed.
 * @param options.unendorsed nobody can open the private half of the one before it any more
 */
export const rotateAuditKey = (
  owner: pg.Pool,
  keyRing: Pick<KeyRing, "wrap" | "unwrap">,
  options: { unendorsed?: boolean } = {},
): Promise<AuditKey> =>
  changingKeys(owner, async (client) => {
    const present = await client.query("select * from app_hidden.audit_signing_key()");
    const endorser =
      present.rows.length > 0 && !options.unendorsed ? await loadSigner(client, keyRing) : undefined;
    await client.query(
      `update app_private.audit_keys set retired_at = clock_timestamp(), kek_id = null, wrapped_private_key = null
        where retired_at is null`,
    );
    return add(client, keyRing, endorser);
  });

const changingKeys = <Result>(owner: pg.Pool, work: (client: pg.PoolClient) => Promise<Result>) =>
  withTransaction(owner, async (client) => {
    await client.query("select pg_advisory_xact_lock(hashtextextended('app_private.audit_keys', 0))");
    return work(client);
  });

async function add(
  client: pg.PoolClient,
  keyRing: Pick<KeyRing, "wrap">,
  endorser: Signer | undefined,
): Promise<AuditKey> {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  const { x } = z.object({ x: z.string() }).parse(publicKey.export({ format: "jwk" }));
  const publicText = Buffer.from(x, "base64url").toString("base64");
  const keyId = keyIdOf(publicText);
  const key: AuditKey = {
    type: "key",
    version: 1,
    keyId,
    publicKey: publicText,
    createdAt: new Date().toISOString(),
    endorsedBy: endorser?.keyId ?? null,
    endorsement: null,
  };
  if (endorser) key.endorsement = signText(endorsed(key), endorser.privateKey);
  const der = privateKey.export({ format: "der", type: "pkcs8" });
  const { kekId, wrapped } = keyRing.wrap(der, { auditKey: keyId });
  await client.query(
    `insert into app_private.audit_keys (key_id, public_key, kek_id, wrapped_private_key, created_at, endorsed_by, endorsement)
     values ($1, decode($2, 'base64'), $3, $4, $5, $6, decode($7, 'base64'))`,
    [keyId, publicText, kekId, wrapped, key.createdAt, key.endorsedBy, key.endorsement],
  );
  return key;
}
