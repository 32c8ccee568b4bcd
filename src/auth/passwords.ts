import { hash, verify } from "@node-rs/argon2";
import pLimit from "p-limit";
import { ApiError } from "../graphql/errors.ts";
import { estimateStrength } from "./passwordStrength.ts";

/** argon2id: 19 MiB, 2 passes, 1 lane. */
const parameters = { memoryCost: 19_456, timeCost: 2, parallelism: 1 };
const MIN_LENGTH = 12;
const MAX_LENGTH = 1_000;
/** Of five grades, 0 to 4: 3 withstands 10^8 guesses. */
const MIN_STRENGTH = 3;

// Each takes a thread of libuv's four, which files and DNS need too, and 19 MiB.
const hashing = pLimit(2);
const MAX_WAITING = 200;
function limited<Result>(work: () => Promise<Result>): Promise<Result> {
  if (hashing.pendingCount >= MAX_WAITING)
    return Promise.reject(
      new ApiError("RATE_LIMITED", "Too many passwords are being checked. Try again in a moment.", {
        retryAfterSeconds: 1,
      }),
    );
  return hashing(work);
}

export const hashPassword = (password: string): Promise<string> =>
  limited(() => hash(password.normalize("NFKC"), parameters));

let absent: Promise<string> | undefined;
/** Takes as long without a hash as with one, so that an answer's time does not tell who exists. */
export async function verifyPassword(passwordHash: string | undefined, password: string): Promise<boolean> {
  // What is far too long is not even normalised.
  const measurable = isMeasurable(password);
  absent ??= hashPassword("nobody's password");
  const against = passwordHash ?? (await absent);
  const matches = await limited(() => verify(against, measurable ? password.normalize("NFKC") : ""));
  return matches && measurable && passwordHash !== undefined;
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
export function assertAcceptable(password: string, about: readonly string[]): void {
  const length = isMeasurable(password) ? [...password.normalize("NFKC")].length : Number.POSITIVE_INFINITY;
  if (length < MIN_LENGTH || length > MAX_LENGTH)
    throw new ApiError(
      "INVALID_INPUT",
      `A password has ${MIN_LENGTH} to ${MAX_LENGTH.toLocaleString("en")} characters.`,
      { reason: "password_length" },
    );
  if (!password.isWellFormed() || password.includes("\0"))
    throw new ApiError("INVALID_INPUT", "The password has a character that is none.", {
      reason: "password_characters",
    });
  const { grade, advice } = estimateStrength(password.normalize("NFKC"), about);
  if (grade < MIN_STRENGTH)
    throw new ApiError("INVALID_INPUT", `This password is easy to guess. ${advice}`.trim(), {
      reason: "weak_password",
    });
}

/** Two units for a character beyond the BMP. */
const isMeasurable = (password: string) => password.length <= 2 * MAX_LENGTH;
