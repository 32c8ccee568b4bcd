import { randomBytes } from "node:crypto";
import { parseArgs } from "node:util";
import { findTenant, grantAnalyst, listAnalysts, revokeAnalyst } from "../src/analysts/analysts.ts";
import { ANALYST_NAME } from "../src/analysts/login.ts";
import { assertAcceptable } from "../src/auth/passwords.ts";
import { loadConfig, UserError } from "../src/config.ts";
import { type DatabaseUrls, openDatabase } from "../src/db/database.ts";
import { assertMigrated } from "../src/db/migrate.ts";
import { connectionString } from "../src/db/pools.ts";
import { ApiError } from "../src/graphql/errors.ts";
import { runProgram } from "../src/program.ts";
import { aligned } from "./support/aligned.ts";
import { firstLine } from "./support/firstLine.ts";

const USAGE = `npm run analyst:grant -- --tenant acme --name bi [--password-stdin]   a login that reads one tenant's rows, or a new password for it
npm run analyst:revoke -- --tenant acme --name bi                     ends its sessions and drops it; --tenant takes the id of a tenant that is gone
npm run analyst:list [-- --tenant acme]`;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

type Say = (sentence: string) => void;

/** PostgreSQL logins for analysts: docs/analysts.md. */
await runProgram(
  async (onStop, say, signal) => {
    const options = parse();
    const config = loadConfig();
    const password = options.passwordStdin ? await acceptable(await firstLine(signal), options) : undefined;
    const database = await openDatabase(config, {
      purpose: `npm run analyst:${options.command}`,
      join: true,
    });
    onStop(() => database.close());
    await assertMigrated(database.urls.owner);
    const { command, tenant, name } = options;
    if (command === "list") return list(database.urls, tenant, say);
    if (command === "grant") return grant(database.urls, tenant, name, password, say);
    return revoke(database.urls, tenant, name, say);
  },
  { once: true },
);

async function grant(urls: DatabaseUrls, slug: string, name: string, given: string | undefined, say: Say) {
  const tenant = await findTenant(urls.owner, slug);
  if (!tenant) throw new UserError(`There is no tenant "${slug}".`);
  const password = given ?? randomBytes(24).toString("base64url");
  const { login, sql, elsewhere } = await grantAnalyst(urls, { tenantId: tenant.id, name }, password);
  if (sql) say(`-- There is no ROOT_DATABASE_URL. As a superuser:\n${sql}\n-- Then:`);
  else say(`${login} reads the rows of "${tenant.slug}".`);
  say(`psql "${urlOf(urls.owner, login, given === undefined ? password : undefined)}"`);
  if (given === undefined) say("The password in it is shown this once. The same command makes a new one.");
  if (!tenant.isOpen)
    say(
      `"${tenant.slug}" is suspended, cancelled or past its trial: until it is open, the login reads nothing.`,
    );
  if (elsewhere.length > 0)
    say(
      `This server also lets it into ${elsewhere.join(", ")}, as every login: there, "revoke all on database ... from public" keeps it out.`,
    );
}

async function revoke(urls: DatabaseUrls, given: string, name: string, say: Say) {
  const tenantId =
    (await findTenant(urls.owner, given))?.id ?? (UUID.test(given) ? given.toLowerCase() : undefined);
  if (!tenantId)
    throw new UserError(
      `There is no tenant "${given}". If it is gone, give its id, which npm run analyst:list has.`,
    );
  const { login, found, sql } = await revokeAnalyst(urls, { tenantId, name });
  if (!found) throw new UserError(`"${given}" has no analyst "${name}": npm run analyst:list`);
  if (sql) say(`${login} reads nothing any more. There is no ROOT_DATABASE_URL; as a superuser:\n${sql}`);
  else say(`${login} is gone, and so are its sessions.`);
}

async function list(urls: DatabaseUrls, slug: string, say: Say) {
  const tenant = slug ? await findTenant(urls.owner, slug) : undefined;
  if (slug && !tenant) throw new UserError(`There is no tenant "${slug}".`);
  const analysts = await listAnalysts(urls.owner, tenant?.id);
  if (analysts.length === 0)
    return say(
      "There are no analysts' logins. To make one: npm run analyst:grant -- --tenant acme --name bi",
    );
  const rows = analysts.map((analyst) => [
    ...[analyst.tenant, analyst.name, analyst.login, analyst.granted, analyst.connections, analyst.state],
  ]);
  say(aligned([["tenant", "name", "login", "granted", "connections", ""], ...rows]));
}

/** Without the password, psql asks for it. */
function urlOf(ownerUrl: string, login: string, password: string | undefined): string {
  const url = new URL(connectionString(ownerUrl));
  url.username = login;
  url.password = password ?? "";
  return url.href;
}

async function acceptable(password: string, { tenant, name }: { tenant: string; name: string }) {
  if (!/^[\x20-\x7e]*$/.test(password))
    throw new UserError("The password may have ASCII characters only: not all clients write others alike.");
  try {
    await assertAcceptable(password, [tenant, name]);
  } catch (error) {
    throw error instanceof ApiError ? new UserError(error.message) : error;
  }
  return password;
}

function parse() {
  const [command, ...args] = process.argv.slice(2);
  if (command !== "grant" && command !== "revoke" && command !== "list") throw new UserError(USAGE);
  if (args.some((argument) => argument.startsWith("--pass") && argument !== "--password-stdin"))
    throw new UserError(
      "A password does not belong on the command line, where others of the machine can read it. Use --password-stdin.",
    );
  let values: { tenant?: string; name?: string; "password-stdin"?: boolean };
  try {
    const string = { type: "string" } as const;
    ({ values } = parseArgs({
      args,
      options: { tenant: string, name: string, "password-stdin": { type: "boolean" } },
    }));
    if (command === "list" && values.name !== undefined) throw new Error("list takes no --name.");
    if (command !== "grant" && values["password-stdin"]) throw new Error(`${command} takes no password.`);
  } catch (error) {
    throw new UserError(`${error instanceof Error ? error.message : String(error)}\n\n${USAGE}`);
  }
  const { tenant = "", name = "" } = values;
  if (command !== "list" && !tenant) throw new UserError(`--tenant is missing.\n\n${USAGE}`);
  if (command !== "list" && !ANALYST_NAME.test(name))
    throw new UserError(`--name is "${name}"; it must have 1 to 20 of the characters a-z, 0-9 and _.`);
  return { command, tenant, name, passwordStdin: values["password-stdin"] ?? false };
}
