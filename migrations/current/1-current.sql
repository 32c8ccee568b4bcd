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

--!include policies/app_private.sql
--!include policies/integrations.sql
--!include functions/integration_credentials.sql
--!include functions/purge.sql
--!include triggers/notifications.sql
