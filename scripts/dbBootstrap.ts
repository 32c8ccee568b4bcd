import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { loadConfig, UserError } from "../src/config.ts";
import { DATABASE_NAME, givenUrls } from "../src/db/database.ts";
import { prepareCluster } from "../src/db/roles.ts";
import { paths } from "../src/paths.ts";
import { runProgram } from "../src/program.ts";
import { loadSecrets } from "../src/secrets.ts";

/** Roles and databases on a server that is not ours: with ROOT_DATABASE_URL it makes them, without it prints the SQL. */
await runProgram(
  async (_onStop, say) => {
    const config = loadConfig();
    if (!config.ROOT_DATABASE_URL) {
      say(
        `-- As a superuser:\n--   create database ${DATABASE_NAME};\n-- then, connected to that database, with these settings for the passwords:`,
      );
      say(
        "--   set erp.owner_password = '...'; set erp.authenticator_password = '...'; set erp.worker_password = '...';\n",
      );
      return say(await readFile(paths.rolesSql, "utf8"));
    }
    if (!config.DATABASE_URL)
      throw new UserError("Set DATABASE_URL too: its database and password are what the roles get.");
    const { owner, authenticator, worker, shadow } = givenUrls(config, config.DATABASE_URL);
    const database = (url: string) => decodeURIComponent(new URL(url).pathname.slice(1));
    const password = (url: string) => decodeURIComponent(new URL(url).password);
    for (const [role, url] of Object.entries({
      erp_user: owner,
      erp_authenticator: authenticator,
      erp_worker: worker,
    }))
      if (new URL(url).username !== role || !password(url))
        throw new UserError(`The URL of ${role} must name that user and a password.`);
    const databases = [owner, ...(shadow ? [shadow] : [])].map(database);
    await prepareCluster(config.ROOT_DATABASE_URL, {
      databases,
      passwords: { owner: password(owner), authenticator: password(authenticator), worker: password(worker) },
    });
    // Encryption keys, for all instances to share.
    await loadSecrets(resolve(config.DATA_DIR));
    say(
      `Made the roles and ${databases.join(", ")}. Next: npm run db -- migrate, then npm run api and npm run worker.`,
    );
  },
  { once: true },
);
