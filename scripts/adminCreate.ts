import { text } from "node:stream/consumers";
import { parseArgs } from "node:util";
import { pino } from "pino";
import { read } from "read";
import { createAdministrator } from "../src/auth/administrator.ts";
import { assertAcceptable, hashPassword } from "../src/auth/passwords.ts";
import { loadConfig, UserError } from "../src/config.ts";
import { openDatabase } from "../src/db/database.ts";
import { assertMigrated } from "../src/db/migrate.ts";
import { withOwnerPool } from "../src/db/pools.ts";
import { ApiError } from "../src/graphql/errors.ts";
import { runProgram } from "../src/program.ts";

const USAGE = `npm run admin:create -- --email you@example.com [--first-name F] [--last-name L]

The password is asked for, or read from stdin when that is no terminal.`;

/** The first SUPER_ADMIN of an installation. */
await runProgram(
  async (onStop, say) => {
    const { email, firstName, lastName } = parse();
    const config = loadConfig();
    const password = process.stdin.isTTY ? await ask() : firstLine(await text(process.stdin));
    try {
      assertAcceptable(
        password,
        [email, firstName, lastName, "platform"].filter((word) => word !== undefined),
      );
    } catch (error) {
      throw error instanceof ApiError ? new UserError(error.message) : error;
    }
    const passwordHash = await hashPassword(password);
    const database = await openDatabase(config, { purpose: "npm run admin:create", join: true });
    onStop(() => database.close());
    await assertMigrated(database.urls.owner);
    await withOwnerPool(database.urls.owner, pino({ level: "warn" }), (owner) =>
      createAdministrator(owner, { email, passwordHash, firstName, lastName }),
    );
    say(`${email} is SUPER_ADMIN. Sign in to the tenant "platform".`);
  },
  { once: true },
);

function parse() {
  let values: { email?: string; "first-name"?: string; "last-name"?: string; password?: string };
  try {
    const string = { type: "string" } as const;
    ({ values } = parseArgs({
      options: { email: string, "first-name": string, "last-name": string, password: string },
    }));
  } catch (error) {
    throw new UserError(`${error instanceof Error ? error.message : String(error)}.\n\n${USAGE}`);
  }
  if (values.password !== undefined)
    throw new UserError(
      "A password does not belong on the command line, where others of the machine can read it. Leave --password out.",
    );
  const email = values.email?.trim().toLowerCase();
  if (!email) throw new UserError(`--email is missing.\n\n${USAGE}`);
  if (!/^[^@\s]+@[^@\s]+$/.test(email)) throw new UserError(`"${values.email}" is not an e-mail address.`);
  return { email, firstName: values["first-name"], lastName: values["last-name"] };
}

async function ask(): Promise<string> {
  const password = await read({ prompt: "Password: ", silent: true, replace: "*" });
  const again = await read({ prompt: "The same again: ", silent: true, replace: "*" });
  if (password !== again) throw new UserError("The two passwords differ. Nothing was changed.");
  return password;
}

function firstLine(input: string): string {
  const [line = ""] = input.split(/\r?\n/);
  if (!line) throw new UserError("stdin has no password in its first line.");
  return line;
}
