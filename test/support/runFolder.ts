import { mkdirSync } from "node:fs";
import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Logger, pino } from "pino";
import { z } from "zod";

/**
 * Where a run of the tests keeps what its end looks at: the secrets that were used, and all that was logged. Scripts that
 * use what tests use have none.
 */
export const runFolder = () => process.env.ERP_TEST_FOLDER;

export async function makeRunFolder(): Promise<void> {
  process.env.ERP_TEST_FOLDER = await mkdtemp(join(tmpdir(), "erp-tests-"));
  mkdirSync(logFolder());
  for (const file of [secretsFile(), searchesFile()]) await writeFile(file, "");
}

const inFolder = (name: string) => join(z.string().parse(runFolder()), name);
export const secretsFile = () => inFolder("secrets.ndjson");
export const searchesFile = () => inFolder("searches.ndjson");
export const logFolder = () => inFolder("logs");

/** A log at its most talkative, in a file. */
export const makeSuiteLog = (): Logger =>
  runFolder() === undefined
    ? pino({ level: "silent" })
    : pino(
        { level: "trace" },
        pino.destination({ dest: join(logFolder(), `${process.pid}.ndjson`), sync: true }),
      );
