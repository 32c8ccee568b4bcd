import { pino } from "pino";
import { anchorSeals } from "../../src/audit/anchor.ts";
import { sealAudit } from "../../src/audit/sealer.ts";
import { makeKeyRing } from "../../src/crypto/keyRing.ts";
import { makePool } from "../../src/db/pools.ts";

// Seals and anchors, over and over, a few rows at a time, until it is killed. Says one line for each round.
const [, , url = "", anchorDir = "", key = ""] = process.argv;
const log = pino({ level: "silent" });
const pool = makePool(url, { name: "sealer", max: 2, log });
const keyRing = makeKeyRing([{ id: "test", key }]);
for (;;) {
  const count = await sealAudit({ pool, keyRing, log, rowsAtOnce: 3 });
  await anchorSeals({ pool, anchorDir, log });
  console.log(String(count));
}
