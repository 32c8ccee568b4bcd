import { createServer } from "node:http";
import { join, resolve } from "node:path";
import { pino } from "pino";
import { createApp } from "./app.ts";
import { ensureAuditKey } from "./audit/keys.ts";
import { ensureTokenKey } from "./auth/tokenKeyRotation.ts";
import { openTokenKeys } from "./auth/tokenKeys.ts";
import { makeTokenService } from "./auth/tokens.ts";
import { type Config, loadConfig, UserError } from "./config.ts";
import { loadKeyRing } from "./crypto/loadKeyRing.ts";
import { openDatabase } from "./db/database.ts";
import { applyCurrent, assertMigrated, migrate, watchCurrent } from "./db/migrate.ts";
import { makePool, withOwnerPool } from "./db/pools.ts";
import { holdDataDir } from "./embedded/dataDirLock.ts";
import { hostAndPort } from "./http/publicAddress.ts";
import { makePublicFetch } from "./http/publicFetch.ts";
import { listen, stopListening } from "./listen.ts";
import { makeMailTransport } from "./mail/transport.ts";
import { runProgram } from "./program.ts";
import { loadSecrets, mayCreateSecrets } from "./secrets.ts";
import { startWorker } from "./worker/runner.ts";

const parts = ["all", "dev", "api", "worker"] as const;
type Part = (typeof parts)[number];

function parsePart(args: string[]): Part {
  const [name = "all", ...rest] = args;
  const part = parts.find((known) => known === name);
  if (!part || rest.length > 0)
    throw new UserError(
      `Unknown argument "${args.join(" ")}". Settings are environment variables: PORT=4001 npm start.`,
    );
  return part;
}

/** Starts what this process is to be, in order; what was started is stopped in reverse. */
async function main(
  onStop: (stop: () => Promise<unknown>) => void,
  say: (sentence: string) => void,
  signal: AbortSignal,
) {
  const part = parsePart(process.argv.slice(2));
  const config = loadConfig();
  const log = pino({ level: config.LOG_LEVEL });
  const whole = part === "all" || part === "dev";
  if (!whole && !config.DATABASE_URL)
    throw new UserError(
      `\`npm run ${part}\` needs DATABASE_URL; \`npm start\` runs everything with an embedded PostgreSQL.`,
    );

  const purpose = part === "dev" ? "npm run dev" : "npm start";
  const dataDir = resolve(config.DATA_DIR);
  // Who holds the folder matters more than who holds the port.
  if (!config.DATABASE_URL) await (await holdDataDir(dataDir, purpose)).release();
  // Listens first, so that a taken port is known before anything else starts; answers 503 until the API stands.
  const server = createServer((_request, response) => {
    response.writeHead(503, { "content-type": "application/json", "retry-after": "1" });
    response.end(JSON.stringify({ status: "starting" }));
  });
  if (part !== "worker") await listen(server, config);

  const secrets = await loadSecrets(dataDir, { create: mayCreateSecrets(config) });
  const keyRing = await loadKeyRing(config, async () => secrets);

  const database = await openDatabase(config, { purpose, say });
  onStop(() => database.close());
  signal.throwIfAborted();
  const { urls } = database;

  if (whole) await migrate(urls);
  else await assertMigrated(urls.owner);
  signal.throwIfAborted();
  // Before the demo data, whose locks its own might wait for; whoever edits it sees what is wrong, and goes on.
  if (part === "dev")
    await applyCurrent(urls.owner).catch((error: Error) => say(`migrations/current: ${error.message}`));

  // The demo's own simulator and data, in a cluster that is ours alone.
  const demo = whole && database.embedded && config.NODE_ENV !== "production";
  let simulatorUrl = config.SIMULATOR_URL ?? defaultSimulatorUrl(config);
  if (demo) {
    const { startDemo } = await import("../scripts/demo.ts");
    const running = await startDemo({
      ownerUrl: urls.owner,
      keyRing,
      simulatorPort: config.SIMULATOR_PORT,
      say,
      signal,
    });
    onStop(() => running.close());
    simulatorUrl = running.simulatorUrl;
  }
  if (part === "dev") await watchCurrent(urls.owner);
  const publicFetch = makePublicFetch({
    privateAddresses: [
      ...config.PRIVATE_PROVIDER_ADDRESSES,
      ...(simulatorUrl ? [hostAndPort(new URL(simulatorUrl))] : []),
    ],
  });
  onStop(() => publicFetch.close());

  let closeSockets = () => {};
  if (part !== "worker") {
    const authenticatorPool = makePool(urls.authenticator, { name: "api", max: 20, log, pipeline: true });
    onStop(() => authenticatorPool.end());
    await withOwnerPool(urls.owner, log, (owner) => ensureTokenKey(owner, keyRing));
    const tokenKeys = await openTokenKeys({ pool: authenticatorPool, keyRing, log });
    onStop(async () => tokenKeys.close());
    const issuer = config.PUBLIC_URL ?? "erp-analytics";
    const tokens = makeTokenService(tokenKeys, { issuer, audience: "erp-analytics" });
    const publicUrl = config.PUBLIC_URL ?? localUrl(config);
    const app = await createApp({
      config,
      authenticatorPool,
      tokens,
      keyRing,
      publicUrl,
      simulatorUrl,
      fetch: publicFetch.fetch,
      listenUrl: urls.authenticator,
      log,
      watch: part === "dev",
    });
    onStop(() => app.close());
    server.removeAllListeners("request").on("request", app.express);
    server.on("upgrade", app.sockets.upgrade);
    closeSockets = () => app.sockets.close();
  }
  if (part !== "api") {
    // A sync asks whether it may call while it writes. Patient: to a worker, a moment without a connection is no end.
    const workerPool = makePool(urls.worker, {
      name: "worker",
      max: 2 * config.JOB_CONCURRENCY + 4,
      log,
      patienceMs: 10_000,
    });
    onStop(() => workerPool.end());
    const mail = makeMailTransport(config, { mailDir: join(dataDir, "mail"), log });
    onStop(async () => mail.close());
    await withOwnerPool(urls.owner, log, (owner) => ensureAuditKey(owner, keyRing));
    const worker = await startWorker({
      workerPool,
      concurrency: config.JOB_CONCURRENCY,
      log,
      keyRing,
      simulatorUrl,
      fetch: publicFetch.fetch,
      anchorDir: resolve(config.AUDIT_ANCHOR_DIR ?? join(dataDir, "audit-anchors")),
      mail,
      frontendUrl: config.FRONTEND_URL,
    });
    onStop(() => worker.stop());
  }
  // Registered last, to stop first: what requests need stays until they have ended.
  if (part !== "worker")
    onStop(async () => {
      closeSockets();
      await stopListening(server, part === "dev" ? 1_000 : 25_000);
    });
  if (part === "worker") say("The worker is running. Ctrl-C stops it.");
  else {
    const { welcome } = await import("./welcome.ts");
    say(welcome({ config, urls, demo }));
  }
}

/** Where a simulator on this machine finds us; in production, only PUBLIC_URL says how providers do. */
function localUrl(config: Config) {
  return config.NODE_ENV === "production" ? undefined : `http://${config.HOST}:${config.PORT}`;
}

function defaultSimulatorUrl(config: Config) {
  return config.NODE_ENV === "production" ? undefined : `http://127.0.0.1:${config.SIMULATOR_PORT}`;
}

await runProgram(main);
