--! Previous: sha1:0e3ab4b61ec29125afddb35e3f402f22cfb2eaa6
--! Hash: sha1:1acbfc237952e476c77eaa1765221447ce691042
--! Message: integrations, webhooks, uploads, keys

--! split: 1-current.sql
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

do $$
begin
  if to_regtype('public.sync_mode') is null then
    create type public.sync_mode as enum ('INCREMENTAL', 'FULL_REFRESH');
  end if;
end
$$;
comment on type public.sync_mode is 'INCREMENTAL: what is new since the last sync. FULL_REFRESH: everything, as at the first one.';

alter table app_private.plans
  add column if not exists max_concurrent_syncs integer not null default 2 check (max_concurrent_syncs >= 1);
comment on column app_private.plans.max_concurrent_syncs is
  'How many streams of a tenant are synced at the same time, so that it does not take all workers; one of them is kept for those that are soon over.';
update app_private.plans p set max_concurrent_syncs = v.syncs
  from (values ('starter', 4), ('business', 8)) as v (name, syncs)
 where p.name = v.name and p.max_concurrent_syncs = 2;

alter table public.integrations
  add column if not exists sync_interval_minutes integer not null default 60 check (sync_interval_minutes between 1 and 10080),
  add column if not exists next_sync_at timestamptz,
  add column if not exists error_class text,
  add column if not exists failing_since timestamptz;
comment on column public.integrations.enabled is 'Whether syncs start by themselves, every syncIntervalMinutes.';
comment on column public.integrations.sync_interval_minutes is 'Minutes from one scheduled sync to the next, 1 to 10,080 (a week).';
comment on column public.integrations.next_sync_at is 'When the schedule syncs it next, if it is enabled.';
comment on column public.integrations.error_class is
  'What kind of failure the last sync met: needs_reauth (set new credentials; the schedule waits for them), invalid_configuration, invalid_cursor, refused, unreachable, not_moving, suspicious_deletion or internal. Null while all is well.';
comment on column public.integrations.failing_since is 'Since when no sync has succeeded. After 30 days the integration is disabled.';
comment on column public.integrations.sync_status is 'queued, running, succeeded, failed or canceled; null before the first sync.';
comment on column public.integrations.status is
  'PENDING: not synced yet. ACTIVE: the last sync succeeded. ERROR: it failed. DISABLED: out of service, by disableIntegration or after 30 days of ERROR.';
alter table public.integrations drop constraint if exists integrations_sync_status_check;
-- Few rows.
-- squawk-ignore constraint-missing-not-valid
alter table public.integrations add constraint integrations_sync_status_check
  check (sync_status in ('queued', 'running', 'succeeded', 'failed', 'canceled'));
-- squawk-ignore require-concurrent-index-creation
create index if not exists integrations_due_idx on public.integrations (next_sync_at) where enabled;
-- What was set in config until now goes on counting.
update public.integrations i
   set sync_interval_minutes = least(greatest((i.config ->> 'syncIntervalMinutes')::numeric, 1), 10080)::integer,
       config = i.config - 'syncIntervalMinutes'
 where i.config ->> 'syncIntervalMinutes' ~ '^[0-9]{1,6}$';

create table if not exists public.integration_streams (
  id uuid primary key default uuidv7(),
  tenant_id uuid not null,
  integration_id uuid not null,
  name text not null check (length(name) between 1 and 100),
  enabled boolean not null default true,
  state text check (state in ('waiting', 'running', 'succeeded', 'failed', 'canceled')),
  cursor jsonb,
  high_water timestamptz,
  last_success_at timestamptz,
  error_class text,
  error text,
  records_accepted bigint not null default 0,
  records_updated bigint not null default 0,
  records_duplicate bigint not null default 0,
  records_deleted bigint not null default 0,
  records_rejected bigint not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (tenant_id, id),
  unique (tenant_id, integration_id, name),
  foreign key (tenant_id, integration_id) references public.integrations (tenant_id, id) on delete cascade
);
comment on table public.integration_streams is 'One kind of record that an integration reads, such as orders, and how far it was read. Streams appear with the first sync.';
comment on column public.integration_streams.name is 'As the connector calls it.';
comment on column public.integration_streams.enabled is 'Whether syncs read it.';
comment on column public.integration_streams.state is 'Of its last sync: waiting, running, succeeded, failed or canceled; null before the first.';
comment on column public.integration_streams.cursor is 'Where the next sync goes on, in the connector''s own terms; null: from the beginning. It moves in the transaction that writes the records before it.';
comment on column public.integration_streams.high_water is 'Everything that happened at the provider until then has been read.';
comment on column public.integration_streams.last_success_at is 'When it was last read up to the present.';
comment on column public.integration_streams.error_class is 'What kind of failure the last sync met; see Integration.errorClass.';
comment on column public.integration_streams.error is 'Why the last sync failed, as a sentence.';
comment on column public.integration_streams.records_accepted is 'New records, ever; so are the others.';
comment on column public.integration_streams.records_duplicate is 'Records that were there already, as they came.';
comment on column public.integration_streams.records_rejected is 'Records that could not be read: rejectedRecords has the last ones.';

create table if not exists public.integration_runs (
  id uuid primary key default uuidv7(),
  tenant_id uuid not null,
  integration_id uuid not null,
  stream_id uuid not null,
  trigger text not null check (trigger in ('schedule', 'manual', 'webhook', 'backfill', 'full_refresh')),
  kind text not null generated always as (case when trigger in ('backfill', 'full_refresh') then trigger else 'incremental' end) stored,
  state text not null default 'waiting' check (state in ('waiting', 'running', 'succeeded', 'failed', 'canceled')),
  waits_for text check (waits_for in ('turn', 'provider', 'retry')),
  since timestamptz,
  until timestamptz,
  cursor jsonb,
  progress real check (progress between 0 and 1),
  requested_at timestamptz not null default now(),
  started_at timestamptz,
  resumes_at timestamptz,
  ended_at timestamptz,
  pages bigint not null default 0,
  records_accepted bigint not null default 0,
  records_updated bigint not null default 0,
  records_duplicate bigint not null default 0,
  records_deleted bigint not null default 0,
  records_rejected bigint not null default 0,
  calls bigint not null default 0,
  attempts integer not null default 0,
  retries integer not null default 0,
  repeats boolean not null default false,
  error_class text,
  error text,
  unique (tenant_id, id),
  check ((ended_at is not null) = (state in ('succeeded', 'failed', 'canceled'))),
  foreign key (tenant_id, integration_id) references public.integrations (tenant_id, id) on delete cascade,
  foreign key (tenant_id, stream_id) references public.integration_streams (tenant_id, id) on delete cascade
);
comment on table public.integration_runs is 'One sync of one stream, from its start until it has caught up; kept for 90 days.';
comment on column public.integration_runs.trigger is 'schedule, manual, webhook, backfill or full_refresh.';
comment on column public.integration_runs.kind is 'incremental, backfill or full_refresh. Of each, a stream has one open run at the most.';
comment on column public.integration_runs.state is 'waiting, running, succeeded, failed or canceled.';
comment on column public.integration_runs.waits_for is 'What a waiting run waits for: turn (other syncs of the tenant), provider (it asked for patience) or retry (after a failure).';
comment on column public.integration_runs.since is 'Of a backfill: the beginning of what it reads.';
comment on column public.integration_runs.until is 'Of a backfill: the end, exclusive.';
comment on column public.integration_runs.cursor is 'How far a backfill or a full refresh has come; others move the stream''s.';
comment on column public.integration_runs.progress is 'From 0 to 1, where the connector can tell.';
comment on column public.integration_runs.resumes_at is 'When a waiting run goes on at the latest; null: as soon as a worker is free.';
comment on column public.integration_runs.pages is 'Pages that were saved.';
comment on column public.integration_runs.calls is 'Requests to the provider.';
comment on column public.integration_runs.attempts is 'Failures since the last page. The fifth ends the run.';
comment on column public.integration_runs.retries is 'Failures after which it was tried again.';
comment on column public.integration_runs.repeats is 'A webhook told of a change since it began: another run follows.';
comment on column public.integration_runs.error_class is 'What kind of failure ended it, or is being retried; see Integration.errorClass.';
comment on column public.integration_runs.error is 'The same as a sentence; also why it was canceled.';
create unique index if not exists integration_runs_open_key on public.integration_runs (tenant_id, stream_id, kind) where ended_at is null;
create index if not exists integration_runs_integration_idx on public.integration_runs (tenant_id, integration_id, requested_at);
create index if not exists integration_runs_stream_idx on public.integration_runs (tenant_id, stream_id, requested_at);
create index if not exists integration_runs_ended_idx on public.integration_runs (ended_at);

create table if not exists app_private.sync_leases (
  tenant_id uuid not null,
  stream_id uuid not null,
  run_id uuid not null,
  token uuid not null,
  expires_at timestamptz not null,
  primary key (tenant_id, stream_id),
  foreign key (tenant_id, stream_id) references public.integration_streams (tenant_id, id) on delete cascade
);
comment on table app_private.sync_leases is 'Which run a worker is at, of each stream. token is the fencing token: every write of a sync carries it, and another is refused.';

create table if not exists app_private.refresh_seen (
  tenant_id uuid not null,
  run_id uuid not null,
  source_id text not null,
  primary key (tenant_id, run_id, source_id),
  foreign key (tenant_id, run_id) references public.integration_runs (tenant_id, id) on delete cascade
);
comment on table app_private.refresh_seen is 'The records that a full refresh has seen so far.';

create table if not exists app_private.refresh_sweeps (
  tenant_id uuid not null,
  run_id uuid not null,
  source text not null,
  prefix text not null,
  since timestamptz not null,
  until timestamptz not null,
  started_at timestamptz not null,
  after text not null default '',
  primary key (tenant_id, run_id),
  foreign key (tenant_id, run_id) references public.integration_runs (tenant_id, id) on delete cascade
);
comment on table app_private.refresh_sweeps is 'Full refreshes that have seen everything, and delete what they have not seen: after which id they go on.';

create table if not exists app_private.credential_refreshes (
  tenant_id uuid not null,
  integration_id uuid not null,
  token uuid not null,
  expires_at timestamptz not null,
  primary key (tenant_id, integration_id),
  foreign key (tenant_id, integration_id) references public.integrations (tenant_id, id) on delete cascade
);
comment on table app_private.credential_refreshes is 'Which lease may ask a provider for new credentials now.';

create table if not exists app_private.provider_limits (
  provider text not null,
  scope text not null check (length(scope) <= 200),
  paused_until timestamptz not null,
  reason text,
  primary key (provider, scope)
);
comment on table app_private.provider_limits is 'Until when nobody calls a provider, by the name of the limit that was reached. Shared by all tenants and workers.';

create table if not exists public.rejected_records (
  id uuid primary key default uuidv7(),
  tenant_id uuid not null,
  integration_id uuid not null,
  stream text not null,
  source_id text,
  reason text not null,
  record jsonb not null,
  created_at timestamptz not null default now(),
  foreign key (tenant_id, integration_id) references public.integrations (tenant_id, id) on delete cascade
);
comment on table public.rejected_records is 'Records of a provider that could not be read, the newest of each stream, for 90 days.';
comment on column public.rejected_records.stream is 'The stream''s name.';
comment on column public.rejected_records.source_id is 'The record''s id, as events have it; null where it could not be told.';
comment on column public.rejected_records.reason is 'What was wrong with it.';
comment on column public.rejected_records.record is 'As the provider sent it; only its beginning, if it is large.';
create index if not exists rejected_records_stream_idx on public.rejected_records (tenant_id, integration_id, stream, id);

-- An installation goes on where it was.
do $$
begin
  if to_regclass('app_private.sync_checkpoints') is not null then
    insert into public.integration_streams (tenant_id, integration_id, name, cursor, state, last_success_at)
    select c.tenant_id, c.integration_id, c.stream, c.checkpoint,
           case when i.sync_status in ('succeeded', 'failed') then i.sync_status end, i.last_sync_at
      from app_private.sync_checkpoints c
      join public.integrations i on i.tenant_id = c.tenant_id and i.id = c.integration_id
    on conflict do nothing;
    -- Not all at the same time.
    update public.integrations i set next_sync_at = now() + random() * make_interval(mins => i.sync_interval_minutes)
     where i.enabled and i.next_sync_at is null;
  end if;
  if to_regclass('app_private.unparsable_records') is not null then
    insert into public.rejected_records (id, tenant_id, integration_id, stream, source_id, reason, record, created_at)
    select u.id, u.tenant_id, u.integration_id, u.stream, u.source_id, u.reason, u.record, u.created_at
      from (
        select r.*, row_number() over (partition by r.tenant_id, r.integration_id, r.stream order by r.id desc) as place
          from app_private.unparsable_records r
      ) u
     where u.place <= 1000
    on conflict do nothing;
  end if;
end
$$;
-- squawk-ignore ban-drop-table
drop table if exists app_private.sync_runs, app_private.sync_checkpoints, app_private.unparsable_records;
drop function if exists app_hidden.request_sync(uuid, uuid);
drop function if exists app_hidden.begin_sync(uuid, uuid, uuid);
drop function if exists app_hidden.save_sync_page(uuid, uuid, uuid, text, jsonb, jsonb, jsonb);
drop function if exists app_hidden.finish_sync(uuid, uuid, uuid, text);
drop function if exists app_hidden.pause_sync(uuid, uuid, uuid, integer);
drop function if exists public.sync_integration(uuid);

--! Included policies/uploads.sql
-- No API role has usage on this schema; functions/uploads.sql is the way to these. Row security all the same.
alter table app_private.uploads enable row level security, force row level security;
drop policy if exists owner_all on app_private.uploads;
create policy owner_all on app_private.uploads to erp_user using (true) with check (true);
comment on policy owner_all on app_private.uploads is 'Migrations, DBAs and definer functions.';

alter table app_private.upload_chunks enable row level security, force row level security;
drop policy if exists owner_all on app_private.upload_chunks;
create policy owner_all on app_private.upload_chunks to erp_user using (true) with check (true);
comment on policy owner_all on app_private.upload_chunks is 'Migrations, DBAs and definer functions.';
--! EndIncluded policies/uploads.sql
--! Included functions/needs_credentials.sql
-- The connectors know it; what enqueues syncs is SQL, and a test compares the two.
create or replace function app_private.needs_credentials(p_provider text) returns boolean
language sql immutable parallel safe
as $$ select p_provider <> 'csv' $$;
comment on function app_private.needs_credentials(text) is 'Whether integrations of a provider can only be synced with credentials.';

revoke execute on function app_private.needs_credentials(text) from public;
--! EndIncluded functions/needs_credentials.sql
--! Included functions/sync.sql
-- Who asks for a sync, and what becomes of it. An integration has streams; one sync of one stream is a run
-- (sync_runs.sql), and a run is read by jobs one after another, each under a lease. Each function takes the tenant and
-- refuses another than the transaction's, since as a definer it sees all of them.
--
-- Lock order: the integration, then the tenant's turn, then leases, then events. Who writes a page takes the lease only.

create or replace function app_hidden.assert_tenant(p_tenant_id uuid) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_tenant_id is distinct from app_hidden.current_tenant_id() then
    raise exception 'Tenant % is not the tenant of this transaction.', p_tenant_id using errcode = 'EA403';
  end if;
end
$$;
comment on function app_hidden.assert_tenant(uuid) is 'EA403 unless the tenant is that of the transaction.';

create or replace function app_hidden.integration_tenant(p_integration_id uuid) returns uuid
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$ select tenant_id from public.integrations where id = p_integration_id $$;
comment on function app_hidden.integration_tenant(uuid) is 'Whose integration it is: a job''s tenant comes from the row, never from the payload.';

create or replace function app_hidden.run_tenant(p_run_id uuid) returns uuid
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$ select tenant_id from public.integration_runs where id = p_run_id $$;
comment on function app_hidden.run_tenant(uuid) is 'Whose run it is: a job''s tenant comes from the row, never from the payload.';

create or replace function app_private.assert_may_sync(p_tenant_id uuid, p_integration_id uuid) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (
    select from public.integrations i join public.tenants t on t.id = i.tenant_id
     where i.tenant_id = p_tenant_id and i.id = p_integration_id
       and i.status <> 'DISABLED' and app_private.is_open(t.status, t.trial_ends_at)
  ) then
    raise exception 'The integration was disabled, or its tenant suspended.' using errcode = 'EA409', detail = 'disabled';
  end if;
end
$$;
comment on function app_private.assert_may_sync(uuid, uuid) is 'EA409 with detail "disabled" unless integration and tenant are in service.';

create or replace function app_private.integration_to_sync(p_tenant_id uuid, p_integration_id uuid) returns public.integrations
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_integration public.integrations;
begin
  select * into v_integration
    from public.integrations
   where tenant_id = p_tenant_id and id = p_integration_id
     for no key update;
  if not found then
    raise exception 'There is no integration %.', p_integration_id using errcode = 'EA404';
  end if;
  if v_integration.status = 'DISABLED' then
    raise exception 'Integration "%" is disabled. Reactivate it first.', v_integration.name using errcode = 'EA409';
  end if;
  if app_private.needs_credentials(v_integration.provider) and not exists (
    select from app_private.integration_credentials c where c.tenant_id = p_tenant_id and c.integration_id = p_integration_id
  ) then
    raise exception 'Integration "%" has no credentials. Set them first.', v_integration.name using errcode = 'EA409';
  end if;
  return v_integration;
end
$$;
comment on function app_private.integration_to_sync(uuid, uuid) is 'Locks an integration that may be synced. EA404, EA409.';

create or replace function app_private.assert_streams(p_tenant_id uuid, p_integration_id uuid, p_streams text[]) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_known text[] := array(
    select s.name from public.integration_streams s
     where s.tenant_id = p_tenant_id and s.integration_id = p_integration_id order by s.name
  );
  v_bad text;
begin
  if v_known = '{}' then
    raise exception 'The streams of this integration are known after its first sync. Sync all of them first.' using errcode = 'EA409';
  end if;
  select min(n) into v_bad from unnest(p_streams) n where n <> all (v_known);
  if v_bad is not null then
    raise exception 'There is no stream "%". This integration has %.', left(v_bad, 100), array_to_string(v_known, ', ')
      using errcode = 'EA400', detail = 'stream';
  end if;
  select min(s.name) into v_bad from public.integration_streams s
   where s.tenant_id = p_tenant_id and s.integration_id = p_integration_id and s.name = any (p_streams) and not s.enabled;
  if v_bad is not null then
    raise exception 'The stream "%" is switched off. Enable it first.', v_bad using errcode = 'EA409';
  end if;
end
$$;
comment on function app_private.assert_streams(uuid, uuid, text[]) is 'EA400 for a stream that the integration does not have; EA409 for one that is switched off, or before the first sync.';

create or replace function app_hidden.request_sync(
  p_tenant_id uuid, p_integration_id uuid, p_streams text[] default null, p_trigger text default 'manual'
)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_integration public.integrations;
  v_has_streams boolean;
  v_id uuid;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  -- The schedule has no permissions, and needs none.
  if session_user = 'erp_authenticator' then
    perform app_hidden.require_permission(case p_trigger when 'full_refresh' then 'integrations:manage' else 'integrations:sync' end);
  end if;
  v_integration := app_private.integration_to_sync(p_tenant_id, p_integration_id);
  -- Until somebody renews the credentials, only a person may try.
  if v_integration.error_class = 'needs_reauth' and p_trigger in ('schedule', 'webhook') then
    return;
  end if;
  v_has_streams := exists (
    select from public.integration_streams s where s.tenant_id = p_tenant_id and s.integration_id = p_integration_id
  );
  if p_streams is not null and p_trigger <> 'webhook' then
    perform app_private.assert_streams(p_tenant_id, p_integration_id, p_streams);
  end if;

  if v_has_streams and (p_streams is not null or p_trigger = 'full_refresh') then
    for v_id in
      select s.id from public.integration_streams s
       where s.tenant_id = p_tenant_id and s.integration_id = p_integration_id and s.enabled
         and (p_streams is null or s.name = any (p_streams))
       order by s.name
    loop
      perform app_private.open_run(p_tenant_id, v_id, p_trigger);
    end loop;
  -- A worker has the job already, and is about to open the runs.
  elsif not exists (
    select from graphile_worker.jobs j where j.key = 'sync:' || p_integration_id and j.locked_at > now() - interval '1 minute'
  ) then
    -- Only the connector knows its streams. A first sync reads everything anyway.
    perform graphile_worker.add_job(
      'sync_integration',
      json_build_object('integrationId', p_integration_id, 'trigger', case p_trigger when 'full_refresh' then 'manual' else p_trigger end),
      job_key => 'sync:' || p_integration_id, max_attempts => 5
    );
  end if;
  if p_trigger = 'manual' then
    -- Whoever asks now does not wait for the end of a backoff.
    perform app_private.enqueue_run(p_tenant_id, r.id, now())
       from public.integration_runs r
      where r.tenant_id = p_tenant_id and r.integration_id = p_integration_id and r.ended_at is null and r.waits_for = 'retry';
  end if;
  update public.integrations i
     set sync_status = 'queued'
   where i.tenant_id = p_tenant_id and i.id = p_integration_id and i.sync_status is distinct from 'queued'
     and not exists (
       select from public.integration_runs r
        where r.tenant_id = p_tenant_id and r.integration_id = p_integration_id
          and r.ended_at is null and r.started_at is not null and r.kind <> 'backfill'
     );
end
$$;
comment on function app_hidden.request_sync(uuid, uuid, text[], text) is
  'Enqueues a sync of all streams or of some, once. p_trigger: manual, schedule, webhook (another run follows one that is under way) or full_refresh. EA403: the permission integrations:sync is missing, or integrations:manage for a full refresh. EA404: no such integration. EA400: no such stream. EA409: it is disabled or has no credentials.';

create or replace function app_hidden.request_backfill(
  p_tenant_id uuid, p_integration_id uuid, p_stream text, p_since timestamptz, p_until timestamptz
)
returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_until timestamptz := coalesce(p_until, now());
  v_run_id uuid;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('integrations:manage');
  perform app_private.integration_to_sync(p_tenant_id, p_integration_id);
  perform app_private.assert_streams(p_tenant_id, p_integration_id, array[p_stream]);
  if p_since is null or p_since >= v_until or v_until > now() + interval '1 minute' or p_since < now() - interval '30 years' then
    raise exception 'A backfill goes from "since" to a later "until", at the most until now and from 30 years ago.'
      using errcode = 'EA400', detail = 'range';
  end if;
  select app_private.open_run(p_tenant_id, s.id, 'backfill', p_since, v_until) into v_run_id
    from public.integration_streams s
   where s.tenant_id = p_tenant_id and s.integration_id = p_integration_id and s.name = p_stream;
  if v_run_id is null then
    raise exception 'A backfill of the stream "%" is under way. Wait for its end, or cancel it.', p_stream using errcode = 'EA409';
  end if;
  return v_run_id;
end
$$;
comment on function app_hidden.request_backfill(uuid, uuid, text, timestamptz, timestamptz) is
  'Enqueues a run that reads what happened in a range, with a cursor of its own. EA403, EA404, EA400; EA409 while another one of the stream is under way.';

create or replace function app_hidden.request_due_syncs() returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_due record;
  v_count integer := 0;
  v_length integer;
begin
  perform app_private.recover_runs();
  -- What nobody has mended for a month is no longer tried.
  for v_due in
    select i.tenant_id, i.id from public.integrations i where i.status = 'ERROR' and i.failing_since < now() - interval '30 days'
  loop
    perform set_config('app.tenant_id', v_due.tenant_id::text, true), set_config('app.actor_name', 'sync_due_integrations', true);
    update public.integrations set status = 'DISABLED' where tenant_id = v_due.tenant_id and id = v_due.id;
  end loop;
  for v_due in
    select i.tenant_id, i.id, i.sync_interval_minutes
      from public.integrations i
      join public.tenants t on t.id = i.tenant_id
     where i.enabled
       and i.status <> 'DISABLED'
       and i.error_class is distinct from 'needs_reauth'
       and app_private.is_open(t.status, t.trial_ends_at)
       -- Never yet, due, or the interval was shortened since.
       and (i.next_sync_at is null or i.next_sync_at <= now()
         or i.next_sync_at > now() + make_interval(mins => i.sync_interval_minutes))
       and (
         not app_private.needs_credentials(i.provider)
         or exists (select from app_private.integration_credentials c where c.tenant_id = i.tenant_id and c.integration_id = i.id)
       )
       and not exists (select from graphile_worker.jobs j where j.key = 'sync:' || i.id and j.attempts < j.max_attempts)
     order by i.next_sync_at nulls first
       for no key update of i skip locked
  loop
    perform set_config('app.tenant_id', v_due.tenant_id::text, true), set_config('app.actor_name', 'sync_due_integrations', true);
    begin
      perform app_hidden.request_sync(v_due.tenant_id, v_due.id, p_trigger => 'schedule');
    exception when sqlstate 'EA409' then
      -- Its credentials went a moment ago. The others go on.
      continue;
    end;
    -- Each integration has its own place within the interval, so that those of an hour do not all come at its start.
    v_length := v_due.sync_interval_minutes * 60;
    update public.integrations i
       set next_sync_at = to_timestamp(
             (floor((extract(epoch from now()) - app_private.sync_phase(i.id, v_length)) / v_length) + 1) * v_length
               + app_private.sync_phase(i.id, v_length)
           )
     where i.tenant_id = v_due.tenant_id and i.id = v_due.id;
    v_count := v_count + 1;
  end loop;
  perform set_config('app.tenant_id', '', true), set_config('app.actor_name', '', true);
  return v_count;
end
$$;
comment on function app_hidden.request_due_syncs() is
  'Enqueues a sync of every enabled integration whose time has come, and takes up runs whose job is gone. Returns how many were enqueued.';

create or replace function app_private.sync_phase(p_integration_id uuid, p_seconds integer) returns integer
language sql immutable parallel safe
as $$ select abs(hashtext(p_integration_id::text)::bigint % p_seconds)::integer $$;
comment on function app_private.sync_phase(uuid, integer) is 'The second of its interval at which an integration is due.';

revoke execute on function
  app_hidden.assert_tenant(uuid), app_hidden.integration_tenant(uuid), app_hidden.run_tenant(uuid),
  app_private.assert_may_sync(uuid, uuid), app_private.integration_to_sync(uuid, uuid),
  app_private.assert_streams(uuid, uuid, text[]), app_hidden.request_sync(uuid, uuid, text[], text),
  app_hidden.request_backfill(uuid, uuid, text, timestamptz, timestamptz), app_hidden.request_due_syncs(),
  app_private.sync_phase(uuid, integer)
from public;
grant execute on function
  app_hidden.request_sync(uuid, uuid, text[], text), app_hidden.request_backfill(uuid, uuid, text, timestamptz, timestamptz)
to api_viewer, api_user, api_admin, api_super_admin;
grant execute on function app_hidden.request_due_syncs(), app_hidden.integration_tenant(uuid), app_hidden.run_tenant(uuid) to erp_worker;
--! EndIncluded functions/sync.sql
--! Included functions/uploads.sql
-- Files that people upload for an integration. They are kept here, because every instance takes them and every worker reads
-- them, in chunks of 512 KiB, because neither may hold a file in memory. How a file is read (the integration's config) is
-- settled when it comes. Each function takes the tenant and refuses another than the transaction's.

create or replace function app_private.require_upload_permission() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if not app_hidden.has_permission('integrations:manage') then
    perform app_hidden.require_permission('integrations:sync');
  end if;
end
$$;
comment on function app_private.require_upload_permission() is 'EA403 without integrations:sync and without integrations:manage.';

create or replace function app_private.file_integration(p_tenant_id uuid, p_integration_id uuid) returns public.integrations
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_integration public.integrations;
begin
  select * into v_integration from public.integrations where tenant_id = p_tenant_id and id = p_integration_id;
  if not found then
    raise exception 'There is no integration %.', p_integration_id using errcode = 'EA404';
  end if;
  if v_integration.provider <> 'csv' then
    raise exception 'Integration "%" is of the provider "%", which takes no files.', v_integration.name, v_integration.provider
      using errcode = 'EA400', detail = 'provider';
  end if;
  return v_integration;
end
$$;
comment on function app_private.file_integration(uuid, uuid) is 'An integration that takes files. EA404: there is none of this id; EA400: it takes none.';

create or replace function app_hidden.upload_settings(p_tenant_id uuid, p_integration_id uuid)
returns table (config jsonb, time_zone text, currency text, currencies text[])
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_private.require_upload_permission();
  return query
    select case when p_integration_id is not null then (app_private.file_integration(p_tenant_id, p_integration_id)).config end,
           t.settings ->> 'timeZone', t.settings ->> 'currency', array(select c.code from app_private.currencies c)
      from public.tenants t where t.id = p_tenant_id;
end
$$;
comment on function app_hidden.upload_settings(uuid, uuid) is
  'How files of an integration are read (null without an integration), and the tenant''s time zone and currency, from which a reading is guessed.';

create or replace function app_hidden.open_upload(p_tenant_id uuid, p_integration_id uuid, p_file_name text)
returns table (id uuid, config jsonb)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_integration public.integrations;
  v_id uuid := uuidv7();
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('integrations:sync');
  v_integration := app_private.file_integration(p_tenant_id, p_integration_id);
  if v_integration.status = 'DISABLED' then
    raise exception 'Integration "%" is disabled. Enable it first.', v_integration.name using errcode = 'EA409';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('uploads ' || p_tenant_id, 0));
  if (select count(*) from app_private.uploads u where u.tenant_id = p_tenant_id and u.state <> 'done') >= 20 then
    raise exception 'At most 20 files wait at a time. Send more when they have been read.' using errcode = 'EA402', detail = 'waiting_uploads';
  end if;
  insert into app_private.uploads (tenant_id, id, integration_id, file_name, config)
  values (p_tenant_id, v_id, p_integration_id, p_file_name, v_integration.config);
  return query select v_id, v_integration.config;
end
$$;
comment on function app_hidden.open_upload(uuid, uuid, text) is
  'Begins an upload. Returns its id, and how it will be read. EA404, EA400: no such integration, or it takes no files; EA409: it is disabled; EA402: too many files wait.';

create or replace function app_hidden.add_upload_chunk(p_tenant_id uuid, p_upload_id uuid, p_position integer, p_bytes bytea)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_length bigint;
  v_permitted bigint;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('integrations:sync');
  -- What all files of a tenant take is counted by one at a time.
  perform pg_advisory_xact_lock(hashtextextended('uploads ' || p_tenant_id, 0));
  update app_private.uploads u
     set byte_length = u.byte_length + octet_length(p_bytes), touched_at = now()
   where u.tenant_id = p_tenant_id and u.id = p_upload_id and u.state = 'receiving'
     -- All chunks but the last are full: where a byte is can be told from its offset.
     and u.byte_length = p_position * 524288::bigint
  returning u.byte_length into v_length;
  if not found then
    raise exception 'This upload was given up meanwhile. Send the file again.' using errcode = 'EA409', detail = 'upload';
  end if;
  select p.upload_bytes into v_permitted
    from public.tenants t join app_private.plans p on p.name = t.plan_type where t.id = p_tenant_id;
  if v_length > v_permitted then
    raise exception 'The plan permits files of at most % bytes, unpacked. Send it in parts.', v_permitted
      using errcode = 'EA402', detail = 'upload_bytes';
  end if;
  if (select sum(u.byte_length) from app_private.uploads u where u.tenant_id = p_tenant_id and u.state <> 'done') > 2 * v_permitted then
    raise exception 'The files that wait have more than % bytes. Send this one when they have been read.', 2 * v_permitted
      using errcode = 'EA402', detail = 'waiting_bytes';
  end if;
  insert into app_private.upload_chunks (tenant_id, upload_id, position, bytes)
  values (p_tenant_id, p_upload_id, p_position, p_bytes);
end
$$;
comment on function app_hidden.add_upload_chunk(uuid, uuid, integer, bytea) is
  'Adds the next 524,288 bytes of a file, or the last of it. EA409: the upload is gone, or it is not the next; EA402: the file, or all that wait, are too large for the plan.';

create or replace function app_hidden.complete_upload(p_tenant_id uuid, p_upload_id uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_upload app_private.uploads;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  select * into v_upload from app_private.uploads u
   where u.tenant_id = p_tenant_id and u.id = p_upload_id and u.state = 'receiving'
     for update;
  if not found then
    raise exception 'This upload was given up meanwhile. Send the file again.' using errcode = 'EA409', detail = 'upload';
  end if;
  -- Locks the integration: files become ready one by one, in the order of ready_at.
  perform app_hidden.request_sync(p_tenant_id, v_upload.integration_id);
  update app_private.uploads u set state = 'ready', ready_at = clock_timestamp()
   where u.tenant_id = p_tenant_id and u.id = p_upload_id;
  perform app_private.write_audit(
    p_tenant_id, 'file.uploaded', 'integration', v_upload.integration_id::text,
    jsonb_build_object('upload', v_upload.id, 'file', v_upload.file_name, 'bytes', v_upload.byte_length)
  );
end
$$;
comment on function app_hidden.complete_upload(uuid, uuid) is
  'The whole file is there: its integration is synced soon. EA403 without integrations:sync; EA409: the upload is gone, or the integration disabled.';

create or replace function app_hidden.drop_upload(p_tenant_id uuid, p_integration_id uuid, p_upload_id uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_upload app_private.uploads;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_private.require_upload_permission();
  delete from app_private.uploads u
   where u.tenant_id = p_tenant_id and u.integration_id = p_integration_id and u.id = p_upload_id
  returning * into v_upload;
  if not found then
    raise exception 'There is no file %.', p_upload_id using errcode = 'EA404';
  end if;
  if v_upload.state = 'ready' then
    perform app_private.write_audit(
      p_tenant_id, 'file.deleted', 'integration', v_upload.integration_id::text,
      jsonb_build_object('upload', v_upload.id, 'file', v_upload.file_name, 'bytes', v_upload.byte_length)
    );
  end if;
end
$$;
comment on function app_hidden.drop_upload(uuid, uuid, uuid) is
  'Deletes a file, whether it waits, is being received, or was read. What was read of it stays. EA404: there is none.';

create or replace function app_hidden.list_uploads(p_tenant_id uuid, p_integration_id uuid)
returns table (id uuid, file_name text, byte_length bigint, state text, created_at timestamptz, ready_at timestamptz, done_at timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_private.require_upload_permission();
  perform app_private.file_integration(p_tenant_id, p_integration_id);
  return query
    select u.id, u.file_name, u.byte_length, u.state, u.created_at, u.ready_at, u.done_at
      from app_private.uploads u
     where u.tenant_id = p_tenant_id and u.integration_id = p_integration_id
     order by u.created_at desc, u.id desc
     limit 100;
end
$$;
comment on function app_hidden.list_uploads(uuid, uuid) is 'The newest 100 files of an integration.';

create or replace function app_hidden.preview_events(p_tenant_id uuid, p_events jsonb) returns setof app_hidden.event_receipt
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_receipts app_hidden.event_receipt[];
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_private.require_upload_permission();
  if jsonb_array_length(p_events) > 100 then
    raise exception 'A preview has at most 100 events.' using errcode = 'EA400';
  end if;
  begin
    v_receipts := array(select w from app_hidden.write_events(p_tenant_id, p_events) w);
    raise exception using errcode = 'EA000';
  exception when sqlstate 'EA000' then
    -- Only what was found out is left.
    null;
  end;
  return query select * from unnest(v_receipts);
end
$$;
comment on function app_hidden.preview_events(uuid, jsonb) is
  'What write_events would make of these events, at most 100; nothing is written.';

create or replace function app_hidden.next_upload(p_tenant_id uuid, p_integration_id uuid)
returns table (
  id uuid, file_name text, byte_length bigint, config jsonb, earliest timestamptz, latest timestamptz, currencies text[]
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  return query
    select u.id, u.file_name, u.byte_length, u.config,
           greatest(now() - l.max_age, now() - make_interval(days => app_private.retention_days(p_tenant_id))), now() + l.max_ahead,
           array(select c.code from app_private.currencies c)
      from app_private.uploads u
     cross join app_private.event_limits l
     where u.tenant_id = p_tenant_id and u.integration_id = p_integration_id and u.state = 'ready'
     order by u.ready_at, u.id
     limit 1;
end
$$;
comment on function app_hidden.next_upload(uuid, uuid) is
  'The oldest file that waits to be read, and the times and currencies that events may have.';

create or replace function app_hidden.read_upload(p_tenant_id uuid, p_upload_id uuid, p_position integer) returns bytea
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  return (
    select c.bytes from app_private.upload_chunks c
     where c.tenant_id = p_tenant_id and c.upload_id = p_upload_id and c.position = p_position
  );
end
$$;
comment on function app_hidden.read_upload(uuid, uuid, integer) is 'One chunk of a file; null where there is none.';

create or replace function app_hidden.release_upload(p_tenant_id uuid, p_upload_id uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  update app_private.uploads u set state = 'done', done_at = now()
   where u.tenant_id = p_tenant_id and u.id = p_upload_id and u.state = 'ready';
  delete from app_private.upload_chunks c where c.tenant_id = p_tenant_id and c.upload_id = p_upload_id;
end
$$;
comment on function app_hidden.release_upload(uuid, uuid) is 'A file was read to its end: its bytes go, what is known of it stays.';

create or replace function app_hidden.tend_uploads() returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_waiting record;
  v_count integer;
begin
  -- Whoever received it is gone: an upload under way is touched by every chunk, and ends when none comes for a minute.
  delete from app_private.uploads u where u.state = 'receiving' and u.touched_at < now() - interval '10 minutes';
  get diagnostics v_count = row_count;
  delete from app_private.uploads u where u.state = 'done' and u.done_at < now() - interval '90 days';
  -- A file that became ready when a sync had just looked for the last time: that sync succeeded, and the file waits.
  for v_waiting in
    select i.tenant_id, i.id
      from public.integrations i
      join public.tenants t on t.id = i.tenant_id
     where i.provider = 'csv' and i.status <> 'DISABLED' and i.sync_status = 'succeeded'
       and app_private.is_open(t.status, t.trial_ends_at)
       and exists (
         select from app_private.uploads u where u.tenant_id = i.tenant_id and u.integration_id = i.id and u.state = 'ready'
       )
  loop
    perform set_config('app.tenant_id', v_waiting.tenant_id::text, true), set_config('app.actor_name', 'tend_uploads', true);
    perform app_hidden.request_sync(v_waiting.tenant_id, v_waiting.id);
  end loop;
  perform set_config('app.tenant_id', '', true), set_config('app.actor_name', '', true);
  return v_count;
end
$$;
comment on function app_hidden.tend_uploads() is
  'Deletes uploads that nobody will finish, and what is known of files that were read 90 days ago; requests syncs for files that wait. Returns how many it gave up.';

revoke execute on function
  app_private.require_upload_permission(), app_private.file_integration(uuid, uuid), app_hidden.upload_settings(uuid, uuid),
  app_hidden.open_upload(uuid, uuid, text), app_hidden.add_upload_chunk(uuid, uuid, integer, bytea),
  app_hidden.complete_upload(uuid, uuid), app_hidden.drop_upload(uuid, uuid, uuid), app_hidden.list_uploads(uuid, uuid),
  app_hidden.preview_events(uuid, jsonb), app_hidden.next_upload(uuid, uuid), app_hidden.read_upload(uuid, uuid, integer),
  app_hidden.release_upload(uuid, uuid), app_hidden.tend_uploads()
from public;
grant execute on function
  app_hidden.upload_settings(uuid, uuid), app_hidden.open_upload(uuid, uuid, text),
  app_hidden.add_upload_chunk(uuid, uuid, integer, bytea), app_hidden.complete_upload(uuid, uuid),
  app_hidden.drop_upload(uuid, uuid, uuid), app_hidden.list_uploads(uuid, uuid), app_hidden.preview_events(uuid, jsonb)
to api_viewer, api_user, api_admin, api_super_admin;
grant execute on function
  app_hidden.next_upload(uuid, uuid), app_hidden.read_upload(uuid, uuid, integer), app_hidden.release_upload(uuid, uuid)
to api_job;
grant execute on function app_hidden.tend_uploads() to erp_worker;
--! EndIncluded functions/uploads.sql
--! Included functions/sync_runs.sql
-- A run: one sync of one stream, from its start until it has caught up, has failed or was canceled. It is open meanwhile, in
-- two states: running, under a lease, or waiting for the job that goes on. Whoever calls these holds the integration's lock.

create or replace function app_private.enqueue_run(p_tenant_id uuid, p_run_id uuid, p_run_at timestamptz, p_waits_for text default null)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_bulk boolean;
begin
  update public.integration_runs r
     set resumes_at = case when p_run_at > now() then p_run_at end, waits_for = p_waits_for
   where r.tenant_id = p_tenant_id and r.id = p_run_id
  returning app_private.is_bulk(p_tenant_id, r.kind, r.stream_id) into v_is_bulk;
  -- A job of its own: what has been read so far costs the rest no attempt.
  perform graphile_worker.add_job(
    'sync_stream', json_build_object('runId', p_run_id), job_key => 'run:' || p_run_id, max_attempts => 5,
    run_at => greatest(p_run_at, now()), priority => case when v_is_bulk then 10 else 0 end
  );
end
$$;
comment on function app_private.enqueue_run(uuid, uuid, timestamptz, text) is 'Enqueues the job that goes on with a run; instead of one that waits already.';

create or replace function app_private.is_bulk(p_tenant_id uuid, p_kind text, p_stream_id uuid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select p_kind <> 'incremental' or s.last_success_at is null
    from public.integration_streams s
   where s.tenant_id = p_tenant_id and s.id = p_stream_id
$$;
comment on function app_private.is_bulk(uuid, text, uuid) is
  'Whether a run reads a past that may be long: it comes after the others, and in short slices. A first sync is one.';

create or replace function app_private.open_run(
  p_tenant_id uuid, p_stream_id uuid, p_trigger text, p_since timestamptz default null, p_until timestamptz default null
)
returns uuid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs;
begin
  insert into public.integration_runs (tenant_id, integration_id, stream_id, trigger, since, until)
  select p_tenant_id, s.integration_id, s.id, p_trigger, p_since, p_until
    from public.integration_streams s
   where s.tenant_id = p_tenant_id and s.id = p_stream_id
  on conflict (tenant_id, stream_id, kind) where ended_at is null do nothing
  returning * into v_run;
  if v_run.id is null then
    if p_trigger = 'webhook' then
      -- What has changed may lie before the place where the run is.
      update public.integration_runs r set repeats = true
       where r.tenant_id = p_tenant_id and r.stream_id = p_stream_id and r.kind = 'incremental'
         and r.ended_at is null and r.started_at is not null and not r.repeats;
    end if;
    return null;
  end if;
  if v_run.kind <> 'backfill' then
    update public.integration_streams s set state = 'waiting' where s.tenant_id = p_tenant_id and s.id = p_stream_id;
  end if;
  perform app_private.enqueue_run(p_tenant_id, v_run.id, now());
  return v_run.id;
end
$$;
comment on function app_private.open_run(uuid, uuid, text, timestamptz, timestamptz) is
  'Opens a run of a stream and enqueues it; null when one of its kind is open.';

create or replace function app_hidden.open_runs(
  p_tenant_id uuid, p_integration_id uuid, p_job_id text, p_streams text[], p_trigger text
)
returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid;
  v_count integer := 0;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform from public.integrations i where i.tenant_id = p_tenant_id and i.id = p_integration_id for no key update;
  -- Canceled since, or replaced by a later request.
  if not exists (
    select from graphile_worker.jobs j where j.id = p_job_id::bigint and j.key = 'sync:' || p_integration_id
  ) then
    return 0;
  end if;
  begin
    perform app_private.assert_may_sync(p_tenant_id, p_integration_id);
  exception when sqlstate 'EA409' then
    update public.integrations i set sync_status = 'canceled' where i.tenant_id = p_tenant_id and i.id = p_integration_id;
    return 0;
  end;
  insert into public.integration_streams (tenant_id, integration_id, name)
  select p_tenant_id, p_integration_id, n from unnest(p_streams) n
  on conflict (tenant_id, integration_id, name) do nothing;
  for v_id in
    select s.id from public.integration_streams s
     where s.tenant_id = p_tenant_id and s.integration_id = p_integration_id and s.enabled and s.name = any (p_streams)
     order by array_position(p_streams, s.name)
  loop
    if app_private.open_run(p_tenant_id, v_id, p_trigger) is not null then
      v_count := v_count + 1;
    end if;
  end loop;
  if v_count = 0 then
    perform app_private.settle_sync(p_tenant_id, p_integration_id);
  end if;
  return v_count;
end
$$;
comment on function app_hidden.open_runs(uuid, uuid, text, text[], text) is
  'Adds streams that are new and opens a run of each that is enabled, unless the job was canceled meanwhile, or the integration disabled. Returns how many.';

create or replace function app_private.end_run(
  p_tenant_id uuid, p_run_id uuid, p_state text, p_error_class text default null, p_error text default null
)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs;
begin
  update public.integration_runs r
     set state = p_state, ended_at = clock_timestamp(), resumes_at = null, waits_for = null,
         error_class = p_error_class, error = p_error
   where r.tenant_id = p_tenant_id and r.id = p_run_id and r.ended_at is null
  returning * into v_run;
  if not found then
    return;
  end if;
  delete from app_private.refresh_seen n where n.tenant_id = p_tenant_id and n.run_id = p_run_id;
  delete from app_private.refresh_sweeps w where w.tenant_id = p_tenant_id and w.run_id = p_run_id;
  perform app_private.release_lease(p_tenant_id, v_run.stream_id, p_run_id);
  if v_run.kind <> 'backfill' then
    update public.integration_streams s
       set state = p_state, error_class = p_error_class, error = p_error,
           last_success_at = case when p_state = 'succeeded' then clock_timestamp() else s.last_success_at end
     where s.tenant_id = p_tenant_id and s.id = v_run.stream_id;
  end if;
  if v_run.repeats and p_state = 'succeeded' then
    perform app_private.open_run(p_tenant_id, v_run.stream_id, 'webhook');
  end if;
end
$$;
comment on function app_private.end_run(uuid, uuid, text, text, text) is 'Ends an open run. Its worker is refused from then on.';

create or replace function app_private.fail_run(p_tenant_id uuid, p_run_id uuid, p_error_class text, p_error text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_integration_id uuid;
  v_other uuid;
begin
  select r.integration_id into v_integration_id from public.integration_runs r where r.tenant_id = p_tenant_id and r.id = p_run_id;
  perform app_private.end_run(p_tenant_id, p_run_id, 'failed', p_error_class, p_error);
  if p_error_class = 'needs_reauth' then
    -- None of the others would fare better: they stop at once.
    for v_other in
      select r.id from public.integration_runs r
       where r.tenant_id = p_tenant_id and r.integration_id = v_integration_id and r.ended_at is null
    loop
      perform app_private.end_run(p_tenant_id, v_other, 'failed', p_error_class, p_error);
    end loop;
    update public.integrations i
       set status = case when i.status = 'DISABLED' then i.status else 'ERROR' end, sync_status = 'failed',
           error_class = p_error_class, sync_error = p_error, failing_since = coalesce(i.failing_since, now())
     where i.tenant_id = p_tenant_id and i.id = v_integration_id;
  end if;
end
$$;
comment on function app_private.fail_run(uuid, uuid, text, text) is 'Ends a run that failed; all runs of the integration when its credentials are refused.';

create or replace function app_private.settle_sync(p_tenant_id uuid, p_integration_id uuid, p_goes_on boolean default true) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_open boolean;
  v_is_moving boolean;
  v_failed public.integration_streams;
  v_status text;
begin
  -- A backfill has no say: it may take days, and the integration is as new as its syncs.
  select count(*) > 0, bool_or(r.state = 'running' or (p_goes_on and r.started_at is null)) into v_is_open, v_is_moving
    from public.integration_runs r
   where r.tenant_id = p_tenant_id and r.integration_id = p_integration_id and r.ended_at is null and r.kind <> 'backfill';
  if v_is_open then
    v_status := case when v_is_moving then 'running' else 'queued' end;
    update public.integrations i set sync_status = v_status
     where i.tenant_id = p_tenant_id and i.id = p_integration_id and i.sync_status is distinct from v_status;
    return;
  end if;
  select * into v_failed from public.integration_streams s
   where s.tenant_id = p_tenant_id and s.integration_id = p_integration_id and s.enabled and s.state = 'failed'
   order by s.error_class = 'needs_reauth' desc, s.name limit 1;
  if found then
    update public.integrations i
       set sync_status = 'failed', sync_error = v_failed.error, error_class = v_failed.error_class,
           failing_since = coalesce(i.failing_since, now()),
           status = case when i.status = 'DISABLED' then i.status else 'ERROR' end
     where i.tenant_id = p_tenant_id and i.id = p_integration_id;
  elsif exists (
    select from public.integration_streams s
     where s.tenant_id = p_tenant_id and s.integration_id = p_integration_id and s.enabled and s.state = 'canceled'
  ) then
    update public.integrations i set sync_status = 'canceled'
     where i.tenant_id = p_tenant_id and i.id = p_integration_id and i.sync_status is distinct from 'canceled';
  else
    update public.integrations i
       set sync_status = 'succeeded', sync_error = null, error_class = null, failing_since = null, last_sync_at = now(),
           status = case when i.status = 'DISABLED' then i.status else 'ACTIVE' end
     where i.tenant_id = p_tenant_id and i.id = p_integration_id;
  end if;
end
$$;
comment on function app_private.settle_sync(uuid, uuid, boolean) is
  'What the runs come to for the integration: its status, and what its last sync came to. p_goes_on: a run that has not begun is about to.';

create or replace function app_private.recover_runs() returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run record;
  v_count integer := 0;
begin
  for v_run in
    select r.tenant_id, r.id, r.integration_id, r.attempts
      from public.integration_runs r
     where r.ended_at is null and r.requested_at < now() - interval '1 minute'
       and not exists (select from graphile_worker.jobs j where j.key = 'run:' || r.id and j.attempts < j.max_attempts)
       and not exists (
         select from app_private.sync_leases l
          where l.tenant_id = r.tenant_id and l.run_id = r.id and l.expires_at > now() - interval '1 minute'
       )
  loop
    perform set_config('app.tenant_id', v_run.tenant_id::text, true), set_config('app.actor_name', 'sync_due_integrations', true);
    perform from public.integrations i
      where i.tenant_id = v_run.tenant_id and i.id = v_run.integration_id
        for no key update skip locked;
    continue when not found;
    update public.integration_runs r set attempts = r.attempts + 1, retries = r.retries + 1
     where r.tenant_id = v_run.tenant_id and r.id = v_run.id and r.ended_at is null;
    continue when not found;
    if v_run.attempts >= 4 then
      perform app_private.fail_run(v_run.tenant_id, v_run.id, 'internal', 'The sync broke off five times at the same place.');
      perform app_private.settle_sync(v_run.tenant_id, v_run.integration_id);
    else
      perform app_private.enqueue_run(v_run.tenant_id, v_run.id, now());
    end if;
    v_count := v_count + 1;
  end loop;
  return v_count;
end
$$;
comment on function app_private.recover_runs() is 'Takes up open runs whose job is gone, five times at the most. Returns how many.';

create or replace function app_hidden.fail_sync(p_tenant_id uuid, p_integration_id uuid, p_error_class text, p_error text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  update public.integrations i
     set sync_status = 'failed', error_class = p_error_class, sync_error = p_error, failing_since = coalesce(i.failing_since, now()),
         status = case when i.status = 'DISABLED' then i.status else 'ERROR' end
   where i.tenant_id = p_tenant_id and i.id = p_integration_id;
end
$$;
comment on function app_hidden.fail_sync(uuid, uuid, text, text) is 'Records that a sync could not even begin.';

revoke execute on function
  app_private.enqueue_run(uuid, uuid, timestamptz, text), app_private.is_bulk(uuid, text, uuid),
  app_private.open_run(uuid, uuid, text, timestamptz, timestamptz), app_hidden.open_runs(uuid, uuid, text, text[], text),
  app_private.end_run(uuid, uuid, text, text, text), app_private.fail_run(uuid, uuid, text, text),
  app_private.settle_sync(uuid, uuid, boolean), app_private.recover_runs(), app_hidden.fail_sync(uuid, uuid, text, text)
from public;
grant execute on function app_hidden.open_runs(uuid, uuid, text, text[], text), app_hidden.fail_sync(uuid, uuid, text, text) to api_job;
--! EndIncluded functions/sync_runs.sql
--! Included functions/sync_leases.sql
-- A worker reads a stream under a lease (20 s, renewed every 5 s and by each page), whose token every write carries: whoever
-- was overtaken, canceled or reset is refused. A dead worker's lease is over before its job is freed (30 s after its
-- last heartbeat).

create or replace function app_private.release_lease(p_tenant_id uuid, p_stream_id uuid, p_run_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  delete from app_private.sync_leases l where l.tenant_id = p_tenant_id and l.stream_id = p_stream_id and l.run_id = p_run_id;
  if not found then
    return;
  end if;
  -- In the order in which turns are given: whoever finds none free below is seen here.
  perform pg_advisory_xact_lock(hashtextextended('sync turns ' || p_tenant_id, 0));
  perform app_private.enqueue_run(p_tenant_id, w.id, now())
     from (
       select r.id from public.integration_runs r
        where r.tenant_id = p_tenant_id and r.ended_at is null and r.waits_for = 'turn'
        order by r.kind <> 'incremental', r.requested_at limit 2
          -- One that is just being canceled is left to that.
          for no key update skip locked
     ) w;
end
$$;
comment on function app_private.release_lease(uuid, uuid, uuid) is 'Ends a run''s lease, and wakes those that wait for a turn.';

create or replace function app_private.hold_lease(p_tenant_id uuid, p_run_id uuid, p_token uuid) returns public.integration_runs
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs;
begin
  -- The lock lasts until commit: whoever overtakes waits here, and whoever was overtaken is refused.
  perform from app_private.sync_leases l where l.tenant_id = p_tenant_id and l.run_id = p_run_id and l.token = p_token for update;
  if not found then
    raise exception 'This run was canceled, or superseded by another.' using errcode = 'EA409', detail = 'superseded';
  end if;
  update app_private.sync_leases l set expires_at = clock_timestamp() + interval '20 seconds'
   where l.tenant_id = p_tenant_id and l.run_id = p_run_id;
  select * into strict v_run from public.integration_runs r where r.tenant_id = p_tenant_id and r.id = p_run_id;
  return v_run;
end
$$;
comment on function app_private.hold_lease(uuid, uuid, uuid) is 'The run, whose lease is locked and renewed. EA409 with detail "superseded" when the token is no longer the lease''s.';

create or replace function app_hidden.renew_lease(p_tenant_id uuid, p_run_id uuid, p_token uuid) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  update app_private.sync_leases l set expires_at = clock_timestamp() + interval '20 seconds'
   where l.tenant_id = p_tenant_id and l.run_id = p_run_id and l.token = p_token;
  return found;
end
$$;
comment on function app_hidden.renew_lease(uuid, uuid, uuid) is 'Prolongs a lease during a long call to a provider. False when it is no longer held: stop.';

create or replace function app_private.take_lease(p_tenant_id uuid, p_run public.integration_runs, p_token uuid) returns timestamptz
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_lease app_private.sync_leases;
  v_max integer;
begin
  select * into v_lease from app_private.sync_leases l
   where l.tenant_id = p_tenant_id and l.stream_id = p_run.stream_id for update;
  if v_lease.expires_at > clock_timestamp() then
    return v_lease.expires_at + interval '1 second';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('sync turns ' || p_tenant_id, 0));
  select p.max_concurrent_syncs into strict v_max
    from public.tenants t join app_private.plans p on p.name = t.plan_type where t.id = p_tenant_id;
  -- One turn is kept for syncs that are soon over.
  if app_private.is_bulk(p_tenant_id, p_run.kind, p_run.stream_id) then
    v_max := greatest(v_max - 1, 1);
  end if;
  if (
    select count(*) from app_private.sync_leases l
     where l.tenant_id = p_tenant_id and l.stream_id <> p_run.stream_id and l.expires_at > clock_timestamp()
  ) >= v_max then
    return clock_timestamp() + make_interval(secs => 5 + 5 * random());
  end if;
  insert into app_private.sync_leases as l (tenant_id, stream_id, run_id, token, expires_at)
  values (p_tenant_id, p_run.stream_id, p_run.id, p_token, clock_timestamp() + interval '20 seconds')
  on conflict (tenant_id, stream_id) do update
     set run_id = excluded.run_id, token = excluded.token, expires_at = excluded.expires_at;
  -- It left without a word: a page that kills its worker must not do so for ever.
  if v_lease.run_id = p_run.id then
    update public.integration_runs r set attempts = r.attempts + 1, retries = r.retries + 1
     where r.tenant_id = p_tenant_id and r.id = p_run.id;
  end if;
  return null;
end
$$;
comment on function app_private.take_lease(uuid, public.integration_runs, uuid) is
  'Takes the lease of a run''s stream; or says when to try again, because another worker has it, or the tenant has as many as its plan says.';

create or replace function app_hidden.begin_run(p_tenant_id uuid, p_run_id uuid, p_token uuid)
returns table (
  integration_id uuid, provider text, config jsonb, stream text, kind text, is_bulk boolean, cursor jsonb,
  since timestamptz, until timestamptz, is_read boolean,
  version integer, ciphertext bytea, key_version integer, kek_id text, wrapped_key bytea
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_run public.integration_runs;
  v_stream public.integration_streams;
  v_integration public.integrations;
  v_later timestamptz;
  v_trouble text;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  select i.* into v_integration
    from public.integration_runs r join public.integrations i on i.tenant_id = r.tenant_id and i.id = r.integration_id
   where r.tenant_id = p_tenant_id and r.id = p_run_id
     for no key update of i;
  select * into v_run from public.integration_runs r where r.tenant_id = p_tenant_id and r.id = p_run_id and r.ended_at is null;
  if not found then
    return;
  end if;
  select * into strict v_stream from public.integration_streams s where s.tenant_id = p_tenant_id and s.id = v_run.stream_id;
  if not v_stream.enabled then
    v_trouble := 'The stream was switched off.';
  elsif v_integration.status = 'DISABLED' then
    v_trouble := 'The integration was disabled.';
  elsif not exists (select from public.tenants t where t.id = p_tenant_id and app_private.is_open(t.status, t.trial_ends_at)) then
    v_trouble := 'The tenant is suspended, or its trial has ended.';
  end if;
  if v_trouble is not null then
    perform app_private.end_run(p_tenant_id, p_run_id, 'canceled', null, v_trouble);
    perform app_private.settle_sync(p_tenant_id, v_integration.id);
    return;
  end if;
  v_later := app_private.take_lease(p_tenant_id, v_run, p_token);
  if v_later is not null then
    update public.integration_runs r set state = 'waiting' where r.tenant_id = p_tenant_id and r.id = p_run_id and r.state <> 'waiting';
    perform app_private.enqueue_run(p_tenant_id, p_run_id, v_later, 'turn');
    return;
  end if;
  update public.integration_runs r
     set state = 'running', started_at = coalesce(r.started_at, clock_timestamp()), resumes_at = null, waits_for = null
   where r.tenant_id = p_tenant_id and r.id = p_run_id
  returning r.* into v_run;
  if v_run.attempts >= 5 then
    perform app_private.fail_run(p_tenant_id, p_run_id, 'internal', 'The sync broke off five times at the same place.');
    perform app_private.settle_sync(p_tenant_id, v_integration.id);
    return;
  end if;
  if v_run.kind <> 'backfill' then
    update public.integration_streams s set state = 'running'
     where s.tenant_id = p_tenant_id and s.id = v_run.stream_id and s.state is distinct from 'running';
    update public.integrations i set sync_status = 'running'
     where i.tenant_id = p_tenant_id and i.id = v_integration.id and i.sync_status is distinct from 'running';
  end if;
  return query
    select v_integration.id, v_integration.provider, v_integration.config, v_stream.name, v_run.kind,
           app_private.is_bulk(p_tenant_id, v_run.kind, v_run.stream_id),
           case v_run.kind when 'incremental' then v_stream.cursor else v_run.cursor end,
           v_run.since, v_run.until,
           exists (select from app_private.refresh_sweeps w where w.tenant_id = p_tenant_id and w.run_id = p_run_id),
           c.version, c.ciphertext, c.key_version, k.kek_id, k.wrapped_key
      from (select) one
      left join app_private.integration_credentials c on c.tenant_id = p_tenant_id and c.integration_id = v_integration.id
      left join app_private.tenant_keys k on k.tenant_id = c.tenant_id and k.version = c.key_version;
end
$$;
comment on function app_hidden.begin_run(uuid, uuid, uuid) is
  'Takes the lease for a run and returns what it needs; nothing when the run is over, or was put off. is_read: a full refresh has read everything, and sweeps.';

create or replace function app_private.lock_run(p_tenant_id uuid, p_run_id uuid, p_token uuid, p_calls integer) returns public.integration_runs
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform from public.integration_runs r join public.integrations i on i.tenant_id = r.tenant_id and i.id = r.integration_id
    where r.tenant_id = p_tenant_id and r.id = p_run_id
      for no key update of i;
  v_run := app_private.hold_lease(p_tenant_id, p_run_id, p_token);
  update public.integration_runs r set calls = r.calls + p_calls where r.tenant_id = p_tenant_id and r.id = p_run_id;
  return v_run;
end
$$;
comment on function app_private.lock_run(uuid, uuid, uuid, integer) is 'Locks the integration and the lease, in that order, and counts calls. EA409 when the lease is lost.';

create or replace function app_private.put_off(p_run public.integration_runs, p_run_at timestamptz, p_waits_for text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  update public.integration_runs r set state = 'waiting' where r.tenant_id = p_run.tenant_id and r.id = p_run.id;
  if p_run.kind <> 'backfill' then
    update public.integration_streams s set state = 'waiting' where s.tenant_id = p_run.tenant_id and s.id = p_run.stream_id;
  end if;
  perform app_private.enqueue_run(p_run.tenant_id, p_run.id, p_run_at, p_waits_for);
  perform app_private.release_lease(p_run.tenant_id, p_run.stream_id, p_run.id);
  perform app_private.settle_sync(p_run.tenant_id, p_run.integration_id, false);
end
$$;
comment on function app_private.put_off(public.integration_runs, timestamptz, text) is 'Ends a job''s part of a run and enqueues the next.';

create or replace function app_hidden.pause_run(
  p_tenant_id uuid, p_run_id uuid, p_token uuid, p_calls integer, p_milliseconds bigint, p_waits_for text default null
)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_private.put_off(
    app_private.lock_run(p_tenant_id, p_run_id, p_token, p_calls),
    clock_timestamp() + make_interval(secs => greatest(p_milliseconds, 0) / 1000.0), p_waits_for
  );
end
$$;
comment on function app_hidden.pause_run(uuid, uuid, uuid, integer, bigint, text) is
  'Gives the lease back and enqueues the rest: when a slice is over, the worker stops, or the provider asks for patience.';

create or replace function app_hidden.retry_run(
  p_tenant_id uuid, p_run_id uuid, p_token uuid, p_calls integer, p_error_class text, p_error text, p_after_ms bigint default 0
)
returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs := app_private.lock_run(p_tenant_id, p_run_id, p_token, p_calls);
begin
  if v_run.attempts >= 4 then
    perform app_private.fail_run(p_tenant_id, p_run_id, p_error_class, p_error);
    perform app_private.settle_sync(p_tenant_id, v_run.integration_id);
    return false;
  end if;
  update public.integration_runs r
     set attempts = r.attempts + 1, retries = r.retries + 1, error_class = p_error_class, error = p_error
   where r.tenant_id = p_tenant_id and r.id = p_run_id;
  -- 5, 10, 20, 40 seconds, each by half more or less, so that those that failed together do not come back together.
  perform app_private.put_off(
    v_run,
    clock_timestamp() + make_interval(secs => greatest(p_after_ms / 1000.0, 5 * 2 ^ v_run.attempts * (0.5 + random()))), 'retry'
  );
  return true;
end
$$;
comment on function app_hidden.retry_run(uuid, uuid, uuid, integer, text, text, bigint) is
  'Puts a run off after a failure that may pass, longer each time; the fifth without a page in between ends it. Returns whether it goes on.';

create or replace function app_hidden.finish_run(
  p_tenant_id uuid, p_run_id uuid, p_token uuid, p_calls integer, p_error_class text, p_error text
)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs := app_private.lock_run(p_tenant_id, p_run_id, p_token, p_calls);
begin
  perform app_private.fail_run(p_tenant_id, p_run_id, p_error_class, p_error);
  perform app_private.settle_sync(p_tenant_id, v_run.integration_id);
end
$$;
comment on function app_hidden.finish_run(uuid, uuid, uuid, integer, text, text) is
  'Ends a run that trying again would not mend, with the class of the error and a sentence for people.';

revoke execute on function
  app_private.release_lease(uuid, uuid, uuid), app_private.hold_lease(uuid, uuid, uuid), app_hidden.renew_lease(uuid, uuid, uuid),
  app_private.take_lease(uuid, public.integration_runs, uuid), app_hidden.begin_run(uuid, uuid, uuid),
  app_private.lock_run(uuid, uuid, uuid, integer), app_private.put_off(public.integration_runs, timestamptz, text),
  app_hidden.pause_run(uuid, uuid, uuid, integer, bigint, text),
  app_hidden.retry_run(uuid, uuid, uuid, integer, text, text, bigint),
  app_hidden.finish_run(uuid, uuid, uuid, integer, text, text)
from public;
grant execute on function
  app_hidden.renew_lease(uuid, uuid, uuid), app_hidden.begin_run(uuid, uuid, uuid),
  app_hidden.pause_run(uuid, uuid, uuid, integer, bigint, text),
  app_hidden.retry_run(uuid, uuid, uuid, integer, text, text, bigint),
  app_hidden.finish_run(uuid, uuid, uuid, integer, text, text)
to api_job;
--! EndIncluded functions/sync_leases.sql
--! Included functions/sync_pages.sql
-- One page of a run: events, what could not be read, and the cursor behind them, together or not at all.

create or replace function app_private.keep_rejected(p_tenant_id uuid, p_integration_id uuid, p_stream text, p_rejected jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  -- Read again, it is rejected again: the newest stays.
  delete from public.rejected_records r
   using jsonb_array_elements(p_rejected) u
   where r.tenant_id = p_tenant_id and r.integration_id = p_integration_id and r.stream = p_stream
     and r.source_id = u ->> 'sourceId';
  insert into public.rejected_records (tenant_id, integration_id, stream, source_id, reason, record)
  select p_tenant_id, p_integration_id, p_stream, left(u.value ->> 'sourceId', 500), left(u.value ->> 'reason', 1000),
         case
           when octet_length(u.value ->> 'record') <= 16384 then u.value -> 'record'
           when u.value ? 'record' then jsonb_build_object('beginning', left(u.value ->> 'record', 2000))
           else 'null'
         end
    from jsonb_array_elements(p_rejected) with ordinality u
   order by u.ordinality limit 100;
  -- A provider that changed its answers would fill the disk.
  delete from public.rejected_records r
   where r.tenant_id = p_tenant_id and r.integration_id = p_integration_id and r.stream = p_stream
     and r.id <= (
       select o.id from public.rejected_records o
        where o.tenant_id = p_tenant_id and o.integration_id = p_integration_id and o.stream = p_stream
        order by o.id desc offset 1000 limit 1
     );
end
$$;
comment on function app_private.keep_rejected(uuid, uuid, text, jsonb) is
  'Keeps what could not be read, with the reason: of a page the first 100, of a stream the newest 1,000, each up to 16 KiB.';

create or replace function app_hidden.save_sync_page(
  p_tenant_id uuid, p_run_id uuid, p_token uuid, p_events jsonb, p_rejected jsonb, p_cursor jsonb,
  p_calls integer default 0, p_done boolean default false, p_high_water timestamptz default null,
  p_progress real default null, p_complete jsonb default null
)
returns table (accepted bigint, updated bigint, duplicate bigint, deleted bigint, rejected bigint, is_over boolean)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs;
  v_stream public.integration_streams;
  v_receipts app_hidden.event_receipt[];
  v_rejected jsonb;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  -- The last page ends the run, which takes the integration's lock: before the lease, as everywhere.
  v_run := case when p_done then app_private.lock_run(p_tenant_id, p_run_id, p_token, 0)
                else app_private.hold_lease(p_tenant_id, p_run_id, p_token) end;
  perform app_private.assert_may_sync(p_tenant_id, v_run.integration_id);
  select * into strict v_stream from public.integration_streams s where s.tenant_id = p_tenant_id and s.id = v_run.stream_id;

  v_receipts := array(select w from app_hidden.write_events(p_tenant_id, p_events) w);
  select coalesce(jsonb_agg(jsonb_build_object(
           'sourceId', p_events -> (w.ordinal - 1) ->> 'sourceId', 'reason', ltrim(w.pointer || ' ' || w.detail),
           'record', p_events -> (w.ordinal - 1)
         )), '[]') || p_rejected
    into v_rejected
    from unnest(v_receipts) w
   where w.outcome = 'rejected';
  select count(*) filter (where w.outcome = 'accepted'), count(*) filter (where w.outcome = 'updated'),
         count(*) filter (where w.outcome = 'duplicate'), count(*) filter (where w.outcome = 'deleted'),
         jsonb_array_length(v_rejected)
    into accepted, updated, duplicate, deleted, rejected
    from unnest(v_receipts) w;
  if rejected > 0 then
    perform app_private.keep_rejected(p_tenant_id, v_run.integration_id, v_stream.name, v_rejected);
  end if;
  if v_run.kind = 'full_refresh' then
    perform app_private.note_seen(v_run, p_events, p_rejected);
  end if;

  update public.integration_runs r
     set pages = r.pages + 1, calls = r.calls + p_calls, attempts = 0, error_class = null, error = null,
         progress = coalesce(p_progress, r.progress),
         cursor = case when v_run.kind <> 'incremental' then p_cursor end,
         records_accepted = r.records_accepted + accepted, records_updated = r.records_updated + updated,
         records_duplicate = r.records_duplicate + duplicate, records_deleted = r.records_deleted + deleted,
         records_rejected = r.records_rejected + rejected
   where r.tenant_id = p_tenant_id and r.id = p_run_id;
  update public.integration_streams s
     set cursor = case when v_run.kind = 'incremental' then p_cursor else s.cursor end,
         high_water = case when v_run.kind = 'incremental' then coalesce(p_high_water, s.high_water) else s.high_water end,
         records_accepted = s.records_accepted + accepted, records_updated = s.records_updated + updated,
         records_duplicate = s.records_duplicate + duplicate, records_deleted = s.records_deleted + deleted,
         records_rejected = s.records_rejected + rejected
   where s.tenant_id = p_tenant_id and s.id = v_run.stream_id;

  is_over := p_done and not (v_run.kind = 'full_refresh' and app_private.begin_sweep(v_run, p_complete));
  if is_over then
    -- Unless begin_sweep has ended it.
    perform app_private.end_run(p_tenant_id, p_run_id, 'succeeded');
    perform app_private.settle_sync(p_tenant_id, v_run.integration_id);
  end if;
  return next;
end
$$;
comment on function app_hidden.save_sync_page(uuid, uuid, uuid, jsonb, jsonb, jsonb, integer, boolean, timestamptz, real, jsonb) is
  'Writes one page of events and moves the cursor, together or not at all; the last page ends the run. EA409 when the lease is lost, or the integration disabled.';

create or replace function app_hidden.purge_sync_history() returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_count integer;
begin
  delete from public.rejected_records r where r.created_at < now() - interval '90 days';
  delete from app_private.provider_limits l where l.paused_until < now() - interval '1 day';
  delete from public.integration_runs r where r.ended_at < now() - interval '90 days';
  get diagnostics v_count = row_count;
  return v_count;
end
$$;
comment on function app_hidden.purge_sync_history() is 'Deletes runs that ended 90 days ago, and rejected records of that age. Returns how many runs.';

revoke execute on function
  app_private.keep_rejected(uuid, uuid, text, jsonb),
  app_hidden.save_sync_page(uuid, uuid, uuid, jsonb, jsonb, jsonb, integer, boolean, timestamptz, real, jsonb),
  app_hidden.purge_sync_history()
from public;
grant execute on function app_hidden.save_sync_page(uuid, uuid, uuid, jsonb, jsonb, jsonb, integer, boolean, timestamptz, real, jsonb)
to api_job;
grant execute on function app_hidden.purge_sync_history() to erp_worker;
--! EndIncluded functions/sync_pages.sql
--! Included functions/full_refresh.sql
-- A full refresh reads everything again. Where its last page says that it has seen all there is (`complete`), what was not
-- seen is gone at the provider, and is deleted here. That is safe only for events
--   whose sourceId begins as those of the stream do, and whose time is within what was read;
--   that were here before the run began: a later one may have been written by a sync or a webhook meanwhile;
--   as long as every record of the run had an id, readable or not;
--   and while they are not most of what there is: then the provider, or the right to see it, is what is missing.

create or replace function app_private.note_seen(p_run public.integration_runs, p_events jsonb, p_rejected jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into app_private.refresh_seen (tenant_id, run_id, source_id)
  select p_run.tenant_id, p_run.id, coalesce(n.source_id, '')
    from (
      select distinct e ->> 'sourceId' as source_id from jsonb_array_elements(p_events) e
       where e -> 'deleted' is distinct from 'true'
      union
      select r ->> 'sourceId' from jsonb_array_elements(p_rejected) r
    ) n
   order by 3
  on conflict do nothing;
end
$$;
comment on function app_private.note_seen(public.integration_runs, jsonb, jsonb) is
  'Remembers what a full refresh has seen. The empty id: a record that had none.';

create or replace function app_private.missing_keys(p_sweep app_private.refresh_sweeps, p_after text, p_limit integer)
returns table (source_id text, is_missing boolean)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select k.source_id,
         not exists (
           select from app_private.refresh_seen n
            where n.tenant_id = p_sweep.tenant_id and n.run_id = p_sweep.run_id and n.source_id = k.source_id
         )
    from app_private.event_keys k
   where k.tenant_id = p_sweep.tenant_id and k.source = p_sweep.source and k.source_id > p_after
     and k.deleted_at is null and starts_with(k.source_id, p_sweep.prefix) and k."timestamp" >= p_sweep.since
     and k."timestamp" < p_sweep.until
     -- An event's id tells when it was first written.
     and uuid_extract_timestamp(k.id) < p_sweep.started_at
   order by k.source_id
   limit p_limit
$$;
comment on function app_private.missing_keys(app_private.refresh_sweeps, text, integer) is
  'The events that a full refresh should have seen, and whether it has not.';

create or replace function app_private.begin_sweep(p_run public.integration_runs, p_complete jsonb) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_sweep app_private.refresh_sweeps;
  v_all bigint;
  v_missing bigint;
begin
  if p_complete is null or exists (
    select from app_private.refresh_seen n where n.tenant_id = p_run.tenant_id and n.run_id = p_run.id and n.source_id = ''
  ) then
    return false;
  end if;
  insert into app_private.refresh_sweeps (tenant_id, run_id, source, prefix, since, until, started_at)
  select p_run.tenant_id, p_run.id, i.provider || ':' || i.id, p_complete ->> 'sourceIdPrefix',
         (p_complete ->> 'since')::timestamptz, coalesce((p_complete ->> 'until')::timestamptz, 'infinity'), p_run.started_at
    from public.integrations i
   where i.tenant_id = p_run.tenant_id and i.id = p_run.integration_id
  returning * into v_sweep;
  select count(*), count(*) filter (where m.is_missing) into v_all, v_missing from app_private.missing_keys(v_sweep, '', null) m;
  if v_missing > 100 and v_missing * 2 > v_all then
    perform app_private.fail_run(
      p_run.tenant_id, p_run.id, 'suspicious_deletion',
      format('The provider no longer has %s of %s records. None of them was deleted here: see whether the account still has access to them.', v_missing, v_all)
    );
    return false;
  end if;
  return v_missing > 0;
end
$$;
comment on function app_private.begin_sweep(public.integration_runs, jsonb) is
  'Whether the run goes on by deleting what it has not seen. It fails instead when that would be most of what there is.';

create or replace function app_hidden.sweep_run(p_tenant_id uuid, p_run_id uuid, p_token uuid, p_limit integer default 2000)
returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs := app_private.lock_run(p_tenant_id, p_run_id, p_token, 0);
  v_sweep app_private.refresh_sweeps;
  v_last text;
  v_gone jsonb;
  v_deleted bigint;
begin
  perform app_private.assert_may_sync(p_tenant_id, v_run.integration_id);
  select * into v_sweep from app_private.refresh_sweeps w where w.tenant_id = p_tenant_id and w.run_id = p_run_id;
  select max(m.source_id),
         coalesce(jsonb_agg(jsonb_build_object('source', v_sweep.source, 'sourceId', m.source_id, 'deleted', true)) filter (where m.is_missing), '[]')
    into v_last, v_gone
    from app_private.missing_keys(v_sweep, v_sweep.after, p_limit) m;
  if v_last is null then
    perform app_private.end_run(p_tenant_id, p_run_id, 'succeeded');
    perform app_private.settle_sync(p_tenant_id, v_run.integration_id);
    return true;
  end if;
  select count(*) into v_deleted from app_hidden.write_events(p_tenant_id, v_gone) w where w.outcome = 'deleted';
  update app_private.refresh_sweeps w set after = v_last where w.tenant_id = p_tenant_id and w.run_id = p_run_id;
  update public.integration_runs r set records_deleted = r.records_deleted + v_deleted, attempts = 0
   where r.tenant_id = p_tenant_id and r.id = p_run_id;
  update public.integration_streams s set records_deleted = s.records_deleted + v_deleted
   where s.tenant_id = p_tenant_id and s.id = v_run.stream_id;
  return false;
end
$$;
comment on function app_hidden.sweep_run(uuid, uuid, uuid, integer) is
  'Deletes the next events that a full refresh has not seen; ends the run after the last. Returns whether it is over. EA409 when the lease is lost.';

revoke execute on function
  app_private.note_seen(public.integration_runs, jsonb, jsonb),
  app_private.missing_keys(app_private.refresh_sweeps, text, integer),
  app_private.begin_sweep(public.integration_runs, jsonb), app_hidden.sweep_run(uuid, uuid, uuid, integer)
from public;
grant execute on function app_hidden.sweep_run(uuid, uuid, uuid, integer) to api_job;
--! EndIncluded functions/full_refresh.sql
--! Included functions/provider_limits.sql
-- Until when nobody calls a provider, by the name that the connector gives to each of its limits: an app, an account, an
-- integration. All workers and all tenants share them.

create or replace function app_hidden.pause_provider(p_provider text, p_scopes text[], p_milliseconds bigint, p_reason text) returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  insert into app_private.provider_limits as l (provider, scope, paused_until, reason)
  select p_provider, left(s, 200), clock_timestamp() + make_interval(secs => least(p_milliseconds, 86400000) / 1000.0), left(p_reason, 500)
    from (select distinct s from unnest(p_scopes) s order by s) n
  on conflict (provider, scope) do update
     set paused_until = greatest(l.paused_until, excluded.paused_until),
         reason = case when excluded.paused_until > l.paused_until then excluded.reason else l.reason end
$$;
comment on function app_hidden.pause_provider(text, text[], bigint, text) is
  'From now on and for so long, a day at the most, nobody calls the provider within these scopes. A longer pause is not shortened.';

create or replace function app_hidden.provider_pause(p_provider text, p_scopes text[]) returns bigint
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select ceil(extract(epoch from max(l.paused_until) - clock_timestamp()) * 1000)::bigint
    from app_private.provider_limits l
   where l.provider = p_provider and l.scope = any (p_scopes) and l.paused_until > clock_timestamp()
$$;
comment on function app_hidden.provider_pause(text, text[]) is 'For how many milliseconds more the provider must not be called within these scopes; null when it may.';

revoke execute on function
  app_hidden.pause_provider(text, text[], bigint, text), app_hidden.provider_pause(text, text[])
from public;
grant execute on function
  app_hidden.pause_provider(text, text[], bigint, text), app_hidden.provider_pause(text, text[])
to erp_worker;
--! EndIncluded functions/provider_limits.sql
--! Included functions/sync_credentials.sql
-- Refreshed credentials have one copy and one writer: whoever is about to ask the provider for new ones holds this
-- lock, and saves them over the version that it read, under its run's lease, before anybody uses them.

create or replace function app_hidden.begin_refresh(p_tenant_id uuid, p_run_id uuid, p_token uuid, p_version integer) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs;
  v_version integer;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  v_run := app_private.hold_lease(p_tenant_id, p_run_id, p_token);
  select c.version into v_version from app_private.integration_credentials c
   where c.tenant_id = p_tenant_id and c.integration_id = v_run.integration_id;
  if v_version is distinct from p_version then
    return 'changed';
  end if;
  insert into app_private.credential_refreshes as f (tenant_id, integration_id, token, expires_at)
  values (p_tenant_id, v_run.integration_id, p_token, clock_timestamp() + interval '60 seconds')
  on conflict (tenant_id, integration_id) do update
     set token = excluded.token, expires_at = excluded.expires_at
   where f.expires_at <= clock_timestamp() or f.token = excluded.token
      or not exists (select from app_private.sync_leases l where l.tenant_id = f.tenant_id and l.token = f.token);
  return case when found then 'go' else 'busy' end;
end
$$;
comment on function app_hidden.begin_refresh(uuid, uuid, uuid, integer) is
  'Whether this run may ask for new credentials now: go, busy (another run does), or changed (there are newer ones).';

create or replace function app_hidden.end_refresh(
  p_tenant_id uuid, p_run_id uuid, p_token uuid, p_version integer, p_key_version integer, p_ciphertext bytea
)
returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  v_run := app_private.hold_lease(p_tenant_id, p_run_id, p_token);
  delete from app_private.credential_refreshes f
   where f.tenant_id = p_tenant_id and f.integration_id = v_run.integration_id and f.token = p_token;
  if not found then
    raise exception 'Another run refreshes these credentials.' using errcode = 'EA409', detail = 'superseded';
  end if;
  if p_ciphertext is null then
    return true;
  end if;
  update app_private.integration_credentials c
     set version = p_version + 1, key_version = p_key_version, ciphertext = p_ciphertext
   where c.tenant_id = p_tenant_id and c.integration_id = v_run.integration_id and c.version = p_version;
  return found;
end
$$;
comment on function app_hidden.end_refresh(uuid, uuid, uuid, integer, integer, bytea) is
  'Saves refreshed credentials as the next version, or, without any, only gives the lock back. False when somebody set others meanwhile: those count.';

create or replace function app_private.tg_credentials_changed() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update public.integrations i
     set status = case when i.status <> 'ERROR' then i.status when i.last_sync_at is null then 'PENDING' else 'ACTIVE' end::public.integration_status,
         error_class = null, sync_error = null, failing_since = null, next_sync_at = null
   where i.tenant_id = new.tenant_id and i.id = new.integration_id and i.error_class = 'needs_reauth';
  if found then
    update public.integration_streams s
       set state = null, error_class = null, error = null
     where s.tenant_id = new.tenant_id and s.integration_id = new.integration_id and s.error_class = 'needs_reauth';
  end if;
  return null;
end
$$;
comment on function app_private.tg_credentials_changed() is
  'New credentials end needs_reauth, and the schedule goes on at once. Only a new version is new: a key that is rotated seals the same again.';

revoke execute on function
  app_hidden.begin_refresh(uuid, uuid, uuid, integer),
  app_hidden.end_refresh(uuid, uuid, uuid, integer, integer, bytea), app_private.tg_credentials_changed()
from public;
grant execute on function
  app_hidden.begin_refresh(uuid, uuid, uuid, integer), app_hidden.end_refresh(uuid, uuid, uuid, integer, integer, bytea)
to api_job;
--! EndIncluded functions/sync_credentials.sql
--! Included functions/sync_streams.sql
-- What people do to syncs by hand.

create or replace function app_hidden.cancel_sync(p_tenant_id uuid, p_integration_id uuid, p_run_id uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run_id uuid;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('integrations:sync');
  perform from public.integrations i where i.tenant_id = p_tenant_id and i.id = p_integration_id for no key update;
  if not found then
    raise exception 'There is no integration %.', p_integration_id using errcode = 'EA404';
  end if;
  if p_run_id is not null and not exists (
    select from public.integration_runs r
     where r.tenant_id = p_tenant_id and r.integration_id = p_integration_id and r.id = p_run_id
  ) then
    raise exception 'There is no run % of this integration.', p_run_id using errcode = 'EA404';
  end if;
  if p_run_id is null then
    perform graphile_worker.remove_job('sync:' || p_integration_id);
  end if;
  for v_run_id in
    select r.id from public.integration_runs r
     where r.tenant_id = p_tenant_id and r.integration_id = p_integration_id and r.ended_at is null
       and (p_run_id is null or r.id = p_run_id)
     order by r.id
  loop
    perform app_private.end_run(p_tenant_id, v_run_id, 'canceled', null, 'It was canceled.');
    perform graphile_worker.remove_job('run:' || v_run_id);
  end loop;
  if p_run_id is null then
    update public.integrations i set sync_status = 'canceled'
     where i.tenant_id = p_tenant_id and i.id = p_integration_id and i.sync_status in ('queued', 'running');
  else
    perform app_private.settle_sync(p_tenant_id, p_integration_id);
  end if;
end
$$;
comment on function app_hidden.cancel_sync(uuid, uuid, uuid) is
  'Ends one open run of an integration, or all: a worker that is at it writes nothing more. EA403 without integrations:sync; EA404.';

create or replace function app_hidden.set_stream_cursor(p_tenant_id uuid, p_stream_id uuid, p_cursor jsonb) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('integrations:manage');
  perform from public.integration_streams s join public.integrations i on i.tenant_id = s.tenant_id and i.id = s.integration_id
    where s.tenant_id = p_tenant_id and s.id = p_stream_id
      for no key update of i;
  if not found then
    raise exception 'There is no stream %.', p_stream_id using errcode = 'EA404';
  end if;
  if octet_length(p_cursor::text) > 65536 then
    raise exception 'A cursor has at most 65,536 bytes.' using errcode = 'EA400', detail = 'cursor';
  end if;
  -- A worker that is at it would write the place where it was: it is refused, and another goes on from here.
  for v_run in
    select r.* from public.integration_runs r
     where r.tenant_id = p_tenant_id and r.stream_id = p_stream_id and r.kind = 'incremental' and r.ended_at is null
  loop
    perform app_private.release_lease(p_tenant_id, p_stream_id, v_run.id);
    update public.integration_runs r set state = 'waiting', attempts = 0 where r.tenant_id = p_tenant_id and r.id = v_run.id;
    perform app_private.enqueue_run(p_tenant_id, v_run.id, now());
  end loop;
  update public.integration_streams s
     set cursor = p_cursor, high_water = case when p_cursor is not null then s.high_water end
   where s.tenant_id = p_tenant_id and s.id = p_stream_id;
end
$$;
comment on function app_hidden.set_stream_cursor(uuid, uuid, jsonb) is
  'Says where the next sync of a stream goes on; null: from the beginning. A run under way goes on from there, too. EA403, EA404, EA400.';

create or replace function app_hidden.set_integration_service(p_tenant_id uuid, p_integration_id uuid, p_in_service boolean) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run_id uuid;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('integrations:manage');
  update public.integrations i
     set status = case
           when not p_in_service then 'DISABLED'
           when i.status <> 'DISABLED' then i.status
           when i.error_class is not null then 'ERROR'
           when i.last_sync_at is not null then 'ACTIVE'
           else 'PENDING'
         end::public.integration_status,
         -- Another month.
         failing_since = case when p_in_service and i.failing_since is not null then now() else i.failing_since end
   where i.tenant_id = p_tenant_id and i.id = p_integration_id;
  if not found then
    raise exception 'There is no integration %.', p_integration_id using errcode = 'EA404';
  end if;
  if not p_in_service then
    for v_run_id in
      select r.id from public.integration_runs r
       where r.tenant_id = p_tenant_id and r.integration_id = p_integration_id and r.ended_at is null
       order by r.id
    loop
      perform app_private.end_run(p_tenant_id, v_run_id, 'canceled', null, 'The integration was disabled.');
      perform graphile_worker.remove_job('run:' || v_run_id);
    end loop;
    update public.integrations i set sync_status = 'canceled'
     where i.tenant_id = p_tenant_id and i.id = p_integration_id and i.sync_status in ('queued', 'running');
  end if;
end
$$;
comment on function app_hidden.set_integration_service(uuid, uuid, boolean) is
  'Takes an integration out of service, which ends its runs, or back into it. EA403 without integrations:manage; EA404.';

create or replace function public.sync_integration(
  integration_id uuid, streams text[] default null, mode public.sync_mode default 'INCREMENTAL'
)
returns public.integrations
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_integration public.integrations;
begin
  perform app_hidden.request_sync(
    v_tenant_id, integration_id, streams, case mode when 'FULL_REFRESH' then 'full_refresh' else 'manual' end
  );
  select * into v_integration from public.integrations where tenant_id = v_tenant_id and id = integration_id;
  return v_integration;
end
$$;
comment on function public.sync_integration(uuid, text[], public.sync_mode) is
  'Starts a sync now, of all streams that are enabled or of those named. While one is queued or running, nothing more is started. Needs integrations:sync; a full refresh, which reads everything again, integrations:manage.';

create or replace function public.backfill_integration(
  integration_id uuid, stream text, since timestamptz, until timestamptz default null
)
returns public.integration_runs
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_run_id uuid := app_hidden.request_backfill(v_tenant_id, integration_id, stream, since, until);
  v_run public.integration_runs;
begin
  select * into v_run from public.integration_runs r where r.tenant_id = v_tenant_id and r.id = v_run_id;
  return v_run;
end
$$;
comment on function public.backfill_integration(uuid, text, timestamptz, timestamptz) is
  'Reads again what happened from "since" until before "until" (by default, now), beside the syncs and after them, with a cursor of its own. Needs integrations:manage.';

create or replace function public.cancel_sync(integration_id uuid, run_id uuid default null) returns public.integrations
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_integration public.integrations;
begin
  perform app_hidden.cancel_sync(v_tenant_id, integration_id, run_id);
  select * into v_integration from public.integrations where tenant_id = v_tenant_id and id = integration_id;
  return v_integration;
end
$$;
comment on function public.cancel_sync(uuid, uuid) is
  'Ends one run of an integration, or all that are open. What was read stays, and the next sync goes on from there. Needs integrations:sync.';

create or replace function public.reset_integration_stream(stream_id uuid) returns public.integration_streams
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_stream public.integration_streams;
begin
  perform app_hidden.set_stream_cursor(v_tenant_id, stream_id, null);
  select * into v_stream from public.integration_streams s where s.tenant_id = v_tenant_id and s.id = stream_id;
  return v_stream;
end
$$;
comment on function public.reset_integration_stream(uuid) is
  'Forgets how far a stream was read: its next sync begins as the first one did. Events stay, and are not doubled. Needs integrations:manage.';

create or replace function public.set_integration_stream_cursor(stream_id uuid, cursor jsonb) returns public.integration_streams
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_stream public.integration_streams;
begin
  perform app_hidden.set_stream_cursor(v_tenant_id, stream_id, "cursor");
  select * into v_stream from public.integration_streams s where s.tenant_id = v_tenant_id and s.id = stream_id;
  return v_stream;
end
$$;
comment on function public.set_integration_stream_cursor(uuid, jsonb) is
  'Says where the next sync of a stream goes on. One that the connector cannot read fails that sync with the errorClass invalid_cursor, before anything is called. Needs integrations:manage.';

create or replace function public.disable_integration(integration_id uuid) returns public.integrations
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_integration public.integrations;
begin
  perform app_hidden.set_integration_service(v_tenant_id, integration_id, false);
  select * into v_integration from public.integrations where tenant_id = v_tenant_id and id = integration_id;
  return v_integration;
end
$$;
comment on function public.disable_integration(uuid) is
  'Takes an integration out of service: its runs end, and none can be started. (To stop only the schedule, set enabled to false.) Needs integrations:manage.';

create or replace function public.reactivate_integration(integration_id uuid) returns public.integrations
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_integration public.integrations;
begin
  perform app_hidden.set_integration_service(v_tenant_id, integration_id, true);
  select * into v_integration from public.integrations where tenant_id = v_tenant_id and id = integration_id;
  return v_integration;
end
$$;
comment on function public.reactivate_integration(uuid) is
  'Takes an integration that was disabled back into service; it is ACTIVE, in ERROR or PENDING as before. Needs integrations:manage.';

revoke execute on function
  app_hidden.cancel_sync(uuid, uuid, uuid), app_hidden.set_stream_cursor(uuid, uuid, jsonb),
  app_hidden.set_integration_service(uuid, uuid, boolean),
  public.sync_integration(uuid, text[], public.sync_mode), public.backfill_integration(uuid, text, timestamptz, timestamptz),
  public.cancel_sync(uuid, uuid), public.reset_integration_stream(uuid), public.set_integration_stream_cursor(uuid, jsonb),
  public.disable_integration(uuid), public.reactivate_integration(uuid)
from public;
grant execute on function
  app_hidden.cancel_sync(uuid, uuid, uuid), app_hidden.set_stream_cursor(uuid, uuid, jsonb),
  app_hidden.set_integration_service(uuid, uuid, boolean),
  public.sync_integration(uuid, text[], public.sync_mode), public.backfill_integration(uuid, text, timestamptz, timestamptz),
  public.cancel_sync(uuid, uuid), public.reset_integration_stream(uuid), public.set_integration_stream_cursor(uuid, jsonb),
  public.disable_integration(uuid), public.reactivate_integration(uuid)
to api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/sync_streams.sql
--! Included functions/api.sql
-- Functions of the GraphQL API. Invokers: row security decides what they see.

create or replace function public.current_account() returns public.users
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_user public.users;
begin
  select * into v_user from public.users where tenant_id = v_tenant_id and id = app_hidden.current_user_id();
  return v_user;
end
$$;
comment on function public.current_account() is 'The user who is signed in; null for an API key, and for an operator who entered the tenant.';

create or replace function public.current_session() returns public.sessions
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_session public.sessions;
begin
  select * into v_session from public.sessions where tenant_id = v_tenant_id and id = app_hidden.current_session_id();
  return v_session;
end
$$;
comment on function public.current_session() is 'The session of this request.';

create or replace function public.analytics_event_by_source(source text, source_id text) returns public.analytics_events
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_event public.analytics_events;
begin
  select e.* into v_event
    from public.analytics_events e
   where e.tenant_id = v_tenant_id
     and e.source_id = analytics_event_by_source.source_id
     and e.source = analytics_event_by_source.source
   limit 1;
  return v_event;
end
$$;
comment on function public.analytics_event_by_source(text, text) is 'The event of a record at its source.';

create or replace function public.logout() returns uuid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_session_id uuid := app_hidden.current_session_id();
begin
  if v_session_id is null then
    raise exception 'An API key has no session. Its admin ends it by revokeApiKey.' using errcode = 'EA403';
  end if;
  perform app_hidden.revoke_session(app_hidden.current_home_tenant_id(), v_session_id);
  return v_session_id;
end
$$;
comment on function public.logout() is 'Ends the session of this request: its access and refresh tokens are refused from now on.';

create or replace function public.logout_everywhere() returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return app_hidden.revoke_own_sessions(app_hidden.current_tenant_id());
end
$$;
comment on function public.logout_everywhere() is 'Ends all sessions of the current user, this one too. Returns how many.';

create or replace function public.revoke_session(session_id uuid) returns public.sessions
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_session public.sessions;
begin
  perform app_hidden.revoke_session(v_tenant_id, session_id);
  select * into v_session from public.sessions where tenant_id = v_tenant_id and id = session_id;
  return v_session;
end
$$;
comment on function public.revoke_session(uuid) is 'Ends one of the current user''s sessions.';

create or replace function public.request_email_verification() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.request_email_verification(app_hidden.current_tenant_id());
end
$$;
comment on function public.request_email_verification() is 'Mails the current user a link that proves the e-mail address.';

create or replace function public.request_password_reset(email text, tenant text default null, domain text default null) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if email is null or num_nonnulls(tenant, domain) <> 1 then
    raise exception 'Give an e-mail, and either the tenant or its domain.' using errcode = 'EA400';
  end if;
  perform app_hidden.request_password_reset(tenant, domain, email);
end
$$;
comment on function public.request_password_reset(text, text, text) is
  'Mails a link to set a new password, if there is such an account: the answer is the same if there is none. tenant is its slug.';

create or replace function public.invite_user(
  email text, role public.user_role default 'USER', permissions text[] default '{}', first_name text default null, last_name text default null
)
returns public.users
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_user public.users;
  v_id uuid := app_hidden.invite_user(
    v_tenant_id, invite_user.email, coalesce(invite_user.role, 'USER'), invite_user.permissions,
    invite_user.first_name, invite_user.last_name
  );
begin
  select * into v_user from public.users where tenant_id = v_tenant_id and id = v_id;
  return v_user;
end
$$;
comment on function public.invite_user(text, public.user_role, text[], text, text) is
  'Makes a user with the status INVITED and mails them a link that works once, for seven days. Needs users:manage; nobody grants more than they have.';

create or replace function public.resend_invitation(user_id uuid) returns public.users
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_user public.users;
begin
  perform app_hidden.resend_invitation(v_tenant_id, user_id);
  select * into v_user from public.users where tenant_id = v_tenant_id and id = user_id;
  return v_user;
end
$$;
comment on function public.resend_invitation(uuid) is 'Mails a new invitation, for another seven days; the earlier link no longer works. Needs users:manage.';

create or replace function public.revoke_invitation(user_id uuid) returns uuid
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.revoke_invitation(app_hidden.current_tenant_id(), user_id);
  return user_id;
end
$$;
comment on function public.revoke_invitation(uuid) is 'Removes a user who has not accepted the invitation yet. Needs users:manage.';

create or replace function public.set_user_role(user_id uuid, role public.user_role) returns public.users
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_user public.users;
begin
  perform app_hidden.change_user(v_tenant_id, set_user_role.user_id, set_user_role.role, null, null);
  select * into v_user from public.users where tenant_id = v_tenant_id and id = set_user_role.user_id;
  return v_user;
end
$$;
comment on function public.set_user_role(uuid, public.user_role) is
  'Changes the role of another user, up to one''s own. Their sessions have to be refreshed. Needs users:manage.';

create or replace function public.set_user_permissions(user_id uuid, permissions text[]) returns public.users
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_user public.users;
begin
  perform app_hidden.change_user(v_tenant_id, set_user_permissions.user_id, null, set_user_permissions.permissions, null);
  select * into v_user from public.users where tenant_id = v_tenant_id and id = set_user_permissions.user_id;
  return v_user;
end
$$;
comment on function public.set_user_permissions(uuid, text[]) is
  'Replaces the single permissions of another user, which add to the role''s; at once. Needs users:manage, and each permission that it adds.';

create or replace function public.set_user_status(user_id uuid, status public.user_status) returns public.users
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_user public.users;
begin
  perform app_hidden.change_user(v_tenant_id, set_user_status.user_id, null, null, set_user_status.status);
  select * into v_user from public.users where tenant_id = v_tenant_id and id = set_user_status.user_id;
  return v_user;
end
$$;
comment on function public.set_user_status(uuid, public.user_status) is
  'Suspends, deactivates or reactivates another user; sessions end at once. INACTIVE users do not count towards max_users. Needs users:manage.';

create or replace function public.revoke_api_key(api_key_id uuid) returns public.api_keys
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_key public.api_keys;
begin
  perform app_hidden.revoke_api_key(v_tenant_id, api_key_id);
  select * into v_key from public.api_keys where tenant_id = v_tenant_id and id = api_key_id;
  return v_key;
end
$$;
comment on function public.revoke_api_key(uuid) is 'Ends an API key at once and for good. Needs api_keys:manage.';

create or replace function public.create_tenant(
  name text, slug text, admin_email text, plan text default 'trial', trial_days integer default null, settings jsonb default '{}'
)
returns public.tenants
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid := app_hidden.create_tenant(
    create_tenant.name, create_tenant.slug, admin_email, plan, trial_days, create_tenant.settings
  );
  v_tenant public.tenants;
begin
  select * into v_tenant from public.tenants where id = v_id;
  return v_tenant;
end
$$;
comment on function public.create_tenant(text, text, text, text, integer, jsonb) is
  'Makes a tenant with the limits and features of its plan, and mails an invitation to its first admin. A trial lasts 14 days unless trialDays says otherwise. Needs SUPER_ADMIN.';

revoke execute on function
  public.current_account(), public.current_session(), public.analytics_event_by_source(text, text), public.logout(),
  public.logout_everywhere(), public.revoke_session(uuid), public.request_email_verification(),
  public.request_password_reset(text, text, text), public.invite_user(text, public.user_role, text[], text, text),
  public.resend_invitation(uuid), public.revoke_invitation(uuid), public.set_user_role(uuid, public.user_role),
  public.set_user_permissions(uuid, text[]), public.set_user_status(uuid, public.user_status), public.revoke_api_key(uuid),
  public.create_tenant(text, text, text, text, integer, jsonb)
from public;
grant execute on function public.request_password_reset(text, text, text)
to api_anonymous, api_viewer, api_user, api_admin, api_super_admin;
-- What needs a permission asks for it itself: a viewer may have been granted it.
grant execute on function
  public.current_account(), public.current_session(), public.analytics_event_by_source(text, text), public.logout(),
  public.logout_everywhere(), public.revoke_session(uuid), public.request_email_verification(),
  public.invite_user(text, public.user_role, text[], text, text), public.resend_invitation(uuid), public.revoke_invitation(uuid),
  public.set_user_role(uuid, public.user_role), public.set_user_permissions(uuid, text[]),
  public.set_user_status(uuid, public.user_status), public.revoke_api_key(uuid)
to api_viewer, api_user, api_admin, api_super_admin;
grant execute on function public.create_tenant(text, text, text, text, integer, jsonb) to api_super_admin;
--! EndIncluded functions/api.sql
--! Included triggers/audit.sql
create or replace trigger _100_touch before update on public.tenants for each row execute function app_private.tg_touch();
create or replace trigger _100_touch before update on public.users for each row execute function app_private.tg_touch();
create or replace trigger _100_touch before update on public.integrations for each row execute function app_private.tg_touch();
create or replace trigger _100_touch before update on app_private.user_passwords for each row execute function app_private.tg_touch();
create or replace trigger _100_touch before update on app_private.integration_credentials for each row execute function app_private.tg_touch();

create or replace trigger _900_audit after insert or update or delete on public.tenants
  for each row execute function app_private.tg_audit('tenant', 'id', '{}', '{updated_at}');
create or replace trigger _900_audit after insert or update or delete on public.users
  for each row execute function app_private.tg_audit('user', 'id', '{}', '{updated_at,last_login_at}');
create or replace trigger _900_audit after insert or update or delete on public.integrations
  for each row execute function app_private.tg_audit('integration', 'id', '{}', '{updated_at,next_sync_at}');
create or replace trigger _900_audit after insert or update or delete on app_private.user_passwords
  for each row execute function app_private.tg_audit('user_password', 'user_id', '{password_hash}', '{updated_at}');
create or replace trigger _900_audit after insert or update or delete on app_private.integration_credentials
  for each row execute function app_private.tg_audit('integration_credentials', 'integration_id', '{ciphertext}', '{updated_at}');
create or replace trigger _900_audit after insert or update or delete on app_private.tenant_keys
  for each row execute function app_private.tg_audit('tenant_key', 'version', '{wrapped_key}', '{}');
create or replace trigger _900_audit after insert or update or delete on public.api_keys
  for each row execute function app_private.tg_audit('api_key', 'id', '{}', '{last_used_at}');
--! EndIncluded triggers/audit.sql
--! Included triggers/sync.sql
create or replace trigger _500_credentials_set after insert on app_private.integration_credentials
  for each row execute function app_private.tg_credentials_changed();
create or replace trigger _500_credentials_changed after update of version on app_private.integration_credentials
  for each row when (new.version <> old.version) execute function app_private.tg_credentials_changed();
create or replace trigger _100_touch before update on public.integration_streams for each row execute function app_private.tg_touch();

-- What the worker does is told by the runs; what people do to them, by the audit log.
create or replace trigger _900_audit after insert or update or delete on public.integration_streams
  for each row when (session_user <> 'erp_worker')
  execute function app_private.tg_audit('integration_stream', 'id', '{}', '{updated_at,state}');
create or replace trigger _900_audit after insert or update on public.integration_runs
  for each row when (session_user <> 'erp_worker')
  execute function app_private.tg_audit('integration_run', 'id', '{}', '{resumes_at,waits_for,repeats}');
--! EndIncluded triggers/sync.sql
--! Included policies/integrations.sql
-- Everybody in the tenant sees integrations; whoever has integrations:manage changes them. Credentials are elsewhere.
alter table public.integrations enable row level security, force row level security;

drop policy if exists owner_all on public.integrations;
create policy owner_all on public.integrations to erp_user using (true) with check (true);
comment on policy owner_all on public.integrations is 'Migrations, DBAs and definer functions.';

drop policy if exists select_member on public.integrations;
create policy select_member on public.integrations for select to api_viewer, api_user, api_admin, api_super_admin, api_job
  using (tenant_id = app_hidden.current_tenant_id());
comment on policy select_member on public.integrations is 'Everybody in the tenant, and its jobs.';

drop policy if exists insert_admin on public.integrations;
drop policy if exists insert_manager on public.integrations;
create policy insert_manager on public.integrations for insert to api_viewer, api_user, api_admin, api_super_admin
  with check (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('integrations:manage'));
comment on policy insert_manager on public.integrations is 'Whoever has integrations:manage adds integrations to the tenant.';

drop policy if exists update_admin on public.integrations;
drop policy if exists update_manager on public.integrations;
create policy update_manager on public.integrations for update to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('integrations:manage'))
  with check (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('integrations:manage'));
comment on policy update_manager on public.integrations is 'Whoever has integrations:manage changes the tenant''s integrations.';

drop policy if exists delete_admin on public.integrations;
drop policy if exists delete_manager on public.integrations;
create policy delete_manager on public.integrations for delete to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('integrations:manage'));
comment on policy delete_manager on public.integrations is 'Whoever has integrations:manage removes the tenant''s integrations; the events stay.';

drop policy if exists select_analyst on public.integrations;
create policy select_analyst on public.integrations for select to erp_analyst
  using (tenant_id = app_hidden.session_tenant_id());
comment on policy select_analyst on public.integrations is 'An analyst''s login, whose name says its tenant.';

grant select on public.integrations to api_viewer, api_user, api_admin, api_super_admin, api_job;
grant insert (name, provider, description, config, enabled, sync_interval_minutes) on public.integrations to api_viewer, api_user, api_admin, api_super_admin;
grant update (name, description, config, enabled, sync_interval_minutes) on public.integrations to api_viewer, api_user, api_admin, api_super_admin;
grant delete on public.integrations to api_viewer, api_user, api_admin, api_super_admin;
grant select (id, tenant_id, name, provider, description, status, enabled, last_sync_at, sync_status, sync_error, credentials_set_at, created_at, updated_at)
  on public.integrations to erp_analyst;
-- Withheld: tenant_id, and the sync's own columns, which its functions move. From analysts: config.
--! EndIncluded policies/integrations.sql
--! Included policies/syncs.sql
-- Syncs: everybody in the tenant reads streams and runs; functions write them. Rejected records hold what the provider sent, of
-- customers perhaps, and are for whoever manages integrations.
alter table public.integration_streams enable row level security, force row level security;
drop policy if exists owner_all on public.integration_streams;
create policy owner_all on public.integration_streams to erp_user using (true) with check (true);
comment on policy owner_all on public.integration_streams is 'Migrations, DBAs and definer functions.';
drop policy if exists select_member on public.integration_streams;
create policy select_member on public.integration_streams for select to api_viewer, api_user, api_admin, api_super_admin, api_job
  using (tenant_id = app_hidden.current_tenant_id());
comment on policy select_member on public.integration_streams is 'Everybody in the tenant, and its jobs.';
drop policy if exists update_manager on public.integration_streams;
create policy update_manager on public.integration_streams for update to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('integrations:manage'))
  with check (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('integrations:manage'));
comment on policy update_manager on public.integration_streams is 'Whoever has integrations:manage switches streams on and off.';
grant select on public.integration_streams to api_viewer, api_user, api_admin, api_super_admin, api_job;
grant update (enabled) on public.integration_streams to api_viewer, api_user, api_admin, api_super_admin;
-- Withheld: the cursor, which set_integration_stream_cursor moves, and what syncs move.

alter table public.integration_runs enable row level security, force row level security;
drop policy if exists owner_all on public.integration_runs;
create policy owner_all on public.integration_runs to erp_user using (true) with check (true);
comment on policy owner_all on public.integration_runs is 'Migrations, DBAs and definer functions.';
drop policy if exists select_member on public.integration_runs;
create policy select_member on public.integration_runs for select to api_viewer, api_user, api_admin, api_super_admin, api_job
  using (tenant_id = app_hidden.current_tenant_id());
comment on policy select_member on public.integration_runs is 'Everybody in the tenant, and its jobs.';
grant select on public.integration_runs to api_viewer, api_user, api_admin, api_super_admin, api_job;

alter table public.rejected_records enable row level security, force row level security;
drop policy if exists owner_all on public.rejected_records;
create policy owner_all on public.rejected_records to erp_user using (true) with check (true);
comment on policy owner_all on public.rejected_records is 'Migrations, DBAs and definer functions.';
drop policy if exists select_manager on public.rejected_records;
create policy select_manager on public.rejected_records for select to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('integrations:manage'));
comment on policy select_manager on public.rejected_records is 'Whoever has integrations:manage. EA403 for others.';
grant select on public.rejected_records to api_viewer, api_user, api_admin, api_super_admin;

alter table app_private.sync_leases enable row level security, force row level security;
drop policy if exists owner_all on app_private.sync_leases;
create policy owner_all on app_private.sync_leases to erp_user using (true) with check (true);
comment on policy owner_all on app_private.sync_leases is 'Migrations, DBAs and definer functions.';

alter table app_private.refresh_seen enable row level security, force row level security;
drop policy if exists owner_all on app_private.refresh_seen;
create policy owner_all on app_private.refresh_seen to erp_user using (true) with check (true);
comment on policy owner_all on app_private.refresh_seen is 'Migrations, DBAs and definer functions.';

alter table app_private.refresh_sweeps enable row level security, force row level security;
drop policy if exists owner_all on app_private.refresh_sweeps;
create policy owner_all on app_private.refresh_sweeps to erp_user using (true) with check (true);
comment on policy owner_all on app_private.refresh_sweeps is 'Migrations, DBAs and definer functions.';

alter table app_private.credential_refreshes enable row level security, force row level security;
drop policy if exists owner_all on app_private.credential_refreshes;
create policy owner_all on app_private.credential_refreshes to erp_user using (true) with check (true);
comment on policy owner_all on app_private.credential_refreshes is 'Migrations, DBAs and definer functions.';

alter table app_private.provider_limits enable row level security, force row level security;
drop policy if exists owner_all on app_private.provider_limits;
create policy owner_all on app_private.provider_limits to erp_user using (true) with check (true);
comment on policy owner_all on app_private.provider_limits is 'Migrations, DBAs and definer functions.';
--! EndIncluded policies/syncs.sql
--! Included functions/purge.sql
-- What has ended is deleted once a day, by the task purge_expired.

create or replace function app_hidden.purge_expired() returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  delete from public.sessions where least(expires_at, revoked_at) < now() - interval '30 days';
  delete from app_private.one_time_tokens where expires_at < now() - interval '30 days';
  delete from app_private.rate_limits where counted_at < now() - interval '1 day';
  delete from app_private.retired_credentials where retired_at < now() - interval '24 hours';
  delete from app_private.event_counts where day < current_date - 400;
  -- A tenant that goes takes its events with it, and these leave their marks.
  delete from app_hidden.event_marks m where not exists (select from public.tenants t where t.id = m.tenant_id);
$$;
comment on function app_hidden.purge_expired() is
  'Deletes sessions and one-time tokens that ended 30 days ago, full buckets, credentials a day after they were replaced, daily counts of events after 400 days, and marks of tenants that are gone. Used refresh tokens stay as long as their session, so that a stolen one is known.';

revoke execute on function app_hidden.purge_expired() from public;
grant execute on function app_hidden.purge_expired() to erp_worker;
--! EndIncluded functions/purge.sql
--! Included policies/app_private.sql
-- No API role has usage on this schema. Row security all the same: a grant given by mistake shows nothing.

alter table app_private.tenant_keys enable row level security, force row level security;
drop policy if exists owner_all on app_private.tenant_keys;
create policy owner_all on app_private.tenant_keys to erp_user using (true) with check (true);
comment on policy owner_all on app_private.tenant_keys is 'Migrations, DBAs and definer functions.';

alter table app_private.user_passwords enable row level security, force row level security;
drop policy if exists owner_all on app_private.user_passwords;
create policy owner_all on app_private.user_passwords to erp_user using (true) with check (true);
comment on policy owner_all on app_private.user_passwords is 'Migrations, DBAs and definer functions.';

alter table app_private.refresh_tokens enable row level security, force row level security;
drop policy if exists owner_all on app_private.refresh_tokens;
create policy owner_all on app_private.refresh_tokens to erp_user using (true) with check (true);
comment on policy owner_all on app_private.refresh_tokens is 'Migrations, DBAs and definer functions.';

alter table app_private.one_time_tokens enable row level security, force row level security;
drop policy if exists owner_all on app_private.one_time_tokens;
create policy owner_all on app_private.one_time_tokens to erp_user using (true) with check (true);
comment on policy owner_all on app_private.one_time_tokens is 'Migrations, DBAs and definer functions.';

alter table app_private.api_key_secrets enable row level security, force row level security;
drop policy if exists owner_all on app_private.api_key_secrets;
create policy owner_all on app_private.api_key_secrets to erp_user using (true) with check (true);
comment on policy owner_all on app_private.api_key_secrets is 'Migrations, DBAs and definer functions.';

alter table app_private.integration_credentials enable row level security, force row level security;
drop policy if exists owner_all on app_private.integration_credentials;
create policy owner_all on app_private.integration_credentials to erp_user using (true) with check (true);
comment on policy owner_all on app_private.integration_credentials is 'Migrations, DBAs and definer functions.';

alter table app_private.event_keys enable row level security, force row level security;
drop policy if exists owner_all on app_private.event_keys;
create policy owner_all on app_private.event_keys to erp_user using (true) with check (true);
comment on policy owner_all on app_private.event_keys is 'Migrations, DBAs and definer functions.';

alter table app_private.token_keys enable row level security, force row level security;
drop policy if exists owner_all on app_private.token_keys;
create policy owner_all on app_private.token_keys to erp_user using (true) with check (true);
comment on policy owner_all on app_private.token_keys is 'Migrations, DBAs and definer functions.';

alter table app_private.event_limits enable row level security, force row level security;
drop policy if exists owner_all on app_private.event_limits;
create policy owner_all on app_private.event_limits to erp_user using (true) with check (true);
comment on policy owner_all on app_private.event_limits is 'Migrations, DBAs and definer functions.';

alter table app_private.event_imports enable row level security, force row level security;
drop policy if exists owner_all on app_private.event_imports;
create policy owner_all on app_private.event_imports to erp_user using (true) with check (true);
comment on policy owner_all on app_private.event_imports is 'Migrations, DBAs and definer functions.';

alter table app_private.analysts enable row level security, force row level security;
drop policy if exists owner_all on app_private.analysts;
create policy owner_all on app_private.analysts to erp_user using (true) with check (true);
comment on policy owner_all on app_private.analysts is 'Migrations, DBAs and definer functions.';

alter table app_private.event_counts enable row level security, force row level security;
drop policy if exists owner_all on app_private.event_counts;
create policy owner_all on app_private.event_counts to erp_user using (true) with check (true);
comment on policy owner_all on app_private.event_counts is 'Migrations, DBAs and definer functions.';

alter table app_private.doomed_partitions enable row level security, force row level security;
drop policy if exists owner_all on app_private.doomed_partitions;
create policy owner_all on app_private.doomed_partitions to erp_user using (true) with check (true);
comment on policy owner_all on app_private.doomed_partitions is 'Migrations, DBAs and definer functions.';

alter table app_private.retired_credentials enable row level security, force row level security;
drop policy if exists owner_all on app_private.retired_credentials;
create policy owner_all on app_private.retired_credentials to erp_user using (true) with check (true);
comment on policy owner_all on app_private.retired_credentials is 'Migrations, DBAs and definer functions.';
--! EndIncluded policies/app_private.sql
--! Included functions/integration_credentials.sql
-- Credentials come sealed: the API reads the tenant's newest data key, seals, and hands in the ciphertext, all in one
-- transaction. Each function takes the tenant and refuses another than the transaction's.

create or replace function app_private.editable_integration(p_tenant_id uuid, p_integration_id uuid) returns public.integrations
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_integration public.integrations;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('integrations:manage');
  select * into v_integration from public.integrations where tenant_id = p_tenant_id and id = p_integration_id for no key update;
  if not found then
    raise exception 'There is no integration %.', p_integration_id using errcode = 'EA404';
  end if;
  return v_integration;
end
$$;
comment on function app_private.editable_integration(uuid, uuid) is 'Locks an integration. EA403 without integrations:manage, EA404.';

create or replace function app_hidden.begin_credentials(p_tenant_id uuid, p_integration_id uuid)
returns table (provider text, version integer, key_version integer, kek_id text, wrapped_key bytea)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_integration public.integrations := app_private.editable_integration(p_tenant_id, p_integration_id);
begin
  return query
    select v_integration.provider,
           1 + greatest(
             (select c.version from app_private.integration_credentials c
               where c.tenant_id = p_tenant_id and c.integration_id = p_integration_id),
             (select max(r.version) from app_private.retired_credentials r
               where r.tenant_id = p_tenant_id and r.integration_id = p_integration_id),
             0
           ),
           k.version, k.kek_id, k.wrapped_key
      from (select 1) one
      left join lateral (
        -- The lock keeps the key from being purged until what is sealed under it is there.
        select n.version, n.kek_id, n.wrapped_key from app_private.tenant_keys n
         where n.tenant_id = p_tenant_id
         order by n.version desc limit 1
           for share
      ) k on true;
end
$$;
comment on function app_hidden.begin_credentials(uuid, uuid) is
  'What it takes to seal credentials: their next version, and the tenant''s newest data key; key_version is null before the first. EA403, EA404.';

create or replace function app_hidden.add_first_tenant_key(p_tenant_id uuid, p_kek_id text, p_wrapped_key bytea)
returns table (key_version integer, kek_id text, wrapped_key bytea)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('integrations:manage');
  insert into app_private.tenant_keys (tenant_id, version, kek_id, wrapped_key)
  select p_tenant_id, 1, p_kek_id, p_wrapped_key
   where not exists (select from app_private.tenant_keys k where k.tenant_id = p_tenant_id)
  on conflict do nothing;
  -- A statement of its own, so that it sees the key of whoever was first.
  return query
    select k.version, k.kek_id, k.wrapped_key from app_private.tenant_keys k
     where k.tenant_id = p_tenant_id
     order by k.version desc limit 1
       for share;
end
$$;
comment on function app_hidden.add_first_tenant_key(uuid, text, bytea) is
  'Gives a tenant its first data key, unless it has one. Returns the newest there is. EA403.';

create or replace function app_hidden.set_integration_credentials(
  p_tenant_id uuid, p_integration_id uuid, p_version integer, p_key_version integer, p_ciphertext bytea
)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_integration public.integrations := app_private.editable_integration(p_tenant_id, p_integration_id);
  v_before integer;
begin
  -- Webhooks may be signed with what is replaced, for a while.
  insert into app_private.retired_credentials (tenant_id, integration_id, version, key_version, ciphertext)
  select c.tenant_id, c.integration_id, c.version, c.key_version, c.ciphertext
    from app_private.integration_credentials c
   where c.tenant_id = p_tenant_id and c.integration_id = p_integration_id
  returning version into v_before;
  insert into app_private.integration_credentials as c (tenant_id, integration_id, version, key_version, ciphertext)
  values (p_tenant_id, p_integration_id, p_version, p_key_version, p_ciphertext)
  on conflict (tenant_id, integration_id) do update
     set version = excluded.version, key_version = excluded.key_version, ciphertext = excluded.ciphertext
   where c.version < excluded.version;
  if not found then
    raise exception 'Somebody else set these credentials at the same time. Try again.' using errcode = 'EA409';
  end if;
  update public.integrations i set credentials_set_at = now() where i.tenant_id = p_tenant_id and i.id = p_integration_id;
  -- What the triggers of sync.sql do for needs_reauth: whatever else was wrong may have been the account's.
  update public.integrations i
     set status = case when i.last_sync_at is null then 'PENDING' else 'ACTIVE' end::public.integration_status,
         error_class = null, sync_error = null, failing_since = null, next_sync_at = null
   where i.tenant_id = p_tenant_id and i.id = p_integration_id and i.status = 'ERROR';
  perform app_private.write_audit(
    p_tenant_id, 'integration.credentials_set', 'integration', p_integration_id::text,
    jsonb_build_object('before', jsonb_build_object('version', v_before), 'after', jsonb_build_object('version', p_version))
  );
end
$$;
comment on function app_hidden.set_integration_credentials(uuid, uuid, integer, integer, bytea) is
  'Keeps sealed credentials, and for a day those before. An integration in ERROR is tried again. EA403, EA404, EA409.';

create or replace function app_hidden.begin_connection_test(p_tenant_id uuid, p_integration_id uuid)
returns table (provider text, version integer, key_version integer, ciphertext bytea, kek_id text, wrapped_key bytea)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('integrations:manage');
  perform app_private.take_attempt('connection tests of ' || p_tenant_id, 20, '5 minutes');
  if p_integration_id is null then
    return;
  end if;
  return query
    select i.provider, c.version, c.key_version, c.ciphertext, k.kek_id, k.wrapped_key
      from public.integrations i
      left join app_private.integration_credentials c on c.tenant_id = i.tenant_id and c.integration_id = i.id
      left join app_private.tenant_keys k on k.tenant_id = c.tenant_id and k.version = c.key_version
     where i.tenant_id = p_tenant_id and i.id = p_integration_id;
  if not found then
    raise exception 'There is no integration %.', p_integration_id using errcode = 'EA404';
  end if;
end
$$;
comment on function app_hidden.begin_connection_test(uuid, uuid) is
  'Counts a test of a connection, 20 in five minutes, and returns the sealed credentials of an integration, if one is named. EA403, EA404, EA429.';

-- Plain SQL that writes or removes credentials shows as well.
create or replace function app_private.tg_note_credentials() returns trigger
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'INSERT' then
    update public.integrations set credentials_set_at = now() where tenant_id = new.tenant_id and id = new.integration_id;
  else
    update public.integrations set credentials_set_at = null where tenant_id = old.tenant_id and id = old.integration_id;
  end if;
  return null;
end
$$;
comment on function app_private.tg_note_credentials() is 'Keeps integrations.credentials_set_at.';
create or replace trigger _500_note after insert or delete on app_private.integration_credentials
  for each row execute function app_private.tg_note_credentials();

revoke execute on function
  app_private.editable_integration(uuid, uuid), app_hidden.begin_credentials(uuid, uuid),
  app_hidden.add_first_tenant_key(uuid, text, bytea),
  app_hidden.set_integration_credentials(uuid, uuid, integer, integer, bytea),
  app_hidden.begin_connection_test(uuid, uuid), app_private.tg_note_credentials()
from public;
-- Each asks for the permission itself: a viewer may have been granted it.
grant execute on function
  app_hidden.begin_credentials(uuid, uuid), app_hidden.add_first_tenant_key(uuid, text, bytea),
  app_hidden.set_integration_credentials(uuid, uuid, integer, integer, bytea), app_hidden.begin_connection_test(uuid, uuid)
to api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/integration_credentials.sql
--! Included triggers/notifications.sql
-- What subscriptions listen for. A notification only says where to look: whoever hears it reads under their own rights.
-- NOTIFY serialises commits, so that not every page of a sync sends one.

create or replace function app_private.tg_notify_integration() returns trigger
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_notify('integration:' || (to_jsonb(coalesce(new, old)) ->> tg_argv[0]), '');
  return null;
end
$$;
comment on function app_private.tg_notify_integration() is 'Tells integrationUpdated to look again. Its argument: the column that has the integration''s id.';

create or replace trigger _800_notify_change after update or delete on public.integrations
  for each row execute function app_private.tg_notify_integration('id');
create or replace trigger _800_notify_run after insert or update of state, waits_for, error_class on public.integration_runs
  for each row execute function app_private.tg_notify_integration('integration_id');
-- Each page counts into its stream: of its progress, one notification a second.
create or replace trigger _800_notify_progress after update on public.integration_streams
  for each row when (
    old.state is distinct from new.state or old.enabled is distinct from new.enabled
    or date_trunc('second', old.updated_at) is distinct from date_trunc('second', new.updated_at)
  )
  execute function app_private.tg_notify_integration('integration_id');

create or replace function app_private.tg_notify_access() returns trigger
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_notify('access_changed', to_jsonb(coalesce(new, old)) ->> tg_argv[0]);
  return null;
end
$$;
comment on function app_private.tg_notify_access() is 'Tells the API to check open sockets of a tenant at once. Its argument: the column that has the tenant''s id.';

create or replace trigger _800_notify_access after update on public.sessions
  for each row when (old.revoked_at is distinct from new.revoked_at) execute function app_private.tg_notify_access('tenant_id');
create or replace trigger _800_notify_access after update on public.users
  for each row when (old.role is distinct from new.role or old.status is distinct from new.status)
  execute function app_private.tg_notify_access('tenant_id');
create or replace trigger _800_notify_access after update on public.tenants
  for each row when (
    old.status is distinct from new.status or old.trial_ends_at is distinct from new.trial_ends_at or old.features is distinct from new.features
  )
  execute function app_private.tg_notify_access('id');
create or replace trigger _800_notify_access after update on public.api_keys
  for each row when (old.revoked_at is distinct from new.revoked_at) execute function app_private.tg_notify_access('tenant_id');

revoke execute on function app_private.tg_notify_integration(), app_private.tg_notify_access() from public;
--! EndIncluded triggers/notifications.sql
--! Included functions/webhooks.sql
-- A delivery of a provider: found its integration, verified by the API, kept once with the job that reads it, then turned
-- into events and syncs by the worker. None of it needs a session: the signature is what lets it in.

-- Called before anything is known of the sender, so it says nothing: an integration that is unknown, disabled, without
-- credentials or of a closed tenant has no rows. Only refused requests count against an address: one address of a provider sends
-- for many tenants.
create or replace function app_hidden.webhook_target(p_integration_id uuid, p_address text)
returns table (
  tenant_id uuid, provider text, version integer, key_version integer, ciphertext bytea, kek_id text, wrapped_key bytea
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  perform set_config('synchronous_commit', 'off', true);
  perform app_private.take_attempt('webhooks from ' || app_private.network_of(p_address), 600, '1 minute');
  return query
    select i.tenant_id, i.provider, c.version, c.key_version, c.ciphertext, k.kek_id, k.wrapped_key
      from public.integrations i
      join public.tenants t on t.id = i.tenant_id
     cross join lateral (
       select n.version, n.key_version, n.ciphertext
         from app_private.integration_credentials n
        where n.tenant_id = i.tenant_id and n.integration_id = i.id
       union all
       select r.version, r.key_version, r.ciphertext
         from app_private.retired_credentials r
        where r.tenant_id = i.tenant_id and r.integration_id = i.id and r.retired_at > now() - interval '24 hours'
     ) c
      join app_private.tenant_keys k on k.tenant_id = i.tenant_id and k.version = c.key_version
     where i.id = p_integration_id and i.status <> 'DISABLED' and app_private.is_open(t.status, t.trial_ends_at)
     order by c.version desc;
end
$$;
comment on function app_hidden.webhook_target(uuid, text) is
  'Whose webhook it is, with its sealed credentials: those in use, then those of the last 24 hours. No rows where nobody may send. EA429 once an address was refused 600 times in a minute.';

create or replace function app_hidden.forgive_webhook(p_address text) returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$ select app_private.give_back_attempt('webhooks from ' || app_private.network_of(p_address)) $$;
comment on function app_hidden.forgive_webhook(text) is 'What webhook_target counted against an address was somebody who may send.';

create or replace function app_hidden.receive_webhook(
  p_integration_id uuid, p_delivery_id text, p_headers jsonb, p_body bytea, p_address text
)
returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.integration_tenant(p_integration_id);
  v_id uuid;
begin
  perform app_hidden.forgive_webhook(p_address);
  perform app_private.take_attempt('webhooks of ' || p_integration_id, 1200, '1 minute');
  insert into app_private.webhook_deliveries (tenant_id, integration_id, delivery_id, headers, body)
  values (v_tenant_id, p_integration_id, p_delivery_id, p_headers, p_body)
  on conflict (tenant_id, integration_id, delivery_id) do nothing
  returning id into v_id;
  if not found then
    return false;
  end if;
  perform graphile_worker.add_job(
    'process_webhook', json_build_object('integrationId', p_integration_id, 'id', v_id), max_attempts => 8
  );
  return true;
end
$$;
comment on function app_hidden.receive_webhook(uuid, text, jsonb, bytea, text) is
  'Keeps a delivery whose signature was verified, with its job. False for one that is there already. EA429 beyond 1,200 in a minute.';

create or replace function app_hidden.begin_webhook(p_tenant_id uuid, p_integration_id uuid, p_id uuid)
returns table (provider text, config jsonb, headers jsonb, body bytea)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  return query
    update app_private.webhook_deliveries d
       set attempts = d.attempts + 1
      from public.integrations i, public.tenants t
     where d.tenant_id = p_tenant_id and d.integration_id = p_integration_id and d.id = p_id and d.state = 'pending'
       and i.tenant_id = d.tenant_id and i.id = d.integration_id and i.status <> 'DISABLED'
       and t.id = d.tenant_id and app_private.is_open(t.status, t.trial_ends_at)
    returning i.provider, i.config, d.headers, d.body;
  if not found then
    update app_private.webhook_deliveries d
       set state = 'skipped', processed_at = now(), error = 'The integration was disabled, or its tenant closed.'
     where d.tenant_id = p_tenant_id and d.integration_id = p_integration_id and d.id = p_id and d.state = 'pending';
  end if;
end
$$;
comment on function app_hidden.begin_webhook(uuid, uuid, uuid) is
  'A delivery that waits, and what it takes to read it. None when it was read already, or its integration or tenant is no longer in service.';

create or replace function app_hidden.finish_webhook(
  p_tenant_id uuid, p_integration_id uuid, p_id uuid, p_events jsonb, p_unparsable jsonb, p_streams text[]
)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_receipts app_hidden.event_receipt[];
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_private.assert_may_sync(p_tenant_id, p_integration_id);
  -- The lock lasts until commit: a job that was given to two workers is done by one.
  perform from app_private.webhook_deliveries d
    where d.tenant_id = p_tenant_id and d.integration_id = p_integration_id and d.id = p_id and d.state = 'pending'
      for update;
  if not found then
    return;
  end if;
  v_receipts := array(select w from app_hidden.write_events(p_tenant_id, p_events) w);
  perform app_private.keep_rejected(p_tenant_id, p_integration_id, 'webhooks', p_unparsable || coalesce((
    select jsonb_agg(jsonb_build_object(
             'sourceId', p_events -> (w.ordinal - 1) ->> 'sourceId', 'reason', ltrim(w.pointer || ' ' || w.detail),
             'record', p_events -> (w.ordinal - 1)
           ))
      from unnest(v_receipts) w
     where w.outcome = 'rejected'
  ), '[]'));
  if cardinality(p_streams) > 0 then
    -- The first of a burst says when; graphile-worker appends the streams of the others to its payload.
    perform graphile_worker.add_job(
      'sync_after_webhooks',
      (select json_agg(json_build_object('integrationId', p_integration_id, 'stream', s)) from unnest(p_streams) s),
      job_key => 'webhooks:' || p_integration_id, job_key_mode => 'preserve_run_at',
      run_at => now() + interval '5 seconds', max_attempts => 8
    );
  end if;
  update app_private.webhook_deliveries d
     set state = 'done', processed_at = now(), error = null
   where d.tenant_id = p_tenant_id and d.integration_id = p_integration_id and d.id = p_id;
end
$$;
comment on function app_hidden.finish_webhook(uuid, uuid, uuid, jsonb, jsonb, text[]) is
  'Writes what a delivery holds and enqueues the syncs that it asks for, once, whoever else tries. EA409 when the integration is no longer in service.';

create or replace function app_hidden.fail_webhook(p_tenant_id uuid, p_integration_id uuid, p_id uuid, p_error text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  update app_private.webhook_deliveries d
     set state = 'failed', processed_at = now(), error = p_error
   where d.tenant_id = p_tenant_id and d.integration_id = p_integration_id and d.id = p_id and d.state = 'pending';
end
$$;
comment on function app_hidden.fail_webhook(uuid, uuid, uuid, text) is 'Ends a delivery that cannot be read, with a sentence that quotes nothing of it.';

create or replace function app_hidden.sync_after_webhooks(p_tenant_id uuid, p_integration_id uuid, p_streams text[]) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  begin
    perform app_private.assert_may_sync(p_tenant_id, p_integration_id);
    perform app_hidden.request_sync(p_tenant_id, p_integration_id, p_streams, 'webhook');
  exception when sqlstate 'EA409' or sqlstate 'EA404' then
    -- Disabled, or without credentials: whoever mends it starts a sync.
    null;
  end;
end
$$;
comment on function app_hidden.sync_after_webhooks(uuid, uuid, text[]) is
  'Requests a sync, because webhooks said that these streams have changed. A run that is under way is followed by another, since it may have read past the change.';

create or replace function app_hidden.purge_webhooks(p_limit integer default 1000) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_bodies integer;
  v_deliveries integer;
begin
  update app_private.webhook_deliveries d
     set body = null, headers = '[]'
    from (
      select w.tenant_id, w.id from app_private.webhook_deliveries w
       where w.body is not null and w.received_at < now() - interval '7 days'
       order by w.received_at limit p_limit
    ) old
   where d.tenant_id = old.tenant_id and d.id = old.id;
  get diagnostics v_bodies = row_count;
  delete from app_private.webhook_deliveries d
   using (
      select w.tenant_id, w.id from app_private.webhook_deliveries w
       where w.received_at < now() - interval '30 days'
       order by w.received_at limit p_limit
    ) old
   where d.tenant_id = old.tenant_id and d.id = old.id;
  get diagnostics v_deliveries = row_count;
  delete from app_private.retired_credentials where retired_at < now() - interval '24 hours';
  return v_bodies + v_deliveries;
end
$$;
comment on function app_hidden.purge_webhooks(integer) is
  'Deletes up to p_limit bodies after 7 days and deliveries after 30, and credentials 24 hours after they were replaced. Returns how many bodies and deliveries; 0 when there are none.';

revoke execute on function
  app_hidden.webhook_target(uuid, text), app_hidden.forgive_webhook(text),
  app_hidden.receive_webhook(uuid, text, jsonb, bytea, text),
  app_hidden.begin_webhook(uuid, uuid, uuid), app_hidden.finish_webhook(uuid, uuid, uuid, jsonb, jsonb, text[]),
  app_hidden.fail_webhook(uuid, uuid, uuid, text), app_hidden.sync_after_webhooks(uuid, uuid, text[]),
  app_hidden.purge_webhooks(integer)
from public;
grant execute on function
  app_hidden.webhook_target(uuid, text), app_hidden.forgive_webhook(text),
  app_hidden.receive_webhook(uuid, text, jsonb, bytea, text)
to erp_authenticator;
grant execute on function
  app_hidden.begin_webhook(uuid, uuid, uuid), app_hidden.finish_webhook(uuid, uuid, uuid, jsonb, jsonb, text[]),
  app_hidden.fail_webhook(uuid, uuid, uuid, text), app_hidden.sync_after_webhooks(uuid, uuid, text[])
to api_job;
grant execute on function app_hidden.purge_webhooks(integer) to erp_worker;
--! EndIncluded functions/webhooks.sql
--! Included functions/tenant_keys.sql
-- Data keys are made, rotated and rewrapped by the owner's login alone (npm run keys:...). A key that was replaced goes once
-- nothing is sealed under it, and everybody who took it for the newest has written what they sealed.

create or replace function app_hidden.purge_tenant_keys(p_grace interval default '15 minutes') returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key record;
  v_count integer := 0;
begin
  for v_key in
    select k.tenant_id, k.version from app_private.tenant_keys k
     where exists (
       select from app_private.tenant_keys n
        where n.tenant_id = k.tenant_id and n.version > k.version and n.created_at < clock_timestamp() - p_grace
     )
     order by k.tenant_id, k.version
  loop
    -- Who seals under it waits for this lock; what was sealed before is seen below. Otherwise the deletion, which cascades,
    -- would take what it does not see.
    perform from app_private.tenant_keys k where k.tenant_id = v_key.tenant_id and k.version = v_key.version for update;
    continue when exists (
      select from app_private.integration_credentials c where c.tenant_id = v_key.tenant_id and c.key_version = v_key.version
    ) or exists (
      select from app_private.retired_credentials c where c.tenant_id = v_key.tenant_id and c.key_version = v_key.version
    );
    delete from app_private.tenant_keys k where k.tenant_id = v_key.tenant_id and k.version = v_key.version;
    v_count := v_count + 1;
  end loop;
  return v_count;
end
$$;
comment on function app_hidden.purge_tenant_keys(interval) is
  'Deletes data keys that were replaced p_grace ago, under which nothing is sealed any more. Returns how many.';
revoke execute on function app_hidden.purge_tenant_keys(interval) from public;
grant execute on function app_hidden.purge_tenant_keys(interval) to erp_worker;
--! EndIncluded functions/tenant_keys.sql
--! Included functions/delete_tenant.sql
-- The end of a tenant (npm run tenant:delete), a stretch at a time, so that others hardly notice. The owner's login calls
-- these; app_private.tenant_deletions says that it has begun, and there is no way back.

create or replace function app_private.tg_hold_deletion() returns trigger
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from app_private.tenant_deletions d where d.tenant_id = new.id) then
    raise exception 'Tenant "%" is being deleted: its keys are gone.', new.slug using errcode = 'EA409';
  end if;
  return new;
end
$$;
comment on function app_private.tg_hold_deletion() is 'EA409: a tenant that is being deleted does not come back.';

create or replace function app_private.delete_tenant_events(p_tenant_id uuid, p_limit integer) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_count integer;
begin
  with doomed as materialized (
    select e."timestamp", e.id from public.analytics_events e
     where e.tenant_id = p_tenant_id
     order by e."timestamp", e.id limit p_limit
  ),
  gone as (
    delete from public.analytics_events e using doomed d
     where e.tenant_id = p_tenant_id and e."timestamp" = d."timestamp" and e.id = d.id
    returning e.source, e.source_id, e.id
  ),
  keys_gone as (
    delete from app_private.event_keys k using gone g
     where k.tenant_id = p_tenant_id and k.source = coalesce(g.source, '') and k.source_id = g.source_id and k.id = g.id
  )
  select count(*) into v_count from gone;
  -- Nobody will compute what they ask for.
  delete from app_hidden.event_marks m where m.tenant_id = p_tenant_id;
  return v_count;
end
$$;
comment on function app_private.delete_tenant_events(uuid, integer) is 'Deletes up to p_limit events of a tenant, the oldest first, with their keys and marks. Returns how many.';

create or replace function app_private.delete_tenant_audit(p_tenant_id uuid, p_limit integer) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_count integer;
begin
  with doomed as materialized (
    select l.created_at, l.id from public.audit_logs l
     where l.tenant_id = p_tenant_id
     order by l.created_at limit p_limit
  )
  delete from public.audit_logs l using doomed d
   where l.tenant_id = p_tenant_id and l.created_at = d.created_at and l.id = d.id;
  get diagnostics v_count = row_count;
  return v_count;
exception when insufficient_privilege then
  -- A guard lets go of them with the tenant only.
  return 0;
end
$$;
comment on function app_private.delete_tenant_audit(uuid, integer) is 'Deletes up to p_limit rows of a tenant''s audit log, the oldest first. Returns how many.';

create or replace function app_private.delete_tenant_rows(p_table regclass, p_tenant_id uuid, p_limit integer) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_count integer;
begin
  execute format('delete from %s where ctid = any (array(select ctid from %s where tenant_id = $1 limit $2))', p_table, p_table)
    using p_tenant_id, p_limit;
  get diagnostics v_count = row_count;
  return v_count;
exception when insufficient_privilege then
  return 0;
end
$$;
comment on function app_private.delete_tenant_rows(regclass, uuid, integer) is 'Deletes up to p_limit rows of a tenant from a table that is not partitioned. Returns how many.';

revoke execute on function
  app_private.tg_hold_deletion(), app_private.delete_tenant_events(uuid, integer), app_private.delete_tenant_audit(uuid, integer),
  app_private.delete_tenant_rows(regclass, uuid, integer)
from public;
--! EndIncluded functions/delete_tenant.sql
--! Included policies/secrets.sql
-- No API role has usage on this schema. Row security all the same: a grant given by mistake shows nothing.

alter table app_private.retired_credentials enable row level security, force row level security;
drop policy if exists owner_all on app_private.retired_credentials;
create policy owner_all on app_private.retired_credentials to erp_user using (true) with check (true);
comment on policy owner_all on app_private.retired_credentials is 'Migrations, DBAs and definer functions.';

alter table app_private.webhook_deliveries enable row level security, force row level security;
drop policy if exists owner_all on app_private.webhook_deliveries;
create policy owner_all on app_private.webhook_deliveries to erp_user using (true) with check (true);
comment on policy owner_all on app_private.webhook_deliveries is 'Migrations, DBAs and definer functions.';

alter table app_private.key_rotations enable row level security, force row level security;
drop policy if exists owner_all on app_private.key_rotations;
create policy owner_all on app_private.key_rotations to erp_user using (true) with check (true);
comment on policy owner_all on app_private.key_rotations is 'The commands that rotate keys.';

alter table app_private.tenant_deletions enable row level security, force row level security;
drop policy if exists owner_all on app_private.tenant_deletions;
create policy owner_all on app_private.tenant_deletions to erp_user using (true) with check (true);
comment on policy owner_all on app_private.tenant_deletions is 'The command that deletes tenants, and the trigger that keeps them from coming back.';
--! EndIncluded policies/secrets.sql
--! Included triggers/delete_tenant.sql
create or replace trigger _150_hold_deletion before update of status on public.tenants
  for each row when (new.status <> 'CANCELLED') execute function app_private.tg_hold_deletion();
--! EndIncluded triggers/delete_tenant.sql
--! Included functions/starter_metrics.sql
-- Metrics that come with a provider. They are the tenant's own from then on: nothing here changes them again.
-- Those of advertising name a level: each level counts the same money.
create or replace function app_private.add_starter_metrics(p_tenant_id uuid, p_provider text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into public.metrics (tenant_id, name, description, formula, measures, format)
  select p_tenant_id, m.name, m.description, m.formula, m.measures, m.format
    from (values
      ('sales', 'revenue', 'Completed orders, with tax and tips, before refunds.', 'sold',
       '[{"name": "sold", "aggregate": "SUM", "filter": {"types": ["order"], "names": ["order_completed"]}}]'::jsonb, 'MONEY'),
      ('sales', 'orders', 'Completed orders.', 'completed',
       '[{"name": "completed", "aggregate": "COUNT", "filter": {"types": ["order"], "names": ["order_completed"]}}]', 'NUMBER'),
      ('sales', 'refunds', 'Money given back; negative.', 'given_back',
       '[{"name": "given_back", "aggregate": "SUM", "filter": {"types": ["refund"], "names": ["refund_completed"]}}]', 'MONEY'),
      ('sales', 'netRevenue', 'Revenue less refunds.', 'revenue + refunds', '[]', 'MONEY'),
      ('sales', 'averageOrder', 'Revenue per completed order.', 'revenue / orders', '[]', 'MONEY'),
      ('sales', 'cashReceived', 'Completed payments. Never added to revenue.', 'received',
       '[{"name": "received", "aggregate": "SUM", "filter": {"types": ["payment"], "names": ["payment_completed"]}}]', 'MONEY'),
      ('sales', 'refundShare', 'Refunds as a share of revenue.', '-refunds / revenue', '[]', 'PERCENT'),
      ('meta-ads', 'adSpend', 'Spend on advertising, of campaigns.', 'spent',
       '[{"name": "spent", "aggregate": "SUM", "filter": {"types": ["ad_insight"], "names": ["ad_insight_campaign"]}}]', 'MONEY'),
      ('meta-ads', 'impressions', 'Times that ads were shown.', 'shown',
       '[{"name": "shown", "aggregate": "SUM", "property": "impressions", "filter": {"types": ["ad_insight"], "names": ["ad_insight_campaign"]}}]', 'NUMBER'),
      ('meta-ads', 'clicks', 'Clicks on ads.', 'clicked',
       '[{"name": "clicked", "aggregate": "SUM", "property": "clicks", "filter": {"types": ["ad_insight"], "names": ["ad_insight_campaign"]}}]', 'NUMBER'),
      ('meta-ads', 'costPerClick', 'Spend per click.', 'adSpend / clicks', '[]', 'MONEY'),
      ('meta-ads', 'clickRate', 'Clicks as a share of impressions.', 'clicks / impressions', '[]', 'PERCENT'),
      ('meta-ads', 'returnOnAdSpend', 'What the platform attributes, per unit of spend.', 'attributed / adSpend',
       '[{"name": "attributed", "aggregate": "SUM", "property": "conversionValue", "filter": {"types": ["ad_insight"], "names": ["ad_insight_campaign"]}}]', 'NUMBER')
    ) as m (provider, name, description, formula, measures, format)
   where m.provider = case when p_provider in ('square', 'shopify', 'csv', 'pos') then 'sales' else p_provider end
  on conflict (tenant_id, name) do nothing;
end
$$;
comment on function app_private.add_starter_metrics(uuid, text) is 'Adds a provider''s metrics to a tenant, those whose names are free.';

create or replace function app_private.tg_add_starter_metrics() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_private.add_starter_metrics(new.tenant_id, new.provider);
  return null;
end
$$;
comment on function app_private.tg_add_starter_metrics() is 'A new integration brings its provider''s metrics.';

create or replace trigger _500_starter_metrics after insert on public.integrations
  for each row execute function app_private.tg_add_starter_metrics();

revoke execute on function app_private.add_starter_metrics(uuid, text), app_private.tg_add_starter_metrics() from public;
--! EndIncluded functions/starter_metrics.sql
--! Included views/analytics.sql
-- What analysts' logins see: the rows of their tenant, under the names of docs/events.md, in snake case. As their caller:
-- row security and the grants on the tables decide. A column is added at the end, or the view is dropped first.
create or replace view analytics.events with (security_invoker = true) as
  select id, "timestamp", event_type, event_name, value, currency,
         properties ->> 'status' as status,
         properties ->> 'channel' as channel,
         properties ->> 'locationId' as location_id,
         properties ->> 'customerId' as customer_id,
         properties ->> 'campaignId' as campaign_id,
         properties ->> 'country' as country,
         source, source_id, properties, subject
    from public.analytics_events;
comment on view analytics.events is
  'All events of the tenant. Never add orders and payments together, nor values of different currencies.';
comment on column analytics.events."timestamp" is 'When it happened.';
comment on column analytics.events.event_type is 'order, payment, refund, payout, ad_insight, visit, signup, or a name of your own.';
comment on column analytics.events.event_name is 'What happened, such as order_completed.';
comment on column analytics.events.value is 'The main measure, in major units of currency. Refunds are negative.';
comment on column analytics.events.source is 'Where it came from: <provider>:<integration id> for integrations.';
comment on column analytics.events.source_id is 'Identifier of the record at its source: one record is one event.';
comment on column analytics.events.subject is 'What it is about: a customer, an order, a campaign.';
comment on column analytics.events.properties is 'Everything else that is known about it.';

create or replace view analytics.orders with (security_invoker = true) as
  select id, "timestamp", event_name, value, currency,
         properties ->> 'status' as status,
         properties ->> 'channel' as channel,
         properties ->> 'locationId' as location_id,
         properties ->> 'customerId' as customer_id,
         analytics.as_integer(properties ->> 'lineCount') as line_count,
         analytics.as_decimal(properties ->> 'tax') as tax,
         analytics.as_decimal(properties ->> 'discount') as discount,
         analytics.as_decimal(properties ->> 'tip') as tip,
         analytics.as_time(properties ->> 'closedAt') as closed_at,
         properties -> 'items' as items,
         source, source_id
    from public.analytics_events
   where event_type = 'order';
comment on view analytics.orders is 'Sales. Revenue is the sum of value where event_name is order_completed.';
comment on column analytics.orders.event_name is 'order_opened, order_completed, order_canceled or order_returned.';
comment on column analytics.orders.value is 'What the customer owes: with tax, tip and service charges, after discounts, before refunds.';
comment on column analytics.orders.discount is 'Already taken off value; a positive amount.';
comment on column analytics.orders.items is 'List of {name, quantity, total}.';

create or replace view analytics.payments with (security_invoker = true) as
  select id, "timestamp", event_name, value, currency,
         properties ->> 'status' as status,
         properties ->> 'method' as method,
         properties ->> 'cardBrand' as card_brand,
         properties ->> 'orderSourceId' as order_source_id,
         properties ->> 'locationId' as location_id,
         analytics.as_decimal(properties ->> 'tip') as tip,
         analytics.as_decimal(properties ->> 'fee') as fee,
         analytics.as_decimal(properties ->> 'refunded') as refunded,
         source, source_id
    from public.analytics_events
   where event_type = 'payment';
comment on view analytics.payments is 'Money that came in. Cash received is the sum of value where event_name is payment_completed.';
comment on column analytics.payments.event_name is 'payment_pending, payment_approved, payment_completed, payment_canceled or payment_failed.';
comment on column analytics.payments.value is 'With tip, before fees and refunds.';
comment on column analytics.payments.order_source_id is 'source_id of the order, of the same source.';
comment on column analytics.payments.fee is 'What the processor charges; a positive amount.';
comment on column analytics.payments.refunded is 'For information: refunds are rows of analytics.refunds.';

create or replace view analytics.refunds with (security_invoker = true) as
  select id, "timestamp", event_name, value, currency,
         properties ->> 'status' as status,
         properties ->> 'paymentSourceId' as payment_source_id,
         properties ->> 'orderSourceId' as order_source_id,
         properties ->> 'locationId' as location_id,
         properties ->> 'reason' as reason,
         source, source_id
    from public.analytics_events
   where event_type = 'refund';
comment on view analytics.refunds is 'Money given back. Those with the event_name refund_completed count.';
comment on column analytics.refunds.event_name is 'refund_pending, refund_completed or refund_failed.';
comment on column analytics.refunds.value is 'Negative.';
comment on column analytics.refunds.payment_source_id is 'source_id of the payment, of the same source.';
comment on column analytics.refunds.order_source_id is 'source_id of the order, of the same source.';

create or replace view analytics.ad_insights with (security_invoker = true) as
  select id, "timestamp", event_name, value as spend, currency,
         analytics.as_date(properties ->> 'date') as date,
         properties ->> 'accountId' as account_id,
         properties ->> 'campaignId' as campaign_id,
         properties ->> 'campaignName' as campaign_name,
         properties ->> 'adSetId' as ad_set_id,
         properties ->> 'adId' as ad_id,
         analytics.as_integer(properties ->> 'impressions') as impressions,
         analytics.as_integer(properties ->> 'clicks') as clicks,
         analytics.as_integer(properties ->> 'conversions') as conversions,
         analytics.as_decimal(properties ->> 'conversionValue') as conversion_value,
         source, source_id,
         -- A view that is replaced takes new columns at its end only.
         properties ->> 'adSetName' as ad_set_name,
         properties ->> 'adName' as ad_name,
         analytics.as_integer(properties ->> 'reach') as reach
    from public.analytics_events
   where event_type = 'ad_insight';
comment on view analytics.ad_insights is 'Days of advertising. Levels count the same money and are never added together: choose one by event_name.';
comment on column analytics.ad_insights.event_name is 'ad_insight_account, ad_insight_campaign, ad_insight_ad_set or ad_insight_ad.';
comment on column analytics.ad_insights.date is 'The day, in the ad account''s time zone.';
comment on column analytics.ad_insights.reach is 'People who saw it that day; never added up.';
comment on column analytics.ad_insights.conversions is 'As the platform attributes them.';
comment on column analytics.ad_insights.conversion_value is 'As the platform attributes it; never added to orders.';

create or replace view analytics.integrations with (security_invoker = true) as
  select id, name, provider, description, status::text as status, enabled, last_sync_at, sync_status, sync_error, created_at, updated_at
    from public.integrations;
comment on view analytics.integrations is 'Sources of data. source of their events is <provider>:<id>.';
comment on column analytics.integrations.last_sync_at is 'When the last successful sync ended: how fresh the data is.';
comment on column analytics.integrations.sync_error is 'Why the last sync failed.';

create or replace view analytics.users with (security_invoker = true) as
  select id, first_name, last_name, role::text as role, status::text as status, last_login_at, created_at
    from public.users;
comment on view analytics.users is 'Accounts of the tenant, without e-mail.';

create or replace view analytics.tenant with (security_invoker = true) as
  select id, name, slug,
         coalesce(settings ->> 'timeZone', 'UTC') as time_zone,
         settings ->> 'currency' as currency,
         analytics.as_integer(settings ->> 'weekStart')::integer as week_start,
         analytics.as_integer(settings ->> 'fiscalYearStart')::integer as fiscal_year_start
    from public.tenants;
comment on view analytics.tenant is 'The tenant whose rows these are: one row.';
comment on column analytics.tenant.time_zone is 'For "timestamp" at time zone time_zone: the local time, whose day or week is the tenant''s.';
comment on column analytics.tenant.week_start is '0 is Sunday.';
comment on column analytics.tenant.fiscal_year_start is 'Month, 1 to 12.';

grant select on
  analytics.events, analytics.orders, analytics.payments, analytics.refunds, analytics.ad_insights,
  analytics.integrations, analytics.users, analytics.tenant
to erp_analyst;
--! EndIncluded views/analytics.sql
