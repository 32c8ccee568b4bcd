import { mkdirSync } from "node:fs";
import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Logger, pino } from "pino";
import { z } from "zod";

/** Where a run of the tests keeps what its end looks at: the secrets that were used, and all that was logged. */
export const runFolder = () => z.string().parse(process.env.ERP_TEST_FOLDER);

export async function makeRunFolder(): Promise<void> {
  process.env.ERP_TEST_FOLDER = await mkdtemp(join(tmpdir(), "erp-tests-"));
  mkdirSync(logFolder());
  for (const file of [secretsFile(), searchesFile()]) await writeFile(file, "");
}

export const secretsFile = () => join(runFolder(), "secrets.ndjson");
export const searchesFile = () => join(runFolder(), "searches.ndjson");
export const logFolder = () => join(runFolder(), "logs");

/** A log at its most talkative, in a file. */
export const makeSuiteLog = (): Logger =>
  pino(
    { level: "trace" },
    pino.destination({ dest: join(logFolder(), `${process.pid}.ndjson`), sync: true }),
  );
