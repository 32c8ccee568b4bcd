import { join } from "node:path";
import { ensureAuditKey } from "../../src/audit/keys.ts";
import type { KeyRing } from "../../src/crypto/keyRing.ts";
import { startWorker, type Worker } from "../../src/worker/runner.ts";
import { testKeyRing } from "./api.ts";
import { silent, type TestDatabase } from "./database.ts";
import { type Mailbox, makeMailbox } from "./mailbox.ts";

/** The real worker, with a mailbox of its own. */
export async function startTestWorker(
  database: TestDatabase,
  options: { keyRing?: KeyRing; simulatorUrl?: string; mailbox?: Mailbox } = {},
): Promise<Worker & { mailbox: Mailbox }> {
  const mailbox = options.mailbox ?? (await makeMailbox());
  await ensureAuditKey(database.owner, options.keyRing ?? testKeyRing);
  const worker = await startWorker({
    workerPool: database.worker,
    concurrency: 2,
    log: silent,
    keyRing: options.keyRing ?? testKeyRing,
    simulatorUrl: options.simulatorUrl,
    anchorDir: join(mailbox.folder, "..", "audit-anchors"),
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
