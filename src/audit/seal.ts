import { createHash, hash, type KeyObject, sign, verify } from "node:crypto";
import { z } from "zod";
import { canonical } from "./canonical.ts";

/** docs/audit-format.md is the specification of all of this. */
const ID_BYTES = 16;
const HASH_BYTES = 32;
export const ENTRY_BYTES = ID_BYTES + HASH_BYTES;
export const ZERO_HASH = Buffer.alloc(HASH_BYTES);

const time = z.iso.datetime({ precision: 3 });
const hex = z.string().regex(/^[0-9a-f]{64}$/);
const count = z.int().positive();
const decimal = z.string().regex(/^-?\d{1,19}$/);
const base64 = z.base64();

/** A seal, as it is a line of an anchor. */
export const sealLine = z.strictObject({
  type: z.literal("seal"),
  version: z.literal(1),
  tenantId: z.uuid(),
  number: count,
  firstSequence: count,
  rowCount: count,
  rows: base64,
  chain: hex,
  previousSeal: hex,
  clusterId: decimal,
  /** Transaction of the last row. */
  lastTransactionId: decimal,
  keyId: z.string().max(64),
  sealedAt: time,
  signature: base64,
});
export type Seal = z.output<typeof sealLine>;
export type UnsignedSeal = Omit<Seal, "signature">;

/** What stands for a row in its seal. */
export type Entry = { id: string; hash: Buffer };

export const sha256 = (data: string | Buffer): Buffer<ArrayBuffer> =>
  Buffer.from(hash("sha256", data, "buffer"));
/** @param content JSON of the row's sealed columns */
export const hashRow = (content: string): Buffer => sha256(canonical(content));

export function packEntries(entries: readonly Entry[]): Buffer {
  const packed = Buffer.allocUnsafe(entries.length * ENTRY_BYTES);
  entries.forEach(({ id, hash }, index) => {
    packed.write(id.replaceAll("-", ""), index * ENTRY_BYTES, "hex");
    hash.copy(packed, index * ENTRY_BYTES + ID_BYTES);
  });
  return packed;
}

export function unpackEntries(packed: Buffer): Entry[] {
  return Array.from({ length: Math.floor(packed.length / ENTRY_BYTES) }, (_, index) => {
    const entry = packed.subarray(index * ENTRY_BYTES, (index + 1) * ENTRY_BYTES);
    return {
      id: entry.toString("hex", 0, ID_BYTES).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5"),
      hash: entry.subarray(ID_BYTES),
    };
  });
}

/** Each link is the SHA-256 of the link before it and the row's hash. */
export function extendChain(chain: Buffer, packed: Buffer): Buffer<ArrayBuffer> {
  let link = Buffer.from(chain);
  for (let at = ID_BYTES; at < packed.length; at += ENTRY_BYTES)
    link = createHash("sha256")
      .update(link)
      .update(packed.subarray(at, at + HASH_BYTES))
      .digest();
  return link;
}

/** The bytes that are signed, and whose SHA-256 the next seal names. */
export function sealText(seal: UnsignedSeal | Seal): string {
  const { type, version, tenantId, number, firstSequence, rowCount, rows, chain } = seal;
  const { previousSeal, clusterId, lastTransactionId, keyId, sealedAt } = seal;
  return canonical(
    JSON.stringify({
      ...{ chain, clusterId, firstSequence, keyId, lastTransactionId, number, previousSeal },
      ...{ rowCount, rows, sealedAt, tenantId, type, version },
    }),
  );
}

export const signText = (text: string, privateKey: KeyObject): string =>
  sign(null, Buffer.from(text), privateKey).toString("base64");
export const isSignedBy = (text: string, signature: string, publicKey: KeyObject): boolean =>
  verify(null, Buffer.from(text), publicKey, Buffer.from(signature, "base64"));

/** As it stands in an anchor. */
export const lineOf = (value: object): string => `${canonical(JSON.stringify(value))}\n`;
