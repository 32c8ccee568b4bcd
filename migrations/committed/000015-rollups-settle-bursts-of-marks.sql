--! Previous: sha1:c6a7bfde549825ae43d6960dd23dd70abbfbbc3b
--! Hash: sha1:0df99baecd97b3385e5ee65a4741b015c9f530a6
--! Message: rollups settle bursts of marks

--! split: 1-current.sql
set local lock_timeout = '5s';

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
  delete from app_hidden.event_rollups r where r.tenant_id = p_tenant_id and r.bucket = any (p_buckets);
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
  delete from app_hidden.event_rollups_by_day r where r.tenant_id = p_tenant_id and r.day = any (p_days);
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

create or replace function app_hidden.assert_fresh_snapshot() returns void
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
  -- Until this transaction ends, nobody attaches or drops a partition.
  perform from public.analytics_events where false;
  -- The one asks the catalogue as it is, the other as it was.
  if (select count(*) from pg_partition_tree('public.analytics_events'::regclass)) - 1
    <> (select count(*) from pg_inherits i where i.inhparent = 'public.analytics_events'::regclass)
  then
    raise exception 'A partition of events came or went since this transaction began. Try again.' using errcode = '40001';
  end if;
end
$$;
comment on function app_hidden.assert_fresh_snapshot() is
  '40001 when this snapshot is older than a partition of events: the rows that moved there would be in neither of their places.';

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
  v_settled integer;
  v_last_bucket timestamptz;
  v_last_id bigint;
  v_marked timestamptz[];
  v_buckets timestamptz[];
begin
  perform app_private.assert_snapshot();
  perform app_hidden.assert_fresh_snapshot();
  -- Whoever else is at this tenant's rollups ends in 40001, and tries again.
  update app_hidden.rollup_states s set refreshed_at = now() where s.tenant_id = p_tenant_id returning s.* into v_state;
  if not found then
    return 0;
  end if;
  select count(*), max(m.bucket), (array_agg(m.id order by m.bucket desc, m.id desc))[1], array_agg(distinct m.bucket)
    into v_settled, v_last_bucket, v_last_id, v_marked
    from (
      select m.id, m.bucket from app_hidden.event_marks m
       where m.tenant_id = p_tenant_id order by m.bucket, m.id limit p_limit
    ) m;
  -- What is not covered yet will be computed from a later snapshot.
  v_buckets := array(select b from unnest(v_marked) b where b >= v_state.quarters_since);
  if cardinality(v_buckets) > 0 then
    perform app_private.roll_up(p_tenant_id, v_buckets);
    perform app_private.roll_up_days(p_tenant_id, v_state.zone, array(
      select distinct (b at time zone v_state.zone)::date from unnest(v_buckets) b
       where (b at time zone v_state.zone)::date >= v_state.days_since
    ));
  end if;
  -- Exactly the marks that were read: this snapshot sees no others that far. A join with them would be planned by statistics
  -- that know nothing of a burst.
  delete from app_hidden.event_marks m
   where m.tenant_id = p_tenant_id and (m.bucket, m.id) <= (v_last_bucket, v_last_id);
  return v_settled;
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
  perform app_hidden.assert_fresh_snapshot();
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
  perform app_hidden.assert_fresh_snapshot();
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
  app_hidden.plan_series(uuid, timestamptz, timestamptz, text, boolean), app_hidden.assert_fresh_snapshot()
from public;
grant execute on function
  app_hidden.refresh_rollups(uuid, integer), app_hidden.extend_rollups(uuid, integer), app_hidden.tenants_to_roll_up()
to erp_worker;
grant execute on function app_hidden.plan_series(uuid, timestamptz, timestamptz, text, boolean), app_hidden.assert_fresh_snapshot()
to api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/rollups.sql
