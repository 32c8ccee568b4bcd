set local lock_timeout = '5s';

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

--!include functions/needs_credentials.sql
--!include functions/sync.sql
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
--!include functions/starter_metrics.sql
--!include views/analytics.sql
