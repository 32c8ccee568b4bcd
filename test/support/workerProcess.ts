import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { environmentWith } from "../../src/config.ts";
import { paths } from "../../src/paths.ts";
import type { TestDatabase } from "./database.ts";

/** A worker as a process of its own, that a test may kill. Its errors are shown. */
export const spawnWorker = (
  database: TestDatabase,
  {
    dataDir,
    encryptionKeys,
    simulatorUrl,
  }: { dataDir: string; encryptionKeys: string; simulatorUrl?: string },
): ChildProcess =>
  spawn(process.execPath, ["--import", "./scripts/runtime.mjs", "src/main.ts", "worker"], {
    cwd: paths.root,
    stdio: ["ignore", "ignore", "inherit"],
    env: environmentWith({
      DATABASE_URL: database.urls.owner,
      AUTHENTICATOR_DATABASE_URL: database.urls.authenticator,
      WORKER_DATABASE_URL: database.urls.worker,
      DATA_DIR: dataDir,
      ENCRYPTION_KEYS: encryptionKeys,
      ...(simulatorUrl ? { SIMULATOR_URL: simulatorUrl } : {}),
      NODE_OPTIONS: "",
      LOG_LEVEL: "error",
    }),
  });

/** As a crash does; resolves once it is gone. */
export async function killProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
}
