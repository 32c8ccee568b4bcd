--! Previous: sha1:8dba4c05fd6bce4b2b1bd6f0edcab1074932f2be
--! Hash: sha1:7ee3a5670635344dc16432f06909fa300f5cd776
--! Message: ingestion

--! split: 1-current.sql
set local lock_timeout = '5s';

drop function if exists app_hidden.write_events(uuid, jsonb);
drop type if exists app_private.event_record cascade;

create table if not exists app_private.event_limits (
  is_only_row boolean primary key default true check (is_only_row),
  max_ahead interval not null default '5 minutes' check (max_ahead >= '0'),
  max_age interval not null default '10 years' check (max_age > '0')
);
comment on table app_private.event_limits is 'Which times events may have, for all tenants.';
comment on column app_private.event_limits.max_ahead is 'How far ahead of this server''s clock: clocks differ.';
comment on column app_private.event_limits.max_age is 'How far back.';
insert into app_private.event_limits default values on conflict do nothing;

alter table app_private.plans add column if not exists retention_days integer check (retention_days between 30 and 36500);
comment on column app_private.plans.retention_days is 'For how many days events are kept at the most; null for as long as the tenant says.';

alter table app_private.plans
  add column if not exists events_per_minute integer check (events_per_minute >= 5000),
  add column if not exists key_events_per_minute integer check (key_events_per_minute >= 5000),
  add column if not exists events_per_day integer check (events_per_day >= 5000);
comment on column app_private.plans.events_per_minute is 'How many events a tenant may send in a minute, or at once; null for no limit. A batch has 5,000 at the most.';
comment on column app_private.plans.key_events_per_minute is 'The same of one API key.';
comment on column app_private.plans.events_per_day is 'The same of a day; as all of them, it comes back bit by bit.';
update app_private.plans p
   set retention_days = v.retention_days, events_per_minute = v.per_minute, key_events_per_minute = v.per_key, events_per_day = v.per_day
  from (values
    ('trial', 400, 6000, 6000, 200000), ('starter', 1100, 60000, 30000, 5000000), ('business', null, 600000, 600000, 100000000)
  ) as v (name, retention_days, per_minute, per_key, per_day)
 where p.name = v.name and p.events_per_minute is null;

create table if not exists app_private.event_imports (
  tenant_id uuid not null references public.tenants (id) on delete cascade,
  fingerprint bytea not null,
  file_name text not null,
  byte_offset bigint not null,
  line bigint not null,
  accepted bigint not null default 0,
  updated bigint not null default 0,
  duplicate bigint not null default 0,
  rejected bigint not null default 0,
  report_bytes bigint not null default 0,
  started_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, fingerprint)
);
comment on table app_private.event_imports is 'How far the import of a file got. byte_offset moves in the transaction that writes the batch before it.';
comment on column app_private.event_imports.fingerprint is 'SHA-256 of the file''s size, its first MiB and the way it is read.';
comment on column app_private.event_imports.report_bytes is 'Length of the list of rejected lines that belongs to byte_offset.';

--! Included functions/rate_limits.sql
-- A bucket of p_burst attempts that refills within p_per. Kept in PostgreSQL, so that all instances count together.
-- A refused attempt counts nothing (the exception takes it back), so that trying on does not prolong the wait.
create or replace function app_private.take_attempts(p_bucket text, p_count integer, p_burst integer, p_per interval) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_per double precision := extract(epoch from p_per);
  v_used double precision;
begin
  insert into app_private.rate_limits as r (bucket, used, counted_at)
  values (sha256(convert_to(p_bucket, 'UTF8')), p_count, clock_timestamp())
  on conflict (bucket) do update
     set used = greatest(0, r.used - p_burst * extract(epoch from clock_timestamp() - r.counted_at) / v_per) + p_count,
         counted_at = clock_timestamp()
  returning used into v_used;
  if v_used > p_burst then
    raise exception 'Too many attempts. Try again in % seconds.', ceil((v_used - p_burst) * v_per / p_burst)
      using errcode = 'EA429', detail = ceil((v_used - p_burst) * v_per / p_burst)::text;
  end if;
end
$$;
comment on function app_private.take_attempts(text, integer, integer, interval) is 'Counts attempts. EA429, with the seconds to wait as its detail, when the bucket has not as many left.';

create or replace function app_private.take_attempt(p_bucket text, p_burst integer, p_per interval) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$ select app_private.take_attempts(p_bucket, 1, p_burst, p_per) $$;
comment on function app_private.take_attempt(text, integer, interval) is 'Counts an attempt. EA429, with the seconds to wait as its detail, when the bucket is empty.';

create or replace function app_private.give_back_attempt(p_bucket text) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$ update app_private.rate_limits set used = greatest(0, used - 1) where bucket = sha256(convert_to(p_bucket, 'UTF8')) $$;
comment on function app_private.give_back_attempt(text) is 'An attempt that succeeded does not count.';

create or replace function app_private.clear_attempts(p_bucket text) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$ delete from app_private.rate_limits where bucket = sha256(convert_to(p_bucket, 'UTF8')) $$;
comment on function app_private.clear_attempts(text) is 'Forgets what was counted.';

create or replace function app_private.network_of(p_address text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when a.address is null then 'unknown'
    -- One subscriber has a whole /64 of IPv6.
    when family(a.address) = 6 and not a.address <<= '::ffff:0:0/96' then network(set_masklen(a.address, 64))::text
    else host(a.address)
  end
    from (select nullif(p_address, '')::inet as address) a
$$;
comment on function app_private.network_of(text) is 'Whose address it is, as far as limits are concerned.';

create or replace function app_private.request_network() returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$ select app_private.network_of(current_setting('app.ip_address', true)) $$;
comment on function app_private.request_network() is 'Where this request comes from, as far as limits are concerned.';

revoke execute on function
  app_private.take_attempts(text, integer, integer, interval), app_private.take_attempt(text, integer, interval),
  app_private.give_back_attempt(text), app_private.clear_attempts(text), app_private.network_of(text), app_private.request_network()
from public;
--! EndIncluded functions/rate_limits.sql
--! Included functions/event_records.sql
-- What a client may say of an event, and what is wrong with what it said: here, so that every way in has the same rules.
-- What jsonb cannot hold at all (NUL, lone surrogates) is refused before.

do $$
begin
  if to_regtype('app_private.event_record') is null then
    create type app_private.event_record as (
      ordinal integer, turn integer, source text, source_id text, version bigint, id uuid, event_time timestamptz,
      content jsonb, hash bytea, is_whole boolean, problem text
    );
    comment on type app_private.event_record is
      'One event of a batch. turn: of several with one key, the first, the second ...; is_whole: it can be new, and not only a restatement; problem: the reason why it is rejected, and the pointer to it.';
  end if;
end
$$;

do $$
begin
  if to_regtype('app_hidden.event_receipt') is null then
    create type app_hidden.event_receipt as (
      ordinal integer, outcome text, id uuid, "timestamp" timestamptz, code text, reason text, pointer text, detail text
    );
    comment on type app_hidden.event_receipt is
      'What became of one event of a batch. ordinal: its position, from 1; outcome: accepted, updated, duplicate, rejected, or withheld from an atomic batch; id and timestamp: where it is; code, reason, pointer (RFC 6901, within the event) and detail: why it was rejected.';
  end if;
end
$$;

-- Not inlined (it pins search_path), so that the planner believes its 1,000 rows.
create or replace function app_private.unnest_records(p_records app_private.event_record[])
returns setof app_private.event_record
language sql immutable parallel safe rows 1000
set search_path = pg_catalog, pg_temp
as $$ select * from unnest(p_records) $$;
comment on function app_private.unnest_records(app_private.event_record[]) is 'The records of a batch, as rows.';

-- No setting is pinned on what follows, so that it is inlined: it runs for every event.
create or replace function app_private.is_text(p_value jsonb, p_longest integer) returns boolean
language sql immutable parallel safe
as $$ select jsonb_typeof(p_value) = 'string' and length(p_value #>> '{}') between 1 and p_longest $$;
comment on function app_private.is_text(jsonb, integer) is 'Whether it is a JSON string of 1 to p_longest characters.';

create or replace function app_private.is_null(p_value jsonb) returns boolean
language sql immutable parallel safe
as $$ select coalesce(jsonb_typeof(p_value) = 'null', true) $$;
comment on function app_private.is_null(jsonb) is 'Whether it is absent, or JSON null.';

create or replace function app_private.retention_days(p_tenant_id uuid) returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select least((t.settings ->> 'retentionDays')::integer, p.retention_days)
      from public.tenants t join app_private.plans p on p.name = t.plan_type
     where t.id = p_tenant_id
  );
end
$$;
comment on function app_private.retention_days(uuid) is
  'For how many days a tenant''s events are kept: the lesser of its setting and its plan''s; null when neither says.';

create or replace function app_private.read_events(p_tenant_id uuid, p_events jsonb) returns app_private.event_record[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_latest timestamptz;
  v_earliest timestamptz;
  v_kept_since timestamptz := now() - make_interval(days => app_private.retention_days(p_tenant_id));
  v_records app_private.event_record[];
begin
  if jsonb_typeof(p_events) is distinct from 'array' then
    raise exception 'Events must be a JSON array.' using errcode = 'EA400';
  end if;
  select now() + l.max_ahead, now() - l.max_age into strict v_latest, v_earliest from app_private.event_limits l;

  select array_agg(row(
           e.ordinality, 1, e.source, e.source_id,
           case when e.problem is null then (e.value ->> 'sourceVersion')::bigint end,
           uuidv7(),
           case when e.problem is null then e.event_time end,
           e.value,
           case when e.problem is null then sha256(convert_to((e.value - 'sourceVersion')::text, 'UTF8')) end,
           e.is_whole,
           -- Without an id it cannot be a restatement.
           coalesce(e.problem, case when e.source_id is null and not e.is_whole then app_private.what_is_missing(e.value) end)
         )::app_private.event_record)
    into v_records
    from (
      select i.*,
             case
               when jsonb_typeof(i.value) <> 'object' then 'not_an_object'
               when i.value - '{eventType,eventName,timestamp,value,currency,properties,source,sourceId,id,sourceVersion}'::text[] <> '{}'
                 then app_private.unknown_field(i.value)
               when i.value ? 'eventType' and not app_private.is_text(i.value -> 'eventType', 100) then 'wrong_text /eventType'
               when i.value ? 'eventName' and not app_private.is_text(i.value -> 'eventName', 200) then 'wrong_text /eventName'
               when not app_private.is_null(i.value -> 'source') and not app_private.is_text(i.value -> 'source', 200) then 'wrong_text /source'
               when not app_private.is_null(i.value -> 'sourceId') and not app_private.is_text(i.value -> 'sourceId', 500) then 'wrong_text /sourceId'
               when not app_private.is_null(i.value -> 'id') and not app_private.is_text(i.value -> 'id', 500) then 'wrong_text /id'
               when i.value ->> 'id' <> i.value ->> 'sourceId' then 'two_ids /id'
               -- An entry of the keys' index has at most 2,704 bytes.
               when octet_length(i.source) + octet_length(i.source_id) > 2500 then 'wrong_text /sourceId'
               when not app_private.is_null(i.value -> 'sourceVersion')
                 and (jsonb_typeof(i.value -> 'sourceVersion') not in ('number', 'string') or i.value ->> 'sourceVersion' !~ '^-?\d{1,18}$')
                 then 'not_an_integer /sourceVersion'
               when not app_private.is_null(i.value -> 'value')
                 and (jsonb_typeof(i.value -> 'value') not in ('number', 'string') or i.value ->> 'value' !~ '^[+-]?\d{1,30}(\.\d{1,30})?$')
                 then 'not_a_number /value'
               when not app_private.is_null(i.value -> 'currency')
                 and not exists (select from app_private.currencies c where c.code = i.value ->> 'currency')
                 then 'unknown_currency /currency'
               when not app_private.is_null(i.value -> 'properties') and jsonb_typeof(i.value -> 'properties') <> 'object'
                 then 'not_an_object /properties'
               -- Printing them costs more than asking for a rough size first.
               when pg_column_size(i.value -> 'properties') > 4096 and octet_length((i.value -> 'properties')::text) > 32768
                 then 'too_large /properties'
               when not app_private.is_null(i.value -> 'timestamp') then case
                 when i.event_time is null then 'not_a_time /timestamp'
                 when i.event_time > v_latest then 'in_the_future /timestamp'
                 when i.event_time < v_earliest then 'too_old /timestamp'
                 when i.event_time < v_kept_since then 'past_retention /timestamp'
               end
             end as problem
        from (
          select r.value, r.ordinality,
                 coalesce(r.value ->> 'source', '') as source,
                 coalesce(r.value ->> 'sourceId', r.value ->> 'id') as source_id,
                 -- PostgreSQL also reads "tomorrow", and times without an offset, which mean another moment to everybody.
                 case
                   when r.value ->> 'timestamp' ~ '^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)$'
                     and pg_input_is_valid(r.value ->> 'timestamp', 'timestamptz')
                     then (r.value ->> 'timestamp')::timestamptz
                 end as event_time,
                 r.value ? 'eventType' and r.value ? 'eventName' as is_whole
            from jsonb_array_elements(p_events) with ordinality r
          -- Fences, each: or every expression is evaluated again wherever it is named.
          offset 0
        ) i
      offset 0
    ) e;
  return coalesce(v_records, '{}');
end
$$;
comment on function app_private.read_events(uuid, jsonb) is
  'The records of a batch, in its order, each with what is wrong with it. EA400 unless it is a JSON array.';

create or replace function app_private.what_is_missing(p_event jsonb) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$ select case when p_event ? 'eventType' then 'required /eventName' else 'required /eventType' end $$;
comment on function app_private.what_is_missing(jsonb) is 'What an event lacks to be new.';

create or replace function app_private.unknown_field(p_event jsonb) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select 'unknown_field /' || left(replace(replace(min(k), '~', '~0'), '/', '~1'), 200)
    from jsonb_object_keys(p_event) k
   where k <> all ('{eventType,eventName,timestamp,value,currency,properties,source,sourceId,id,sourceVersion}')
$$;
comment on function app_private.unknown_field(jsonb) is 'Names, as a JSON pointer, the first field that no event has.';

create or replace function app_private.rejection(p_ordinal integer, p_problem text) returns app_hidden.event_receipt
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_reason text := split_part(p_problem, ' ', 1);
  v_limits app_private.event_limits;
begin
  select * into strict v_limits from app_private.event_limits;
  return row(
    p_ordinal, 'rejected', null, null,
    case v_reason when 'differs' then 'CONFLICT' else 'INVALID_INPUT' end,
    v_reason,
    -- What follows the reason; a field's name may have spaces.
    substr(p_problem, length(v_reason) + 2),
    case v_reason
      when 'not_an_object' then 'This must be a JSON object.'
      when 'unknown_field' then 'An event has no such field. It has eventType, eventName, timestamp, value, currency, properties, source, sourceId (or id) and sourceVersion.'
      when 'required' then 'A new event needs an eventType and an eventName.'
      when 'wrong_text' then 'This must be text, and neither empty nor too long: eventType has at most 100 characters, eventName and source 200, sourceId 500; source and sourceId together have at most 2,500 bytes.'
      when 'two_ids' then 'id is another name of sourceId: send one of them.'
      when 'not_an_integer' then 'This must be a whole number of at most 18 digits.'
      when 'not_a_number' then 'This must be a number, or text such as "12.50", of at most 30 digits before the point and 30 after it.'
      when 'unknown_currency' then 'This must be an ISO 4217 code, such as EUR.'
      when 'too_large' then 'Properties have at most 32,768 bytes of JSON.'
      when 'not_a_time' then 'This must be an RFC 3339 date and time with an offset, such as 2026-03-05T10:00:00Z.'
      when 'in_the_future' then format('Events are taken up to %s ahead of now.', v_limits.max_ahead)
      when 'too_old' then format('Events are taken up to %s back.', v_limits.max_age)
      when 'past_retention' then 'Events of that time are no longer kept by this tenant (retentionDays).'
      when 'differs' then 'The stored event of this source and sourceId has other content.'
    end
  )::app_hidden.event_receipt;
end
$$;
comment on function app_private.rejection(integer, text) is 'What the sender of a rejected event is told.';

revoke execute on function
  app_private.unnest_records(app_private.event_record[]), app_private.is_text(jsonb, integer), app_private.is_null(jsonb),
  app_private.retention_days(uuid), app_private.read_events(uuid, jsonb), app_private.what_is_missing(jsonb),
  app_private.unknown_field(jsonb), app_private.rejection(integer, text)
from public;
revoke usage on type app_hidden.event_receipt from public;
--! EndIncluded functions/event_records.sql
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
begin
  insert into public.analytics_events
    (tenant_id, id, "timestamp", event_type, event_name, properties, source, source_id, value, currency)
  select p_tenant_id, r.id, coalesce(r.event_time, now()),
         r.content ->> 'eventType', r.content ->> 'eventName',
         case when jsonb_typeof(r.content -> 'properties') = 'object' then r.content -> 'properties' else '{}' end,
         r.content ->> 'source', r.source_id, (r.content ->> 'value')::numeric, r.content ->> 'currency'
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
      (tenant_id, id, "timestamp", event_type, event_name, properties, source, source_id, value, currency)
    select p_tenant_id, r.id, r.new_timestamp, r.content ->> 'eventType', r.content ->> 'eventName',
           coalesce(nullif(r.content -> 'properties', 'null'), '{}'),
           r.content ->> 'source', r.source_id, (r.content ->> 'value')::numeric, r.content ->> 'currency'
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
           currency = case when r.content ? 'currency' then r.content ->> 'currency' else e.currency end
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
--! Included functions/ingest.sql
-- Events of requests: the right, and the plan's limits. Counting is a transaction of its own, before the writing one: its
-- locks last no longer than it, so that the batches of one tenant wait for no other's disk.

create or replace function app_hidden.admit_events(p_tenant_id uuid, p_count integer) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_plan app_private.plans;
  v_key_id text := nullif(current_setting('app.api_key_id', true), '');
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('events:write');
  select p.* into strict v_plan from public.tenants t join app_private.plans p on p.name = t.plan_type where t.id = p_tenant_id;
  if p_count < 1 then
    return;
  end if;
  if v_key_id is not null and v_plan.key_events_per_minute is not null then
    perform app_private.take_attempts('events of key ' || v_key_id, p_count, v_plan.key_events_per_minute, '1 minute');
  end if;
  if v_plan.events_per_minute is not null then
    perform app_private.take_attempts('events ' || p_tenant_id, p_count, v_plan.events_per_minute, '1 minute');
  end if;
  if v_plan.events_per_day is not null then
    perform app_private.take_attempts('events of a day ' || p_tenant_id, p_count, v_plan.events_per_day, '1 day');
  end if;
end
$$;
comment on function app_hidden.admit_events(uuid, integer) is
  'Counts events that a request is about to write. With 0, it only says whether it may write. EA403 without events:write; EA429, with the seconds to wait, beyond the plan''s events_per_minute, key_events_per_minute or events_per_day.';

create or replace function app_hidden.ingest_events(p_tenant_id uuid, p_events jsonb, p_on_conflict text, p_atomic boolean)
returns setof app_hidden.event_receipt
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('events:write');
  return query select * from app_hidden.write_events(p_tenant_id, p_events, p_on_conflict, p_atomic);
end
$$;
comment on function app_hidden.ingest_events(uuid, jsonb, text, boolean) is
  'write_events for a request of the tenant. EA403 without events:write.';

revoke execute on function app_hidden.admit_events(uuid, integer), app_hidden.ingest_events(uuid, jsonb, text, boolean) from public;
-- To all: an API key, too, has the right as a permission.
grant execute on function app_hidden.admit_events(uuid, integer), app_hidden.ingest_events(uuid, jsonb, text, boolean)
to api_anonymous, api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/ingest.sql
--! Included functions/imports.sql
create or replace function app_hidden.write_import_batch(
  p_tenant_id uuid, p_fingerprint bytea, p_events jsonb, p_on_conflict text, p_progress jsonb
)
returns setof app_hidden.event_receipt
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_receipts app_hidden.event_receipt[];
begin
  -- Two imports of one file at a time would count what has no sourceId twice.
  perform from app_private.event_imports
    where tenant_id = p_tenant_id and fingerprint = p_fingerprint and byte_offset = (p_progress ->> 'from')::bigint
      for update;
  if not found then
    raise exception 'Another import of this file went on meanwhile.' using errcode = 'EA409';
  end if;
  v_receipts := array(select w from app_hidden.write_events(p_tenant_id, p_events, p_on_conflict) w);
  update app_private.event_imports i
     set byte_offset = (p_progress ->> 'offset')::bigint,
         line = (p_progress ->> 'line')::bigint,
         accepted = i.accepted + r.accepted, updated = i.updated + r.updated, duplicate = i.duplicate + r.duplicate,
         rejected = i.rejected + r.rejected + (p_progress ->> 'refused')::bigint,
         updated_at = now()
    from (
      select count(*) filter (where w.outcome = 'accepted') as accepted, count(*) filter (where w.outcome = 'updated') as updated,
             count(*) filter (where w.outcome = 'duplicate') as duplicate, count(*) filter (where w.outcome = 'rejected') as rejected
        from unnest(v_receipts) w
    ) r
   where i.tenant_id = p_tenant_id and i.fingerprint = p_fingerprint;
  return query select * from unnest(v_receipts);
end
$$;
comment on function app_hidden.write_import_batch(uuid, bytea, jsonb, text, jsonb) is
  'Writes a batch of a file and moves the import''s place, together or not at all. p_progress: {from, offset, line, refused}. EA409 when somebody else moved it.';

revoke execute on function app_hidden.write_import_batch(uuid, bytea, jsonb, text, jsonb) from public;
--! EndIncluded functions/imports.sql
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
--! Included functions/partitions.sql
-- One partition a month, in UTC. Rows that came before their partition lie in the default one: they move in the
-- transaction that attaches the partition, so that no reader misses them or sees them twice.
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
  v_column text;
begin
  if to_regclass(format('partitions.%I', v_name)) is not null then
    return false;
  end if;
  select a.attname into strict v_column
    from pg_partitioned_table p
    join pg_attribute a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0]
   where p.partrelid = format('public.%I', p_table)::regclass;

  -- A writer that had chosen the default partition when the new one is attached would fail (23514): writers wait here,
  -- before they choose, for as long as the move takes; readers do not. Attaching needs the second lock anyway.
  execute format('lock table public.%I in share row exclusive mode', p_table);
  execute format('lock table partitions.%I in access exclusive mode', p_table || '_default');
  execute format('create table partitions.%I (like public.%I including all)', v_name, p_table);
  execute format('alter table partitions.%I enable row level security, force row level security', v_name);
  execute format('create policy owner_all on partitions.%I to erp_user using (true) with check (true)', v_name);
  execute format(
    'with moved as (delete from partitions.%1$I where %2$I >= %3$L and %2$I < %4$L returning *)
     insert into partitions.%5$I select * from moved',
    p_table || '_default', v_column, v_from, v_to, v_name
  );
  execute format(
    'alter table public.%I attach partition partitions.%I for values from (%L) to (%L)',
    p_table, v_name, v_from, v_to
  );
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
--! Included functions/sync.sql
-- A sync: requested, begun under a fencing token, saved page by page, finished. A dead worker's lease (20 s) is over
-- before its job is freed (30 s after its last heartbeat). Each function takes the tenant and
-- refuses another than the transaction's, since as a definer it sees all of them.

create or replace function app_hidden.assert_tenant(p_tenant_id uuid) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_tenant_id is distinct from app_hidden.current_tenant_id() then
    raise exception 'Tenant % is not the tenant of this transaction.', p_tenant_id using errcode = 'EA403';
  end if;
end
$$;
comment on function app_hidden.assert_tenant(uuid) is 'EA403 unless the tenant is that of the transaction.';

create or replace function app_hidden.request_sync(p_tenant_id uuid, p_integration_id uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_integration public.integrations;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  -- The schedule has no permissions, and needs none.
  if session_user = 'erp_authenticator' then
    perform app_hidden.require_permission('integrations:sync');
  end if;
  select * into v_integration
    from public.integrations
   where tenant_id = p_tenant_id and id = p_integration_id
     for no key update;
  if not found then
    raise exception 'There is no integration %.', p_integration_id using errcode = 'EA404';
  end if;
  if v_integration.status = 'DISABLED' then
    raise exception 'Integration "%" is disabled. Enable it first.', v_integration.name using errcode = 'EA409';
  end if;
  if not exists (
    select from app_private.integration_credentials c where c.tenant_id = p_tenant_id and c.integration_id = p_integration_id
  ) then
    raise exception 'Integration "%" has no credentials. Set them first.', v_integration.name using errcode = 'EA409';
  end if;
  -- A sync under way holds a lease; one that is queued has its job.
  if exists (
    select from app_private.sync_runs r
     where r.tenant_id = p_tenant_id and r.integration_id = p_integration_id
       and r.finished_at is null and r.lease_expires_at > now()
  ) then
    return;
  end if;
  -- A worker has the job already, and is about to take the lease.
  if exists (
    select from graphile_worker.jobs j where j.key = 'sync:' || p_integration_id and j.locked_at > now() - interval '1 minute'
  ) then
    return;
  end if;
  if v_integration.sync_status is distinct from 'queued' then
    update public.integrations set sync_status = 'queued' where tenant_id = p_tenant_id and id = p_integration_id;
  end if;
  perform graphile_worker.add_job(
    'sync_integration', json_build_object('integrationId', p_integration_id),
    job_key => 'sync:' || p_integration_id, max_attempts => 5
  );
end
$$;
comment on function app_hidden.request_sync(uuid, uuid) is
  'Enqueues a sync, once. EA403: the permission integrations:sync is missing. EA404: no such integration. EA409: it is disabled or has no credentials.';

create or replace function app_hidden.request_due_syncs() returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_due record;
  v_count integer := 0;
begin
  for v_due in
    select i.tenant_id, i.id
      from public.integrations i
      join public.tenants t on t.id = i.tenant_id
      left join app_private.sync_runs r on r.tenant_id = i.tenant_id and r.integration_id = i.id
     where i.status <> 'DISABLED'
       and app_private.is_open(t.status, t.trial_ends_at)
       and case
         -- A run that ended without a word, and whose job is gone, is taken up again.
         when r.started_at is not null and r.finished_at is null then r.lease_expires_at < now() - interval '1 minute'
         else i.enabled
           and coalesce(r.started_at, '-infinity') < now() - make_interval(mins => case
             when i.config ->> 'syncIntervalMinutes' ~ '^[0-9]{1,6}$' then greatest((i.config ->> 'syncIntervalMinutes')::integer, 1)
             else 60
           end)
       end
       and exists (select from app_private.integration_credentials c where c.tenant_id = i.tenant_id and c.integration_id = i.id)
       and not exists (select from graphile_worker.jobs j where j.key = 'sync:' || i.id and j.attempts < j.max_attempts)
     order by i.last_sync_at nulls first
  loop
    perform set_config('app.tenant_id', v_due.tenant_id::text, true), set_config('app.actor_name', 'sync_due_integrations', true);
    perform app_hidden.request_sync(v_due.tenant_id, v_due.id);
    v_count := v_count + 1;
  end loop;
  perform set_config('app.tenant_id', '', true), set_config('app.actor_name', '', true);
  return v_count;
end
$$;
comment on function app_hidden.request_due_syncs() is 'Enqueues a sync of every enabled integration whose interval has passed. Returns how many.';

create or replace function app_hidden.integration_tenant(p_integration_id uuid) returns uuid
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$ select tenant_id from public.integrations where id = p_integration_id $$;
comment on function app_hidden.integration_tenant(uuid) is 'Whose integration it is: a job''s tenant comes from the row, never from the payload.';

create or replace function app_private.assert_may_sync(p_tenant_id uuid, p_integration_id uuid) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (
    select from public.integrations i join public.tenants t on t.id = i.tenant_id
     where i.tenant_id = p_tenant_id and i.id = p_integration_id
       and i.status <> 'DISABLED' and app_private.is_open(t.status, t.trial_ends_at)
  ) then
    raise exception 'The integration was disabled, or its tenant suspended.' using errcode = 'EA409', detail = 'disabled';
  end if;
end
$$;
comment on function app_private.assert_may_sync(uuid, uuid) is 'EA409 with detail "disabled" unless integration and tenant are in service.';

create or replace function app_hidden.begin_sync(p_tenant_id uuid, p_integration_id uuid, p_run_id uuid)
returns table (
  provider text, config jsonb, checkpoints jsonb,
  credential_version integer, ciphertext bytea, key_version integer, kek_id text, wrapped_key bytea
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_private.assert_may_sync(p_tenant_id, p_integration_id);
  insert into app_private.sync_runs as r (tenant_id, integration_id, run_id, lease_expires_at)
  values (p_tenant_id, p_integration_id, p_run_id, now() + interval '20 seconds')
  on conflict (tenant_id, integration_id) do update
     set run_id = excluded.run_id, started_at = now(), lease_expires_at = excluded.lease_expires_at, finished_at = null,
         pages = 0, events_accepted = 0, events_updated = 0, events_duplicate = 0
   where r.finished_at is not null or r.lease_expires_at <= now();
  if not found then
    raise exception 'Another run of this sync is under way.' using errcode = 'EA409', detail = 'under way';
  end if;
  update public.integrations set sync_status = 'running' where tenant_id = p_tenant_id and id = p_integration_id;
  return query
    select i.provider, i.config,
           coalesce(
             (select jsonb_object_agg(s.stream, s.checkpoint)
                from app_private.sync_checkpoints s
               where s.tenant_id = p_tenant_id and s.integration_id = p_integration_id),
             '{}'
           ),
           c.version, c.ciphertext, c.key_version, k.kek_id, k.wrapped_key
      from public.integrations i
      left join app_private.integration_credentials c on c.tenant_id = i.tenant_id and c.integration_id = i.id
      left join app_private.tenant_keys k on k.tenant_id = c.tenant_id and k.version = c.key_version
     where i.tenant_id = p_tenant_id and i.id = p_integration_id;
end
$$;
comment on function app_hidden.begin_sync(uuid, uuid, uuid) is
  'Takes the lease (20 s, renewed by each page) for a run and returns what it needs. EA409 while another run holds it.';

create or replace function app_hidden.save_sync_page(
  p_tenant_id uuid, p_integration_id uuid, p_run_id uuid,
  p_stream text, p_checkpoint jsonb, p_events jsonb, p_unparsable jsonb default '[]'
)
returns table (accepted integer, updated integer, duplicate integer)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_receipts app_hidden.event_receipt[];
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_private.assert_may_sync(p_tenant_id, p_integration_id);
  -- The lock lasts until commit: a run that was superseded waits here and is then refused.
  perform from app_private.sync_runs
    where tenant_id = p_tenant_id and integration_id = p_integration_id and run_id = p_run_id and finished_at is null
      for update;
  if not found then
    raise exception 'This run was superseded by another.' using errcode = 'EA409', detail = 'superseded';
  end if;

  v_receipts := array(select w from app_hidden.write_events(p_tenant_id, p_events) w);
  select count(*) filter (where w.outcome = 'accepted'),
         count(*) filter (where w.outcome = 'updated'),
         count(*) filter (where w.outcome = 'duplicate')
    into accepted, updated, duplicate
    from unnest(v_receipts) w;

  insert into app_private.unparsable_records (tenant_id, integration_id, stream, source_id, reason, record)
  select p_tenant_id, p_integration_id, p_stream, u ->> 'sourceId', u ->> 'reason', coalesce(u -> 'record', 'null')
    from jsonb_array_elements(p_unparsable) u
   union all
  select p_tenant_id, p_integration_id, p_stream, p_events -> (w.ordinal - 1) ->> 'sourceId', ltrim(w.pointer || ' ' || w.detail),
         p_events -> (w.ordinal - 1)
    from unnest(v_receipts) w
   where w.outcome = 'rejected';

  insert into app_private.sync_checkpoints as s (tenant_id, integration_id, stream, checkpoint)
  values (p_tenant_id, p_integration_id, p_stream, p_checkpoint)
  on conflict (tenant_id, integration_id, stream) do update set checkpoint = excluded.checkpoint, updated_at = now();

  update app_private.sync_runs r
     set lease_expires_at = clock_timestamp() + interval '20 seconds',
         pages = r.pages + 1,
         events_accepted = r.events_accepted + accepted,
         events_updated = r.events_updated + updated,
         events_duplicate = r.events_duplicate + duplicate
   where r.tenant_id = p_tenant_id and r.integration_id = p_integration_id;
  return next;
end
$$;
comment on function app_hidden.save_sync_page(uuid, uuid, uuid, text, jsonb, jsonb, jsonb) is
  'Writes one page of events and moves the checkpoint, together or not at all. EA409 when the run is no longer the newest.';

create or replace function app_hidden.finish_sync(p_tenant_id uuid, p_integration_id uuid, p_run_id uuid, p_error text default null)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  update app_private.sync_runs
     set finished_at = now()
   where tenant_id = p_tenant_id and integration_id = p_integration_id and run_id = p_run_id and finished_at is null;
  if not found then
    raise exception 'This run was superseded by another.' using errcode = 'EA409', detail = 'superseded';
  end if;
  update public.integrations
     set sync_status = case when p_error is null then 'succeeded' else 'failed' end,
         sync_error = p_error,
         last_sync_at = case when p_error is null then now() else last_sync_at end,
         status = case when status = 'DISABLED' then status when p_error is null then 'ACTIVE' else 'ERROR' end
   where tenant_id = p_tenant_id and id = p_integration_id;
end
$$;
comment on function app_hidden.finish_sync(uuid, uuid, uuid, text) is 'Ends a run: succeeded, or failed with a sentence for people.';

create or replace function app_hidden.pause_sync(p_tenant_id uuid, p_integration_id uuid, p_run_id uuid, p_seconds integer)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  update app_private.sync_runs
     set lease_expires_at = now()
   where tenant_id = p_tenant_id and integration_id = p_integration_id and run_id = p_run_id and finished_at is null;
  if not found then
    raise exception 'This run was superseded by another.' using errcode = 'EA409', detail = 'superseded';
  end if;
  update public.integrations set sync_status = 'queued' where tenant_id = p_tenant_id and id = p_integration_id;
  -- A job of its own: what has been read so far costs the rest no attempt.
  perform graphile_worker.add_job(
    'sync_integration', json_build_object('integrationId', p_integration_id),
    job_key => 'sync:' || p_integration_id, max_attempts => 5, run_at => now() + make_interval(secs => greatest(p_seconds, 0))
  );
end
$$;
comment on function app_hidden.pause_sync(uuid, uuid, uuid, integer) is
  'Gives the lease back and enqueues the rest, to begin in so many seconds: when a slice is over, the worker stops, or the provider asks for patience.';

revoke execute on function
  app_private.assert_may_sync(uuid, uuid),
  app_hidden.pause_sync(uuid, uuid, uuid, integer), app_hidden.assert_tenant(uuid), app_hidden.request_sync(uuid, uuid), app_hidden.request_due_syncs(),
  app_hidden.integration_tenant(uuid), app_hidden.begin_sync(uuid, uuid, uuid),
  app_hidden.save_sync_page(uuid, uuid, uuid, text, jsonb, jsonb, jsonb), app_hidden.finish_sync(uuid, uuid, uuid, text)
from public;
grant execute on function app_hidden.request_sync(uuid, uuid) to api_viewer, api_user, api_admin, api_super_admin;
grant execute on function app_hidden.request_due_syncs(), app_hidden.integration_tenant(uuid) to erp_worker;
grant execute on function
  app_hidden.begin_sync(uuid, uuid, uuid), app_hidden.save_sync_page(uuid, uuid, uuid, text, jsonb, jsonb, jsonb),
  app_hidden.finish_sync(uuid, uuid, uuid, text), app_hidden.pause_sync(uuid, uuid, uuid, integer)
to api_job;
--! EndIncluded functions/sync.sql
--! Included policies/app_private.sql
-- No API role has usage on this schema. Row security all the same: a grant given by mistake shows nothing.

alter table app_private.tenant_keys enable row level security, force row level security;
drop policy if exists owner_all on app_private.tenant_keys;
create policy owner_all on app_private.tenant_keys to erp_user using (true) with check (true);
comment on policy owner_all on app_private.tenant_keys is 'Migrations, DBAs and definer functions.';

alter table app_private.user_passwords enable row level security, force row level security;
drop policy if exists owner_all on app_private.user_passwords;
create policy owner_all on app_private.user_passwords to erp_user using (true) with check (true);
comment on policy owner_all on app_private.user_passwords is 'Migrations, DBAs and definer functions.';

alter table app_private.refresh_tokens enable row level security, force row level security;
drop policy if exists owner_all on app_private.refresh_tokens;
create policy owner_all on app_private.refresh_tokens to erp_user using (true) with check (true);
comment on policy owner_all on app_private.refresh_tokens is 'Migrations, DBAs and definer functions.';

alter table app_private.one_time_tokens enable row level security, force row level security;
drop policy if exists owner_all on app_private.one_time_tokens;
create policy owner_all on app_private.one_time_tokens to erp_user using (true) with check (true);
comment on policy owner_all on app_private.one_time_tokens is 'Migrations, DBAs and definer functions.';

alter table app_private.api_key_secrets enable row level security, force row level security;
drop policy if exists owner_all on app_private.api_key_secrets;
create policy owner_all on app_private.api_key_secrets to erp_user using (true) with check (true);
comment on policy owner_all on app_private.api_key_secrets is 'Migrations, DBAs and definer functions.';

alter table app_private.integration_credentials enable row level security, force row level security;
drop policy if exists owner_all on app_private.integration_credentials;
create policy owner_all on app_private.integration_credentials to erp_user using (true) with check (true);
comment on policy owner_all on app_private.integration_credentials is 'Migrations, DBAs and definer functions.';

alter table app_private.sync_runs enable row level security, force row level security;
drop policy if exists owner_all on app_private.sync_runs;
create policy owner_all on app_private.sync_runs to erp_user using (true) with check (true);
comment on policy owner_all on app_private.sync_runs is 'Migrations, DBAs and definer functions.';

alter table app_private.sync_checkpoints enable row level security, force row level security;
drop policy if exists owner_all on app_private.sync_checkpoints;
create policy owner_all on app_private.sync_checkpoints to erp_user using (true) with check (true);
comment on policy owner_all on app_private.sync_checkpoints is 'Migrations, DBAs and definer functions.';

alter table app_private.unparsable_records enable row level security, force row level security;
drop policy if exists owner_all on app_private.unparsable_records;
create policy owner_all on app_private.unparsable_records to erp_user using (true) with check (true);
comment on policy owner_all on app_private.unparsable_records is 'Migrations, DBAs and definer functions.';

alter table app_private.event_keys enable row level security, force row level security;
drop policy if exists owner_all on app_private.event_keys;
create policy owner_all on app_private.event_keys to erp_user using (true) with check (true);
comment on policy owner_all on app_private.event_keys is 'Migrations, DBAs and definer functions.';

alter table app_private.token_keys enable row level security, force row level security;
drop policy if exists owner_all on app_private.token_keys;
create policy owner_all on app_private.token_keys to erp_user using (true) with check (true);
comment on policy owner_all on app_private.token_keys is 'Migrations, DBAs and definer functions.';

alter table app_private.event_limits enable row level security, force row level security;
drop policy if exists owner_all on app_private.event_limits;
create policy owner_all on app_private.event_limits to erp_user using (true) with check (true);
comment on policy owner_all on app_private.event_limits is 'Migrations, DBAs and definer functions.';

alter table app_private.event_imports enable row level security, force row level security;
drop policy if exists owner_all on app_private.event_imports;
create policy owner_all on app_private.event_imports to erp_user using (true) with check (true);
comment on policy owner_all on app_private.event_imports is 'Migrations, DBAs and definer functions.';
--! EndIncluded policies/app_private.sql
