import { resolve } from "node:path";
import { loadConfig, UserError } from "../src/config.ts";
import { loadKeyRing } from "../src/crypto/loadKeyRing.ts";
import { openDatabase } from "../src/db/database.ts";
import { migrate } from "../src/db/migrate.ts";
import { runProgram } from "../src/program.ts";
import { loadSecrets } from "../src/secrets.ts";
import { reseedDemo } from "./demo.ts";

/** (Re)creates the demo data, where it would be alone. */
await runProgram(
  async (onStop, say) => {
    const config = loadConfig();
    if (config.NODE_ENV === "production")
      throw new UserError("The demo data has known passwords: it does not go where NODE_ENV is production.");
    const database = await openDatabase(config, { purpose: "npm run demo:seed", join: true });
    onStop(() => database.close());
    await migrate(database.urls);
    const keyRing = await loadKeyRing(config, () => loadSecrets(resolve(config.DATA_DIR)));
    await reseedDemo(database.urls.owner, keyRing, say);
  },
  { once: true },
);
