import type { CronItem, TaskList } from "graphile-worker";
import type pg from "pg";
import type { Logger } from "pino";
import type { KeyRing } from "../src/crypto/keyRing.ts";
import type { MailTransport } from "../src/mail/transport.ts";
import { cancelAnalystStatements } from "./cancel_analyst_statements.ts";
import type { Connector } from "./connectors/connector.ts";
import { maintainPartitions } from "./maintain_partitions.ts";
import { processWebhook } from "./process_webhook.ts";
import { promoteSubjects } from "./promote_subjects.ts";
import { purgeAudit } from "./purge_audit.ts";
import { purgeEvents } from "./purge_events.ts";
import { purgeExpired } from "./purge_expired.ts";
import { purgeSecrets } from "./purge_secrets.ts";
import { refreshRollups } from "./refresh_rollups.ts";
import { sealAuditLogs } from "./seal_audit.ts";
import { sendMail } from "./send_mail.ts";
import { startPasswordReset } from "./start_password_reset.ts";
import { syncAfterWebhooks } from "./sync_after_webhooks.ts";
import { syncDueIntegrations } from "./sync_due_integrations.ts";
import { syncIntegration } from "./sync_integration.ts";
import { syncStream } from "./sync_stream.ts";
import { tendUploads } from "./tend_uploads.ts";

export type TaskServices = {
  pool: pg.Pool;
  log: Logger;
  keyRing: KeyRing;
  /** Where integrations with the environment "simulator" find their provider; undefined where none may. */
  simulatorUrl: string | undefined;
  /** Calls providers, at public addresses only. */
  fetch: typeof globalThis.fetch;
  connectors: readonly Connector[];
  mail: MailTransport;
  /** Folder outside the database that gets every audit seal. */
  anchorDir: string;
  /** Where the links in mails lead. */
  frontendUrl: string | undefined;
};

/** The name of a task is its file's name and the string in add_job. */
export const makeTaskList = (services: TaskServices): TaskList => ({
  // Opens a run of each of an integration's streams. Enqueued by app_hidden.request_sync.
  sync_integration: syncIntegration(services),
  // Pulls a run's data, page by page. Enqueued by app_private.enqueue_run.
  sync_stream: syncStream(services),
  // Enqueues what is due, and takes up runs whose job is gone.
  sync_due_integrations: syncDueIntegrations(services),
  // Turns what a provider sent into events. Enqueued by app_hidden.receive_webhook.
  process_webhook: processWebhook(services),
  // Syncs what webhooks say has changed, once for a burst of them. Enqueued by app_hidden.finish_webhook.
  sync_after_webhooks: syncAfterWebhooks(services),
  // Makes the months ahead, and those of which events wait in the default partition.
  maintain_partitions: maintainPartitions(services),
  // Enqueued by app_private.issue_token and send_notice.
  send_mail: sendMail(services),
  // Enqueued by app_hidden.request_password_reset.
  start_password_reset: startPasswordReset(services),
  // Deletes what has ended.
  purge_expired: purgeExpired(services),
  // Deletes what providers sent, credentials and data keys, once they have had their time.
  purge_secrets: purgeSecrets(services),
  // Deletes events that their tenants no longer keep.
  purge_events: purgeEvents(services),
  // Deletes what tenants no longer keep of their audit logs.
  purge_audit: purgeAudit(services),
  // Ends what analysts run for too long, and shuts out those whose tenant's trial has ended.
  cancel_analyst_statements: cancelAnalystStatements(services),
  // Sets the subject of events that were there before it was declared.
  promote_subjects: promoteSubjects(services),
  // Deletes uploads that nobody will finish, and has files read that wait.
  tend_uploads: tendUploads(services),
  // Computes the rollups of what changed.
  refresh_rollups: refreshRollups(services),
  // Seals the audit log, and anchors the seals.
  seal_audit: sealAuditLogs(services),
});

export const schedule: CronItem[] = [
  { task: "sync_due_integrations", match: "* * * * *", options: { backfillPeriod: 0 } },
  { task: "maintain_partitions", match: "* * * * *", options: { backfillPeriod: 0 } },
  { task: "cancel_analyst_statements", match: "* * * * *", options: { backfillPeriod: 0 } },
  { task: "tend_uploads", match: "* * * * *", options: { backfillPeriod: 0 } },
  { task: "refresh_rollups", match: "* * * * *", options: { backfillPeriod: 0 } },
  { task: "seal_audit", match: "* * * * *", options: { backfillPeriod: 0 } },
  { task: "promote_subjects", match: "*/5 * * * *", options: { backfillPeriod: 0 } },
  { task: "purge_events", match: "23 * * * *", options: { backfillPeriod: 0 } },
  { task: "purge_secrets", match: "47 * * * *", options: { backfillPeriod: 3_600_000 } },
  { task: "purge_audit", match: "11 2 * * *", options: { backfillPeriod: 86_400_000 } },
  { task: "purge_expired", match: "41 3 * * *", options: { backfillPeriod: 86_400_000 } },
];
