import { parseArgs } from "node:util";
import { Presets, SingleBar } from "cli-progress";
import { pino } from "pino";
import { loadConfig, UserError } from "../src/config.ts";
import { openDatabase } from "../src/db/database.ts";
import { assertMigrated } from "../src/db/migrate.ts";
import { makePool } from "../src/db/pools.ts";
import { runProgram } from "../src/program.ts";
import { rollUpTenant, tenantsToRollUp } from "../src/rollups/rollUp.ts";

const USAGE = `npm run rollups:build [-- --tenant acme]

Brings the rollups of one tenant, or of all, up to their events: after an upgrade, say, instead of waiting until the worker has
done it. It may be interrupted, and goes on where it was.`;

await runProgram(
  async (onStop, say, signal) => {
    const slug = parse();
    const config = loadConfig();
    const database = await openDatabase(config, { purpose: "npm run rollups:build", join: true });
    onStop(() => database.close());
    await assertMigrated(database.urls.owner);
    const owner = makePool(database.urls.owner, { name: "owner", max: 2, log: pino({ level: "warn" }) });
    onStop(() => owner.end());
    const { rows } = await owner.query<{ id: string; slug: string }>(
      "select id, slug from tenants where slug = coalesce($1, slug)",
      [slug],
    );
    if (rows.length === 0)
      throw new UserError(slug ? `There is no tenant "${slug}".` : "There are no tenants.");
    const slugs = new Map(rows.map((tenant) => [tenant.id, tenant.slug]));
    const waiting = (await tenantsToRollUp(owner)).filter((id) => slugs.has(id));
    const bar = new SingleBar(
      {
        format: "{bar} {percentage}% | {tenant} | {duration_formatted}, {eta_formatted} left",
        noTTYOutput: true,
        notTTYSchedule: 5_000,
        hideCursor: true,
      },
      Presets.shades_classic,
    );
    let done = 0;
    bar.start(Math.max(1, waiting.length), 0, { tenant: "" });
    try {
      for (const id of waiting) {
        const tenant = slugs.get(id) ?? id;
        const settled = await rollUpTenant(owner, id, {
          signal,
          onProgress: (share) => bar.update(done + share, { tenant }),
        });
        if (settled) bar.update(++done, { tenant });
      }
    } finally {
      bar.stop();
    }
    say(
      done === waiting.length
        ? `The rollups of ${slugs.size === 1 ? "this tenant are" : `${slugs.size} tenants are`} up to their events.`
        : `${waiting.length - done} of ${waiting.length} tenants remain: interrupted, or the worker is at them.`,
    );
  },
  { once: true },
);

function parse(): string | undefined {
  try {
    return parseArgs({ options: { tenant: { type: "string" } } }).values.tenant;
  } catch (error) {
    throw new UserError(`${error instanceof Error ? error.message : error}\n\n${USAGE}`);
  }
}
