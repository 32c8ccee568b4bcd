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
import { firstLine } from "./support/firstLine.ts";

const USAGE = `npm run admin:create -- --email you@example.com [--first-name F] [--last-name L]

The password is asked for, or read from stdin when that is no terminal.`;

/** The first SUPER_ADMIN of an installation. */
await runProgram(
  async (onStop, say, signal) => {
    const { email, firstName, lastName } = parse();
    const config = loadConfig();
    const password = process.stdin.isTTY ? await ask() : await firstLine(signal);
    try {
      await assertAcceptable(
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
  if (process.argv.some((argument) => argument.startsWith("--pass")))
    throw new UserError(
      "A password does not belong on the command line, where others of the machine can read it. Leave --password out.",
    );
  let values: { email?: string; "first-name"?: string; "last-name"?: string };
  try {
    const string = { type: "string" } as const;
    ({ values } = parseArgs({ options: { email: string, "first-name": string, "last-name": string } }));
  } catch (error) {
    throw new UserError(`${error instanceof Error ? error.message : String(error)}\n\n${USAGE}`);
  }
  const email = values.email?.trim().toLowerCase();
  if (!email) throw new UserError(`--email is missing.\n\n${USAGE}`);
  const name = (option: "first-name" | "last-name") => {
    const given = values[option]?.trim() || undefined;
    if (given && given.length > 200) throw new UserError(`--${option} has more than 200 characters.`);
    return given;
  };
  return { email, firstName: name("first-name"), lastName: name("last-name") };
}

async function ask(): Promise<string> {
  const password = await prompt("Password: ");
  if (password !== (await prompt("The same again: ")))
    throw new UserError("The two passwords differ. Nothing was changed.");
  return password;
}

/** `read` rejects on Ctrl-C, and leaves its promise open on Ctrl-D. */
function prompt(question: string): Promise<string> {
  return new Promise<string>((answered, failed) => {
    const cancel = () => failed(new UserError("Cancelled. Nothing was changed."));
    process.stdin.once("pause", () => setImmediate(cancel));
    read({ prompt: question, silent: true }).then(answered, cancel);
  }).finally(() => process.stdout.write("\n"));
}
