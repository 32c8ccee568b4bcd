// The product's tables as they were specified, column by column. Columns beyond these are ours to add.

export const ENUMS = {
  tenant_status: ["ACTIVE", "SUSPENDED", "TRIAL", "CANCELLED"],
  user_role: ["SUPER_ADMIN", "ADMIN", "USER", "VIEWER"],
  user_status: ["ACTIVE", "INACTIVE", "INVITED", "SUSPENDED"],
  integration_status: ["PENDING", "ACTIVE", "ERROR", "DISABLED"],
};

// One column a line: name, type, "optional" if it may be null, and the default where one is promised. An index or a
// unique constraint counts with these leading columns, in any order, and with tenant_id before them.
export const TABLES = {
  tenants: {
    columns: `
      id                uuid
      name              text
      slug              text
      domain            text                      optional
      status            tenant_status
      settings          jsonb
      metadata          jsonb
      features          text[]
      max_users         integer                             default 10
      max_integrations  integer                             default 5
      plan_type         text                                default trial
      billing_email     text                      optional
      created_at        timestamp with time zone
      updated_at        timestamp with time zone
    `,
    unique: [["id"], ["slug"], ["domain"]],
    indexes: [["status"]],
    references: [],
  },
  users: {
    columns: `
      id                uuid
      email             text
      first_name        text                      optional
      last_name         text                      optional
      avatar            text                      optional
      tenant_id         uuid
      role              user_role                           default USER
      permissions       text[]
      status            user_status                         default ACTIVE
      email_verified    boolean                             default false
      last_login_at     timestamp with time zone  optional
      created_at        timestamp with time zone
      updated_at        timestamp with time zone
    `,
    unique: [["id"], ["email", "tenant_id"]],
    indexes: [["tenant_id"], ["email"]],
    references: ["FOREIGN KEY (tenant_id) REFERENCES tenants(id) ON DELETE CASCADE"],
  },
  integrations: {
    columns: `
      id                uuid
      name              text
      provider          text
      description       text                      optional
      tenant_id         uuid
      config            jsonb
      status            integration_status                  default PENDING
      enabled           boolean                             default false
      last_sync_at      timestamp with time zone  optional
      sync_status       text                      optional
      sync_error        text                      optional
      created_at        timestamp with time zone
      updated_at        timestamp with time zone
    `,
    unique: [["id"]],
    indexes: [["tenant_id"], ["provider"], ["tenant_id", "status"]],
    references: ["FOREIGN KEY (tenant_id) REFERENCES tenants(id) ON DELETE CASCADE"],
  },
  analytics_events: {
    columns: `
      id                uuid
      tenant_id         uuid
      event_type        text
      event_name        text
      properties        jsonb
      source            text                      optional
      source_id         text                      optional
      timestamp         timestamp with time zone            default now()
    `,
    unique: [["tenant_id", "timestamp", "id"]],
    indexes: [["tenant_id", "timestamp"], ["tenant_id", "event_type"], ["source_id"]],
    references: ["FOREIGN KEY (tenant_id) REFERENCES tenants(id) ON DELETE CASCADE"],
  },
  audit_logs: {
    columns: `
      id                uuid
      tenant_id         uuid
      user_id           uuid                      optional
      action            text
      resource          text
      resource_id       text                      optional
      changes           jsonb
      ip_address        text                      optional
      user_agent        text                      optional
      created_at        timestamp with time zone
    `,
    unique: [["tenant_id", "created_at", "id"]],
    indexes: [["tenant_id", "created_at"], ["user_id"], ["action"], ["resource"]],
    references: [
      "FOREIGN KEY (tenant_id) REFERENCES tenants(id) ON DELETE CASCADE",
      "FOREIGN KEY (tenant_id, user_id) REFERENCES users(tenant_id, id) ON DELETE SET NULL (user_id)",
    ],
  },
};

/** Where a secret that was specified as a column is kept instead: a private table, one row to one. */
export const SECRETS = [
  { column: "users.password", kept: "user_passwords.password_hash", key: ["tenant_id", "user_id"] },
  {
    column: "integrations.credentials",
    kept: "integration_credentials.ciphertext",
    key: ["tenant_id", "integration_id"],
  },
  { column: "tenants.encryption_key", kept: "tenant_keys.wrapped_key", key: ["tenant_id", "version"] },
];
