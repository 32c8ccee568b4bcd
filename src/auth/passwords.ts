import { hash, verify } from "@node-rs/argon2";
import { ApiError } from "../graphql/errors.ts";
import { makeBounded } from "./bounded.ts";
import { estimateStrength } from "./passwordStrength.ts";

/** argon2id: 19 MiB, 2 passes, 1 lane. */
const parameters = { memoryCost: 19_456, timeCost: 2, parallelism: 1 };
const MIN_LENGTH = 12;
const MAX_LENGTH = 1_000;
/** Of five grades, 0 to 4: 3 withstands 10^8 guesses. */
const MIN_STRENGTH = 3;

// Each takes a thread of libuv's four, which files and DNS need too, and 19 MiB.
const limited = makeBounded(
  { concurrency: 2, waiting: 200 },
  "Too many passwords are being checked. Try again in a moment.",
);

export async function hashPassword(password: string): Promise<string> {
  const text = wellFormed(password);
  return limited(() => hash(text, parameters));
}

/** Of no password, and a constant: one that is hashed at the first sign-in may fail, and takes time then. */
const { memoryCost, timeCost, parallelism } = parameters;
const ABSENT = `$argon2id$v=19$m=${memoryCost},t=${timeCost},p=${parallelism}$${"A".repeat(22)}$${"A".repeat(43)}`;

/** Takes as long without a hash as with one, so that an answer's time does not tell who exists. */
export async function verifyPassword(passwordHash: string | undefined, password: string): Promise<boolean> {
  const text = normalised(password);
  const matches = await limited(() => verify(passwordHash ?? ABSENT, text ?? ""));
  return matches && text !== undefined && passwordHash !== undefined;
}

/** Whether a hash was made with less than today's parameters. */
export function needsRehash(passwordHash: string): boolean {
  const [, version, memory, passes, lanes] =
    /^\$argon2id\$v=(\d+)\$m=(\d+),t=(\d+),p=(\d+)\$/.exec(passwordHash) ?? [];
  return (
    version !== "19" ||
    Number(memory) < parameters.memoryCost ||
    Number(passes) < parameters.timeCost ||
    Number(lanes) < parameters.parallelism
  );
}

/**
 * INVALID_INPUT with the reason "password_length", "password_characters" or "weak_password".
 * @param about what a guesser would try first: e-mail, names, the tenant
 */
export async function assertAcceptable(password: string, about: readonly string[]): Promise<void> {
  const text = wellFormed(password);
  const { length } = [...text];
  if (length < MIN_LENGTH || length > MAX_LENGTH) throw refusal("password_length");
  const { grade, advice } = await estimateStrength(text, about);
  if (grade < MIN_STRENGTH)
    throw new ApiError("INVALID_INPUT", `This password is easy to guess. ${advice}`.trim(), {
      reason: "weak_password",
    });
}

const refusals = {
  password_length: `A password has ${MIN_LENGTH} to ${MAX_LENGTH.toLocaleString("en")} characters.`,
  password_characters: "The password has half a character (a lone surrogate) or a NUL: type it anew.",
};
const refusal = (reason: keyof typeof refusals) =>
  new ApiError("INVALID_INPUT", refusals[reason], { reason });

/** What is far too long is not even normalised. NFKC makes one character of up to six units, such as of U+16126's. */
const isMeasurable = (password: string) => password.length <= 6 * MAX_LENGTH;

/** Undefined for what is no password: argon2 would take every lone surrogate for the same U+FFFD. */
const normalised = (password: string) =>
  isMeasurable(password) && password.isWellFormed() && !password.includes("\0")
    ? password.normalize("NFKC")
    : undefined;

function wellFormed(password: string): string {
  const text = normalised(password);
  if (text === undefined) throw refusal(isMeasurable(password) ? "password_characters" : "password_length");
  return text;
}
