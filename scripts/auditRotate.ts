import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { pino } from "pino";
import { rotateAuditKey } from "../src/audit/keys.ts";
import { loadConfig, UserError } from "../src/config.ts";
import { loadKeyRing } from "../src/crypto/loadKeyRing.ts";
import { openDatabase } from "../src/db/database.ts";
import { assertMigrated } from "../src/db/migrate.ts";
import { withOwnerPool } from "../src/db/pools.ts";
import { runProgram } from "../src/program.ts";
import { loadSecrets } from "../src/secrets.ts";

const USAGE = `npm run audit:rotate                    a new key for audit seals, which the one before vouches for
npm run audit:rotate -- --unendorsed    where the one before cannot be opened any more: verify with --trust KEYID then`;

/** Rotates the key of audit seals. The old private key is destroyed; the public one stays published. */
await runProgram(
  async (onStop, say) => {
    const { unendorsed } = parse();
    const config = loadConfig();
    const keyRing = await loadKeyRing(config, () => loadSecrets(resolve(config.DATA_DIR), { create: false }));
    const database = await openDatabase(config, { purpose: "npm run audit:rotate", join: true });
    onStop(() => database.close());
    await assertMigrated(database.urls.owner);
    await withOwnerPool(database.urls.owner, pino({ level: "warn" }), async (owner) => {
      const { keyId, endorsedBy } = await rotateAuditKey(owner, keyRing, { unendorsed });
      say(
        `Key ${keyId} signs the audit log from now on${endorsedBy ? `; ${endorsedBy} vouches for it` : ""}.`,
      );
    });
  },
  { once: true },
);

function parse(): { unendorsed: boolean } {
  try {
    const { values } = parseArgs({ options: { unendorsed: { type: "boolean" } } });
    return { unendorsed: values.unendorsed ?? false };
  } catch (error) {
    throw new UserError(`${error instanceof Error ? error.message : String(error)}.\n\n${USAGE}`);
  }
}
