import { join } from "node:path";
import type { Logger } from "pino";
import { ensureAuditKey } from "../../src/audit/keys.ts";
import type { KeyRing } from "../../src/crypto/keyRing.ts";
import { startWorker, type Worker } from "../../src/worker/runner.ts";
import type { Connector } from "../../tasks/connectors/connector.ts";
import { simulatorFetch, testKeyRing } from "./api.ts";
import { silent, type TestDatabase } from "./database.ts";
import { type Mailbox, makeMailbox } from "./mailbox.ts";

/** The real worker, with a mailbox of its own. */
export async function startTestWorker(
  database: TestDatabase,
  options: {
    keyRing?: KeyRing;
    simulatorUrl?: string;
    mailbox?: Mailbox;
    concurrency?: number;
    connectors?: readonly Connector[];
    log?: Logger;
    fetch?: typeof globalThis.fetch;
  } = {},
): Promise<Worker & { mailbox: Mailbox }> {
  const mailbox = options.mailbox ?? (await makeMailbox());
  const publicFetch = simulatorFetch(options.simulatorUrl);
  await ensureAuditKey(database.owner, options.keyRing ?? testKeyRing);
  const worker = await startWorker({
    workerPool: database.worker,
    concurrency: options.concurrency ?? 2,
    log: options.log ?? silent,
    ...(options.connectors ? { connectors: options.connectors } : {}),
    keyRing: options.keyRing ?? testKeyRing,
    simulatorUrl: options.simulatorUrl,
    fetch: options.fetch ?? publicFetch.fetch,
    anchorDir: join(mailbox.folder, "..", "audit-anchors"),
    mail: mailbox.transport,
    frontendUrl: undefined,
  });
  return {
    mailbox,
    async stop() {
      await worker.stop();
      await publicFetch.close();
      await mailbox.remove();
    },
  };
}
