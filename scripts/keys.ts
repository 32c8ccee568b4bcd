import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { pino } from "pino";
import { findTenant } from "../src/analysts/analysts.ts";
import { loadConfig, UserError } from "../src/config.ts";
import { checkKeys } from "../src/crypto/check.ts";
import { loadKeyRing } from "../src/crypto/loadKeyRing.ts";
import { rewrapKeys } from "../src/crypto/rewrap.ts";
import { rotateTenantKeys } from "../src/crypto/rotate.ts";
import { openDatabase } from "../src/db/database.ts";
import { assertMigrated } from "../src/db/migrate.ts";
import { makePool } from "../src/db/pools.ts";
import { runProgram } from "../src/program.ts";
import { loadSecrets } from "../src/secrets.ts";
import { progressBar } from "./support/progressBar.ts";

const USAGE = `npm run keys:rotate [-- --tenant acme]   a new data key for one tenant or all, and what it protects sealed anew, while all goes on
npm run keys:rewrap                      wraps data keys and token keys with the first of ENCRYPTION_KEYS, so that the others may go
npm run keys:check                       opens everything that is sealed, and names what does not open

Each may be interrupted; the same command goes on.`;

/** Keys of secrets at rest: docs/secrets.md. */
await runProgram(
  async (onStop, say, signal) => {
    const { command, tenant: slug } = parse();
    const config = loadConfig();
    const keyRing = await loadKeyRing(config, () => loadSecrets(resolve(config.DATA_DIR), { create: false }));
    const database = await openDatabase(config, { purpose: `npm run keys:${command}`, join: true });
    onStop(() => database.close());
    await assertMigrated(database.urls.owner);
    const owner = makePool(database.urls.owner, { name: "keys", max: 2, log: pino({ level: "warn" }) });
    onStop(() => owner.end());

    if (command === "check") {
      const { problems, ...counts } = await checkKeys(owner, keyRing, { signal });
      say(
        `Tried: data keys ${counts.tenantKeys}, credentials ${counts.credentials}, replaced credentials ${counts.replacedCredentials}, token keys ${counts.tokenKeys}, audit keys ${counts.auditKeys}.`,
      );
      return end(problems, "All of them open.", say);
    }
    const tenant = slug === undefined ? undefined : await findTenant(database.urls.owner, slug);
    if (slug !== undefined && !tenant) throw new UserError(`There is no tenant "${slug}".`);
    const bar = progressBar("{bar} {percentage}% | {value} of {total} | {tenant} | {duration_formatted}");
    const onProgress = (done: number, total: number, name: string) => {
      bar.setTotal(Math.max(1, total));
      bar.update(done, { tenant: name });
    };
    const work = { signal, onProgress };
    bar.start(1, 0, { tenant: "" });
    if (command === "rotate") {
      const done = await rotateTenantKeys(owner, keyRing, { ...work, tenantId: tenant?.id }).finally(() =>
        bar.stop(),
      );
      if (!done.finished) return interrupted();
      return end(
        done.problems,
        `New data keys: ${done.tenants}; credentials sealed anew: ${done.resealed}. The worker deletes the old keys within two hours.`,
        say,
      );
    }
    const done = await rewrapKeys(owner, keyRing, work).finally(() => bar.stop());
    if (!done.finished) return interrupted();
    end(
      done.problems,
      `Key "${keyRing.current}" wraps everything; rewrapped: data keys ${done.tenantKeys}, token keys ${done.tokenKeys}, audit keys ${done.auditKeys}. The others may leave ENCRYPTION_KEYS once every instance has "${keyRing.current}" in the first place; older backups need them still.`,
      say,
    );
  },
  { once: true },
);

/** The exit code says whether all was well. */
function end(problems: readonly string[], sentence: string, say: (sentence: string) => void) {
  for (const problem of problems) console.error(problem);
  if (problems.length === 0) return say(sentence);
  throw new UserError(
    `${problems.length} of them ${problems.length === 1 ? "does" : "do"} not open. Add the key that is missing to ENCRYPTION_KEYS, or set these credentials anew.`,
  );
}

function interrupted() {
  console.error("Interrupted. The same command goes on.");
}

function parse(): { command: "rotate" | "rewrap" | "check"; tenant: string | undefined } {
  const [command, ...args] = process.argv.slice(2);
  if (command !== "rotate" && command !== "rewrap" && command !== "check") throw new UserError(USAGE);
  try {
    const { tenant } = parseArgs({ args, options: { tenant: { type: "string" } } }).values;
    if (tenant !== undefined && command !== "rotate") throw new Error(`keys:${command} takes no --tenant.`);
    return { command, tenant };
  } catch (error) {
    throw new UserError(`${error instanceof Error ? error.message : String(error)}\n\n${USAGE}`);
  }
}
