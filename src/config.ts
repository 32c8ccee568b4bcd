import { isIP } from "node:net";
import { distance } from "fastest-levenshtein";
import { z } from "zod";
import { hostAndPort } from "./http/publicAddress.ts";

/** Thrown for problems a person can mend; printed as one sentence, without a stack trace. */
export class UserError extends Error {
  override name = "UserError";
}

const port = z.coerce
  .number({ error: "must be a port number" })
  .int("must be a port number")
  .min(0, "must be a port number")
  .max(65535, "must be a port number");
const postgresUrl = z
  .string()
  .refine(isPostgresUrl, "must be a URL such as postgresql://user:password@host:5432/database");
const httpUrl = z.url({ protocol: /^https?$/, error: "must be an http or https URL" });
const list = z.string().transform((text) =>
  text
    .split(",")
    .map((part) => part.trim())
    .filter(Boolean),
);
const flag = z
  .enum(["true", "false"], { error: 'must be "true" or "false"' })
  .transform((text) => text === "true");

/** Every setting, by the name of its environment variable. */
const settings = z.object({
  NODE_ENV: z.enum(["development", "test", "production"]).default("development"),
  PORT: port.default(4000),
  HOST: z.string().default("127.0.0.1"),
  DATA_DIR: z.string().default(".data"),
  EMBEDDED_PG_PORT: port.default(5433),
  DATABASE_URL: postgresUrl.optional(),
  AUTHENTICATOR_DATABASE_URL: postgresUrl.optional(),
  WORKER_DATABASE_URL: postgresUrl.optional(),
  SHADOW_DATABASE_URL: postgresUrl.optional(),
  ROOT_DATABASE_URL: postgresUrl.optional(),
  CORS_ORIGINS: list.default([]),
  PUBLIC_URL: httpUrl.optional(),
  FRONTEND_URL: httpUrl.optional(),
  SMTP_URL: z
    .string()
    .refine(
      isSmtpUrl,
      "must be a URL such as smtps://user:password@mail.example:465, or smtp:// with ?requireTLS=true",
    )
    .optional(),
  MAIL_FROM: z
    .string()
    .regex(
      /^(?:[^<>@"\r\n]+ <[^<>@\s]+@[^<>@\s]+>|[^<>@\s]+@[^<>@\s]+)$/,
      "must be an address such as Acme <no-reply@acme.example>",
    )
    .optional(),
  TRUST_PROXY: list
    .refine((parts) => parts.every(isSubnet), "must list addresses or subnets of proxies")
    .default([]),
  ENCRYPTION_KEYS: z.string().optional(),
  ENCRYPTION_KEYS_FILE: z.string().optional(),
  GRAPHQL_INTROSPECTION: flag.optional(),
  SIMULATOR_PORT: port.default(4010),
  SIMULATOR_URL: httpUrl.optional(),
  PRIVATE_PROVIDER_ADDRESSES: list
    .refine((parts) => parts.every(isHostAndPort), "must list host:port pairs, such as simulator:4010")
    .default([]),
  AUDIT_ANCHOR_DIR: z.string().optional(),
  JOB_CONCURRENCY: z.coerce
    .number({ error: "must be a number from 1 to 100" })
    .int()
    .min(1)
    .max(100)
    .default(4),
  LOG_LEVEL: z.enum(["fatal", "error", "warn", "info", "debug", "trace", "silent"]).default("info"),
});
export type Config = z.output<typeof settings>;
export type SettingName = keyof Config;

/**
 * Reads the settings from the environment. An empty value counts as unset.
 * Reports every bad or misspelt setting at once, by name, in one UserError.
 */
export function loadConfig(environment: NodeJS.ProcessEnv = process.env): Config {
  const given = Object.fromEntries(Object.entries(environment).filter(([, value]) => value !== ""));
  const problems = misspelt(Object.keys(given));
  const parsed = settings.safeParse(given);
  if (!parsed.success)
    for (const issue of parsed.error.issues) {
      const name = String(issue.path[0]);
      const shown =
        name.includes("URL") || name.includes("KEYS") ? "" : ` is ${JSON.stringify(given[name])}:`;
      problems.push(`${name}${shown} ${issue.message}`);
    }
  if (!parsed.success || problems.length > 0)
    throw new UserError(`These settings need mending: ${problems.join("; ")}.`);
  return parsed.data;
}

/** This process's environment with some of it replaced, for a child process. */
export const environmentWith = (replaced: Record<string, string>): NodeJS.ProcessEnv => ({
  ...process.env,
  ...replaced,
});

/** Names that are one or two letters away from a setting: almost surely meant to be it. */
function misspelt(names: string[]): string[] {
  const known = Object.keys(settings.shape);
  return names
    .filter((name) => !(name in settings.shape))
    .flatMap((name) => {
      const meant = known.find((candidate) => isMisspelling(name, candidate));
      return meant ? [`${name} is not a setting (did you mean ${meant}?)`] : [];
    });
}

/** Short names have too many neighbours, such as HOME and POST: only swapped letters, or one too many, count there. */
function isMisspelling(name: string, setting: string): boolean {
  if (setting.length > 6) return distance(name, setting) <= 2;
  const letters = (text: string) => [...text].sort().join("");
  return (
    letters(name) === letters(setting) || (name.startsWith(setting) && name.length === setting.length + 1)
  );
}

/** As Express's "trust proxy" takes them. */
function isSubnet(text: string): boolean {
  const [address = "", bits] = text.split("/");
  return (
    ["loopback", "linklocal", "uniquelocal"].includes(text) ||
    (isIP(address) > 0 && /^\d{0,3}$/.test(bits ?? ""))
  );
}

function isHostAndPort(text: string): boolean {
  return (
    /:\d{1,5}$/.test(text) &&
    URL.canParse(`http://${text}`) &&
    hostAndPort(new URL(`http://${text}`)) === text.toLowerCase()
  );
}

/** Of what a query may set, only the TLS of smtp:// is ours to offer: `debug` and `logger` would print mails, with their links. */
function isSmtpUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, hostname, searchParams } = new URL(text);
  return (
    /^smtps?:$/.test(protocol) &&
    hostname !== "" &&
    [...searchParams].every(([name, value]) => name === "requireTLS" && value === "true")
  );
}

function isPostgresUrl(text: string): boolean {
  return URL.canParse(text) && /^postgres(ql)?:$/.test(new URL(text).protocol);
}
