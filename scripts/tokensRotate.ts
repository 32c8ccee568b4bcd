import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { pino } from "pino";
import { revokeTokenKey, rotateTokenKey } from "../src/auth/tokenKeyRotation.ts";
import { loadConfig, UserError } from "../src/config.ts";
import { loadKeyRing } from "../src/crypto/loadKeyRing.ts";
import { openDatabase } from "../src/db/database.ts";
import { assertMigrated } from "../src/db/migrate.ts";
import { withOwnerPool } from "../src/db/pools.ts";
import { runProgram } from "../src/program.ts";
import { loadSecrets } from "../src/secrets.ts";

const USAGE = `npm run tokens:rotate                  a new signing key, which signs in ten minutes
npm run tokens:rotate -- --now          it signs at once: instances need up to 30 seconds to learn of it
npm run tokens:rotate -- --revoke KID   ends a key that somebody else may have, with the tokens that it signed`;

/** Rotates the keys of access tokens. Nobody is signed out: a replaced key verifies until its last token has expired. */
await runProgram(
  async (onStop, say) => {
    const options = parse();
    const config = loadConfig();
    const log = pino({ level: "warn" });
    const keyRing = await loadKeyRing(config, () => loadSecrets(resolve(config.DATA_DIR), { create: false }));
    const database = await openDatabase(config, { purpose: "npm run tokens:rotate", join: true });
    onStop(() => database.close());
    await assertMigrated(database.urls.owner);
    await withOwnerPool(database.urls.owner, log, async (owner) => {
      if (options.revoke !== undefined) {
        const revoked = await revokeTokenKey(owner, keyRing, options.revoke);
        if (!revoked)
          throw new UserError(
            `There is no live key "${options.revoke}". /.well-known/jwks.json lists their ids ("kid").`,
          );
        return say(
          `Key ${options.revoke} is revoked: within 30 seconds no instance takes its tokens, and clients refresh theirs.${
            revoked.successor
              ? ` Key ${revoked.successor.kid} signs from ${revoked.successor.signsFrom.toISOString()}.`
              : ""
          }`,
        );
      }
      const { kid, signsFrom, othersVerifyUntil } = await rotateTokenKey(owner, keyRing, {
        now: options.now,
      });
      say(
        `Key ${kid} signs from ${signsFrom.toISOString()}. The keys before it verify until ${othersVerifyUntil.toISOString()}: nobody is signed out.`,
      );
    });
  },
  { once: true },
);

function parse(): { now: boolean; revoke: string | undefined } {
  try {
    const { values } = parseArgs({ options: { now: { type: "boolean" }, revoke: { type: "string" } } });
    if (values.now && values.revoke !== undefined) throw new Error("--now and --revoke exclude each other");
    return { now: values.now ?? false, revoke: values.revoke };
  } catch (error) {
    throw new UserError(`${error instanceof Error ? error.message : String(error)}.\n\n${USAGE}`);
  }
}
