import { jsonPgSmartTags } from "postgraphile/utils";

/** Tags that do not belong into comments, which are the API's documentation. */
export const smartTags = jsonPgSmartTags({
  version: 1,
  config: {
    class: {
      "public.analytics_events": {
        tags: {
          behavior: "+aggregates +resource:aggregates +groupedAggregates +resource:groupedAggregates +having",
        },
      },
      "public.users": {
        constraint: { users_tenant_id_id_key: { tags: { behavior: "-single -update -delete" } } },
      },
      "public.integrations": {
        constraint: { integrations_tenant_id_id_key: { tags: { behavior: "-single -update -delete" } } },
      },
    },
    constraint: {
      "public.users.users_tenant_id_email_key": { tags: { behavior: "-single -update -delete" } },
      "public.users.users_tenant_id_id_key": { tags: { behavior: "-single -update -delete" } },
      "public.integrations.integrations_tenant_id_id_key": { tags: { behavior: "-single -update -delete" } },
      "public.tenants.tenants_slug_key": { tags: { behavior: "-update -delete" } },
      "public.tenants.tenants_domain_key": { tags: { behavior: "-update -delete" } },
    },
    procedure: {
      "public.current_account": { tags: { name: "currentUser" } },
      "public.logout": { tags: { resultFieldName: "sessionId" } },
      "public.sync_integration": { tags: { resultFieldName: "integration" } },
    },
  },
});
