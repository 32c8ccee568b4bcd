import type { KeyRing } from "../../src/crypto/keyRing.ts";
import { startWorker, type Worker } from "../../src/worker/runner.ts";
import type { Connector } from "../../tasks/connectors/connector.ts";
import { testKeyRing } from "./api.ts";
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
    connectorFor?: (provider: string) => Connector;
    fetch?: typeof globalThis.fetch;
  } = {},
): Promise<Worker & { mailbox: Mailbox }> {
  const mailbox = options.mailbox ?? (await makeMailbox());
  const worker = await startWorker({
    workerPool: database.worker,
    concurrency: options.concurrency ?? 2,
    log: silent,
    keyRing: options.keyRing ?? testKeyRing,
    simulatorUrl: options.simulatorUrl,
    fetch: options.fetch ?? fetch,
    ...(options.connectorFor ? { connectorFor: options.connectorFor } : {}),
    mail: mailbox.transport,
    frontendUrl: undefined,
  });
  return {
    mailbox,
    async stop() {
      await worker.stop();
      await mailbox.remove();
    },
  };
}
