--! Previous: sha1:82e115d0023d10a8fad54edef944b99c3bc536f0
--! Hash: sha1:9dce0ff4f36ea1bb49107d203b917eca16b08166
--! Message: buckets where clocks change

--! split: 1-current.sql
-- Buckets where clocks change inside an hour, or at midnight.
set local lock_timeout = '5s';
--! Included functions/event_buckets.sql
-- Calendar arithmetic of series. bucket_of pins no search_path, so that it is inlined: it runs for every event.

create or replace function app_hidden.first_moment(p_local timestamp, p_zone text) returns timestamptz
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
  v_moment timestamptz := p_local at time zone p_zone;
  v_before timestamptz := v_moment - interval '3 hours';
  v_earlier timestamptz := (p_local - ((v_before at time zone p_zone) - (v_before at time zone 'UTC'))) at time zone 'UTC';
begin
  return case when v_earlier < v_moment and v_earlier at time zone p_zone = p_local then v_earlier else v_moment end;
end
$$;
comment on function app_hidden.first_moment(timestamp, text) is
  'The moment at which the clocks of a zone show p_local, the first where they show it twice; where they skip it, the moment when they do.';

create or replace function app_hidden.last_change(p_zone text, p_after timestamptz, p_until timestamptz) returns timestamptz
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
  v_ahead interval := (p_until at time zone p_zone) - (p_until at time zone 'UTC');
  v_low timestamptz := p_after;
  v_high timestamptz := p_until;
  v_middle timestamptz;
begin
  while v_high - v_low > interval '1 second' loop
    v_middle := date_trunc('second', v_low + (v_high - v_low) / 2);
    if (v_middle at time zone p_zone) - (v_middle at time zone 'UTC') = v_ahead then
      v_high := v_middle;
    else
      v_low := v_middle;
    end if;
  end loop;
  return date_trunc('second', v_high);
end
$$;
comment on function app_hidden.last_change(text, timestamptz, timestamptz) is
  'When the clocks of a zone changed, to the second, between two moments of which the first, in whole seconds, is before the change.';

-- Nearly never do clocks change within the three hours before a bucket, or within an hour: the functions are for those.
create or replace function app_hidden.bucket_of(p_time timestamptz, p_local timestamp, p_zone text, p_unit text, p_shift interval)
returns timestamptz
language sql stable parallel safe
as $$
  select case
    when p_unit = 'hour' then case
      when (p_time - (p_local - date_trunc('hour', p_local))) at time zone p_zone = date_trunc('hour', p_local)
        then p_time - (p_local - date_trunc('hour', p_local))
      else app_hidden.last_change(p_zone, p_time - (p_local - date_trunc('hour', p_local)), p_time)
    end
    when p_unit = 'quarter_hour' then case
      when (p_time - (p_local - date_bin('15 minutes', p_local, '2000-01-01'))) at time zone p_zone = date_bin('15 minutes', p_local, '2000-01-01')
        then p_time - (p_local - date_bin('15 minutes', p_local, '2000-01-01'))
      else app_hidden.last_change(p_zone, p_time - (p_local - date_bin('15 minutes', p_local, '2000-01-01')), p_time)
    end
    when (((date_trunc(p_unit, p_local - p_shift) + p_shift) at time zone p_zone) - interval '3 hours') at time zone p_zone
      = date_trunc(p_unit, p_local - p_shift) + p_shift - interval '3 hours'
      then (date_trunc(p_unit, p_local - p_shift) + p_shift) at time zone p_zone
    else app_hidden.first_moment(date_trunc(p_unit, p_local - p_shift) + p_shift, p_zone)
  end
$$;
comment on function app_hidden.bucket_of(timestamptz, timestamp, text, text, interval) is
  'Start of the bucket in which p_time lies, p_local being that time in p_zone. p_unit: quarter_hour, hour, day, week, month, quarter or year; where clocks change inside one of the first two, another begins. p_shift: by how much weeks begin after Monday, or quarters and years after January.';

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
      select distinct case
               when ((l.local at time zone p_zone) - interval '3 hours') at time zone p_zone = l.local - interval '3 hours'
                 then l.local at time zone p_zone
               else app_hidden.first_moment(l.local, p_zone)
             end
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
  app_hidden.first_moment(timestamp, text), app_hidden.last_change(text, timestamptz, timestamptz),
  app_hidden.bucket_of(timestamptz, timestamp, text, text, interval),
  app_hidden.buckets_between(timestamptz, timestamptz, text, text, interval),
  app_hidden.zone_days(text, date, date), app_hidden.odd_quarters(text, timestamptz, timestamptz)
from public;
grant execute on function
  app_hidden.first_moment(timestamp, text), app_hidden.last_change(text, timestamptz, timestamptz),
  app_hidden.bucket_of(timestamptz, timestamp, text, text, interval),
  app_hidden.buckets_between(timestamptz, timestamptz, text, text, interval),
  app_hidden.zone_days(text, date, date), app_hidden.odd_quarters(text, timestamptz, timestamptz)
to api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/event_buckets.sql
