set local lock_timeout = '5s';

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
