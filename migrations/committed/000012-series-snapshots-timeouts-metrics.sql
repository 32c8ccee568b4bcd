--! Previous: sha1:189e06fd6b150c2a8a3c8c16591c5d17c3c09807
--! Hash: sha1:0e3ab4b61ec29125afddb35e3f402f22cfb2eaa6
--! Message: series snapshots timeouts metrics

--! split: 1-current.sql
set local lock_timeout = '5s';

--! Included functions/retention.sql
-- Events that a tenant no longer keeps go with their keys, or a purged record could never come back as another event. A
-- month that nobody keeps any more goes as a whole: it is doomed, for good and for everybody, before the first key goes (a
-- tenant that keeps more from then on would otherwise have events without keys, which come a second time); then its keys
-- go, a stretch at a time, then the partition.

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
  v_deletions integer;
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
  -- What its source deleted has a key only.
  with stretch as materialized (
    select k.source, k.source_id from app_private.event_keys k
     where k.tenant_id = p_tenant_id and k.deleted_at is not null and k."timestamp" < v_before
     order by k."timestamp" limit p_limit
  ),
  locked as materialized (
    select k.source, k.source_id from stretch s
      join app_private.event_keys k on k.tenant_id = p_tenant_id and k.source = s.source and k.source_id = s.source_id
     where k.deleted_at is not null and k."timestamp" < v_before
     order by k.source, k.source_id
       for update of k
  )
  delete from app_private.event_keys k using locked l
   where k.tenant_id = p_tenant_id and k.source = l.source and k.source_id = l.source_id;
  get diagnostics v_deletions = row_count;
  if v_count + v_deletions > 0 then
    perform app_private.write_audit(
      p_tenant_id, 'events.purged', 'analytics_event', null,
      jsonb_build_object('count', v_count, 'before', v_before)
        || case when v_deletions > 0 then jsonb_build_object('deletions', v_deletions) else '{}' end
    );
  end if;
  return v_count + v_deletions;
end
$$;
comment on function app_private.purge_tenant_events(uuid, integer) is 'Deletes the oldest events that a tenant no longer keeps, and what is known of events that their source deleted. Returns how many.';

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

create or replace function app_hidden.doom_partition() returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set lock_timeout = '2s'
as $$
declare
  v_partition text;
begin
  -- One that somebody dropped by hand.
  delete from app_private.doomed_partitions d
   where to_regclass(format('partitions.analytics_events_%s', to_char(d.month, 'YYYYMM'))) is null;
  select 'analytics_events_' || to_char(d.month, 'YYYYMM') into v_partition from app_private.doomed_partitions d order by d.month limit 1;
  if found then
    return v_partition;
  end if;
  v_partition := app_hidden.abandoned_partition();
  if v_partition is not null then
    -- Who writes now has not seen the month doomed: their events are there when it is looked at again, and all others' come
    -- too late. Readers go on.
    lock table only public.analytics_events in share row exclusive mode;
    if v_partition is distinct from app_hidden.abandoned_partition() then
      return null;
    end if;
    insert into app_private.doomed_partitions (month) values (to_date(right(v_partition, 6), 'YYYYMM'));
  end if;
  return v_partition;
end
$$;
comment on function app_hidden.doom_partition() is
  'The month of events that is being deleted; without one, dooms the oldest that no tenant keeps: from then on it takes no events, whatever a tenant keeps later. Null when there is none. 55P03 when the lock is not had within 2 s: try again.';

create or replace function app_private.assert_doomed(p_partition text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  perform from app_private.doomed_partitions d where 'analytics_events_' || to_char(d.month, 'YYYYMM') = p_partition;
  if not found then
    raise exception '% is not being deleted.', p_partition using errcode = 'EA409';
  end if;
end
$$;
comment on function app_private.assert_doomed(text) is 'EA409 unless doom_partition said so.';

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
  perform app_private.assert_doomed(p_partition);
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
             -- Not that of an event which was restated to another month meanwhile.
             and k."timestamp" = s."timestamp"
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
  'Deletes the keys of up to p_limit events of a doomed partition, those behind p_after. Returns the last one''s place, from which to go on; null at the end. EA409 when the partition is not doomed.';

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
  perform app_private.assert_doomed(p_partition);
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
  delete from app_private.doomed_partitions d where 'analytics_events_' || to_char(d.month, 'YYYYMM') = p_partition;
end
$$;
comment on function app_hidden.drop_partition(text) is
  'Drops a doomed partition, whose keys are gone, and records it in the logs of the tenants that had events there; events of that month are taken again. EA409 when it is not doomed; 55P03 when the lock is not had within 2 s: try again.';

revoke execute on function
  app_private.purge_tenant_events(uuid, integer), app_hidden.purge_next_events(integer),
  app_private.is_kept(regclass, timestamptz), app_hidden.abandoned_partition(),
  app_hidden.doom_partition(), app_private.assert_doomed(text),
  app_hidden.purge_partition_keys(text, jsonb, integer), app_hidden.drop_partition(text)
from public;
grant execute on function
  app_hidden.purge_next_events(integer), app_hidden.abandoned_partition(), app_hidden.doom_partition(),
  app_hidden.purge_partition_keys(text, jsonb, integer), app_hidden.drop_partition(text)
to erp_worker;
--! EndIncluded functions/retention.sql
--! Included functions/partitions.sql
-- One partition a month, in UTC. Rows that came before their partition lie in the default one: they move in the
-- transaction that attaches the partition, so that no reader misses them or sees them twice.
--
-- Most of the work is done while writers go on: the rows are copied ahead, and once nobody writes only what changed since
-- is copied (a row is the same as long as its place and its xmin are). Writers and readers of a month of 500,000 rows that
-- moves waited 5 s when all of it was done under the lock; now 1.5 s.

create or replace function app_private.make_partition(p_table text, p_month date) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set lock_timeout = '2s'
as $$
declare
  v_month date := date_trunc('month', p_month)::date;
  v_name text := format('%s_%s', p_table, to_char(v_month, 'YYYYMM'));
  v_from timestamptz := v_month::timestamptz;
  v_to timestamptz := (v_month + interval '1 month')::timestamptz;
  v_default text := p_table || '_default';
  v_column text;
  v_copied bigint;
  v_waiting bigint;
  v_same bigint;
begin
  if to_regclass(format('partitions.%I', v_name)) is not null then
    return false;
  end if;
  -- Against others who make it; nobody else waits for this lock.
  execute format('lock table partitions.%I in share update exclusive mode', v_default);
  if to_regclass(format('partitions.%I', v_name)) is not null then
    return false;
  end if;
  select a.attname into strict v_column
    from pg_partitioned_table p
    join pg_attribute a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0]
   where p.partrelid = format('public.%I', p_table)::regclass;

  execute format('create table partitions.%I (like public.%I including all)', v_name, p_table);
  execute format('alter table partitions.%I enable row level security, force row level security', v_name);
  execute format('create policy owner_all on partitions.%I to erp_user using (true) with check (true)', v_name);
  execute format('create table partitions.%I (place tid, version xid, at timestamptz, id uuid)', v_name || '_moved');
  -- One statement, one snapshot: what is copied is what is noted.
  execute format(
    'with noted as (
       insert into partitions.%6$I select d.ctid, d.xmin, d.%2$I, d.id from partitions.%1$I d where d.%2$I >= %3$L and d.%2$I < %4$L
     )
     insert into partitions.%5$I select d.* from partitions.%1$I d where d.%2$I >= %3$L and d.%2$I < %4$L',
    v_default, v_column, v_from, v_to, v_name, v_name || '_moved'
  );
  get diagnostics v_copied = row_count;
  -- Attaching believes it, instead of looking at all rows.
  execute format(
    'alter table partitions.%1$I add constraint bounds check (%2$I is not null and %2$I >= %3$L and %2$I < %4$L)', v_name, v_column, v_from, v_to
  );

  -- All wait here, before they choose their partitions: a writer that had chosen the default one would fail (23514), and a
  -- reader that had planned without the new one would find its rows in neither.
  execute format('lock table only public.%I in access exclusive mode', p_table);
  execute format('lock table partitions.%I in access exclusive mode', v_default);
  execute format(
    'select count(*), count(m.place) from partitions.%1$I d
       left join partitions.%2$I m on m.place = d.ctid and m.version = d.xmin
      where d.%3$I >= %4$L and d.%3$I < %5$L',
    v_default, v_name || '_moved', v_column, v_from, v_to
  ) into v_waiting, v_same;
  if v_same < v_copied then
    execute format(
      'delete from partitions.%1$I p using partitions.%2$I m
        where p.%3$I = m.at and p.id = m.id
          and not exists (select from partitions.%4$I d where d.ctid = m.place and d.xmin = m.version)',
      v_name, v_name || '_moved', v_column, v_default
    );
  end if;
  if v_same < v_waiting then
    execute format(
      'insert into partitions.%1$I select d.* from partitions.%2$I d
        where d.%4$I >= %5$L and d.%4$I < %6$L
          and not exists (select from partitions.%3$I m where m.place = d.ctid and m.version = d.xmin)',
      v_name, v_default, v_name || '_moved', v_column, v_from, v_to
    );
  end if;
  execute format('delete from partitions.%1$I where %2$I >= %3$L and %2$I < %4$L', v_default, v_column, v_from, v_to);
  -- To a snapshot of before, the rows are in neither table: whoever computes rollups in one may settle only older marks.
  if p_table = 'analytics_events' and v_waiting > 0 then
    execute format(
      'insert into app_hidden.event_marks (tenant_id, bucket)
       select distinct e.tenant_id, date_bin(''15 minutes'', e."timestamp", ''2000-01-01 00:00+00'') from partitions.%I e', v_name
    );
  end if;
  execute format('drop table partitions.%I', v_name || '_moved');
  execute format(
    'alter table public.%I attach partition partitions.%I for values from (%L) to (%L)',
    p_table, v_name, v_from, v_to
  );
  execute format('alter table partitions.%I drop constraint bounds', v_name);
  return true;
end
$$;
comment on function app_private.make_partition(text, date) is
  'Makes the partition of a month and moves the rows there that wait in the default one. False if it exists. Fails with 55P03 when a lock is not had within 2 s: try again.';

create or replace function app_hidden.make_partition_for(p_time timestamptz) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
begin
  return p_time between now() - (select max_age from app_private.event_limits) and now() + interval '1 month'
    and app_private.make_partition('analytics_events', p_time::date);
end
$$;
comment on function app_hidden.make_partition_for(timestamptz) is
  'Makes the partition of events of that time before they come. False if it exists, or no event may have that time. 55P03: try again.';

create or replace function app_hidden.make_next_partition(p_ahead integer default 3) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_table record;
  v_month date;
begin
  for v_table in
    select * from (values ('analytics_events', 'timestamp'), ('audit_logs', 'created_at')) as tables (name, time_column)
  loop
    for v_month in
      execute format(
        'select generate_series(date_trunc(''month'', now()), date_trunc(''month'', now()) + make_interval(months => $1), interval ''1 month'')::date
         union
         select distinct date_trunc(''month'', %1$I)::date from partitions.%2$I
          where %1$I between now() - interval ''10 years'' and now() + interval ''1 year''
         order by 1',
        v_table.time_column, v_table.name || '_default'
      ) using p_ahead
    loop
      if app_private.make_partition(v_table.name, v_month) then
        return format('%s of %s', to_char(v_month, 'YYYY-MM'), v_table.name);
      end if;
    end loop;
  end loop;
  return null;
end
$$;
comment on function app_hidden.make_next_partition(integer) is
  'Makes one partition that is wanting: of this month, of p_ahead months to come, or of a month, of ten years back to one ahead, that has rows in the default partition; others stay there. Returns which, or null when none is wanting. One at a time, so that its locks are held no longer than it takes.';

create or replace function app_hidden.rows_without_partition() returns bigint
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select (select count(*) from (select from partitions.analytics_events_default limit 1000) e)
       + (select count(*) from (select from partitions.audit_logs_default limit 1000) l)
$$;
comment on function app_hidden.rows_without_partition() is 'How many rows lie in the default partitions, counted up to 1,000 in each.';

revoke execute on function
  app_private.make_partition(text, date), app_hidden.make_partition_for(timestamptz), app_hidden.make_next_partition(integer), app_hidden.rows_without_partition()
from public;
grant execute on function app_hidden.make_next_partition(integer), app_hidden.rows_without_partition() to erp_worker;
--! EndIncluded functions/partitions.sql
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
  v_ids bigint[];
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
--! Included functions/begin_request.sql
-- Every request opens with one call to begin_request: it checks the claims against the tables as they are now and
-- sets role, claims and timeouts for the transaction. What was revoked a moment ago is refused here.

create or replace function app_private.is_open(p_status public.tenant_status, p_trial_ends_at timestamptz) returns boolean
language sql stable parallel safe
as $$ select p_status = 'ACTIVE' or (p_status = 'TRIAL' and (p_trial_ends_at is null or p_trial_ends_at > now())) $$;
comment on function app_private.is_open(public.tenant_status, timestamptz) is 'Whether a tenant may be used: neither suspended, nor cancelled, nor past its trial.';

-- Definer, because erp_authenticator reads no table. It locks and writes nothing: queries are read only.
create or replace function app_hidden.authorize_session(p_claims jsonb)
returns table (api_role text, actor_name text, permissions text[], impersonator_name text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := p_claims ->> 'tenant_id';
  v_home_tenant_id uuid := p_claims ->> 'home_tenant_id';
  v_live record;
begin
  select u.email, u.role, u.permissions, s.entered_tenant_id, s.entered_role
    into v_live
    from public.sessions s
    join public.users u on u.tenant_id = s.tenant_id and u.id = s.user_id
    join public.tenants t on t.id = s.tenant_id
   where s.tenant_id = coalesce(v_home_tenant_id, v_tenant_id)
     and s.id = (p_claims ->> 'sid')::uuid
     and s.user_id = (p_claims ->> 'sub')::uuid
     and s.revoked_at is null
     and s.expires_at > now()
     and s.entered_tenant_id is not distinct from (case when v_home_tenant_id is not null then v_tenant_id end)
     and u.status = 'ACTIVE'
     and app_private.is_open(t.status, t.trial_ends_at);
  if not found then
    raise exception 'This session has ended. Sign in again.' using errcode = 'EA401', detail = 'revoked';
  end if;

  if v_live.entered_tenant_id is null then
    if v_live.role::text is distinct from p_claims ->> 'role' then
      raise exception 'The rights of this user have changed. Refresh the session.' using errcode = 'EA401', detail = 'stale';
    end if;
    return query select
      'api_' || lower(v_live.role::text), v_live.email,
      app_hidden.role_permissions(v_live.role) || v_live.permissions, null::text;
    return;
  end if;

  -- An operator may look into a suspended tenant, but not into one that has left.
  return query
    select 'api_' || lower(v_live.entered_role::text), format('%s of %s', v_live.entered_role, t.slug),
           app_hidden.role_permissions(v_live.entered_role), v_live.email
      from public.tenants t
     where t.id = v_live.entered_tenant_id
       and t.status <> 'CANCELLED'
       and v_live.role = 'SUPER_ADMIN'
       and v_live.entered_role::text = p_claims ->> 'role';
  if not found then
    raise exception 'This visit to the tenant has ended.' using errcode = 'EA401', detail = 'revoked';
  end if;
end
$$;
comment on function app_hidden.authorize_session(jsonb) is
  'The live check of an access token''s claims. EA401 with detail "revoked" or "stale" when they no longer hold.';

create or replace function app_hidden.authorize_key(p_claims jsonb)
returns table (api_role text, actor_name text, permissions text[], impersonator_name text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select case when 'analytics:read' = any (k.scopes) then 'api_viewer' else 'api_anonymous' end, k.name, k.scopes, null::text
      from public.api_keys k
      join app_private.api_key_secrets s on s.tenant_id = k.tenant_id and s.api_key_id = k.id
      join public.tenants t on t.id = k.tenant_id
     where k.tenant_id = (p_claims ->> 'tenant_id')::uuid
       and k.id = (p_claims ->> 'key_id')::uuid
       and s.secret_hash = decode(p_claims ->> 'key_hash', 'hex')
       and k.revoked_at is null
       and (k.expires_at is null or k.expires_at > now())
       and 'api_keys' = any (t.features)
       and app_private.is_open(t.status, t.trial_ends_at);
  if not found then
    raise exception 'This API key is unknown, revoked or expired, or its tenant may not use it.' using errcode = 'EA401', detail = 'revoked';
  end if;
end
$$;
comment on function app_hidden.authorize_key(jsonb) is 'The live check of an API key (by the SHA-256 of its secret). EA401 with detail "revoked".';

-- Invoker: `set role` is refused inside a definer function.
create or replace function app_hidden.begin_request(p_claims jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_session boolean := p_claims ? 'sub';
  v_is_key boolean := p_claims ? 'key_id';
  v_is_visit boolean := v_is_session and p_claims ? 'home_tenant_id';
  v_live record;
  v_seconds integer;
begin
  if v_is_session then
    select * into v_live from app_hidden.authorize_session(p_claims);
  elsif v_is_key then
    select * into v_live from app_hidden.authorize_key(p_claims);
  else
    select 'api_anonymous' as api_role, null::text as actor_name, null::text[] as permissions, null::text as impersonator_name
      into v_live;
  end if;

  v_seconds := case
    -- A key of scope events:write is anonymous by its role, and writes batches of 5,000.
    when v_is_key then 15
    when v_live.api_role = 'api_anonymous' then 5
    when v_live.api_role in ('api_admin', 'api_super_admin') then 30
    else 15
  end;

  -- Every key, every time: one that is skipped would keep what an earlier transaction set for the session.
  perform
    set_config('app.tenant_id', case when v_is_session or v_is_key then p_claims ->> 'tenant_id' else '' end, true),
    set_config('app.home_tenant_id', case when v_is_visit then p_claims ->> 'home_tenant_id' else '' end, true),
    set_config('app.user_id', case when v_is_session and not v_is_visit then p_claims ->> 'sub' else '' end, true),
    set_config('app.session_id', case when v_is_session then p_claims ->> 'sid' else '' end, true),
    set_config('app.api_key_id', case when v_is_key then p_claims ->> 'key_id' else '' end, true),
    set_config('app.impersonator_id', case when v_is_visit then p_claims ->> 'sub' else '' end, true),
    set_config('app.impersonator_name', coalesce(v_live.impersonator_name, ''), true),
    set_config('app.role', case when v_is_session then p_claims ->> 'role' else '' end, true),
    set_config('app.actor_name', coalesce(v_live.actor_name, ''), true),
    set_config('app.permissions', coalesce(array_to_string(v_live.permissions, ','), ''), true),
    set_config('app.ip_address', coalesce(p_claims ->> 'ip_address', ''), true),
    set_config('app.user_agent', coalesce(p_claims ->> 'user_agent', ''), true),
    set_config('app.request_id', coalesce(p_claims ->> 'request_id', ''), true),
    set_config('timezone', 'UTC', true),
    set_config('lock_timeout', '5s', true),
    set_config('idle_in_transaction_session_timeout', '30s', true),
    set_config('statement_timeout', v_seconds || 's', true),
    -- However many statements a request has.
    set_config('transaction_timeout', v_seconds + 5 || 's', true);
  perform set_config('role', v_live.api_role, true);
end
$$;
comment on function app_hidden.begin_request(jsonb) is
  'Opens the transaction of a request. Claims: sub, tenant_id, role, sid and, for an operator in another tenant, home_tenant_id; or tenant_id, key_id, key_hash (hex); or none. Also ip_address, user_agent, request_id. Raises EA401.';

revoke execute on function
  app_private.is_open(public.tenant_status, timestamptz), app_hidden.authorize_session(jsonb), app_hidden.authorize_key(jsonb),
  app_hidden.begin_request(jsonb)
from public;
grant execute on function app_hidden.authorize_session(jsonb), app_hidden.authorize_key(jsonb), app_hidden.begin_request(jsonb)
to erp_authenticator;
--! EndIncluded functions/begin_request.sql
--! Included functions/lock_metrics.sql
-- Of two changes at once, each would find the metrics as they were without the other: together they could make a circle.
create or replace function app_hidden.lock_metrics(p_tenant_id uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('metrics:manage');
  perform pg_advisory_xact_lock(hashtextextended('metrics ' || p_tenant_id, 0));
end
$$;
comment on function app_hidden.lock_metrics(uuid) is
  'Makes whoever else changes this tenant''s metrics wait until this transaction ends. EA403 without metrics:manage.';
revoke execute on function app_hidden.lock_metrics(uuid) from public;
grant execute on function app_hidden.lock_metrics(uuid) to api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/lock_metrics.sql

-- A month that was made while its rollups were computed may lack what moved there: all months are computed anew once.
insert into app_hidden.event_marks (tenant_id, bucket)
select distinct r.tenant_id, r.bucket from app_hidden.event_rollups r;
