import { readFile } from "node:fs/promises";
import pg from "pg";
import { paths } from "../paths.ts";
import { withClient } from "./pools.ts";

export type Passwords = { owner: string; authenticator: string; worker: string };

/** Makes, as a superuser, what is missing of the roles and databases. Sets the passwords that it is given. */
export async function prepareCluster(
  rootUrl: string,
  options: { databases: readonly string[]; passwords: Passwords },
): Promise<void> {
  const { passwords } = options;
  await withClient(rootUrl, async (client) => {
    const { rows } = await client.query("select datname from pg_database");
    const present = new Set(rows.map(({ datname }) => datname));
    for (const database of options.databases)
      if (!present.has(database)) await client.query(`create database ${pg.escapeIdentifier(database)}`);
  });
  const rolesSql = await readFile(paths.rolesSql, "utf8");
  for (const database of options.databases)
    await withClient(databaseUrl(rootUrl, database), async (client) => {
      await client.query(rolesSql);
      for (const [role, password] of Object.entries({
        erp_user: passwords.owner,
        erp_authenticator: passwords.authenticator,
        erp_worker: passwords.worker,
      }))
        await client.query(`alter role ${role} password ${pg.escapeLiteral(password)}`);
    });
}

/** The same server and login, another database. */
export function databaseUrl(url: string, database: string): string {
  const parsed = new URL(url);
  parsed.pathname = `/${database}`;
  return parsed.href;
}
