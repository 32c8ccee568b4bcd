create table public.integrations (
  id uuid primary key default uuidv7(),
  tenant_id uuid not null default app_hidden.current_tenant_id() references public.tenants (id) on delete cascade,
  name text not null check (length(name) between 1 and 200),
  provider text not null check (provider ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(provider) <= 63),
  description text check (length(description) <= 2000),
  config jsonb not null default '{}' check (jsonb_typeof(config) = 'object'),
  status public.integration_status not null default 'PENDING',
  enabled boolean not null default false,
  last_sync_at timestamptz,
  sync_status text check (sync_status in ('queued', 'running', 'succeeded', 'failed')),
  sync_error text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (tenant_id, id)
);
create index integrations_tenant_provider_idx on public.integrations (tenant_id, provider);
create index integrations_tenant_status_idx on public.integrations (tenant_id, status);

comment on table public.integrations is 'A source of data, such as a point of sale or an advertising account.';
comment on column public.integrations.provider is 'Which connector pulls the data, for example square or meta-ads.';
comment on column public.integrations.config is 'Settings of the connector. Never secrets.';
comment on column public.integrations.enabled is 'Whether syncs start by themselves. config.syncIntervalMinutes says how often (default 60).';
comment on column public.integrations.last_sync_at is 'When the last successful sync ended.';
comment on column public.integrations.sync_status is 'queued, running, succeeded or failed; null before the first sync.';
comment on column public.integrations.sync_error is 'Why the last sync failed, as a sentence.';

create table app_private.integration_credentials (
  tenant_id uuid not null,
  integration_id uuid not null,
  version integer not null default 1 check (version > 0),
  key_version integer not null,
  ciphertext bytea not null,
  updated_at timestamptz not null default now(),
  primary key (tenant_id, integration_id),
  foreign key (tenant_id, integration_id) references public.integrations (tenant_id, id) on delete cascade,
  foreign key (tenant_id, key_version) references app_private.tenant_keys (tenant_id, version) on delete restrict
    deferrable initially deferred
);
create index integration_credentials_key_idx on app_private.integration_credentials (tenant_id, key_version);
comment on table app_private.integration_credentials is 'Credentials of integrations, sealed by the application; PostgreSQL never sees the plaintext.';
comment on column app_private.integration_credentials.ciphertext is
  'AES-256-GCM under the tenant''s key of key_version: nonce (12 bytes), ciphertext, tag (16 bytes). Additional data: tenant, table, integration and version.';

create table app_private.sync_runs (
  tenant_id uuid not null,
  integration_id uuid not null,
  run_id uuid not null,
  started_at timestamptz not null default now(),
  lease_expires_at timestamptz not null,
  finished_at timestamptz,
  pages bigint not null default 0,
  events_accepted bigint not null default 0,
  events_updated bigint not null default 0,
  events_duplicate bigint not null default 0,
  primary key (tenant_id, integration_id),
  foreign key (tenant_id, integration_id) references public.integrations (tenant_id, id) on delete cascade
);
comment on table app_private.sync_runs is 'The newest run of each integration. run_id is its fencing token: every write of a sync carries it, and an older one is refused.';

create table app_private.sync_checkpoints (
  tenant_id uuid not null,
  integration_id uuid not null,
  stream text not null,
  checkpoint jsonb not null,
  updated_at timestamptz not null default now(),
  primary key (tenant_id, integration_id, stream),
  foreign key (tenant_id, integration_id) references public.integrations (tenant_id, id) on delete cascade
);
comment on table app_private.sync_checkpoints is 'How far each stream of an integration was read; moves in the transaction that writes the rows.';

create table app_private.unparsable_records (
  tenant_id uuid not null,
  id uuid not null default uuidv7(),
  integration_id uuid not null,
  stream text not null,
  source_id text,
  reason text not null,
  record jsonb not null,
  created_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, integration_id) references public.integrations (tenant_id, id) on delete cascade
);
create index unparsable_records_integration_idx on app_private.unparsable_records (tenant_id, integration_id, stream);
comment on table app_private.unparsable_records is 'Records of providers that could not be read, kept with the reason.';

create table app_private.worker_heartbeats (
  worker_id text primary key,
  beat_at timestamptz not null default now()
);
comment on table app_private.worker_heartbeats is 'When each worker was last alive.';
