import { jsonPgSmartTags } from "postgraphile/utils";

const noLookup = { tags: { behavior: "-single -update -delete" } };
/** A list below each row of another list multiplies: the root field has the same rows. */
const noList = { tags: { behavior: "-manyRelation:resource:list -manyRelation:resource:connection" } };
/** Nor a filter: whoever asks which users have such rows reads the log, and the record of that looks at fields alone. */
const noWayIn = { tags: { behavior: `${noList.tags.behavior} -filterBy` } };
/** Small tables may be filtered and ordered by what has no index. */
const filterable = (...names: string[]) =>
  Object.fromEntries(names.map((name) => [name, { tags: { isIndexed: true as const } }]));
/** Groups of one row each help nobody, and cost as much as the table. */
const notGrouped = { tags: { behavior: "-groupBy" } };
const notMeasured = (...names: string[]) =>
  Object.fromEntries(names.map((name) => [name, { tags: { behavior: "-groupBy -aggregate" } }]));
const aggregated = {
  behavior: "+aggregates +resource:aggregates +groupedAggregates +resource:groupedAggregates +having",
};
/** The texts of docs/events.md. */
const groupByProperties = [
  "accountId",
  "adId",
  "adSetId",
  "campaignId",
  "campaignName",
  "adSetName",
  "adName",
  "cardBrand",
  "channel",
  "country",
  "customerId",
  "device",
  "landingPath",
  "locationId",
  "method",
  "reason",
  "status",
];

/** Tags that do not belong into comments, which are the API's documentation. */
export const smartTags = jsonPgSmartTags({
  version: 1,
  config: {
    class: {
      "public.analytics_events": {
        tags: aggregated,
        attribute: {
          id: notGrouped,
          tenant_id: notGrouped,
          source_id: notGrouped,
          properties: { tags: { ...notGrouped.tags, groupByProperties } },
          value: notGrouped,
          subject: notGrouped,
        },
      },
      "public.metrics": { attribute: filterable("name", "created_at") },
      "public.integrations": {
        tags: aggregated,
        attribute: {
          ...filterable("enabled", "status", "sync_status", "error_class"),
          ...notMeasured("id", "tenant_id", "config", "description", "sync_error", "updated_at"),
          ...notMeasured("sync_interval_minutes", "next_sync_at", "failing_since", "credentials_set_at"),
          name: { tags: { isIndexed: true as const, behavior: "-groupBy -aggregate" } },
          last_sync_at: { tags: { isIndexed: true as const, behavior: "-groupBy" } },
          created_at: { tags: { isIndexed: true as const, behavior: "-groupBy" } },
        },
      },
      "public.integration_streams": { attribute: filterable("name", "state", "error_class") },
      "public.integration_runs": {
        attribute: filterable("trigger", "state", "requested_at", "started_at", "ended_at", "error_class"),
      },
      "public.rejected_records": { attribute: filterable("stream", "source_id", "created_at") },
      "public.users": {
        attribute: filterable("first_name", "last_name", "role", "status", "created_at", "last_login_at"),
      },
      "public.tenants": { attribute: filterable("name", "created_at", "trial_ends_at") },
      "public.sessions": { attribute: filterable("created_at", "last_used_at", "expires_at", "revoked_at") },
      "public.api_keys": {
        attribute: filterable("name", "created_at", "last_used_at", "expires_at", "revoked_at"),
      },
    },
    constraint: {
      "public.users.users_tenant_id_email_key": noLookup,
      "public.users.users_tenant_id_id_key": noLookup,
      "public.integrations.integrations_tenant_id_id_key": noLookup,
      "public.integration_streams.integration_streams_tenant_id_id_key": noLookup,
      "public.integration_streams.integration_streams_tenant_id_integration_id_name_key": noLookup,
      "public.integration_streams.integration_streams_tenant_id_integration_id_fkey": {
        tags: { foreignFieldName: "streams" },
      },
      "public.integration_runs.integration_runs_tenant_id_id_key": noLookup,
      "public.integration_runs.integration_runs_tenant_id_integration_id_fkey": {
        tags: { foreignFieldName: "runs" },
      },
      "public.integration_runs.integration_runs_tenant_id_stream_id_fkey": {
        tags: { foreignFieldName: "runs" },
      },
      "public.rejected_records.rejected_records_tenant_id_integration_id_fkey": {
        tags: { foreignFieldName: "rejectedRecords" },
      },
      "public.sessions.sessions_pkey": noLookup,
      "public.sessions.sessions_tenant_id_user_id_fkey": noList,
      "public.api_keys.api_keys_tenant_id_id_key": noLookup,
      "public.api_keys.api_keys_tenant_id_created_by_fkey": noList,
      "public.metrics.metrics_tenant_id_id_key": noLookup,
      "public.metrics.metrics_tenant_id_name_key": noLookup,
      "public.metrics.metrics_tenant_id_fkey": noList,
      "public.subject_properties.subject_properties_tenant_id_id_key": noLookup,
      "public.subject_properties.subject_properties_tenant_id_event_type_key": noLookup,
      "public.subject_properties.subject_properties_tenant_id_fkey": noList,
      "public.tenants.tenants_slug_key": { tags: { behavior: "-update -delete" } },
      "public.tenants.tenants_domain_key": { tags: { behavior: "-update -delete" } },
      "public.analytics_events.analytics_events_tenant_id_fkey": noList,
      "public.audit_logs.audit_logs_tenant_id_fkey": noWayIn,
      "public.audit_logs.audit_logs_tenant_id_user_id_fkey": noWayIn,
    },
    procedure: {
      "public.current_account": { tags: { name: "currentUser" } },
      "public.logout": { tags: { resultFieldName: "sessionId" } },
      "public.logout_everywhere": { tags: { resultFieldName: "endedSessions" } },
      "public.revoke_session": { tags: { resultFieldName: "session" } },
      "public.invite_user": { tags: { resultFieldName: "user" } },
      "public.resend_invitation": { tags: { resultFieldName: "user" } },
      "public.revoke_invitation": { tags: { resultFieldName: "userId" } },
      "public.set_user_role": { tags: { resultFieldName: "user" } },
      "public.set_user_permissions": { tags: { resultFieldName: "user" } },
      "public.set_user_status": { tags: { resultFieldName: "user" } },
      "public.revoke_api_key": { tags: { resultFieldName: "apiKey" } },
      "public.create_tenant": { tags: { resultFieldName: "tenant" } },
      "public.sync_integration": { tags: { resultFieldName: "integration" } },
      "public.cancel_sync": { tags: { resultFieldName: "integration" } },
      "public.disable_integration": { tags: { resultFieldName: "integration" } },
      "public.reactivate_integration": { tags: { resultFieldName: "integration" } },
      "public.backfill_integration": { tags: { resultFieldName: "run" } },
      "public.reset_integration_stream": { tags: { resultFieldName: "stream" } },
      "public.set_integration_stream_cursor": { tags: { resultFieldName: "stream" } },
    },
  },
});
