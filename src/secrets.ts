import { randomBytes } from "node:crypto";
import { chmod, link, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { type Config, UserError } from "./config.ts";

const secrets = z.object({
  superuserPassword: z.string(),
  authenticatorPassword: z.string(),
  workerPassword: z.string(),
  /** Key-encryption keys, 32 bytes, base64. The first wraps, all unwrap. */
  encryptionKeys: z.array(z.object({ id: z.string(), key: z.base64().length(44) })).min(1),
});
export type Secrets = z.output<typeof secrets>;

/** In production, instances share their secrets: one that makes its own cannot read what the others sealed. */
export const mayCreateSecrets = (config: Pick<Config, "NODE_ENV" | "DATABASE_URL">): boolean =>
  config.NODE_ENV !== "production" || config.DATABASE_URL === undefined;

/** Reads the secrets of a data folder; makes them where it may. The file is for its owner alone (0600). */
export async function loadSecrets(dataDir: string, { create: mayCreate = true } = {}): Promise<Secrets> {
  const file = join(dataDir, "secrets.json");
  const present = await readFile(file, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw new UserError(`Cannot read ${file}: ${error.message}.`);
  });
  if (present === undefined) {
    if (!mayCreate)
      throw new UserError(
        `There is no ${file}. Copy it from another instance; \`npm run db:bootstrap\` makes the first one.`,
      );
    await create(file, dataDir);
    return loadSecrets(dataDir);
  }
  await chmod(file, 0o600);
  const parsed = secrets.safeParse(parseJson(present));
  if (!parsed.success)
    throw new UserError(
      `${file} is damaged: restore it from a backup. Without it, stored credentials are unreadable.`,
    );
  return parsed.data;
}

/** Written whole under another name, then linked: a crash leaves no half file, and of two starters one wins. */
async function create(file: string, dataDir: string) {
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const draft = `${file}.${process.pid}`;
  await writeFile(draft, `${JSON.stringify(generate(), null, 2)}\n`, { mode: 0o600, flush: true });
  await link(draft, file).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "EEXIST") throw error;
  });
  await rm(draft);
}

function generate(): Secrets {
  const password = () => randomBytes(24).toString("base64url");
  const id = () => randomBytes(6).toString("base64url");
  return {
    superuserPassword: password(),
    authenticatorPassword: password(),
    workerPassword: password(),
    encryptionKeys: [{ id: id(), key: randomBytes(32).toString("base64") }],
  };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
