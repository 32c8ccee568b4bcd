set local lock_timeout = '5s';

create table if not exists app_private.retired_credentials (
  tenant_id uuid not null,
  integration_id uuid not null,
  version integer not null check (version > 0),
  key_version integer not null,
  ciphertext bytea not null,
  retired_at timestamptz not null default now(),
  primary key (tenant_id, integration_id, version),
  foreign key (tenant_id, integration_id) references public.integrations (tenant_id, id) on delete cascade,
  foreign key (tenant_id, key_version) references app_private.tenant_keys (tenant_id, version) on delete cascade
);
create index if not exists retired_credentials_key_idx on app_private.retired_credentials (tenant_id, key_version);
comment on table app_private.retired_credentials is
  'Credentials that were replaced, as they were sealed in integration_credentials: webhooks may be signed with them for a while.';

create table if not exists app_private.webhook_deliveries (
  tenant_id uuid not null,
  id uuid not null default uuidv7(),
  integration_id uuid not null,
  delivery_id text not null check (length(delivery_id) between 1 and 200),
  headers jsonb not null,
  body bytea,
  state text not null default 'pending' check (state in ('pending', 'done', 'failed', 'skipped')),
  attempts integer not null default 0,
  error text,
  received_at timestamptz not null default now(),
  processed_at timestamptz,
  primary key (tenant_id, id),
  unique (tenant_id, integration_id, delivery_id),
  foreign key (tenant_id, integration_id) references public.integrations (tenant_id, id) on delete cascade
);
create index if not exists webhook_deliveries_received_idx on app_private.webhook_deliveries (received_at);
create index if not exists webhook_deliveries_body_idx on app_private.webhook_deliveries (received_at) where body is not null;
comment on table app_private.webhook_deliveries is 'What providers sent to POST /v1/webhooks/<integrationId>, after their signature was verified. purge_webhooks says for how long.';
comment on column app_private.webhook_deliveries.delivery_id is 'The provider''s own id of the delivery, or the SHA-256 of one that cannot be kept: the same is processed once.';
comment on column app_private.webhook_deliveries.body is 'As it came, byte for byte; null once it was purged. It may hold personal data.';
comment on column app_private.webhook_deliveries.state is 'pending, done, failed (it cannot be read), or skipped (integration or tenant were out of service).';

create table if not exists app_private.key_rotations (
  id uuid primary key default uuidv7(),
  of_tenant_id uuid,
  started_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz
);
comment on table app_private.key_rotations is 'Runs of npm run keys:rotate. One that was interrupted goes on: only tenants whose newest key is older than started_at get another.';
comment on column app_private.key_rotations.of_tenant_id is 'Of one tenant; null: of all.';

create table if not exists app_private.tenant_deletions (
  tenant_id uuid primary key references public.tenants (id) on delete cascade,
  started_at timestamptz not null default now(),
  keys_destroyed_at timestamptz,
  deleted jsonb not null default '{}'
);
comment on table app_private.tenant_deletions is 'Tenants that are being deleted (npm run tenant:delete). The record of the end is in the operator''s audit log.';
comment on column app_private.tenant_deletions.deleted is 'How many rows went so far, by table.';

--!include functions/webhooks.sql
--!include functions/tenant_keys.sql
--!include functions/delete_tenant.sql
--!include policies/secrets.sql
--!include triggers/delete_tenant.sql
--!include functions/purge.sql
