import { writeFile } from "node:fs/promises";
import { runProgram } from "../src/program.ts";
import { DOCUMENT, printMatrix } from "../test/faults/document.ts";
import globalSetup from "../test/support/globalSetup.ts";
import globalTeardown from "../test/support/globalTeardown.ts";

/** Tries every fault of every provider, and rewrites docs/faults.md. Names, as arguments, try only those and write nothing. */
await runProgram(
  async (onStop, say) => {
    await globalSetup();
    onStop(async () => {
      await globalTeardown();
      if (globalThis.erpTestsLeak) throw new Error("A secret was written down.");
    });
    // Only now: it logs into the folder of this run.
    const { providers, tryMatrix } = await import("../test/faults/matrix.ts");
    const names = process.argv.slice(2);
    const { outcomes, failures } = await tryMatrix(
      ({ provider, name }) => names.length === 0 || names.includes(name) || names.includes(provider),
    );
    for (const { provider, fault, response, rows } of outcomes)
      say(`${provider}, ${fault}: ${response}; ${rows} rows are equal.`);
    for (const { provider, fault, error } of failures) say(`${provider}, ${fault}: ${error}`);
    if (failures.length > 0) throw new Error(`${failures.length} cells do not end with the provider's rows.`);
    if (names.length > 0) return;
    await writeFile(DOCUMENT, printMatrix(providers, outcomes));
    say(`docs/faults.md has ${outcomes.length} cells.`);
  },
  { once: true },
);
