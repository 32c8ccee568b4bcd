import { createReadStream } from "node:fs";
import { open, readdir } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { z } from "zod";
import { UserError } from "../../config.ts";
import { type AuditKey, keyLine } from "../keys.ts";
import { type Seal, sealLine } from "../seal.ts";

type Place = { path: string; offset: number; length: number };
export type AnchorIndex = {
  /** In the order of the files. */
  keys: readonly AuditKey[];
  tenants: readonly string[];
  /** What the anchor has of one tenant's seal of that number; more than one where somebody forked the chain. */
  seals(tenantId: string, number: number): Promise<Seal[]>;
  lastNumber(tenantId: string): number;
  /** Lines that are neither keys nor seals, such as one that a crash cut short. */
  unreadable: readonly string[];
};

const line = z.discriminatedUnion("type", [keyLine, sealLine]);
export const noAnchor: AnchorIndex = {
  keys: [],
  tenants: [],
  seals: async () => [],
  lastNumber: () => 0,
  unreadable: [],
};

/** Reads every file of an anchor once and remembers where each seal is; seals are read again when they are asked for. */
export async function indexAnchor(folder: string): Promise<AnchorIndex> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    throw new UserError(
      `Cannot read the anchor ${folder}: ${error.code}. Name it in AUDIT_ANCHOR_DIR, or with --anchors.`,
    );
  });
  const keys: AuditKey[] = [];
  const places = new Map<string, Map<number, Place[]>>();
  const unreadable: string[] = [];
  for (const name of names.filter((candidate) => candidate.endsWith(".ndjson")).sort()) {
    const path = join(folder, name);
    let offset = 0;
    let count = 0;
    for await (const text of createInterface({ input: createReadStream(path), crlfDelay: 0 })) {
      count++;
      const length = Buffer.byteLength(text);
      const parsed = line.safeParse(parseJson(text));
      if (!parsed.success) {
        if (text !== "") unreadable.push(`${name}, line ${count}`);
      } else if (parsed.data.type === "key") keys.push(parsed.data);
      else {
        const { tenantId, number } = parsed.data;
        const ofTenant = places.get(tenantId) ?? new Map<number, Place[]>();
        places.set(tenantId, ofTenant);
        ofTenant.set(number, [...(ofTenant.get(number) ?? []), { path, offset, length }]);
      }
      offset += length + 1;
    }
  }
  return {
    keys,
    tenants: [...places.keys()],
    async seals(tenantId, number) {
      const found = await Promise.all((places.get(tenantId)?.get(number) ?? []).map(read));
      // The same seal twice is what a crash leaves.
      return [...new Map(found.map((text) => [text, sealLine.parse(JSON.parse(text))])).values()];
    },
    lastNumber: (tenantId) => Math.max(0, ...(places.get(tenantId)?.keys() ?? [])),
    unreadable,
  };
}

async function read({ path, offset, length }: Place): Promise<string> {
  const file = await open(path, "r");
  try {
    const buffer = Buffer.alloc(length);
    await file.read(buffer, 0, length, offset);
    return buffer.toString();
  } finally {
    await file.close();
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
