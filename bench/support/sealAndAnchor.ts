import { pino } from "pino";
import { anchorSeals } from "../../src/audit/anchor.ts";
import { sealAudit } from "../../src/audit/sealer.ts";
import { makeKeyRing } from "../../src/crypto/keyRing.ts";
import { makePool } from "../../src/db/pools.ts";

// Seals and anchors what waits, as a worker does that is a process of its own. Says how many rows.
const [, , url = "", anchorDir = "", key = ""] = process.argv;
const log = pino({ level: "silent" });
const pool = makePool(url, { name: "sealer", max: 2, log });
const count = await sealAudit({ pool, keyRing: makeKeyRing([{ id: "bench", key }]), log });
await anchorSeals({ pool, anchorDir, log });
console.log(String(count));
await pool.end();
