/**
 * Who may do what with which rows of the API's tables, written by hand: neither this nor the grants are made from the other.
 * test/rights.test.ts tries every cell through SQL and through GraphQL; docs/roles.md is this, printed.
 *
 *   -       refused
 *   self    rows of one's own
 *   own     rows of one's own tenant
 *   all     rows of every tenant
 *   ?right  rows of one's own tenant, for whoever has been granted that permission
 *
 * A row of cells is: anonymous, VIEWER, USER, ADMIN, SUPER_ADMIN (in the operator's own tenant).
 */
export const roles = ["anonymous", "VIEWER", "USER", "ADMIN", "SUPER_ADMIN"] as const;
export type MatrixRole = (typeof roles)[number];

export type TableRights = {
  select: string;
  delete: string;
  /** Every column, with what may be put into it by an insert and by an update. */
  columns: Record<string, readonly [insert: string, update: string]>;
};

const never = "- - - - -";
const everybody = "- own own own own";
const operator = "- - - - all";
const settings = "- ?tenant:settings ?tenant:settings own all";
const integrations = "- ?integrations:manage ?integrations:manage own own";
const metrics = "- ?metrics:manage ?metrics:manage own own";
const profile = "- - self own own";
const withheld = [never, never] as const;

export const tables: Record<string, TableRights> = {
  tenants: {
    select: "- own own own all",
    delete: never,
    columns: {
      id: withheld,
      name: [never, settings],
      slug: withheld,
      domain: [never, operator],
      status: [never, operator],
      settings: [never, settings],
      metadata: [never, operator],
      features: [never, operator],
      max_users: [never, operator],
      max_integrations: [never, operator],
      plan_type: [never, operator],
      billing_email: [never, settings],
      trial_ends_at: [never, operator],
      created_at: withheld,
      updated_at: withheld,
    },
  },
  users: {
    select: everybody,
    delete: never,
    columns: {
      id: withheld,
      tenant_id: withheld,
      email: withheld,
      first_name: [never, profile],
      last_name: [never, profile],
      avatar: [never, profile],
      role: withheld,
      permissions: withheld,
      status: withheld,
      email_verified: withheld,
      last_login_at: withheld,
      created_at: withheld,
      updated_at: withheld,
    },
  },
  integrations: {
    select: everybody,
    delete: integrations,
    columns: {
      id: withheld,
      tenant_id: withheld,
      name: [integrations, integrations],
      provider: [integrations, never],
      description: [integrations, integrations],
      config: [integrations, integrations],
      status: withheld,
      enabled: [integrations, integrations],
      last_sync_at: withheld,
      sync_status: withheld,
      sync_error: withheld,
      credentials_set_at: withheld,
      sync_interval_minutes: [integrations, integrations],
      next_sync_at: withheld,
      error_class: withheld,
      failing_since: withheld,
      created_at: withheld,
      updated_at: withheld,
    },
  },
  integration_streams: {
    select: everybody,
    delete: never,
    columns: {
      id: withheld,
      tenant_id: withheld,
      integration_id: withheld,
      name: withheld,
      enabled: [never, integrations],
      state: withheld,
      cursor: withheld,
      high_water: withheld,
      last_success_at: withheld,
      error_class: withheld,
      error: withheld,
      records_accepted: withheld,
      records_updated: withheld,
      records_duplicate: withheld,
      records_deleted: withheld,
      records_rejected: withheld,
      created_at: withheld,
      updated_at: withheld,
    },
  },
  integration_runs: {
    select: everybody,
    delete: never,
    columns: {
      id: withheld,
      tenant_id: withheld,
      integration_id: withheld,
      stream_id: withheld,
      trigger: withheld,
      kind: withheld,
      state: withheld,
      waits_for: withheld,
      since: withheld,
      until: withheld,
      cursor: withheld,
      progress: withheld,
      requested_at: withheld,
      started_at: withheld,
      resumes_at: withheld,
      ended_at: withheld,
      pages: withheld,
      records_accepted: withheld,
      records_updated: withheld,
      records_duplicate: withheld,
      records_deleted: withheld,
      records_rejected: withheld,
      calls: withheld,
      attempts: withheld,
      retries: withheld,
      repeats: withheld,
      error_class: withheld,
      error: withheld,
    },
  },
  rejected_records: {
    select: integrations,
    delete: never,
    columns: {
      id: withheld,
      tenant_id: withheld,
      integration_id: withheld,
      stream: withheld,
      source_id: withheld,
      reason: withheld,
      record: withheld,
      created_at: withheld,
    },
  },
  analytics_events: {
    select: everybody,
    delete: never,
    columns: {
      id: withheld,
      tenant_id: withheld,
      event_type: withheld,
      event_name: withheld,
      properties: withheld,
      source: withheld,
      source_id: withheld,
      value: withheld,
      currency: withheld,
      timestamp: withheld,
      subject: withheld,
    },
  },
  metrics: {
    select: everybody,
    delete: metrics,
    columns: {
      id: withheld,
      tenant_id: withheld,
      name: [metrics, metrics],
      description: [metrics, metrics],
      formula: [metrics, metrics],
      measures: [metrics, metrics],
      filter: [metrics, metrics],
      format: [metrics, metrics],
      unit: [metrics, metrics],
      created_at: withheld,
      updated_at: withheld,
    },
  },
  subject_properties: {
    select: everybody,
    delete: metrics,
    columns: {
      id: withheld,
      tenant_id: withheld,
      event_type: [metrics, never],
      property: [metrics, metrics],
      created_at: withheld,
    },
  },
  audit_logs: {
    select: "- ?audit:read ?audit:read own own",
    delete: never,
    columns: {
      id: withheld,
      tenant_id: withheld,
      user_id: withheld,
      actor_kind: withheld,
      actor_id: withheld,
      actor_name: withheld,
      impersonator_id: withheld,
      impersonator_name: withheld,
      action: withheld,
      resource: withheld,
      resource_id: withheld,
      changes: withheld,
      ip_address: withheld,
      user_agent: withheld,
      request_id: withheld,
      session_id: withheld,
      created_at: withheld,
      cluster_id: withheld,
      transaction_id: withheld,
    },
  },
  sessions: {
    select: "- self self self self",
    delete: never,
    columns: {
      id: withheld,
      tenant_id: withheld,
      user_id: withheld,
      ip_address: withheld,
      user_agent: withheld,
      created_at: withheld,
      last_used_at: withheld,
      expires_at: withheld,
      revoked_at: withheld,
      entered_tenant_id: withheld,
      entered_role: withheld,
      entered_reason: withheld,
    },
  },
  api_keys: {
    select: "- ?api_keys:manage ?api_keys:manage own own",
    delete: never,
    columns: {
      id: withheld,
      tenant_id: withheld,
      name: withheld,
      scopes: withheld,
      created_by: withheld,
      created_at: withheld,
      expires_at: withheld,
      last_used_at: withheld,
      revoked_at: withheld,
    },
  },
};

const signedIn = "- yes yes yes yes";
const whoManages = "- ?users:manage ?users:manage yes yes";
const whoManagesIntegrations = "- ?integrations:manage ?integrations:manage yes yes";
/** Functions of the API: who may call them. Those with a permission ask for it themselves. */
export const functions: Record<string, string> = {
  current_account: signedIn,
  current_session: signedIn,
  analytics_event_by_source: signedIn,
  logout: signedIn,
  logout_everywhere: signedIn,
  revoke_session: signedIn,
  request_email_verification: signedIn,
  request_password_reset: "yes yes yes yes yes",
  invite_user: whoManages,
  resend_invitation: whoManages,
  revoke_invitation: whoManages,
  set_user_role: whoManages,
  set_user_permissions: whoManages,
  set_user_status: whoManages,
  revoke_api_key: "- ?api_keys:manage ?api_keys:manage yes yes",
  sync_integration: "- ?integrations:sync yes yes yes",
  cancel_sync: "- ?integrations:sync yes yes yes",
  backfill_integration: whoManagesIntegrations,
  reset_integration_stream: whoManagesIntegrations,
  set_integration_stream_cursor: whoManagesIntegrations,
  disable_integration: whoManagesIntegrations,
  reactivate_integration: whoManagesIntegrations,
  search_audit_logs: "- ?audit:read ?audit:read yes yes",
  create_tenant: "- - - - yes",
};

const whoConnects = "- ?integrations:manage ?integrations:manage yes yes";
/** Operations that are neither a table nor a function: who may run them. */
export const operations: Record<string, string> = {
  availableProviders: signedIn,
  setIntegrationCredentials: whoConnects,
  testIntegrationConnection: whoConnects,
  integrationUpdated: signedIn,
};

/** The cells of one row, by role. */
export function cellsOf(row: string): { role: MatrixRole; right: string }[] {
  const rights = row.split(" ");
  if (rights.length !== roles.length) throw new Error(`"${row}" does not have ${roles.length} cells.`);
  return roles.map((role, index) => ({ role, right: rights[index] ?? "-" }));
}
