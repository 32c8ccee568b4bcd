import { parseArgs } from "node:util";
import { pino } from "pino";
import { read } from "read";
import { z } from "zod";
import { findTenant, revokeAnalyst } from "../src/analysts/analysts.ts";
import { loadConfig, UserError } from "../src/config.ts";
import { openDatabase } from "../src/db/database.ts";
import { assertMigrated } from "../src/db/migrate.ts";
import { makePool } from "../src/db/pools.ts";
import { runProgram } from "../src/program.ts";
import { deleteTenant } from "../src/tenants/deleteTenant.ts";
import { firstLine } from "./support/firstLine.ts";
import { progressBar } from "./support/progressBar.ts";

const USAGE = `npm run tenant:delete -- --tenant acme

Deletes a tenant with all that is its own. There is no way back, so that it asks for the slug again, or reads it from stdin when that
is no terminal. It may be interrupted: the tenant stays shut, and the same command goes on.`;
const analysts = z.object({ name: z.string() }).array();

/** The end of a tenant: docs/secrets.md. */
await runProgram(
  async (onStop, say, signal) => {
    const slug = parse();
    const config = loadConfig();
    const database = await openDatabase(config, { purpose: "npm run tenant:delete", join: true });
    onStop(() => database.close());
    const { urls } = database;
    await assertMigrated(urls.owner);
    const owner = makePool(urls.owner, { name: "tenant:delete", max: 3, log: pino({ level: "warn" }) });
    onStop(() => owner.end());
    const tenant = await findTenant(urls.owner, slug);
    if (!tenant) throw new UserError(`There is no tenant "${slug}".`);
    if (tenant.slug === "platform")
      throw new UserError("platform is the operator's own tenant, without which nobody can run the others.");
    const question = `This deletes "${tenant.slug}" for good. Its slug, to go on: `;
    const typed = process.stdin.isTTY ? await read({ prompt: question }) : await firstLine(signal, "slug");
    if (typed.trim() !== tenant.slug)
      throw new UserError(`"${typed.trim()}" is not "${tenant.slug}". Nothing was changed.`);

    const { rows } = await owner.query("select name from app_private.analysts where tenant_id = $1", [
      tenant.id,
    ]);
    for (const { name } of analysts.parse(rows)) {
      const { login, sql } = await revokeAnalyst(urls, { tenantId: tenant.id, name });
      if (sql) say(`${login} reads nothing any more. There is no ROOT_DATABASE_URL; as a superuser:\n${sql}`);
    }
    const bar = progressBar(
      "{bar} {percentage}% | {value} of {total} rows | {table} | {duration_formatted}, {eta_formatted} left",
    );
    bar.start(1, 0, { table: "" });
    const isDone = await deleteTenant(owner, tenant.id, {
      signal,
      onProgress(deleted, total, table) {
        bar.setTotal(total);
        bar.update(deleted, { table });
      },
    }).finally(() => bar.stop());
    if (!isDone) return console.error("Interrupted. The tenant stays shut; the same command goes on.");
    say(
      `"${tenant.slug}" is gone. Backups still have it: docs/secrets.md says when its secrets there open no more.`,
    );
  },
  { once: true },
);

function parse(): string {
  try {
    const { tenant } = parseArgs({ options: { tenant: { type: "string" } } }).values;
    if (!tenant) throw new Error("--tenant is missing.");
    return tenant;
  } catch (error) {
    throw new UserError(`${error instanceof Error ? error.message : String(error)}\n\n${USAGE}`);
  }
}
