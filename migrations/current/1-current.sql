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

--!include policies/uploads.sql
--!include functions/needs_credentials.sql
--!include functions/sync.sql
--!include functions/uploads.sql
--!include functions/sync_runs.sql
--!include functions/sync_leases.sql
--!include functions/sync_pages.sql
--!include functions/full_refresh.sql
--!include functions/provider_limits.sql
--!include functions/sync_credentials.sql
--!include functions/sync_streams.sql
--!include functions/api.sql
--!include triggers/audit.sql
--!include triggers/sync.sql
--!include policies/integrations.sql
--!include policies/syncs.sql
--!include functions/purge.sql
--!include policies/app_private.sql
--!include functions/integration_credentials.sql
--!include triggers/notifications.sql
--!include functions/webhooks.sql
--!include functions/tenant_keys.sql
--!include functions/delete_tenant.sql
--!include policies/secrets.sql
--!include triggers/delete_tenant.sql
--!include functions/starter_metrics.sql
--!include views/analytics.sql
