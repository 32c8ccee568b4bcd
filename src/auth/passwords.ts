import { hash, verify } from "@node-rs/argon2";

/** argon2id: 19 MiB, 2 passes, 1 lane. */
const parameters = { memoryCost: 19_456, timeCost: 2, parallelism: 1 };
export const MAX_PASSWORD_LENGTH = 1_000;

export const hashPassword = (password: string) => hash(password, parameters);

let absent: Promise<string> | undefined;
/** Takes as long without a hash as with one, so that an answer's time does not tell who exists. */
export async function verifyPassword(passwordHash: string | undefined, password: string): Promise<boolean> {
  if (password.length > MAX_PASSWORD_LENGTH) return false;
  absent ??= hashPassword("nobody's password");
  const matches = await verify(passwordHash ?? (await absent), password);
  return matches && passwordHash !== undefined;
}
