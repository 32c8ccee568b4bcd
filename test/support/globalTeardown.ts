import { readdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { TemporaryCluster } from "../../scripts/support/temporaryCluster.ts";
import { withClient } from "../../src/db/pools.ts";
import { logFolder, makeSuiteLog } from "./runFolder.ts";
import { SecretSearch, searchedInAll } from "./secretSearch.ts";
import { secret, secrets } from "./secrets.ts";

/** The end of a run: no table and no log holds a secret that a test has used. */
export default async function globalTeardown() {
  const cluster = globalThis.erpTestCluster;
  if (!cluster) return;
  try {
    const search = await searchEverything(cluster);
    search.report();
    const used = secrets().length;
    await findCanary(cluster);
    const { tables, bytes } = searchedInAll();
    process.stdout.write(
      `Secrets: ${used}, in none of ${tables} tables and logs (${Math.ceil(bytes / 1e6)} MB); the canary was found.\n`,
    );
  } catch (error) {
    // Thrown, it would swallow the run's closing line, which counts it as a failure.
    globalThis.erpTestsLeak = true;
    process.exitCode = 1;
    process.stderr.write(`\n${error instanceof Error ? error.stack : error}\n\n`);
  } finally {
    await cluster.remove();
    await rm(dirname(logFolder()), { recursive: true, force: true });
  }
}

/** What is still there: databases are searched when they are dropped, too. */
async function searchEverything(cluster: TemporaryCluster): Promise<SecretSearch> {
  const search = new SecretSearch();
  const { rows } = await withClient(cluster.url("postgres", "postgres"), (client) =>
    client.query<{ datname: string }>("select datname from pg_database where datallowconn order by 1"),
  );
  for (const { datname } of rows) await search.database(cluster.url("postgres", datname));
  const logs = (await readdir(logFolder())).map((name) => join(logFolder(), name));
  for (const log of [...logs, cluster.logFile]) await search.file(log);
  return search;
}

/** A search that finds nothing proves something only if it would find something. */
async function findCanary(cluster: TemporaryCluster): Promise<void> {
  const canary = secret("canary");
  const bytes = Buffer.from(canary);
  const written = {
    plain: canary,
    hex: bytes.toString("hex"),
    "base64+0": bytes.toString("base64"),
    "base64+1": Buffer.from(`:${canary}`).toString("base64"),
    "base64url+2": Buffer.from(`::${canary}`).toString("base64url"),
    URL: encodeURIComponent(canary),
  };
  await withClient(cluster.url("postgres", "postgres"), async (client) => {
    await client.query("create table canary (as_text text, as_json jsonb, as_bytes bytea)");
    for (const text of Object.values(written))
      await client.query("insert into canary values ($1, $2, $3)", [text, JSON.stringify([text]), bytes]);
    await client.query(`do $$ begin raise log '%', ${client.escapeLiteral(written.URL)}; end $$`);
  });
  makeSuiteLog().trace({ authorization: `Bearer ${canary}` }, "canary");
  const { findings } = await searchEverything(cluster);
  const found = (place: RegExp) =>
    new Set(findings.filter((finding) => place.test(finding.place)).map(({ encoding }) => encoding));
  const inTable = found(/public\.canary/);
  // Without + and /, base64 and base64url are the same.
  const isFound = (encoding: string) => inTable.has(encoding) || inTable.has(encoding.replace("url", ""));
  const missed = Object.keys(written).filter((encoding) => !isFound(encoding));
  if (!found(/\.ndjson/).has("plain")) missed.push("the suite's log");
  if (!found(/postgres\.log/).has("URL")) missed.push("the server's log");
  if (missed.length > 0)
    throw new Error(`The search for secrets did not find its canary: ${missed.join(", ")}.`);
}
