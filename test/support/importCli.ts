import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { z } from "zod";
import { environmentWith } from "../../src/config.ts";
import { paths } from "../../src/paths.ts";
import type { TestDatabase } from "./database.ts";

export type Ended = {
  code: number | null;
  signal: NodeJS.Signals | null;
  out: string;
  err: string;
  /** The most memory that it had, where Linux tells. */
  peakMegabytes: number;
};

const { scripts } = z
  .object({ scripts: z.object({ "events:import": z.string() }) })
  .parse(JSON.parse(readFileSync(join(paths.root, "package.json"), "utf8")));

/** `npm run events:import`, with the flags that npm gives it; npm itself would only stand between us and its memory. */
export function startImport(
  database: TestDatabase,
  args: readonly string[],
): { child: ChildProcess; ended: Promise<Ended> } {
  const [exec, node, ...flags] = scripts["events:import"].split(" ");
  if (exec !== "exec" || node !== "node")
    throw new Error("The script is not node itself: a shell that npm started would keep signals from it.");
  const child = spawn(process.execPath, [...flags, ...args], {
    cwd: paths.root,
    stdio: ["ignore", "pipe", "pipe"],
    env: environmentWith({
      DATABASE_URL: database.urls.owner,
      AUTHENTICATOR_DATABASE_URL: database.urls.authenticator,
      WORKER_DATABASE_URL: database.urls.worker,
      NODE_OPTIONS: "",
    }),
  });
  let peakMegabytes = 0;
  const watching = setInterval(() => {
    try {
      const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
      peakMegabytes = Math.max(peakMegabytes, Number(/^VmHWM:\s+(\d+)/m.exec(status)?.[1] ?? 0) / 1024);
    } catch {
      // It has ended, or this is no Linux.
    }
  }, 20);
  const closed = new Promise<Pick<Ended, "code" | "signal">>((resolve) =>
    child.on("close", (code, signal) => resolve({ code, signal })),
  ).finally(() => clearInterval(watching));
  const ended = Promise.all([closed, text(child.stdout), text(child.stderr)]).then(([how, out, err]) => ({
    ...how,
    out,
    err,
    peakMegabytes,
  }));
  return { child, ended };
}
