import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import { environmentWith } from "../../src/config.ts";
import { paths } from "../../src/paths.ts";
import type { TestDatabase } from "./database.ts";

/** Runs one of scripts/ as npm does, against a test's database. */
export async function runScript(
  database: TestDatabase,
  [script, ...args]: readonly [string, ...string[]],
  { input = "", env = {} }: { input?: string; env?: Record<string, string> } = {},
): Promise<{ code: number | null; out: string; err: string }> {
  const child = spawn(process.execPath, ["--import", "./scripts/runtime.mjs", `scripts/${script}`, ...args], {
    cwd: paths.root,
    env: environmentWith({
      DATABASE_URL: database.urls.owner,
      AUTHENTICATOR_DATABASE_URL: database.urls.authenticator,
      WORKER_DATABASE_URL: database.urls.worker,
      ROOT_DATABASE_URL: database.urls.root,
      NODE_OPTIONS: "",
      ...env,
    }),
  });
  child.stdin.on("error", () => {}).end(input);
  const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
  const [out, err, code] = await Promise.all([text(child.stdout), text(child.stderr), ended]);
  return { code, out, err };
}
