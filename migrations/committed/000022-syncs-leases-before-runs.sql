--! Previous: sha1:3ad5f189d789fb9277de1f60def784658d3f096b
--! Hash: sha1:96cef4a3067cde7d921f595cfca9fc1f82ad955a
--! Message: syncs leases before runs

--! split: 1-current.sql
-- Syncs: leases before runs everywhere; cancellations that are over; all rejected records; long scopes of limits.
set local lock_timeout = '5s';
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
  -- The lease before the run, as a page takes them.
  perform from app_private.sync_leases l where l.tenant_id = p_tenant_id and l.run_id = p_run_id for update;
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
  elsif (
    -- What came after a cancellation makes up for it.
    select r.state from public.integration_runs r
     where r.tenant_id = p_tenant_id and r.integration_id = p_integration_id and r.ended_at is not null and r.kind <> 'backfill'
     order by r.ended_at desc limit 1
  ) = 'canceled' then
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
    from (select * from jsonb_array_elements(p_rejected) with ordinality u (value, ordinality) order by u.ordinality desc limit 1000) u
   order by u.ordinality;
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
  'Keeps what could not be read, with the reason: of a stream the newest 1,000, each up to 16 KiB.';

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
--! Included functions/provider_limits.sql
-- Until when nobody calls a provider, by the name that the connector gives to each of its limits: an app, an account, an
-- integration. All workers and all tenants share them.

create or replace function app_private.limit_scope(p_scope text) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$ select case when length(p_scope) > 200 then encode(sha256(convert_to(p_scope, 'UTF8')), 'hex') else p_scope end $$;
comment on function app_private.limit_scope(text) is 'The scope of a limit as it is stored: of a long one, a hash.';

create or replace function app_hidden.pause_provider(p_provider text, p_scopes text[], p_milliseconds bigint, p_reason text) returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  insert into app_private.provider_limits as l (provider, scope, paused_until, reason)
  select p_provider, app_private.limit_scope(s), clock_timestamp() + make_interval(secs => least(p_milliseconds, 86400000) / 1000.0), left(p_reason, 500)
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
   where l.provider = p_provider and l.scope = any (array(select app_private.limit_scope(s) from unnest(p_scopes) s)) and l.paused_until > clock_timestamp()
$$;
comment on function app_hidden.provider_pause(text, text[]) is 'For how many milliseconds more the provider must not be called within these scopes; null when it may.';

revoke execute on function
  app_private.limit_scope(text), app_hidden.pause_provider(text, text[], bigint, text), app_hidden.provider_pause(text, text[])
from public;
grant execute on function
  app_hidden.pause_provider(text, text[], bigint, text), app_hidden.provider_pause(text, text[])
to erp_worker;
--! EndIncluded functions/provider_limits.sql
