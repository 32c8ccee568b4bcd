import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { runProgram } from "../src/program.ts";
import { makeContracts } from "./support/contracts.ts";
import { makeMigratedDatabase, startTemporaryCluster } from "./support/temporaryCluster.ts";

/** Rewrites the committed contracts from the migrations, migrations/current included. */
await runProgram(
  async (onStop, say) => {
    const cluster = await startTemporaryCluster();
    onStop(cluster.remove);
    for (const { name, file, text } of await makeContracts(await makeMigratedDatabase(cluster))) {
      const committed = await readFile(file, "utf8").catch(() => undefined);
      if (committed !== text) {
        await mkdir(dirname(file), { recursive: true });
        await writeFile(file, text);
      }
      say(`${committed === text ? "unchanged" : "changed  "}  ${name}`);
    }
  },
  { once: true },
);
