import { generateDataKey, type KeyRing, seal } from "../../src/crypto/keyRing.ts";
import { testKeyRing } from "./api.ts";
import type { TestDatabase } from "./database.ts";
import type { TestTenant } from "./tenants.ts";
import { until } from "./until.ts";

/** Settings and sealed credentials of a tenant's integration, or of one more. */
export async function connect(
  { owner }: Pick<TestDatabase, "owner">,
  { id: tenantId, integrationId }: Pick<TestTenant, "id" | "integrationId">,
  options: { credentials?: object; config?: object; keyRing?: KeyRing; version?: number } = {},
): Promise<void> {
  const { credentials = { token: "token-1" }, config, keyRing = testKeyRing, version = 1 } = options;
  const dataKey = generateDataKey();
  const { rows } = await owner.query(
    "select coalesce(max(version), 0) + 1 as version from app_private.tenant_keys where tenant_id = $1",
    [tenantId],
  );
  const keyVersion: number = rows[0].version;
  const { kekId, wrapped } = keyRing.wrap(dataKey, { tenantId, version: keyVersion });
  await owner.query(
    "insert into app_private.tenant_keys (tenant_id, version, kek_id, wrapped_key) values ($1, $2, $3, $4)",
    [tenantId, keyVersion, kekId, wrapped],
  );
  const place = { tenantId, table: "integration_credentials", rowId: integrationId, version };
  await owner.query(
    `insert into app_private.integration_credentials (tenant_id, integration_id, version, key_version, ciphertext)
     values ($1, $2, $3, $4, $5)
     on conflict (tenant_id, integration_id) do update
        set version = excluded.version, key_version = excluded.key_version, ciphertext = excluded.ciphertext`,
    [tenantId, integrationId, version, keyVersion, seal(JSON.stringify(credentials), dataKey, place)],
  );
  if (config) await owner.query("update integrations set config = $2 where id = $1", [integrationId, config]);
}

/** Looks at and asks for the syncs of one integration. */
export function watchSyncs(database: TestDatabase, integrationId: string) {
  const { owner } = database;
  const one = async (sql: string, ...values: unknown[]) => (await owner.query(sql, values)).rows[0];
  const integration = () => one("select * from integrations where id = $1", integrationId);
  const runs = async (kind = "incremental") =>
    (
      await owner.query(
        `select r.*, s.name as stream from integration_runs r join integration_streams s on s.id = r.stream_id
          where r.integration_id = $1 and r.kind = $2 order by r.requested_at, r.id`,
        [integrationId, kind],
      )
    ).rows;
  return {
    integration,
    runs,
    stream: (name = "orders") =>
      one("select * from integration_streams where integration_id = $1 and name = $2", integrationId, name),
    /** As the schedule does. */
    async request(streams: string[] | null = null, trigger = "manual") {
      const client = await owner.connect();
      try {
        await client.query("begin");
        await client.query(
          "select set_config('app.tenant_id', tenant_id::text, true) from app_hidden.integration_tenant($1) tenant_id",
          [integrationId],
        );
        await client.query("select app_hidden.request_sync(app_hidden.current_tenant_id(), $1, $2, $3)", [
          integrationId,
          streams,
          trigger,
        ]);
        await client.query("commit");
      } finally {
        client.release();
      }
    },
    ended: (timeoutMs?: number) =>
      until(
        integration,
        ({ sync_status }) => ["succeeded", "failed", "canceled"].includes(sync_status),
        timeoutMs,
      ),
    lastRun: (kind?: string, timeoutMs?: number) =>
      until(
        async () => (await runs(kind)).at(-1),
        (run) => run?.ended_at != null,
        timeoutMs,
      ),
    /** Does not wait for backoffs and pauses. */
    hurry: () =>
      owner.query(
        "update graphile_worker._private_jobs set run_at = now() where key like 'run:%' and locked_at is null",
      ),
    events: async () =>
      (
        await owner.query(
          "select source_id from analytics_events where source = 'square:' || $1 order by timestamp",
          [integrationId],
        )
      ).rows.map(({ source_id }): string => source_id),
  };
}
