--! Previous: sha1:ce0a7579a81748578901a9ebbfab0b645c9a9ab6
--! Hash: sha1:749b43de2276722daead2e6a273119274dcbd3c1
--! Message: rollups series metrics subjects

--! split: 1-current.sql
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

--! Included functions/event_buckets.sql
-- Calendar arithmetic of series. bucket_of pins no search_path, so that it is inlined: it runs for every event.

create or replace function app_hidden.bucket_of(p_time timestamptz, p_local timestamp, p_zone text, p_unit text, p_shift interval)
returns timestamptz
language sql stable parallel safe
as $$
  select case p_unit
    when 'hour' then date_trunc('hour', p_time, p_zone)
    when 'quarter_hour' then p_time - (p_local - date_bin('15 minutes', p_local, '2000-01-01'))
    else (date_trunc(p_unit, p_local - p_shift) + p_shift) at time zone p_zone
  end
$$;
comment on function app_hidden.bucket_of(timestamptz, timestamp, text, text, interval) is
  'Start of the bucket in which p_time lies, p_local being that time in p_zone. p_unit: quarter_hour, hour, day, week, month, quarter or year. p_shift: by how much weeks begin after Monday, or quarters and years after January.';

create or replace function app_hidden.buckets_between(p_from timestamptz, p_to timestamptz, p_zone text, p_unit text, p_shift interval)
returns setof timestamptz
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
  v_step interval;
begin
  if p_unit in ('quarter_hour', 'hour') then
    -- Where clocks change within a quarter, or are no multiple of one ahead, a bucket may be shorter than a minute: the
    -- first and the last moment of each step find it.
    v_step := case app_hidden.odd_quarters(p_zone, p_from, p_to) when '{}' then interval '15 minutes' else interval '1 minute' end;
    return query
      select distinct app_hidden.bucket_of(t, t at time zone p_zone, p_zone, p_unit, p_shift)
        from generate_series(date_bin(v_step, p_from, '2000-01-01 00:00+00'), p_to - interval '1 microsecond', v_step) s
       cross join lateral (
         values (greatest(s, p_from)), (least(s + v_step, p_to) - interval '1 microsecond')
       ) moment (t)
       order by 1;
  else
    -- A day that a zone left out is the next one. The first and the last moment need not show the earliest and the
    -- latest time: where clocks go back from just after midnight, those are a few minutes away.
    return query
      select distinct l.local at time zone p_zone
        from generate_series(
               (select date_trunc(p_unit, min(t at time zone p_zone) - p_shift) + p_shift
                  from generate_series(p_from, least(p_to - interval '1 microsecond', p_from + interval '2 hours'), interval '1 minute') t),
               (select max(t at time zone p_zone)
                  from generate_series(p_to - interval '1 microsecond', greatest(p_from, p_to - interval '2 hours'), interval '-1 minute') t),
               case p_unit when 'quarter' then interval '3 months' else ('1 ' || p_unit)::interval end
             ) l (local)
       order by 1;
  end if;
end
$$;
comment on function app_hidden.buckets_between(timestamptz, timestamptz, text, text, interval) is
  'The starts of all buckets of [p_from, p_to), empty ones too; the first may begin before p_from.';

create or replace function app_hidden.zone_days(p_zone text, p_from date, p_to date)
returns table (day date, begins_at timestamptz, ends_at timestamptz, shifts boolean, is_plain boolean)
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select s.day, (s.day::timestamp - s.ahead) at time zone 'UTC', (s.day::timestamp + interval '1 day' - s.ahead) at time zone 'UTC',
         s.ahead <> s.next_ahead,
         s.ahead = all (array[s.last_ahead, s.next_ahead, s.second_ahead])
           and extract(epoch from s.ahead)::integer % 900 = 0
    from (
      select o.day, o.ahead,
             lag(o.ahead) over days as last_ahead, lead(o.ahead) over days as next_ahead, lead(o.ahead, 2) over days as second_ahead
        from (
          select d::date as day, d at time zone 'UTC' at time zone p_zone - d as ahead
            from generate_series(p_from::timestamp - interval '1 day', p_to::timestamp + interval '2 days', interval '1 day') d
        ) o
      window days as (order by o.day)
    ) s
   where s.day between p_from and p_to
$$;
comment on function app_hidden.zone_days(text, date, date) is
  'The days of a zone. shifts: its clocks change within the day of UTC of that date; is_plain: they did not change for a day before and after, and are a multiple of 15 minutes ahead of UTC, so that the day is [begins_at, ends_at), in whole quarters of an hour.';

create or replace function app_hidden.odd_quarters(p_zone text, p_from timestamptz, p_to timestamptz) returns tstzmultirange
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(range_agg(o.span), '{}')
    from (
      select tstzrange(q, q + interval '15 minutes') as span
        from app_hidden.zone_days(p_zone, (p_from at time zone 'UTC')::date, (p_to at time zone 'UTC')::date) z
       cross join lateral generate_series(
               z.day::timestamp at time zone 'UTC', (z.day + time '23:45') at time zone 'UTC', interval '15 minutes'
             ) q
       cross join lateral (
         select q at time zone p_zone - q at time zone 'UTC' as first,
                (q + interval '899 seconds') at time zone p_zone - (q + interval '899 seconds') at time zone 'UTC' as last
       ) ahead
       where not z.is_plain
         and (ahead.first <> ahead.last or extract(epoch from ahead.first)::integer % 900 <> 0)
    ) o
$$;
comment on function app_hidden.odd_quarters(text, timestamptz, timestamptz) is
  'The quarters of an hour of UTC that are no quarters in a zone: its clocks change inside, or are no multiple of 15 minutes ahead.';

revoke execute on function
  app_hidden.bucket_of(timestamptz, timestamp, text, text, interval),
  app_hidden.buckets_between(timestamptz, timestamptz, text, text, interval),
  app_hidden.zone_days(text, date, date), app_hidden.odd_quarters(text, timestamptz, timestamptz)
from public;
grant execute on function
  app_hidden.bucket_of(timestamptz, timestamp, text, text, interval),
  app_hidden.buckets_between(timestamptz, timestamptz, text, text, interval),
  app_hidden.zone_days(text, date, date), app_hidden.odd_quarters(text, timestamptz, timestamptz)
to api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/event_buckets.sql
--! Included functions/rollups.sql
-- Rollups of events: by quarter of an hour, and from these by day in the tenant's own zone. A statement that changes
-- events leaves marks of the quarters it touched, in its transaction. Marks are appended, never unique: one row a
-- quarter would lose a change for good when it is deleted while a writer is open, or make writers wait for each other.
-- Readers take marked quarters from the events themselves, so that answers are exact at any moment.

create or replace function app_private.tg_mark_events() returns trigger
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'INSERT' then
    insert into app_hidden.event_marks (tenant_id, bucket)
    select distinct n.tenant_id, date_bin('15 minutes', n."timestamp", '2000-01-01 00:00+00') from new_rows n;
  elsif tg_op = 'DELETE' then
    insert into app_hidden.event_marks (tenant_id, bucket)
    select distinct o.tenant_id, date_bin('15 minutes', o."timestamp", '2000-01-01 00:00+00') from old_rows o;
  else
    insert into app_hidden.event_marks (tenant_id, bucket)
    select distinct r.tenant_id, date_bin('15 minutes', r."timestamp", '2000-01-01 00:00+00')
      from (
        select o.tenant_id, o."timestamp" from old_rows o
        union all
        select n.tenant_id, n."timestamp" from new_rows n
      ) r;
  end if;
  return null;
end
$$;
comment on function app_private.tg_mark_events() is 'Marks the quarters of an hour whose events a statement changed.';

create or replace function app_private.roll_up(p_tenant_id uuid, p_buckets timestamptz[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  delete from app_hidden.event_rollups r using unnest(p_buckets) b where r.tenant_id = p_tenant_id and r.bucket = b;
  insert into app_hidden.event_rollups
    (tenant_id, bucket, event_type, event_name, source, currency, events, measured, total, lowest, highest)
  select p_tenant_id, date_bin('15 minutes', e."timestamp", '2000-01-01 00:00+00'), e.event_type, e.event_name,
         coalesce(e.source, ''), coalesce(e.currency, ''), count(*), count(e.value), sum(e.value), min(e.value), max(e.value)
    from (
      select lower(s) as begins_at, upper(s) as ends_at
        from unnest((select range_agg(tstzrange(b, b + interval '15 minutes')) from unnest(p_buckets) b)) s
    ) stretch
   cross join lateral (
     select * from public.analytics_events e
      where e.tenant_id = p_tenant_id and e."timestamp" >= stretch.begins_at and e."timestamp" < stretch.ends_at
     offset 0
   ) e
   group by 2, 3, 4, 5, 6;
end
$$;
comment on function app_private.roll_up(uuid, timestamptz[]) is 'Computes quarters of an hour anew from the events; groups that vanished go.';

create or replace function app_private.roll_up_days(p_tenant_id uuid, p_zone text, p_days date[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  delete from app_hidden.event_rollups_by_day r using unnest(p_days) d where r.tenant_id = p_tenant_id and r.day = d;
  insert into app_hidden.event_rollups_by_day
    (tenant_id, day, event_type, event_name, currency, events, measured, total, lowest, highest)
  select p_tenant_id, z.day, r.event_type, r.event_name, r.currency,
         sum(r.events), sum(r.measured), sum(r.total), min(r.lowest), max(r.highest)
    from app_hidden.zone_days(p_zone, (select min(d) from unnest(p_days) d), (select max(d) from unnest(p_days) d)) z
   cross join lateral (
     select * from app_hidden.event_rollups r
      where r.tenant_id = p_tenant_id and r.bucket >= z.begins_at and r.bucket < z.ends_at
     offset 0
   ) r
   where z.is_plain and z.day = any (p_days)
   group by z.day, r.event_type, r.event_name, r.currency;
end
$$;
comment on function app_private.roll_up_days(uuid, text, date[]) is
  'Computes days of a zone anew from their quarters of an hour. Days about a change of clocks have none: they are read from their quarters.';

create or replace function app_private.tenant_zone(p_tenant_id uuid) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (select coalesce(t.settings ->> 'timeZone', 'UTC') from public.tenants t where t.id = p_tenant_id);
end
$$;
comment on function app_private.tenant_zone(uuid) is 'The time zone of a tenant; UTC when it has set none.';

create or replace function app_private.assert_snapshot() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('transaction_isolation') <> 'repeatable read' then
    raise exception 'Rollups are computed in one snapshot: begin isolation level repeatable read.' using errcode = '25001';
  end if;
end
$$;
comment on function app_private.assert_snapshot() is 'Refuses a transaction that is not repeatable read.';

create or replace function app_hidden.refresh_rollups(p_tenant_id uuid, p_limit integer default 20000) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_state app_hidden.rollup_states;
  v_ids bigint[];
  v_marked timestamptz[];
  v_buckets timestamptz[];
begin
  perform app_private.assert_snapshot();
  -- Whoever else is at this tenant's rollups ends in 40001, and tries again.
  update app_hidden.rollup_states s set refreshed_at = now() where s.tenant_id = p_tenant_id returning s.* into v_state;
  if not found then
    return 0;
  end if;
  select array_agg(m.id), array_agg(m.bucket) into v_ids, v_marked
    from (
      select m.id, m.bucket from app_hidden.event_marks m
       where m.tenant_id = p_tenant_id order by m.bucket, m.id limit p_limit
    ) m;
  -- What is not covered yet will be computed from a later snapshot.
  v_buckets := array(select distinct b from unnest(v_marked) b where b >= v_state.quarters_since);
  if cardinality(v_buckets) > 0 then
    perform app_private.roll_up(p_tenant_id, v_buckets);
    perform app_private.roll_up_days(p_tenant_id, v_state.zone, array(
      select distinct (b at time zone v_state.zone)::date from unnest(v_buckets) b
       where (b at time zone v_state.zone)::date >= v_state.days_since
    ));
  end if;
  -- Exactly the marks that were read: others came from writers that this snapshot does not see.
  delete from app_hidden.event_marks m
   using unnest(v_marked, v_ids) r (bucket, id)
   where m.tenant_id = p_tenant_id and m.bucket = r.bucket and m.id = r.id;
  return coalesce(cardinality(v_ids), 0);
end
$$;
comment on function app_hidden.refresh_rollups(uuid, integer) is
  'Computes marked quarters of an hour and their days anew. Returns how many marks that settled; 0 when none is left, or the tenant has no rollups yet. Needs a transaction that is repeatable read; 40001: try again.';

create or replace function app_hidden.extend_rollups(p_tenant_id uuid, p_events integer default 50000) returns double precision
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_state app_hidden.rollup_states;
  v_zone text := app_private.tenant_zone(p_tenant_id);
  v_earliest timestamptz;
  v_latest timestamptz;
  v_to timestamptz;
  v_from timestamptz;
begin
  perform app_private.assert_snapshot();
  if v_zone is null then
    return 1;
  end if;
  insert into app_hidden.rollup_states (tenant_id, zone) values (p_tenant_id, v_zone) on conflict do nothing;
  select * into v_state from app_hidden.rollup_states s where s.tenant_id = p_tenant_id;
  if v_state.zone <> v_zone then
    delete from app_hidden.event_rollups_by_day r where r.tenant_id = p_tenant_id;
    v_state.zone := v_zone;
    v_state.days_since := 'infinity';
  elsif v_state.quarters_since = '-infinity' and v_state.days_since = '-infinity' then
    return 1;
  end if;
  select min(e."timestamp"), max(e."timestamp") into v_earliest, v_latest
    from public.analytics_events e where e.tenant_id = p_tenant_id;

  if v_state.quarters_since > '-infinity' then
    v_to := least(v_state.quarters_since, date_bin('15 minutes', v_latest, '2000-01-01 00:00+00') + interval '15 minutes');
    v_from := coalesce((
      select date_bin('15 minutes', e."timestamp", '2000-01-01 00:00+00') from public.analytics_events e
       where e.tenant_id = p_tenant_id and e."timestamp" < v_to
       order by e."timestamp" desc offset p_events limit 1
    ), '-infinity');
    perform app_private.roll_up(p_tenant_id, array(
      select distinct date_bin('15 minutes', e."timestamp", '2000-01-01 00:00+00') from public.analytics_events e
       where e.tenant_id = p_tenant_id and e."timestamp" >= v_from and e."timestamp" < v_to
    ));
    -- They are computed from what their marks are about.
    delete from app_hidden.event_marks m where m.tenant_id = p_tenant_id and m.bucket >= v_from and m.bucket < v_to;
    v_state.quarters_since := v_from;
  elsif v_latest is null then
    v_state.days_since := '-infinity';
  else
    v_to := least(v_state.days_since, (v_latest at time zone v_zone)::date + 1);
    v_from := v_to::date - 400;
    perform app_private.roll_up_days(p_tenant_id, v_zone, array(select d::date from generate_series(v_from, v_to::date - 1, interval '1 day') d));
    v_state.days_since := case when v_from <= (v_earliest at time zone v_zone)::date - 1 then '-infinity' else v_from::date end;
  end if;
  update app_hidden.rollup_states s
     set zone = v_state.zone, quarters_since = v_state.quarters_since, days_since = v_state.days_since
   where s.tenant_id = p_tenant_id;
  return case
    when v_state.quarters_since = '-infinity' and v_state.days_since = '-infinity' then 1
    when v_state.quarters_since = '-infinity' then 0.99
    else 0.99 * extract(epoch from v_latest - v_state.quarters_since) / greatest(1, extract(epoch from v_latest - v_earliest))
  end;
end
$$;
comment on function app_hidden.extend_rollups(uuid, integer) is
  'Covers some p_events older events with rollups, the newest first, and, where these are covered, older days; a tenant whose time zone has changed gets its days anew. Returns the share that is done, 1 at the end. Needs a transaction that is repeatable read; 40001: try again.';

create or replace function app_hidden.tenants_to_roll_up() returns setof uuid
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select t.id from public.tenants t
      left join app_hidden.rollup_states s on s.tenant_id = t.id
     where s.tenant_id is null
        or s.quarters_since > '-infinity' or s.days_since > '-infinity'
        or s.zone <> coalesce(t.settings ->> 'timeZone', 'UTC')
        or exists (select from app_hidden.event_marks m where m.tenant_id = t.id)
     order by s.refreshed_at nulls first;
end
$$;
comment on function app_hidden.tenants_to_roll_up() is 'Tenants whose rollups lag behind, the longest waiting first.';

create or replace function app_hidden.plan_series(p_tenant_id uuid, p_from timestamptz, p_to timestamptz, p_zone text, p_by_day boolean)
returns table (days datemultirange, quarters tstzmultirange, raw tstzmultirange, marked integer, refreshed_at timestamptz)
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_state app_hidden.rollup_states;
  v_first timestamptz;
  v_last timestamptz;
  v_by_day boolean;
  v_marked tstzmultirange;
  v_days tstzmultirange;
  v_odd tstzmultirange;
begin
  raw := tstzmultirange(tstzrange(p_from, p_to));
  days := '{}';
  quarters := '{}';
  marked := 0;
  select * into v_state from app_hidden.rollup_states s where s.tenant_id = p_tenant_id;
  refreshed_at := v_state.refreshed_at;
  v_first := greatest(date_bin('15 minutes', p_from + interval '899.999999 seconds', '2000-01-01 00:00+00'), v_state.quarters_since);
  v_last := date_bin('15 minutes', p_to, '2000-01-01 00:00+00');
  if v_state.tenant_id is null or v_first >= v_last then
    return next;
    return;
  end if;

  select coalesce(range_agg(tstzrange(m.bucket, m.bucket + interval '15 minutes')), '{}'), count(*) into v_marked, marked
    from (
      select distinct m.bucket from app_hidden.event_marks m
       where m.tenant_id = p_tenant_id and m.bucket >= v_first and m.bucket < v_last
    ) m;
  v_by_day := p_by_day and p_zone = v_state.zone;
  select range_agg(daterange(z.day, z.day + 1)) filter (where z.is_clean),
         range_agg(tstzrange(z.begins_at, z.ends_at)) filter (where z.is_clean),
         range_agg(tstzrange(z.day::timestamp at time zone 'UTC', (z.day + 1)::timestamp at time zone 'UTC')) filter (where not z.is_plain)
    into days, v_days, v_odd
    from (
      select d.*, v_by_day and d.is_plain and d.day >= v_state.days_since and d.begins_at >= v_first and d.ends_at <= v_last
                  and (v_marked = '{}' or not tstzrange(d.begins_at, d.ends_at) && v_marked) as is_clean
        from app_hidden.zone_days(p_zone, (v_first at time zone p_zone)::date - 1, (v_last at time zone p_zone)::date + 1) d
    ) z;
  days := coalesce(days, '{}');
  -- Of the days about a change of clocks, the quarters in which it happens.
  v_odd := (select range_agg(q) from unnest(v_odd) o cross join lateral unnest(app_hidden.odd_quarters(p_zone, lower(o), upper(o))) q);
  quarters := tstzmultirange(tstzrange(v_first, v_last)) - v_marked - coalesce(v_days, '{}') - coalesce(v_odd, '{}');
  raw := raw - coalesce(v_days, '{}') - quarters;
  return next;
end
$$;
comment on function app_hidden.plan_series(uuid, timestamptz, timestamptz, text, boolean) is
  'From where a series over [p_from, p_to) is read, each moment from one place: days of event_rollups_by_day (when p_by_day), quarters of an hour of event_rollups, and the events themselves. Holds for one snapshot.';

revoke execute on function
  app_private.tg_mark_events(), app_private.roll_up(uuid, timestamptz[]), app_private.roll_up_days(uuid, text, date[]),
  app_private.tenant_zone(uuid), app_private.assert_snapshot(), app_hidden.refresh_rollups(uuid, integer),
  app_hidden.extend_rollups(uuid, integer), app_hidden.tenants_to_roll_up(),
  app_hidden.plan_series(uuid, timestamptz, timestamptz, text, boolean)
from public;
grant execute on function
  app_hidden.refresh_rollups(uuid, integer), app_hidden.extend_rollups(uuid, integer), app_hidden.tenants_to_roll_up()
to erp_worker;
grant execute on function app_hidden.plan_series(uuid, timestamptz, timestamptz, text, boolean)
to api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/rollups.sql
--! Included policies/rollups.sql
-- Everybody in the tenant reads rollups, as they read events. Only the functions that compute them write them.
alter table app_hidden.event_rollups enable row level security, force row level security;
drop policy if exists owner_all on app_hidden.event_rollups;
create policy owner_all on app_hidden.event_rollups to erp_user using (true) with check (true);
comment on policy owner_all on app_hidden.event_rollups is 'Migrations, DBAs and definer functions.';
drop policy if exists select_member on app_hidden.event_rollups;
create policy select_member on app_hidden.event_rollups for select to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id());
comment on policy select_member on app_hidden.event_rollups is 'Everybody in the tenant.';
grant select on app_hidden.event_rollups to api_viewer, api_user, api_admin, api_super_admin;

alter table app_hidden.event_rollups_by_day enable row level security, force row level security;
drop policy if exists owner_all on app_hidden.event_rollups_by_day;
create policy owner_all on app_hidden.event_rollups_by_day to erp_user using (true) with check (true);
comment on policy owner_all on app_hidden.event_rollups_by_day is 'Migrations, DBAs and definer functions.';
drop policy if exists select_member on app_hidden.event_rollups_by_day;
create policy select_member on app_hidden.event_rollups_by_day for select to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id());
comment on policy select_member on app_hidden.event_rollups_by_day is 'Everybody in the tenant.';
grant select on app_hidden.event_rollups_by_day to api_viewer, api_user, api_admin, api_super_admin;

alter table app_hidden.event_marks enable row level security, force row level security;
drop policy if exists owner_all on app_hidden.event_marks;
create policy owner_all on app_hidden.event_marks to erp_user using (true) with check (true);
comment on policy owner_all on app_hidden.event_marks is 'Migrations, DBAs and definer functions.';
drop policy if exists select_member on app_hidden.event_marks;
create policy select_member on app_hidden.event_marks for select to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id());
comment on policy select_member on app_hidden.event_marks is 'Everybody in the tenant: whose quarters are read from the events.';
grant select on app_hidden.event_marks to api_viewer, api_user, api_admin, api_super_admin;

alter table app_hidden.rollup_states enable row level security, force row level security;
drop policy if exists owner_all on app_hidden.rollup_states;
create policy owner_all on app_hidden.rollup_states to erp_user using (true) with check (true);
comment on policy owner_all on app_hidden.rollup_states is 'Migrations, DBAs and definer functions.';
drop policy if exists select_member on app_hidden.rollup_states;
create policy select_member on app_hidden.rollup_states for select to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id());
comment on policy select_member on app_hidden.rollup_states is 'Everybody in the tenant.';
grant select on app_hidden.rollup_states to api_viewer, api_user, api_admin, api_super_admin;
-- Withheld: insert, update and delete, from everybody.
--! EndIncluded policies/rollups.sql
--! Included triggers/event_marks.sql
-- On the partitioned parent: these fire for every statement on it, cascades and COPY too, but not for one on a partition.
create or replace trigger _800_mark_insert after insert on public.analytics_events
  referencing new table as new_rows for each statement execute function app_private.tg_mark_events();
create or replace trigger _800_mark_update after update on public.analytics_events
  referencing old table as old_rows new table as new_rows for each statement execute function app_private.tg_mark_events();
create or replace trigger _800_mark_delete after delete on public.analytics_events
  referencing old table as old_rows for each statement execute function app_private.tg_mark_events();
--! EndIncluded triggers/event_marks.sql
--! Included functions/retention.sql
-- Events that a tenant no longer keeps go with their keys, or a purged record could never come back as another event. A
-- month that nobody keeps any more goes as a whole: first its keys, a stretch at a time, then the partition.

create or replace function app_private.purge_tenant_events(p_tenant_id uuid, p_limit integer) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_before timestamptz := now() - make_interval(days => app_private.retention_days(p_tenant_id));
  v_doomed public.analytics_events[];
  v_count integer;
begin
  v_doomed := array(
    select e from public.analytics_events e
     where e.tenant_id = p_tenant_id and e."timestamp" < v_before
     order by e."timestamp", e.id limit p_limit
  );
  -- As writers do: keys in their order, then events.
  perform from unnest(v_doomed) d
    join app_private.event_keys k
      on k.tenant_id = p_tenant_id and k.source = coalesce(d.source, '') and k.source_id = d.source_id and k.id = d.id
   order by k.source, k.source_id
     for update of k;
  -- What was restated to a later time meanwhile stays.
  with gone as (
    delete from public.analytics_events e
     using unnest(v_doomed) d
     where e.tenant_id = p_tenant_id and e."timestamp" = d."timestamp" and e.id = d.id
    returning e.source, e.source_id, e.id
  ),
  keys_gone as (
    delete from app_private.event_keys k
     using gone g
     where k.tenant_id = p_tenant_id and k.source = coalesce(g.source, '') and k.source_id = g.source_id and k.id = g.id
  )
  select count(*) into v_count from gone;
  if v_count > 0 then
    perform app_private.write_audit(
      p_tenant_id, 'events.purged', 'analytics_event', null, jsonb_build_object('count', v_count, 'before', v_before)
    );
  end if;
  return v_count;
end
$$;
comment on function app_private.purge_tenant_events(uuid, integer) is 'Deletes the oldest events that a tenant no longer keeps. Returns how many.';

create or replace function app_hidden.purge_next_events(p_limit integer default 5000) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid;
  v_count integer;
begin
  for v_tenant_id in
    select t.id from public.tenants t where app_private.retention_days(t.id) is not null order by t.id
  loop
    v_count := app_private.purge_tenant_events(v_tenant_id, p_limit);
    if v_count > 0 then
      return v_count;
    end if;
  end loop;
  return 0;
end
$$;
comment on function app_hidden.purge_next_events(integer) is
  'Deletes up to p_limit events that their tenant no longer keeps, of one tenant, and records it in its log. Returns how many; 0 when there are none.';

create or replace function app_private.is_kept(p_partition regclass, p_before timestamptz) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid;
  v_found boolean;
begin
  for v_tenant_id in
    select t.id from public.tenants t
     where coalesce(now() - make_interval(days => app_private.retention_days(t.id)) < p_before, true)
  loop
    execute format('select exists (select from %s where tenant_id = $1)', p_partition) into v_found using v_tenant_id;
    if v_found then
      return true;
    end if;
  end loop;
  return false;
end
$$;
comment on function app_private.is_kept(regclass, timestamptz) is 'Whether a partition that ends at p_before has events that their tenant keeps.';

create or replace function app_hidden.abandoned_partition() returns text
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_partition record;
begin
  for v_partition in
    select c.oid::regclass as name, c.relname, to_date(right(c.relname, 6), 'YYYYMM') + interval '1 month' as ends_at
      from pg_inherits i join pg_class c on c.oid = i.inhrelid
     where i.inhparent = 'public.analytics_events'::regclass and c.relname ~ '^analytics_events_\d{6}$'
     order by c.relname
  loop
    exit when v_partition.ends_at > now() - interval '30 days';
    if not app_private.is_kept(v_partition.name, v_partition.ends_at) then
      return v_partition.relname;
    end if;
  end loop;
  return null;
end
$$;
comment on function app_hidden.abandoned_partition() is 'The oldest month of events that no tenant keeps; null when there is none.';

create or replace function app_hidden.purge_partition_keys(p_partition text, p_after jsonb, p_limit integer) returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_last jsonb;
begin
  if p_partition is distinct from app_hidden.abandoned_partition() then
    raise exception '% has events that are kept.', p_partition using errcode = 'EA409';
  end if;
  execute format(
    'with stretch as (
       select e.tenant_id, e."timestamp", e.id, e.source, e.source_id
         from partitions.%I e
        where (e.tenant_id, e."timestamp", e.id) > (($1 ->> 0)::uuid, ($1 ->> 1)::timestamptz, ($1 ->> 2)::uuid)
        order by e.tenant_id, e."timestamp", e.id limit $2
     ),
     locked as materialized (
       select k.tenant_id, k.source, k.source_id from stretch s
         join app_private.event_keys k
           on k.tenant_id = s.tenant_id and k.source = coalesce(s.source, '''') and k.source_id = s.source_id and k.id = s.id
        order by k.tenant_id, k.source, k.source_id
          for update of k
     ),
     gone as (
       delete from app_private.event_keys k using locked l
        where k.tenant_id = l.tenant_id and k.source = l.source and k.source_id = l.source_id
     )
     select jsonb_build_array(s.tenant_id, s."timestamp", s.id) from stretch s
      order by s.tenant_id desc, s."timestamp" desc, s.id desc limit 1', p_partition
  ) into v_last using coalesce(p_after, '["00000000-0000-0000-0000-000000000000", "-infinity", "00000000-0000-0000-0000-000000000000"]'), p_limit;
  return v_last;
end
$$;
comment on function app_hidden.purge_partition_keys(text, jsonb, integer) is
  'Deletes the keys of up to p_limit events of an abandoned partition, those behind p_after. Returns the last one''s place, from which to go on; null at the end. EA409 when the partition is kept.';

create or replace function app_hidden.drop_partition(p_partition text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set lock_timeout = '2s'
as $$
declare
  v_purged record;
begin
  -- Nobody adds to it, and nobody reads half of it.
  execute 'lock table public.analytics_events in access exclusive mode';
  if p_partition is distinct from app_hidden.abandoned_partition() then
    raise exception '% has events that are kept.', p_partition using errcode = 'EA409';
  end if;
  for v_purged in execute format('select tenant_id, count(*) as count from partitions.%I group by tenant_id', p_partition) loop
    perform app_private.write_audit(
      v_purged.tenant_id, 'events.purged', 'analytics_event', null,
      jsonb_build_object('count', v_purged.count, 'month', to_char(to_date(right(p_partition, 6), 'YYYYMM'), 'YYYY-MM'))
    );
    -- No trigger sees a partition go.
    insert into app_hidden.event_marks (tenant_id, bucket)
    select distinct r.tenant_id, r.bucket from app_hidden.event_rollups r
     where r.tenant_id = v_purged.tenant_id
       and r.bucket >= to_date(right(p_partition, 6), 'YYYYMM') and r.bucket < to_date(right(p_partition, 6), 'YYYYMM') + interval '1 month';
  end loop;
  execute format('drop table partitions.%I', p_partition);
end
$$;
comment on function app_hidden.drop_partition(text) is
  'Drops an abandoned partition, whose keys are gone, and records it in the logs of the tenants that had events there. EA409 when it is kept; 55P03 when the lock is not had within 2 s: try again.';

revoke execute on function
  app_private.purge_tenant_events(uuid, integer), app_hidden.purge_next_events(integer),
  app_private.is_kept(regclass, timestamptz), app_hidden.abandoned_partition(),
  app_hidden.purge_partition_keys(text, jsonb, integer), app_hidden.drop_partition(text)
from public;
grant execute on function
  app_hidden.purge_next_events(integer), app_hidden.abandoned_partition(),
  app_hidden.purge_partition_keys(text, jsonb, integer), app_hidden.drop_partition(text)
to erp_worker;
--! EndIncluded functions/retention.sql
--! Included functions/subjects.sql
-- What an event is about, promoted from the property that its type declares: a text column can be counted, grouped and
-- indexed, a key of jsonb only read.

create or replace function app_private.subject_properties(p_tenant_id uuid) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  -- docs/events.md, then what the tenant says.
  return '{"order": "customerId", "payment": "orderSourceId", "refund": "orderSourceId", "ad_insight": "campaignId", "visit": "campaignId", "signup": "customerId"}'::jsonb
    || coalesce((select jsonb_object_agg(s.event_type, s.property) from public.subject_properties s where s.tenant_id = p_tenant_id), '{}');
end
$$;
comment on function app_private.subject_properties(uuid) is 'Of each type of event, the property that says what the event is about.';

-- Inlined: it runs for every event.
create or replace function app_private.subject_of(p_declared jsonb, p_event_type text, p_properties jsonb) returns text
language sql immutable parallel safe
as $$
  select case when jsonb_typeof(p_properties -> (p_declared ->> p_event_type)) in ('string', 'number')
    then nullif(left(p_properties ->> (p_declared ->> p_event_type), 500), '') end
$$;
comment on function app_private.subject_of(jsonb, text, jsonb) is 'What an event is about; null when it does not say.';

create or replace function app_hidden.promote_subjects(p_tenant_id uuid, p_limit integer default 5000) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_state app_private.subject_states;
  v_declared jsonb := app_private.subject_properties(p_tenant_id);
  v_since timestamptz;
begin
  insert into app_private.subject_states (tenant_id, declared) values (p_tenant_id, v_declared) on conflict do nothing;
  select * into strict v_state from app_private.subject_states s where s.tenant_id = p_tenant_id for update;
  if v_state.declared <> v_declared then
    v_state.promoted_since := 'infinity';
  end if;
  if v_state.promoted_since > '-infinity' then
    v_since := coalesce((
      select e."timestamp" from public.analytics_events e
       where e.tenant_id = p_tenant_id and e."timestamp" < v_state.promoted_since
       order by e."timestamp" desc offset p_limit limit 1
    ), '-infinity');
    -- Only those that differ: others would be written, and marked, for nothing.
    update public.analytics_events e
       set subject = app_private.subject_of(v_declared, e.event_type, e.properties)
     where e.tenant_id = p_tenant_id and e."timestamp" >= v_since and e."timestamp" < v_state.promoted_since
       and e.subject is distinct from app_private.subject_of(v_declared, e.event_type, e.properties);
    v_state.promoted_since := v_since;
  end if;
  update app_private.subject_states s set declared = v_declared, promoted_since = v_state.promoted_since where s.tenant_id = p_tenant_id;
  return v_state.promoted_since = '-infinity';
end
$$;
comment on function app_hidden.promote_subjects(uuid, integer) is
  'Sets the subject of some p_limit older events that were written before their property was declared, the newest first. True when none is left.';

create or replace function app_hidden.tenants_to_promote() returns setof uuid
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select t.id from public.tenants t
      left join app_private.subject_states s on s.tenant_id = t.id
     where s.tenant_id is null or s.promoted_since > '-infinity' or s.declared <> app_private.subject_properties(t.id)
     order by t.id;
end
$$;
comment on function app_hidden.tenants_to_promote() is 'Tenants with events whose subject may be an older declaration''s.';

revoke execute on function
  app_private.subject_properties(uuid), app_private.subject_of(jsonb, text, jsonb),
  app_hidden.promote_subjects(uuid, integer), app_hidden.tenants_to_promote()
from public;
grant execute on function app_hidden.promote_subjects(uuid, integer), app_hidden.tenants_to_promote() to erp_worker;
--! EndIncluded functions/subjects.sql
--! Included functions/write_events.sql
-- The one way in for events: HTTP, GraphQL, import, connectors and DBAs all write through it.
--
-- Lock order is (source, source_id) everywhere. Keys are inserted first: where all were new, nobody else has them, and
-- the events follow. The others are locked in a statement of its own, then read: in one statement, a concurrent insert
-- of the same key would be neither inserted nor visible.
--
-- What suits only small tables is switched off: a plan made, and cached, while the keys were few would read all of them
-- for every batch.

create or replace function app_private.insert_keys(p_tenant_id uuid, p_records app_private.event_record[]) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_count bigint;
begin
  insert into app_private.event_keys (tenant_id, source, source_id, "timestamp", id, source_version, content_hash)
  select p_tenant_id, r.source, r.source_id, coalesce(r.event_time, now()), r.id, r.version, r.hash
    from app_private.unnest_records(p_records) r
   where r.source_id is not null and r.is_whole and r.problem is null
   order by r.source, r.source_id, r.ordinal
  on conflict (tenant_id, source, source_id) do nothing;
  get diagnostics v_count = row_count;
  return v_count;
end
$$;
comment on function app_private.insert_keys(uuid, app_private.event_record[]) is
  'Inserts the keys that are new, of several records with one key the first''s. Returns how many.';

create or replace function app_private.insert_events(p_tenant_id uuid, p_records app_private.event_record[])
returns setof app_hidden.event_receipt
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_declared jsonb := app_private.subject_properties(p_tenant_id);
begin
  insert into public.analytics_events
    (tenant_id, id, "timestamp", event_type, event_name, properties, source, source_id, value, currency, subject)
  select p_tenant_id, r.id, coalesce(r.event_time, now()),
         r.content ->> 'eventType', r.content ->> 'eventName',
         case when jsonb_typeof(r.content -> 'properties') = 'object' then r.content -> 'properties' else '{}' end,
         r.content ->> 'source', r.source_id, (r.content ->> 'value')::numeric, r.content ->> 'currency',
         app_private.subject_of(v_declared, r.content ->> 'eventType', r.content -> 'properties')
    from app_private.unnest_records(p_records) r
   where r.problem is null;
  return query
    select r.ordinal, 'accepted', r.id, coalesce(r.event_time, now()), null::text, null::text, null::text, null::text
      from app_private.unnest_records(p_records) r
     where r.problem is null;
end
$$;
comment on function app_private.insert_events(uuid, app_private.event_record[]) is 'Inserts the events whose keys were new, or that have none.';

create or replace function app_private.restate_events(
  p_tenant_id uuid, p_records app_private.event_record[], p_on_conflict text
)
returns setof app_hidden.event_receipt
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_declared jsonb := app_private.subject_properties(p_tenant_id);
begin
  -- Retention may have taken a key since it was in the way.
  perform app_private.insert_keys(p_tenant_id, p_records);
  perform
    from app_private.unnest_records(p_records) r
    join app_private.event_keys k on k.tenant_id = p_tenant_id and k.source = r.source and k.source_id = r.source_id
   order by k.source, k.source_id
     for update of k;

  return query
  with record as materialized (
    select r.*, k.id as key_id, k."timestamp" as key_timestamp,
           coalesce(r.event_time, k."timestamp", now()) as new_timestamp,
           case
             when k.id is null then 'missing'
             when k.id = r.id then 'new'
             when r.version < k.source_version then 'same'
             when k.deleted_at is not null then case when r.version > k.source_version and r.is_whole then 'new' else 'same' end
             when k.content_hash = r.hash then 'same'
             else 'restated'
           end as verdict
      from app_private.unnest_records(p_records) r
      left join app_private.event_keys k
        on k.tenant_id = p_tenant_id and k.source = r.source and k.source_id = r.source_id
  ),
  -- A field that was left out keeps its stored value.
  differing as materialized (
    select r.ordinal
      from record r
      join public.analytics_events e
        on e.tenant_id = p_tenant_id and e."timestamp" = r.key_timestamp and e.id = r.key_id
     where r.verdict = 'restated'
       and (
         r.new_timestamp <> e."timestamp"
         or r.content ->> 'eventType' <> e.event_type
         or r.content ->> 'eventName' <> e.event_name
         or (r.content ? 'properties' and coalesce(nullif(r.content -> 'properties', 'null'), '{}') <> e.properties)
         or (r.content ? 'value' and (r.content ->> 'value')::numeric is distinct from e.value)
         or (r.content ? 'currency' and r.content ->> 'currency' is distinct from e.currency)
       )
  ),
  inserted as (
    insert into public.analytics_events
      (tenant_id, id, "timestamp", event_type, event_name, properties, source, source_id, value, currency, subject)
    select p_tenant_id, r.id, r.new_timestamp, r.content ->> 'eventType', r.content ->> 'eventName',
           coalesce(nullif(r.content -> 'properties', 'null'), '{}'),
           r.content ->> 'source', r.source_id, (r.content ->> 'value')::numeric, r.content ->> 'currency',
           app_private.subject_of(v_declared, r.content ->> 'eventType', r.content -> 'properties')
      from record r
     where r.verdict = 'new'
  ),
  updated as (
    -- A moved timestamp moves the row to its partition.
    update public.analytics_events e
       set "timestamp" = r.new_timestamp,
           event_type = coalesce(r.content ->> 'eventType', e.event_type),
           event_name = coalesce(r.content ->> 'eventName', e.event_name),
           properties = case when r.content ? 'properties' then coalesce(nullif(r.content -> 'properties', 'null'), '{}') else e.properties end,
           value = case when r.content ? 'value' then (r.content ->> 'value')::numeric else e.value end,
           currency = case when r.content ? 'currency' then r.content ->> 'currency' else e.currency end,
           subject = app_private.subject_of(
             v_declared, coalesce(r.content ->> 'eventType', e.event_type),
             case when r.content ? 'properties' then r.content -> 'properties' else e.properties end
           )
      from record r
      join differing d using (ordinal)
     where p_on_conflict = 'update'
       and e.tenant_id = p_tenant_id and e."timestamp" = r.key_timestamp and e.id = r.key_id
  ),
  key_moved as (
    update app_private.event_keys k
       set "timestamp" = r.new_timestamp,
           id = case when r.verdict = 'new' then r.id else k.id end,
           source_version = greatest(k.source_version, r.version),
           content_hash = r.hash,
           deleted_at = null
      from record r
      left join differing d using (ordinal)
     where (r.verdict = 'new' or (r.verdict = 'restated' and (d.ordinal is null or p_on_conflict = 'update')))
       and k.tenant_id = p_tenant_id and k.source = r.source and k.source_id = r.source_id
  )
  select o.*
    from record r
    left join differing d using (ordinal)
    cross join lateral (
      select (app_private.rejection(r.ordinal, case r.verdict when 'missing' then app_private.what_is_missing(r.content) else 'differs' end)).*
       where r.verdict = 'missing' or (d.ordinal is not null and p_on_conflict <> 'update')
      union all
      select r.ordinal,
             case
               when r.verdict = 'new' then case when r.key_id = r.id then 'accepted' else 'updated' end
               when d.ordinal is not null then 'updated'
               else 'duplicate'
             end,
             case when r.verdict = 'new' then r.id else r.key_id end,
             case when r.verdict = 'same' then r.key_timestamp else r.new_timestamp end,
             null, null, null, null
       where r.verdict <> 'missing' and (d.ordinal is null or p_on_conflict = 'update')
    ) o;
end
$$;
comment on function app_private.restate_events(uuid, app_private.event_record[], text) is
  'Writes records whose keys are known; each key may come once.';

create or replace function app_private.write_records(
  p_tenant_id uuid, p_records app_private.event_record[], p_on_conflict text
)
returns setof app_hidden.event_receipt
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_keyed bigint;
  v_rejected bigint;
  v_new app_private.event_record[];
  v_known app_private.event_record[];
  v_turns integer;
begin
  select count(*) filter (where r.source_id is not null and r.problem is null), count(r.problem)
    into v_keyed, v_rejected
    from app_private.unnest_records(p_records) r;
  if v_rejected > 0 then
    return query
      select (app_private.rejection(r.ordinal, r.problem)).* from app_private.unnest_records(p_records) r where r.problem is not null;
  end if;
  if app_private.insert_keys(p_tenant_id, p_records) = v_keyed then
    return query select * from app_private.insert_events(p_tenant_id, p_records);
    return;
  end if;

  -- Several records with one key take turns, as if they came one after another.
  select array_agg(r.record order by r.ordinal) filter (where r.is_new),
         array_agg(r.record order by r.turn, r.ordinal) filter (where not r.is_new),
         max(r.turn) filter (where not r.is_new)
    into v_new, v_known, v_turns
    from (
      select k.ordinal, k.is_new, k.turn,
             row(
               k.ordinal, k.turn, k.source, k.source_id, k.version, k.id, k.event_time, k.content, k.hash, k.is_whole,
               -- What only restates, and came before the event that it would restate.
               case when not k.is_whole and k.new_ordinal > k.ordinal then app_private.what_is_missing(k.content) end
             )::app_private.event_record as record
        from (
          select i.*,
                 row_number() over (partition by i.is_new, i.source, i.source_id order by i.ordinal)::integer as turn,
                 max(i.ordinal) filter (where i.is_new) over (partition by i.source, i.source_id) as new_ordinal
            from (
              select r.ordinal, r.source, r.source_id, r.version, r.id, r.event_time, r.content, r.hash, r.is_whole,
                     r.source_id is null or exists (
                       select from app_private.event_keys k
                        where k.tenant_id = p_tenant_id and k.source = r.source and k.source_id = r.source_id and k.id = r.id
                     ) as is_new
                from app_private.unnest_records(p_records) r
               where r.problem is null
            ) i
        ) k
    ) r;
  return query select * from app_private.insert_events(p_tenant_id, v_new);
  return query
    select (app_private.rejection(r.ordinal, r.problem)).* from unnest(v_known) r where r.problem is not null;
  for v_turn in 1 .. v_turns loop
    return query
      select * from app_private.restate_events(
        p_tenant_id, (select array_agg(r) from unnest(v_known) r where r.turn = v_turn and r.problem is null), p_on_conflict
      );
  end loop;
end
$$;
comment on function app_private.write_records(uuid, app_private.event_record[], text) is 'Writes what read_events read.';

create or replace function app_hidden.write_events(
  p_tenant_id uuid, p_events jsonb, p_on_conflict text default 'update', p_atomic boolean default false
)
returns setof app_hidden.event_receipt
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_records app_private.event_record[] := app_private.read_events(p_tenant_id, p_events);
  v_receipts app_hidden.event_receipt[];
  v_accepted bigint;
  v_updated bigint;
begin
  if p_on_conflict is null or p_on_conflict not in ('update', 'reject') then
    raise exception 'onConflict is "%"; it may be update or reject.', left(coalesce(p_on_conflict, ''), 100) using errcode = 'EA400';
  end if;
  if p_atomic then
    begin
      v_receipts := array(select w from app_private.write_records(p_tenant_id, v_records, p_on_conflict) w);
      if exists (select from unnest(v_receipts) w where w.outcome = 'rejected') then
        raise exception using errcode = 'EA000';
      end if;
    exception when sqlstate 'EA000' then
      return query
        select w.ordinal, case w.outcome when 'rejected' then w.outcome else 'withheld' end, null::uuid, null::timestamptz,
               w.code, w.reason, w.pointer, w.detail
          from unnest(v_receipts) w
         order by 1;
      return;
    end;
  else
    v_receipts := array(select w from app_private.write_records(p_tenant_id, v_records, p_on_conflict) w);
  end if;
  select count(*) filter (where w.outcome = 'accepted'), count(*) filter (where w.outcome = 'updated')
    into v_accepted, v_updated
    from unnest(v_receipts) w;
  if v_accepted + v_updated > 0 then
    perform app_private.write_audit(
      p_tenant_id, 'events.written', 'analytics_event', null, jsonb_build_object('accepted', v_accepted, 'updated', v_updated)
    );
  end if;
  return query select * from unnest(v_receipts) order by 1;
end
$$;
comment on function app_hidden.write_events(uuid, jsonb, text, boolean) is
  'Writes a JSON array of events {eventType, eventName, timestamp, value, currency, properties, source, sourceId (or id), sourceVersion} as if they came one after another, and says of each what became of it. One (source, sourceId) is one event; an older sourceVersion never wins, a statement without a version always counts. p_on_conflict: whether other content under a known id updates the event, or is rejected (CONFLICT). p_atomic: all or none. EA400 unless it is an array.';

revoke execute on function
  app_private.insert_keys(uuid, app_private.event_record[]), app_private.insert_events(uuid, app_private.event_record[]),
  app_private.restate_events(uuid, app_private.event_record[], text),
  app_private.write_records(uuid, app_private.event_record[], text),
  app_hidden.write_events(uuid, jsonb, text, boolean)
from public;
--! EndIncluded functions/write_events.sql
--! Included policies/metrics.sql
-- Everybody in the tenant reads its metrics and subjects; whoever has metrics:manage changes them.
alter table public.metrics enable row level security, force row level security;
drop policy if exists owner_all on public.metrics;
create policy owner_all on public.metrics to erp_user using (true) with check (true);
comment on policy owner_all on public.metrics is 'Migrations, DBAs and definer functions.';
drop policy if exists select_member on public.metrics;
create policy select_member on public.metrics for select to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id());
comment on policy select_member on public.metrics is 'Everybody in the tenant.';
drop policy if exists insert_manager on public.metrics;
create policy insert_manager on public.metrics for insert to api_viewer, api_user, api_admin, api_super_admin
  with check (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('metrics:manage'));
comment on policy insert_manager on public.metrics is 'Whoever has metrics:manage adds metrics.';
drop policy if exists update_manager on public.metrics;
create policy update_manager on public.metrics for update to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('metrics:manage'))
  with check (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('metrics:manage'));
comment on policy update_manager on public.metrics is 'Whoever has metrics:manage changes metrics.';
drop policy if exists delete_manager on public.metrics;
create policy delete_manager on public.metrics for delete to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('metrics:manage'));
comment on policy delete_manager on public.metrics is 'Whoever has metrics:manage removes metrics.';
grant select, delete on public.metrics to api_viewer, api_user, api_admin, api_super_admin;
grant insert (name, description, formula, measures, filter, format, unit) on public.metrics to api_viewer, api_user, api_admin, api_super_admin;
grant update (name, description, formula, measures, filter, format, unit) on public.metrics to api_viewer, api_user, api_admin, api_super_admin;

alter table public.subject_properties enable row level security, force row level security;
drop policy if exists owner_all on public.subject_properties;
create policy owner_all on public.subject_properties to erp_user using (true) with check (true);
comment on policy owner_all on public.subject_properties is 'Migrations, DBAs and definer functions.';
drop policy if exists select_member on public.subject_properties;
create policy select_member on public.subject_properties for select to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id());
comment on policy select_member on public.subject_properties is 'Everybody in the tenant.';
drop policy if exists insert_manager on public.subject_properties;
create policy insert_manager on public.subject_properties for insert to api_viewer, api_user, api_admin, api_super_admin
  with check (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('metrics:manage'));
comment on policy insert_manager on public.subject_properties is 'Whoever has metrics:manage declares subjects.';
drop policy if exists update_manager on public.subject_properties;
create policy update_manager on public.subject_properties for update to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('metrics:manage'))
  with check (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('metrics:manage'));
comment on policy update_manager on public.subject_properties is 'Whoever has metrics:manage declares others.';
drop policy if exists delete_manager on public.subject_properties;
create policy delete_manager on public.subject_properties for delete to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('metrics:manage'));
comment on policy delete_manager on public.subject_properties is 'Whoever has metrics:manage goes back to what docs/events.md says.';
grant select, delete on public.subject_properties to api_viewer, api_user, api_admin, api_super_admin;
grant insert (event_type, property) on public.subject_properties to api_viewer, api_user, api_admin, api_super_admin;
grant update (property) on public.subject_properties to api_viewer, api_user, api_admin, api_super_admin;

alter table app_private.subject_states enable row level security, force row level security;
drop policy if exists owner_all on app_private.subject_states;
create policy owner_all on app_private.subject_states to erp_user using (true) with check (true);
comment on policy owner_all on app_private.subject_states is 'Migrations, DBAs and definer functions.';
--! EndIncluded policies/metrics.sql
--! Included triggers/metrics.sql
create or replace trigger _100_touch before update on public.metrics for each row execute function app_private.tg_touch();
create or replace trigger _900_audit after insert or update or delete on public.metrics
  for each row execute function app_private.tg_audit('metric', 'id', '{}', '{updated_at}');
create or replace trigger _900_audit after insert or update or delete on public.subject_properties
  for each row execute function app_private.tg_audit('subject_property', 'id', '{}', '{}');
--! EndIncluded triggers/metrics.sql
--! Included functions/starter_metrics.sql
-- Metrics that come with a provider. They are the tenant's own from then on: nothing here changes them again.
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
      ('meta-ads', 'adSpend', 'Spend on advertising.', 'spent',
       '[{"name": "spent", "aggregate": "SUM", "filter": {"types": ["ad_insight"]}}]', 'MONEY'),
      ('meta-ads', 'impressions', 'Times that ads were shown.', 'shown',
       '[{"name": "shown", "aggregate": "SUM", "property": "impressions", "filter": {"types": ["ad_insight"]}}]', 'NUMBER'),
      ('meta-ads', 'clicks', 'Clicks on ads.', 'clicked',
       '[{"name": "clicked", "aggregate": "SUM", "property": "clicks", "filter": {"types": ["ad_insight"]}}]', 'NUMBER'),
      ('meta-ads', 'costPerClick', 'Spend per click.', 'adSpend / clicks', '[]', 'MONEY'),
      ('meta-ads', 'clickRate', 'Clicks as a share of impressions.', 'clicks / impressions', '[]', 'PERCENT'),
      ('meta-ads', 'returnOnAdSpend', 'What the platform attributes, per unit of spend.', 'attributed / adSpend',
       '[{"name": "attributed", "aggregate": "SUM", "property": "conversionValue", "filter": {"types": ["ad_insight"]}}]', 'NUMBER')
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
select app_private.add_starter_metrics(i.tenant_id, i.provider) from public.integrations i;
