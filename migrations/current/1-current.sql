set local lock_timeout = '5s';

-- Functions with it are made again below.
drop type if exists app_private.event_record cascade;
drop function if exists app_private.read_events(uuid, jsonb);
drop function if exists app_hidden.ingest_events(uuid, jsonb, text, boolean);
drop function if exists app_private.take_attempts(text, integer, integer, interval);

create table if not exists app_private.event_counts (
  tenant_id uuid not null references public.tenants (id) on delete cascade,
  day date not null,
  count bigint not null,
  primary key (tenant_id, day)
);
comment on table app_private.event_counts is 'How many events each tenant sent on each day, in UTC, over HTTP and GraphQL: its daily quota.';
comment on column app_private.plans.events_per_day is 'How many events a tenant may send in a day, in UTC.';

create table if not exists app_private.doomed_partitions (
  month date primary key check (extract(day from month) = 1),
  doomed_at timestamptz not null default now()
);
comment on table app_private.doomed_partitions is 'Months of events that are being deleted, because no tenant kept them: they take no events until they are gone.';

-- No key is deleted yet: it is empty, and takes one scan.
-- squawk-ignore require-concurrent-index-creation
create index if not exists event_keys_deleted_idx on app_private.event_keys (tenant_id, "timestamp") where deleted_at is not null;
comment on index app_private.event_keys_deleted_idx is 'For retention: a deleted event is found by its key alone.';

--!include functions/event_records.sql
--!include functions/restate_events.sql
--!include functions/write_events.sql
--!include functions/rate_limits.sql
--!include functions/ingest.sql
--!include functions/retention.sql
--!include functions/begin_request.sql
--!include functions/partitions.sql
--!include policies/app_private.sql
--!include functions/sessions.sql
