import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { UserError } from "../src/config.ts";
import { paths } from "../src/paths.ts";
import { runProgram } from "../src/program.ts";

const SQUAWK = resolve(paths.root, "node_modules/.bin/squawk");
// The first migration meets an empty database, where nobody waits for locks. Replaces the list in .squawk.toml.
const NOT_FOR_THE_FIRST = "require-lock-timeout,require-statement-timeout,prefer-bigint-over-int";

/** Reads the migrations for what would hurt a database in use: long locks, rewrites of tables, lost data. */
await runProgram(
  async (_onStop, say) => {
    const committed = sqlFiles("committed");
    const files = [...committed, ...sqlFiles("current")];
    const failed = files.filter((file) => !passes(file, committed[0] === undefined || file === committed[0]));
    if (failed.length > 0)
      throw new UserError(
        `squawk found something in ${failed.join(" and ")}. A rule that does not apply to one statement: -- squawk-ignore <rule> before it.`,
      );
    say(`squawk found nothing in ${files.length} ${files.length === 1 ? "migration" : "migrations"}.`);
  },
  { once: true },
);

/** Paths from the top of the project; migrations that say nothing yet are left out. */
function sqlFiles(folder: string): string[] {
  return readdirSync(join(paths.migrations, folder))
    .filter((name) => name.endsWith(".sql"))
    .sort()
    .map((name) => join("migrations", folder, name))
    .filter((file) => read(file).replaceAll(/--.*/g, "").trim() !== "");
}

function passes(file: string, first: boolean): boolean {
  const options = [];
  if (/^--! no-transaction/m.test(read(file))) options.push("--no-assume-in-transaction");
  if (first) options.push(`--exclude=${NOT_FOR_THE_FIRST}`);
  const { status, stdout, error } = spawnSync(SQUAWK, ["--config", ".squawk.toml", ...options, file], {
    cwd: paths.root,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
  });
  if (error) throw error;
  if (status !== 0) console.error(stdout);
  return status === 0;
}

function read(file: string): string {
  return readFileSync(resolve(paths.root, file), "utf8");
}
