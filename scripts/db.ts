import { spawn } from "node:child_process";
import { resolve } from "node:path";
import { revokeAllAnalysts } from "../src/analysts/analysts.ts";
import { environmentWith, loadConfig, UserError } from "../src/config.ts";
import { openDatabase } from "../src/db/database.ts";
import { installWorkerSchema, migrate } from "../src/db/migrate.ts";
import { connectionString, withClient } from "../src/db/pools.ts";
import { databaseUrl } from "../src/db/roles.ts";
import { paths } from "../src/paths.ts";
import { runProgram } from "../src/program.ts";

const CLI = resolve(paths.root, "node_modules/graphile-migrate/dist/cli.js");
const USAGE = `npm run db -- <command>

  status              which migrations wait, and whether migrations/current holds one
  watch               apply migrations/current, and again whenever it changes (--once: only now)
  commit -m "why"     freeze migrations/current as the next committed migration
  uncommit            take the newest committed migration back into migrations/current
  migrate             apply the committed migrations
  reset --erase       drop the database and its analysts' logins, make it anew and migrate
  compile, run        see graphile-migrate's documentation
`;

/** graphile-migrate with the right environment, against DATABASE_URL or the embedded server. */
await runProgram(
  async (onStop, say) => {
    const [command, ...rest] = process.argv.slice(2);
    if (!command || command === "--help" || command === "help") return say(USAGE);
    const config = loadConfig();
    const database = await openDatabase(config, { purpose: "npm run db", join: true });
    onStop(() => database.close());
    const { owner, root, shadow, worker } = database.urls;
    if (command === "reset") {
      if (!rest.includes("--erase"))
        throw new UserError(
          "This drops the database and everything in it. If that is what you want: npm run db -- reset --erase",
        );
      if (!root) throw new UserError("A reset needs ROOT_DATABASE_URL, a login that may create databases.");
      await assertUnused(root, new URL(owner).pathname.slice(1));
      await revokeAllAnalysts(database.urls);
    }
    if (command === "migrate") await installWorkerSchema(worker).catch(explainWorkerSchema);
    const code = await run([command, ...rest], onStop, {
      DATABASE_URL: connectionString(owner),
      ...(root ? { ROOT_DATABASE_URL: connectionString(root) } : {}),
      ...(shadow ? { SHADOW_DATABASE_URL: connectionString(shadow) } : {}),
    });
    if (code === 0 && (command === "reset" || command === "migrate")) await migrate({ owner, worker });
    process.exitCode = code;
  },
  { once: true },
);

function explainWorkerSchema(error: unknown): never {
  if (error instanceof Error && "code" in error && error.code === "42501")
    throw new UserError("The worker's login may not make its schema here: run `npm run db:bootstrap` first.");
  throw error;
}

/** A reset cannot drop a database in use: says who uses it, rather than fail halfway. */
async function assertUnused(root: string, name: string) {
  const { rows } = await withClient(databaseUrl(root, "postgres"), (client) =>
    client.query(
      `select usename, coalesce(nullif(application_name, ''), 'a program without a name') as program, count(*)::integer as connections
         from pg_stat_activity where datname = $1 group by 1, 2 order by 1, 2`,
      [name],
    ),
  );
  if (rows.length === 0) return;
  const list = rows
    .map(({ usename, program, connections }) => `${connections} of ${usename} (${program})`)
    .join(", ");
  throw new UserError(`Database "${name}" is still in use: ${list}. Stop these first; nothing was erased.`);
}

function run(
  args: string[],
  onStop: (stop: () => Promise<unknown>) => void,
  environment: Record<string, string>,
): Promise<number> {
  return new Promise((ended, failed) => {
    const child = spawn(process.execPath, [CLI, ...args], {
      cwd: paths.root,
      stdio: "inherit",
      env: environmentWith(environment),
    });
    // Ctrl-C reaches the child itself; it ends, then we do.
    process.removeAllListeners("SIGINT").on("SIGINT", () => {});
    onStop(async () => child.kill());
    child.on("error", failed).on("exit", (code) => ended(code ?? 0));
  });
}
