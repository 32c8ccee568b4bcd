import { randomBytes } from "node:crypto";
import { appendFileSync, readFileSync } from "node:fs";
import { z } from "zod";
import { runFolder, secretsFile } from "./runFolder.ts";

/**
 * In every secret that tests make, so that one look finds them all, and whatever is left of one that was cut off. It goes
 * through headers and JSON as it is, and is another text in a URL.
 */
export const MARK = "s3cr3t/+";

/** A line of the file, to which every worker of jest adds. */
const entry = z.object({ name: z.string(), bytes: z.base64() });

/** A new secret; no table and no log may ever hold it. */
export function secret(name: string): string {
  return keepSecret(name, `${MARK}${randomBytes(18).toString("base64url")}`);
}

/** 32 bytes in base64, as ENCRYPTION_KEYS has them. */
export function secretKey(name: string): string {
  const bytes = Buffer.concat([Buffer.from(MARK), randomBytes(32 - MARK.length)]);
  keep(name, bytes);
  return bytes.toString("base64");
}

/** One that somebody else made. */
export function keepSecret(name: string, value: string): string {
  keep(name, Buffer.from(value));
  return value;
}

function keep(name: string, bytes: Buffer) {
  if (runFolder() !== undefined)
    appendFileSync(secretsFile(), `${JSON.stringify({ name, bytes: bytes.toString("base64") })}\n`);
}

export type Secret = { name: string; bytes: Buffer };

/** All so far. */
export function secrets(): Secret[] {
  const lines = new Set(readFileSync(secretsFile(), "utf8").split("\n").filter(Boolean));
  return [...lines].map((line) => {
    const { name, bytes } = entry.parse(JSON.parse(line));
    return { name, bytes: Buffer.from(bytes, "base64") };
  });
}
