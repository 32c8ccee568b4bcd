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
create index if not exists event_rollups_type_idx on app_hidden.event_rollups (tenant_id, event_type, event_name, bucket);
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

alter table public.analytics_events add column if not exists subject text check (length(subject) between 1 and 500);
comment on column public.analytics_events.subject is 'What the event is about, such as a customer, an order or a campaign: the property that subjectProperties declares for its type.';

create table if not exists public.subject_properties (
  id uuid primary key default uuidv7(),
  tenant_id uuid not null default app_hidden.current_tenant_id() references public.tenants (id) on delete cascade,
  event_type text not null check (length(event_type) between 1 and 100),
  property text not null check (length(property) between 1 and 100),
  created_at timestamptz not null default now(),
  unique (tenant_id, id),
  unique (tenant_id, event_type)
);
comment on table public.subject_properties is 'Which property says what events of a type are about, where it is not the one of docs/events.md. Events that are there already follow within minutes.';

create table if not exists app_private.subject_states (
  tenant_id uuid primary key references public.tenants (id) on delete cascade,
  declared jsonb not null,
  promoted_since timestamptz not null default 'infinity'
);
comment on table app_private.subject_states is 'How far back the subjects of a tenant''s events are those that are declared.';

create table if not exists public.metrics (
  id uuid primary key default uuidv7(),
  tenant_id uuid not null default app_hidden.current_tenant_id() references public.tenants (id) on delete cascade,
  name text not null check (name ~ '^[a-z][A-Za-z0-9_]{0,49}$'),
  description text check (length(description) <= 2000),
  formula text not null check (length(formula) between 1 and 500),
  measures jsonb not null default '[]' check (jsonb_typeof(measures) = 'array'),
  filter jsonb check (jsonb_typeof(filter) = 'object'),
  format text check (format in ('NUMBER', 'MONEY', 'PERCENT')),
  unit text check (length(unit) <= 50),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (tenant_id, id),
  unique (tenant_id, name)
);
comment on table public.metrics is 'A number with a name that means the same to everybody in the tenant: eventSeries takes it by name.';
comment on column public.metrics.formula is 'Numbers, names of measures and of other metrics, + - * / and parentheses, such as "spend / orders". What is divided by zero is null.';
comment on column public.metrics.measures is 'What the formula is about: a list of what eventSeries takes as measures, {name, aggregate, of, property, percentile, filter}.';
comment on column public.metrics.filter is 'Which events count at all, as the filter of eventSeries.';
comment on column public.metrics.format is 'How to show it: NUMBER, MONEY or PERCENT (0.05 is 5 %).';
comment on column public.metrics.unit is 'What it counts, such as "orders".';

--!include functions/event_buckets.sql
--!include functions/rollups.sql
--!include policies/rollups.sql
--!include triggers/event_marks.sql
--!include functions/retention.sql
--!include functions/subjects.sql
--!include functions/write_events.sql
--!include policies/metrics.sql
--!include triggers/metrics.sql
--!include functions/starter_metrics.sql
select app_private.add_starter_metrics(i.tenant_id, i.provider) from public.integrations i;
