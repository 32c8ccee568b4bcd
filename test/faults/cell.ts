import type { TestDatabase } from "../support/database.ts";
import { connect, watchSyncs } from "../support/syncs.ts";
import { createTenant } from "../support/tenants.ts";
import type { Fault, FaultyProvider, Simulated, TrueEvent, WebhookAddress } from "./fault.ts";
import type { Watch } from "./watch.ts";

/** What the syncs of a cell did about its fault, in the words of docs/faults.md. */
export type Outcome = { provider: string; fault: string; response: string; rows: number };

/** A busy machine takes its time. */
const PATIENCE_MS = 90_000;

/** What all cells share. */
export type Stage = {
  database: TestDatabase;
  watch: Watch;
  webhooks: (integrationId: string) => WebhookAddress;
};

/** Syncs an account with a fault to the end, as a patient person would, then compares every row with the provider's truth. */
export async function tryCell<Account extends Simulated>(
  { database, watch, webhooks }: Stage,
  { provider }: FaultyProvider<Account>,
  fault: Fault<Account>,
  account: Account,
): Promise<Outcome> {
  const { owner } = database;
  const slug = `${provider}-${account.marks[0].replace("_", "")}`.toLowerCase();
  const tenant = await createTenant(owner, slug, { events: [] });
  const { integrationId } = tenant;
  await owner.query("update integrations set provider = $2 where id = $1", [integrationId, provider]);
  let version = 1;
  await connect(database, tenant, { config: account.config, credentials: account.credentials, version });
  watch.setLimits(integrationId, account.limits);
  const { request } = watchSyncs(database, integrationId);
  const stops = new Set<string>();

  async function syncToEnd(trigger: "manual" | "full_refresh" = "manual") {
    for (let attempt = 1; ; attempt++) {
      await request(null, trigger);
      const { sync_status, error_class } = await watch.until(
        integrationId,
        ({ sync_status }) => sync_status === "succeeded" || sync_status === "failed",
        PATIENCE_MS,
      );
      if (sync_status === "succeeded") return;
      if (attempt === 4) throw new Error(`The sync stops again and again: ${error_class}.`);
      stops.add(`stops: \`${error_class}\``);
      fault.mend?.(account);
      if (error_class === "needs_reauth")
        await connect(database, tenant, { credentials: account.credentials, version: ++version });
    }
  }

  fault.during?.(account);
  await syncToEnd();
  if (fault.after) {
    await fault.after(account, webhooks(integrationId));
    if (fault.trigger === "none")
      await watch.until(
        integrationId,
        ({ webhooks, sync_status }) => webhooks === 0 && sync_status === "succeeded",
        PATIENCE_MS,
      );
    else await syncToEnd(fault.trigger);
  }
  if (!fault.happened(account)) throw new Error("The fault did not happen.");
  const rows = await compare(database, `${provider}:${integrationId}`, account.truth());
  return { provider, fault: fault.name, response: wordsOf(stops, watch.waited(integrationId)), rows };
}

async function compare(database: TestDatabase, source: string, truth: TrueEvent[]): Promise<number> {
  const { rows } = await database.owner.query(
    `select source_id, event_type, event_name, timestamp, value::text, currency
       from analytics_events where source = $1`,
    [source],
  );
  const line = (event: TrueEvent) =>
    [
      event.sourceId,
      event.eventType,
      event.eventName,
      event.timestamp,
      Number(event.value),
      event.currency,
    ].join(" ");
  const found = new Set(
    rows.map((row) =>
      line({
        sourceId: row.source_id,
        eventType: row.event_type,
        eventName: row.event_name,
        timestamp: row.timestamp.toISOString(),
        value: row.value,
        currency: row.currency,
      }),
    ),
  );
  const wanted = new Set(truth.map(line));
  const missing = [...wanted].filter((event) => !found.has(event));
  const wrong = [...found].filter((event) => !wanted.has(event));
  if (missing.length > 0 || wrong.length > 0 || found.size !== rows.length || rows.length === 0)
    throw new Error(
      `Of ${truth.length} rows ${missing.length} are missing and ${wrong.length} wrong, such as\n${[missing[0], wrong[0]].join("\n")}`,
    );
  return rows.length;
}

function wordsOf(stops: Set<string>, waited: ReadonlySet<string>): string {
  if (stops.size > 0) return [...stops].sort().join(", ");
  if (waited.has("provider")) return "waits";
  return waited.has("retry") ? "tries again" : "goes on";
}
