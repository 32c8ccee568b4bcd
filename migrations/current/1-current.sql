set local lock_timeout = '5s';

alter table public.integrations add column if not exists credentials_set_at timestamptz;
comment on column public.integrations.credentials_set_at is 'When setIntegrationCredentials last gave it credentials; null while it has none.';
update public.integrations i set credentials_set_at = c.updated_at
  from app_private.integration_credentials c
 where c.tenant_id = i.tenant_id and c.integration_id = i.id and i.credentials_set_at is null;

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

alter table app_private.plans
  add column if not exists upload_bytes bigint not null default 52428800 check (upload_bytes between 1 and 10737418240);
comment on column app_private.plans.upload_bytes is 'How many bytes a file that is uploaded may have, unpacked; all that wait, twice as many.';
update app_private.plans p set upload_bytes = v.bytes
  from (values ('starter', 209715200::bigint), ('business', 1073741824)) as v (name, bytes)
 where p.name = v.name and p.upload_bytes = 52428800;

create table if not exists app_private.uploads (
  tenant_id uuid not null,
  id uuid primary key default uuidv7(),
  integration_id uuid not null,
  file_name text not null check (length(file_name) between 1 and 255),
  config jsonb not null,
  byte_length bigint not null default 0 check (byte_length >= 0),
  state text not null default 'receiving' check (state in ('receiving', 'ready', 'done')),
  created_at timestamptz not null default now(),
  touched_at timestamptz not null default now(),
  ready_at timestamptz,
  done_at timestamptz,
  unique (tenant_id, id),
  foreign key (tenant_id, integration_id) references public.integrations (tenant_id, id) on delete cascade
);
comment on table app_private.uploads is 'Files that were uploaded for an integration: received, ready to be read, done.';
comment on column app_private.uploads.config is 'The integration''s config when the file came: it says how the file is read, whatever changes since.';
comment on column app_private.uploads.byte_length is 'Unpacked.';
create index if not exists uploads_integration_idx on app_private.uploads (tenant_id, integration_id, ready_at);

create table if not exists app_private.upload_chunks (
  tenant_id uuid not null,
  upload_id uuid not null,
  position integer not null check (position >= 0),
  bytes bytea not null check (octet_length(bytes) between 1 and 524288),
  primary key (tenant_id, upload_id, position),
  foreign key (tenant_id, upload_id) references app_private.uploads (tenant_id, id) on delete cascade
);
comment on table app_private.upload_chunks is 'The bytes of files until they are read; all chunks but a file''s last have 524,288.';

--!include policies/uploads.sql
--!include functions/needs_credentials.sql
--!include functions/sync.sql
--!include functions/uploads.sql
--!include functions/purge.sql
--!include policies/app_private.sql
--!include policies/integrations.sql
--!include functions/integration_credentials.sql
--!include triggers/notifications.sql
--!include functions/webhooks.sql
--!include functions/tenant_keys.sql
--!include functions/delete_tenant.sql
--!include policies/secrets.sql
--!include triggers/delete_tenant.sql
--!include functions/starter_metrics.sql
--!include views/analytics.sql
