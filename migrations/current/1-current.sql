set local lock_timeout = '5s';

create table if not exists app_hidden.event_rollups (
  tenant_id uuid not null references public.tenants (id) on delete cascade,
  bucket timestamptz not null,
  event_type text not null,
  event_name text not null,
  source text not null,
  currency text not null,
  events bigint not null check (events > 0),
  measured bigint not null,
  total numeric,
  lowest numeric,
  highest numeric,
  primary key (tenant_id, bucket, event_type, event_name, source, currency)
);
comment on table app_hidden.event_rollups is 'Events by quarter of an hour. source and currency are empty where the events have none.';
comment on column app_hidden.event_rollups.measured is 'How many of the events have a value.';

create table if not exists app_hidden.event_rollups_by_day (
  tenant_id uuid not null references public.tenants (id) on delete cascade,
  day date not null,
  event_type text not null,
  event_name text not null,
  currency text not null,
  events bigint not null check (events > 0),
  measured bigint not null,
  total numeric,
  lowest numeric,
  highest numeric,
  primary key (tenant_id, day, event_type, event_name, currency)
);
comment on table app_hidden.event_rollups_by_day is 'Events by day of the time zone that rollup_states names, whatever their source.';

create table if not exists app_hidden.event_marks (
  tenant_id uuid not null,
  bucket timestamptz not null,
  id bigint not null generated always as identity,
  primary key (tenant_id, bucket, id)
);
comment on table app_hidden.event_marks is 'Quarters of an hour whose events changed since they were rolled up, a row for each statement that changed them.';

create table if not exists app_hidden.rollup_states (
  tenant_id uuid primary key references public.tenants (id) on delete cascade,
  zone text not null,
  quarters_since timestamptz not null default 'infinity',
  days_since date not null default 'infinity',
  refreshed_at timestamptz not null default now()
);
comment on table app_hidden.rollup_states is 'How far back the rollups of a tenant reach.';
comment on column app_hidden.rollup_states.zone is 'Time zone of the days.';
comment on column app_hidden.rollup_states.quarters_since is 'Quarters of an hour from then on are rolled up, but for the marked ones.';
comment on column app_hidden.rollup_states.days_since is 'Days from then on are rolled up, but for those with a marked quarter.';

--!include functions/event_buckets.sql
--!include functions/rollups.sql
--!include policies/rollups.sql
--!include triggers/event_marks.sql
--!include functions/retention.sql
