--! Previous: sha1:8eafe09602c7e7283d66448e3e69b9dfb8ed4b0b
--! Hash: sha1:189e06fd6b150c2a8a3c8c16591c5d17c3c09807
--! Message: ingestion restatements deletions quotas

--! split: 1-current.sql
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

--! Included functions/event_records.sql
-- What a client may say of an event, and what is wrong with what it said: here, so that every way in has the same rules.
-- What jsonb cannot hold at all (NUL, lone surrogates) is refused before.

do $$
begin
  if to_regtype('app_private.event_record') is null then
    create type app_private.event_record as (
      ordinal integer, source text, source_id text, version bigint, id uuid, event_time timestamptz,
      content jsonb, hash bytea, is_whole boolean, is_deletion boolean, problem text
    );
    comment on type app_private.event_record is
      'One event of a batch. is_whole: it can be new, and not only a restatement; problem: the reason why it is rejected, and the pointer to it.';
  end if;
end
$$;

do $$
begin
  if to_regtype('app_private.event_change') is null then
    create type app_private.event_change as (
      source text, source_id text, version bigint, hash bytea, was_id uuid, was_time timestamptz, id uuid, event_time timestamptz,
      content jsonb, is_deleted boolean
    );
    comment on type app_private.event_change is
      'What becomes of a key and its event. was_id and was_time: where the event is, null when there is none; content: all its fields, null when they stay.';
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
      'What became of one event of a batch. ordinal: its position, from 1; outcome: accepted, updated, deleted, duplicate, rejected, or withheld from an atomic batch; id and timestamp: where it is; code, reason, pointer (RFC 6901, within the event) and detail: why it was rejected.';
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

create or replace function app_private.text_of(p_value jsonb) returns text
language sql immutable parallel safe
as $$ select case jsonb_typeof(p_value) when 'string' then p_value #>> '{}' end $$;
comment on function app_private.text_of(jsonb) is
  'The text of a JSON string, null for anything else: printing 5 MiB of JSON to compare it with a text cost a backend 1.2 GB.';

create or replace function app_private.number_of(p_value jsonb, p_pattern text) returns numeric
language sql immutable parallel safe
as $$
  select case jsonb_typeof(p_value)
    when 'number' then p_value::numeric
    when 'string' then case when p_value #>> '{}' ~ p_pattern then (p_value #>> '{}')::numeric end
  end
$$;
comment on function app_private.number_of(jsonb, text) is 'A JSON number, without printing it, or one in a text of that form.';

create or replace function app_private.has_long_number(p_event jsonb, p_text text) returns boolean
language sql immutable parallel safe
as $$
  select p_text ~ '[0-9.]{181}'
     and exists (select from jsonb_path_query(p_event, 'strict $.** ? (@.type() == "number")') n where length(n::text) > 180)
$$;
comment on function app_private.has_long_number(jsonb, text) is
  'Whether an event has a number that prints as more than 180 characters: more than 64 digits and an exponent of 100 make.';

create or replace function app_private.read_events(p_tenant_id uuid, p_events jsonb[]) returns app_private.event_record[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_latest timestamptz;
  v_earliest timestamptz;
  v_kept_since timestamptz := now() - make_interval(days => app_private.retention_days(p_tenant_id));
  v_doomed date[] := array(select d.month from app_private.doomed_partitions d);
  v_is_any_doomed boolean := v_doomed <> '{}';
  v_records app_private.event_record[];
begin
  select now() + l.max_ahead, now() - l.max_age into strict v_latest, v_earliest from app_private.event_limits l;

  select array_agg(row(
           e.ordinality, e.source, e.source_id,
           case when e.problem is null then e.version::bigint end,
           uuidv7(),
           case when e.problem is null then e.event_time end,
           e.value,
           case when e.problem is null then sha256(convert_to(e.said, 'UTF8')) end,
           e.is_whole, e.is_deletion,
           -- Without an id it is neither a restatement nor a deletion.
           coalesce(e.problem, case when e.source_id is null and not e.is_whole then app_private.what_is_missing(e.value) end)
         )::app_private.event_record)
    into v_records
    from (
      select i.*,
             case
               when jsonb_typeof(i.value) <> 'object' then 'not_an_object'
               when i.value - '{eventType,eventName,timestamp,value,currency,properties,source,sourceId,id,sourceVersion,deleted}'::text[] <> '{}'
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
                 and (i.version is null or i.version <> trunc(i.version) or abs(i.version) >= 1e18)
                 then 'not_an_integer /sourceVersion'
               when not app_private.is_null(i.value -> 'value')
                 and (i.measure is null or abs(i.measure) >= 1e30 or scale(i.measure) > 30)
                 then 'not_a_number /value'
               when not app_private.is_null(i.value -> 'currency')
                 and not exists (select from app_private.currencies c where c.code = app_private.text_of(i.value -> 'currency'))
                 then 'unknown_currency /currency'
               when not app_private.is_null(i.value -> 'deleted') and jsonb_typeof(i.value -> 'deleted') <> 'boolean'
                 then 'not_a_boolean /deleted'
               when not app_private.is_null(i.value -> 'properties') and jsonb_typeof(i.value -> 'properties') <> 'object'
                 then 'not_an_object /properties'
               when i.event_time is null and not app_private.is_null(i.value -> 'timestamp') then 'not_a_time /timestamp'
               when i.event_time > v_latest then 'in_the_future /timestamp'
               when i.event_time < v_earliest then 'too_old /timestamp'
               when i.event_time < v_kept_since or (v_is_any_doomed and date_trunc('month', i.event_time)::date = any (v_doomed))
                 then 'past_retention /timestamp'
               when i.said is null or octet_length(i.said) > 32768 and octet_length((i.value -> 'properties')::text) > 32768
                 then 'too_large /properties'
               when i.value @? 'strict $.**{32} ? (@.type() == "object" || @.type() == "array")' then 'too_deep /properties'
               -- What an exponent makes long has many zeros; to look closer at every event takes a third of the time of reading it.
               when (strpos(i.said, '000000000000000000000000000000000000') > 0 or octet_length(i.said) > 1000)
                 and app_private.has_long_number(i.value, i.said)
                 then 'number_too_long /properties'
             end as problem
        from (
          select r.value, r.ordinality,
                 coalesce(app_private.text_of(r.value -> 'source'), '') as source,
                 coalesce(app_private.text_of(r.value -> 'sourceId'), app_private.text_of(r.value -> 'id')) as source_id,
                 app_private.number_of(r.value -> 'sourceVersion', '^-?\d{1,18}$') as version,
                 app_private.number_of(r.value -> 'value', '^[+-]?\d{1,30}(\.\d{1,30})?$') as measure,
                 -- Without the version, which is no content. What takes 256 KiB as jsonb has more than 32 KiB of text for sure.
                 case when jsonb_typeof(r.value) = 'object' and pg_column_size(r.value) <= 262144
                   then (r.value - 'sourceVersion')::text end as said,
                 -- PostgreSQL also reads "tomorrow", 24:00:00, and times without an offset, which mean another moment to everybody.
                 case
                   when app_private.text_of(r.value -> 'timestamp')
                     ~ '^\d{4}-\d\d-\d\dT([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-](0\d|1[0-5]):[0-5]\d)$'
                     and pg_input_is_valid(r.value ->> 'timestamp', 'timestamptz')
                     then (r.value ->> 'timestamp')::timestamptz
                 end as event_time,
                 r.value ? 'eventType' and r.value ? 'eventName' and r.value -> 'deleted' is distinct from 'true' as is_whole,
                 coalesce(r.value -> 'deleted' = 'true', false) as is_deletion
            from unnest(p_events) with ordinality r (value, ordinality)
          -- Fences, each: or every expression is evaluated again wherever it is named.
          offset 0
        ) i
      offset 0
    ) e;
  return coalesce(v_records, '{}');
end
$$;
comment on function app_private.read_events(uuid, jsonb[]) is 'The records of a batch, in its order, each with what is wrong with it.';

create or replace function app_private.what_is_missing(p_event jsonb) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_event -> 'deleted' = 'true' then 'required /sourceId'
    when p_event ? 'eventType' then 'required /eventName'
    else 'required /eventType'
  end
$$;
comment on function app_private.what_is_missing(jsonb) is 'What an event lacks to be new, or to be deleted.';

create or replace function app_private.unknown_field(p_event jsonb) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
  select 'unknown_field /' || left(replace(replace(min(k), '~', '~0'), '/', '~1'), 200)
    from jsonb_object_keys(p_event) k
   where k <> all ('{eventType,eventName,timestamp,value,currency,properties,source,sourceId,id,sourceVersion,deleted}')
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
      when 'unknown_field' then 'An event has no such field. It has eventType, eventName, timestamp, value, currency, properties, source, sourceId (or id), sourceVersion and deleted.'
      when 'required' then 'A new event needs an eventType and an eventName; a deletion, a sourceId.'
      when 'wrong_text' then 'This must be text, and neither empty nor too long: eventType has at most 100 characters, eventName and source 200, sourceId 500; source and sourceId together have at most 2,500 bytes.'
      when 'two_ids' then 'id is another name of sourceId: send one of them.'
      when 'not_an_integer' then 'This must be a whole number of at most 18 digits.'
      when 'not_a_number' then 'This must be a number, or text such as "12.50", of at most 30 digits before the point and 30 after it.'
      when 'unknown_currency' then 'This must be an ISO 4217 code, such as EUR.'
      when 'not_a_boolean' then 'This must be true or false.'
      when 'too_deep' then 'JSON is nested at most 32 levels deep here.'
      when 'number_too_long' then 'A number has at most 64 digits, and an exponent of at most 100.'
      when 'too_large' then 'Properties have at most 32,768 bytes of JSON.'
      when 'not_a_time' then 'This must be an RFC 3339 date and time with an offset, such as 2026-03-05T10:00:00Z.'
      when 'in_the_future' then format('Events are taken up to %s ahead of now.', v_limits.max_ahead)
      when 'too_old' then format('Events are taken up to %s back.', v_limits.max_age)
      when 'past_retention' then 'Events of that time are no longer kept by this tenant (retentionDays), or their month is being deleted because no tenant kept it.'
      when 'differs' then 'The stored event of this source and sourceId has other content, or is deleted by its source.'
    end
  )::app_hidden.event_receipt;
end
$$;
comment on function app_private.rejection(integer, text) is 'What the sender of a rejected event is told.';

revoke execute on function
  app_private.unnest_records(app_private.event_record[]), app_private.is_text(jsonb, integer), app_private.is_null(jsonb),
  app_private.retention_days(uuid), app_private.text_of(jsonb), app_private.number_of(jsonb, text), app_private.has_long_number(jsonb, text),
  app_private.read_events(uuid, jsonb[]), app_private.what_is_missing(jsonb),
  app_private.unknown_field(jsonb), app_private.rejection(integer, text)
from public;
revoke usage on type app_hidden.event_receipt from public;
--! EndIncluded functions/event_records.sql
--! Included functions/restate_events.sql
-- What becomes of events whose keys are known, or come several times in a batch.

create or replace function app_private.said(p_content jsonb, p_time timestamptz) returns jsonb
language sql stable parallel safe
as $$
  select (p_content - '{source,sourceId,id,sourceVersion,timestamp,deleted}'::text[])
      || case when p_content ? 'value' then jsonb_build_object('value', (p_content ->> 'value')::numeric) else '{}' end
      || case when p_content -> 'properties' = 'null' then '{"properties": {}}'::jsonb else '{}' end
      || case when p_time is not null then jsonb_build_object('timestamp', p_time) else '{}' end
$$;
comment on function app_private.said(jsonb, timestamptz) is
  'What a statement says of its event, in the form in which restate_events compares it: a number is one, however it was written.';

create or replace function app_private.restate_events(
  p_tenant_id uuid, p_records app_private.event_record[], p_on_conflict text
)
returns setof app_hidden.event_receipt
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
  v_said record;
  v_is_older boolean;
  v_is_newer boolean;
  v_outcome text;
  v_state text;
  v_content jsonb;
  v_change app_private.event_change;
  v_is_changed boolean := false;
  v_changes app_private.event_change[] := '{}';
begin
  -- Retention may have taken a key since it was in the way.
  perform app_private.insert_keys(p_tenant_id, p_records);
  perform
    from (select distinct r.source, r.source_id from app_private.unnest_records(p_records) r order by 1, 2 offset 0) r
    cross join lateral (
      select from app_private.event_keys k
       where k.tenant_id = p_tenant_id and k.source = r.source and k.source_id = r.source_id
         for update
    ) k;

  -- Each statement is compared with what the one before it left, in memory, and the last state is written: a SQL
  -- statement for each (5,000 of one key: 12 s) walks the row versions of all before it.
  for v_said in
    select s.*,
           case when s.key_id is null or s.is_new then 'absent' when s.is_deleted then 'deleted' else 'present' end as state,
           case when s.needs_look then app_private.said(s.statement, s.event_time) end as content,
           e.content as stored
      from (
        select r.ordinal, r.source, r.source_id, r.version, r.id as record_id, r.event_time, r.content as statement, r.hash,
               r.is_whole, r.is_deletion,
               k.id as key_id, k."timestamp" as key_time, k.source_version as key_version, k.content_hash as key_hash,
               k.deleted_at is not null as is_deleted,
               row_number() over (of_key order by r.ordinal) as turn,
               bool_or(k.id = r.id) over of_key as is_new,
               count(*) over of_key > 1 or k.id is null or k.id = r.id or k.deleted_at is not null or k.content_hash <> r.hash as needs_look
          from app_private.unnest_records(p_records) r
          left join lateral (
            select * from app_private.event_keys k
             where k.tenant_id = p_tenant_id and k.source = r.source and k.source_id = r.source_id
            offset 0
          ) k on true
        window of_key as (partition by r.source, r.source_id)
      ) s
      left join lateral (
        select jsonb_build_object(
                 'eventType', e.event_type, 'eventName', e.event_name, 'timestamp', e."timestamp",
                 'value', e.value, 'currency', e.currency, 'properties', e.properties
               ) as content
          from public.analytics_events e
         where s.turn = 1 and s.needs_look and not s.is_deleted
           and e.tenant_id = p_tenant_id and e."timestamp" = s.key_time and e.id = s.key_id
        offset 0
      ) e on true
     order by s.source, s.source_id, s.turn
  loop
    if v_said.key_id is null and v_said.is_whole then
      raise exception 'The key went while it was waited for.' using errcode = '40001';
    end if;
    if v_said.turn = 1 then
      if v_is_changed then
        v_changes := array_append(v_changes, v_change);
      end if;
      v_is_changed := false;
      v_state := v_said.state;
      v_content := v_said.stored;
      v_change := row(
        v_said.source, v_said.source_id,
        case when v_state <> 'absent' then v_said.key_version end, case when v_state <> 'absent' then v_said.key_hash end,
        case when v_state = 'present' then v_said.key_id end, case when v_state = 'present' then v_said.key_time end,
        v_said.key_id, v_said.key_time, null, v_state = 'deleted'
      );
    end if;
    v_is_older := coalesce(v_said.version < v_change.version, false);
    v_is_newer := v_said.version is not null and (v_change.version is null or v_said.version > v_change.version);
    v_outcome := case
      when v_is_older then 'duplicate'
      when v_said.is_deletion then case v_state when 'present' then 'deleted' else 'duplicate' end
      when v_state = 'absent' then case when v_said.is_whole then 'accepted' else 'required' end
      when v_state = 'deleted' then case when v_said.is_whole and v_is_newer then 'updated' else 'duplicate' end
      when v_said.hash <> v_change.hash and v_content || v_said.content <> v_content then 'updated'
      else 'duplicate'
    end;
    if p_on_conflict <> 'update' and v_outcome in ('updated', 'deleted') then
      v_outcome := 'differs';
    end if;

    if v_outcome in ('accepted', 'updated') then
      if v_state = 'present' then
        v_change.event_time := coalesce(v_said.event_time, v_change.event_time);
      else
        v_change.id := v_said.record_id;
        v_change.event_time := coalesce(v_said.event_time, now());
        v_change.is_deleted := false;
        v_content := jsonb_build_object('timestamp', v_change.event_time, 'properties', '{}'::jsonb, 'value', null, 'currency', null);
        v_state := 'present';
      end if;
      v_content := v_content || v_said.content;
      v_change.content := v_content;
    elsif v_outcome = 'deleted' then
      v_state := 'deleted';
      v_change.is_deleted := true;
    end if;
    -- A repeat counts by its version too: what is older than the repeat is older than the event.
    if v_outcome in ('accepted', 'updated', 'deleted')
      or (v_outcome = 'duplicate' and v_state = 'present' and not v_is_older and (v_is_newer or v_said.hash <> v_change.hash))
      or (v_outcome = 'duplicate' and v_state = 'deleted' and v_is_newer and v_said.is_deletion)
    then
      v_change.version := greatest(v_change.version, v_said.version);
      if not v_said.is_deletion and v_state = 'present' then
        v_change.hash := v_said.hash;
      end if;
      v_is_changed := true;
    end if;

    return next case
      when v_outcome = 'required' then app_private.rejection(v_said.ordinal, app_private.what_is_missing(v_said.content))
      when v_outcome = 'differs' then app_private.rejection(v_said.ordinal, 'differs')
      else row(v_said.ordinal, v_outcome, v_change.id, v_change.event_time, null, null, null, null)::app_hidden.event_receipt
    end;
  end loop;
  if v_is_changed then
    v_changes := array_append(v_changes, v_change);
  end if;
  perform app_private.apply_changes(p_tenant_id, v_changes);
end
$$;
comment on function app_private.restate_events(uuid, app_private.event_record[], text) is
  'Writes records whose keys are known, or come several times, as if they came one after another.';

create or replace function app_private.apply_changes(p_tenant_id uuid, p_changes app_private.event_change[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_change app_private.event_change;
  v_declared jsonb := app_private.subject_properties(p_tenant_id);
begin
  -- Few are deleted, or moved to another time. Planned once: planning takes longer than deleting (170 and 30 us).
  foreach v_change in array p_changes loop
    if v_change.is_deleted or v_change.id <> v_change.was_id or v_change.event_time <> v_change.was_time then
      delete from public.analytics_events e
       where e.tenant_id = p_tenant_id and e."timestamp" = v_change.was_time and e.id = v_change.was_id;
    end if;
  end loop;
  insert into public.analytics_events as e
    (tenant_id, id, "timestamp", event_type, event_name, properties, source, source_id, value, currency, subject)
  select p_tenant_id, c.id, c.event_time, c.content ->> 'eventType', c.content ->> 'eventName', c.content -> 'properties',
         nullif(c.source, ''), c.source_id, (c.content ->> 'value')::numeric, c.content ->> 'currency',
         app_private.subject_of(v_declared, c.content ->> 'eventType', c.content -> 'properties')
    from unnest(p_changes) c
   where not c.is_deleted and c.content is not null
  on conflict (tenant_id, "timestamp", id) do update
     set event_type = excluded.event_type, event_name = excluded.event_name, properties = excluded.properties,
         value = excluded.value, currency = excluded.currency, subject = excluded.subject;
  insert into app_private.event_keys as k (tenant_id, source, source_id, "timestamp", id, source_version, content_hash, deleted_at)
  select p_tenant_id, c.source, c.source_id, c.event_time, c.id, c.version, c.hash, case when c.is_deleted then now() end
    from unnest(p_changes) c
  on conflict (tenant_id, source, source_id) do update
     set "timestamp" = excluded."timestamp", id = excluded.id, source_version = excluded.source_version,
         content_hash = excluded.content_hash,
         deleted_at = case when excluded.deleted_at is not null then coalesce(k.deleted_at, excluded.deleted_at) end;
end
$$;
comment on function app_private.apply_changes(uuid, app_private.event_change[]) is 'Writes what restate_events found.';

revoke execute on function
  app_private.said(jsonb, timestamptz), app_private.restate_events(uuid, app_private.event_record[], text),
  app_private.apply_changes(uuid, app_private.event_change[])
from public;
--! EndIncluded functions/restate_events.sql
--! Included functions/write_events.sql
-- The one way in for events: HTTP, GraphQL, import, connectors and DBAs all write through it.
--
-- Lock order is (source, source_id) everywhere. Keys are inserted first: where all were new, nobody else has them, and
-- the events follow. The others are locked in a statement of its own, then read: in one statement, a concurrent insert
-- of the same key would be neither inserted nor visible.
--
-- Whatever the statistics say (those of a new tenant say that it has nothing), and whatever there was when a plan was made,
-- keys and events are looked up by index, one by one: hence lateral subqueries with `offset 0`, which the planner cannot
-- turn round, and `on conflict` instead of joins. (5,000 duplicates of a new tenant: 15 s with joins.)

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

create or replace function app_private.write_records(
  p_tenant_id uuid, p_records app_private.event_record[], p_on_conflict text
)
returns setof app_hidden.event_receipt
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
  v_keyed bigint;
  v_rejected bigint;
  v_new app_private.event_record[];
  v_known app_private.event_record[];
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

  select array_agg(i.record) filter (where i.is_new), array_agg(i.record) filter (where not i.is_new)
    into v_new, v_known
    from (
      select r as record,
             r.source_id is null
               or (k.id is not distinct from r.id and count(*) over (partition by r.source, r.source_id) = 1) as is_new
        from app_private.unnest_records(p_records) r
        left join lateral (
          select k.id from app_private.event_keys k
           where k.tenant_id = p_tenant_id and k.source = r.source and k.source_id = r.source_id
          offset 0
        ) k on true
       where r.problem is null
    ) i;
  if v_new is not null then
    return query select * from app_private.insert_events(p_tenant_id, v_new);
  end if;
  if v_known is not null then
    return query select * from app_private.restate_events(p_tenant_id, v_known, p_on_conflict);
  end if;
end
$$;
comment on function app_private.write_records(uuid, app_private.event_record[], text) is 'Writes what read_events read.';

create or replace function app_private.write_event_list(p_tenant_id uuid, p_events jsonb[], p_on_conflict text, p_atomic boolean)
returns setof app_hidden.event_receipt
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_records app_private.event_record[];
  v_receipts app_hidden.event_receipt[];
  v_changes jsonb;
begin
  if p_tenant_id is null then
    raise exception 'The tenant is null.' using errcode = 'EA400';
  end if;
  if p_on_conflict is null or p_on_conflict not in ('update', 'reject') then
    raise exception 'onConflict is "%"; it may be update or reject.', left(coalesce(p_on_conflict, ''), 100) using errcode = 'EA400';
  end if;
  perform from public.tenants t where t.id = p_tenant_id;
  if not found then
    raise exception 'There is no tenant %.', p_tenant_id using errcode = 'EA404';
  end if;
  -- Before doomed_partitions is read: whoever dooms a month waits for those who read that it is not.
  lock table only public.analytics_events in row exclusive mode;
  v_records := app_private.read_events(p_tenant_id, p_events);
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
  select case
           when bool_or(w.outcome = 'deleted') then jsonb_build_object(
             'accepted', count(*) filter (where w.outcome = 'accepted'), 'updated', count(*) filter (where w.outcome = 'updated'),
             'deleted', count(*) filter (where w.outcome = 'deleted'))
           when bool_or(w.outcome in ('accepted', 'updated')) then jsonb_build_object(
             'accepted', count(*) filter (where w.outcome = 'accepted'), 'updated', count(*) filter (where w.outcome = 'updated'))
         end
    into v_changes
    from unnest(v_receipts) w;
  if v_changes is not null then
    perform app_private.write_audit(p_tenant_id, 'events.written', 'analytics_event', null, v_changes);
  end if;
  return query select * from unnest(v_receipts) order by 1;
end
$$;
comment on function app_private.write_event_list(uuid, jsonb[], text, boolean) is 'write_events, of events each by itself.';

create or replace function app_hidden.write_events(
  p_tenant_id uuid, p_events jsonb, p_on_conflict text default 'update', p_atomic boolean default false
)
returns setof app_hidden.event_receipt
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if jsonb_typeof(p_events) is distinct from 'array' then
    raise exception 'Events must be a JSON array.' using errcode = 'EA400';
  end if;
  return query
    select * from app_private.write_event_list(p_tenant_id, array(select jsonb_array_elements(p_events)), p_on_conflict, p_atomic);
end
$$;
comment on function app_hidden.write_events(uuid, jsonb, text, boolean) is
  'Writes a JSON array of events {eventType, eventName, timestamp, value, currency, properties, source, sourceId (or id), sourceVersion, deleted} as if they came one after another, and says of each what became of it. One (source, sourceId) is one event; an older sourceVersion never wins, a statement without a version always counts. {source, sourceId, deleted: true}: the record is gone; it comes back only with a newer version. p_on_conflict: whether other content under a known id updates the event, or is rejected (CONFLICT). p_atomic: all or none. EA400 unless it is an array; EA404 without such a tenant.';

revoke execute on function
  app_private.insert_keys(uuid, app_private.event_record[]), app_private.insert_events(uuid, app_private.event_record[]),
  app_private.write_records(uuid, app_private.event_record[], text),
  app_private.write_event_list(uuid, jsonb[], text, boolean),
  app_hidden.write_events(uuid, jsonb, text, boolean)
from public;
--! EndIncluded functions/write_events.sql
--! Included functions/rate_limits.sql
-- A bucket of p_burst attempts that refills within p_per. Kept in PostgreSQL, so that all instances count together.
-- A refused attempt counts nothing (the exception takes it back), so that trying on does not prolong the wait.
create or replace function app_private.take_attempts(
  p_bucket text, p_count integer, p_burst integer, p_per interval, p_limit text default ''
) returns void
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
      using errcode = 'EA429', detail = ceil((v_used - p_burst) * v_per / p_burst)::text, hint = p_limit;
  end if;
end
$$;
comment on function app_private.take_attempts(text, integer, integer, interval, text) is 'Counts attempts. EA429, with the seconds to wait as its detail and p_limit as its hint, when the bucket has not as many left.';

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

-- Whoever has a /48 of IPv6 has 65,536 networks.
create or replace function app_private.request_site() returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case when n.network like '%/64' then network(set_masklen(n.network::inet, 48))::text else n.network end
    from (select app_private.request_network() as network) n
$$;
comment on function app_private.request_site() is 'Where this request comes from, where new networks get something for free: a /48 of IPv6.';

revoke execute on function
  app_private.take_attempts(text, integer, integer, interval, text), app_private.take_attempt(text, integer, interval),
  app_private.give_back_attempt(text), app_private.clear_attempts(text), app_private.network_of(text), app_private.request_network(),
  app_private.request_site()
from public;
--! EndIncluded functions/rate_limits.sql
--! Included functions/ingest.sql
-- Events of requests: the right, and the plan's limits. Counting is a transaction of its own, before the writing one: its
-- locks last no longer than it, so that the batches of one tenant wait for no other's disk (nor for its own: the caller
-- commits it asynchronously, and a crash of PostgreSQL forgets what was counted within its last second).

create or replace function app_hidden.admit_events(p_tenant_id uuid, p_count integer) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_plan app_private.plans;
  v_count bigint;
  v_key_id text := nullif(current_setting('app.api_key_id', true), '');
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('events:write');
  select p.* into strict v_plan from public.tenants t join app_private.plans p on p.name = t.plan_type where t.id = p_tenant_id;
  if p_count < 1 then
    return;
  end if;
  if v_key_id is not null and v_plan.key_events_per_minute is not null then
    perform app_private.take_attempts(
      'events of key ' || v_key_id, p_count, v_plan.key_events_per_minute, '1 minute', 'key_events_per_minute');
  end if;
  if v_plan.events_per_minute is not null then
    perform app_private.take_attempts('events ' || p_tenant_id, p_count, v_plan.events_per_minute, '1 minute', 'events_per_minute');
  end if;
  -- Not a bucket: one that refills would let twice the quota through in a day.
  insert into app_private.event_counts as c (tenant_id, day, count)
  values (p_tenant_id, (clock_timestamp() at time zone 'UTC')::date, p_count)
  on conflict (tenant_id, day) do update set count = c.count + excluded.count
  returning count into v_count;
  if v_count > v_plan.events_per_day then
    raise exception 'The plan''s events of this day (UTC) are used up.'
      using errcode = 'EA429', hint = 'events_per_day',
            detail = ceil(extract(epoch from date_trunc('day', clock_timestamp(), 'UTC') + interval '1 day' - clock_timestamp()))::text;
  end if;
end
$$;
comment on function app_hidden.admit_events(uuid, integer) is
  'Counts events that a request is about to write. With 0, it only says whether it may write. EA403 without events:write; EA429, with the seconds to wait as its detail and the limit as its hint, beyond the plan''s events_per_minute, key_events_per_minute or events_per_day.';

create or replace function app_hidden.ingest_events(p_tenant_id uuid, p_events json, p_on_conflict text, p_atomic boolean)
returns setof app_hidden.event_receipt
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('events:write');
  if json_typeof(p_events) is distinct from 'array' then
    raise exception 'Events must be a JSON array.' using errcode = 'EA400';
  end if;
  -- Not jsonb as a whole: 5 MiB of {},{},... take a backend 1 GB to parse at once.
  return query
    select * from app_private.write_event_list(
      p_tenant_id, array(select e::jsonb from json_array_elements(p_events) e), p_on_conflict, p_atomic
    );
end
$$;
comment on function app_hidden.ingest_events(uuid, json, text, boolean) is
  'write_events for a request of the tenant. EA403 without events:write.';

revoke execute on function app_hidden.admit_events(uuid, integer), app_hidden.ingest_events(uuid, json, text, boolean) from public;
-- To all: an API key, too, has the right as a permission.
grant execute on function app_hidden.admit_events(uuid, integer), app_hidden.ingest_events(uuid, json, text, boolean)
to api_anonymous, api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/ingest.sql
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
begin
  if v_is_session then
    select * into v_live from app_hidden.authorize_session(p_claims);
  elsif v_is_key then
    select * into v_live from app_hidden.authorize_key(p_claims);
  else
    select 'api_anonymous' as api_role, null::text as actor_name, null::text[] as permissions, null::text as impersonator_name
      into v_live;
  end if;

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
    set_config('transaction_timeout', '60s', true),
    set_config(
      'statement_timeout',
      -- A key of scope events:write is anonymous by its role, and writes batches of 5,000.
      case
        when v_is_key then '15s'
        when v_live.api_role = 'api_anonymous' then '5s'
        when v_live.api_role in ('api_admin', 'api_super_admin') then '30s'
        else '15s'
      end,
      true
    );
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

alter table app_private.analysts enable row level security, force row level security;
drop policy if exists owner_all on app_private.analysts;
create policy owner_all on app_private.analysts to erp_user using (true) with check (true);
comment on policy owner_all on app_private.analysts is 'Migrations, DBAs and definer functions.';

alter table app_private.event_counts enable row level security, force row level security;
drop policy if exists owner_all on app_private.event_counts;
create policy owner_all on app_private.event_counts to erp_user using (true) with check (true);
comment on policy owner_all on app_private.event_counts is 'Migrations, DBAs and definer functions.';

alter table app_private.doomed_partitions enable row level security, force row level security;
drop policy if exists owner_all on app_private.doomed_partitions;
create policy owner_all on app_private.doomed_partitions to erp_user using (true) with check (true);
comment on policy owner_all on app_private.doomed_partitions is 'Migrations, DBAs and definer functions.';
--! EndIncluded policies/app_private.sql
--! Included functions/sessions.sql
-- Signing in: the server checks the password (argon2 is not in PostgreSQL) between begin_sign_in and open_session. It
-- calls them in transactions of their own, so that attempts and refusals are kept whatever happens next.

create or replace function app_private.find_tenant(p_slug text, p_domain text) returns uuid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select t.id from public.tenants t
   where case
     when p_slug is not null then t.slug = lower(p_slug)
     -- A host name may end in the root's dot.
     else t.domain = rtrim(lower(p_domain), '.') and 'custom_domain' = any (t.features)
   end
$$;
comment on function app_private.find_tenant(text, text) is 'The tenant of a slug, or else of a custom domain; null when there is none.';

-- Unknown accounts are counted like known ones, by what was typed.
create or replace function app_private.sign_in_bucket(p_tenant_id uuid, p_tenant text, p_email text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$ select format('sign-in %s %s', coalesce(p_tenant_id::text, lower(left(p_tenant, 300))), lower(left(p_email, 320))) $$;
comment on function app_private.sign_in_bucket(uuid, text, text) is 'The bucket of sign-ins to one account.';

-- Of the tenant, not of the user: what differed between a user and an unknown e-mail would tell who exists.
create or replace function app_private.is_known_network(p_tenant_id uuid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from public.sessions s
     where s.tenant_id = p_tenant_id
       and app_private.network_of(s.ip_address) = app_private.request_network()
       and s.last_used_at > now() - interval '30 days'
  )
$$;
comment on function app_private.is_known_network(uuid) is 'Whether anybody of this tenant had a session from where this request comes from, in the last 30 days.';

create or replace function app_private.site_bucket(p_account text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$ select p_account || ' from site ' || app_private.request_site() $$;
comment on function app_private.site_bucket(text) is 'The bucket of sign-ins to one account from this site that do not count for the account.';

create or replace function app_hidden.begin_sign_in(p_slug text, p_domain text, p_email text)
returns table (tenant_id uuid, user_id uuid, password_hash text, refusal text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_tenant_id uuid := app_private.find_tenant(p_slug, p_domain);
  v_account text := app_private.sign_in_bucket(v_tenant_id, coalesce(p_slug, p_domain), p_email);
  v_network text := app_private.request_network();
  v_known boolean := app_private.is_known_network(v_tenant_id);
  v_scope text := 'network';
  v_message text;
  v_seconds text;
begin
  begin
    perform app_private.take_attempt('sign-in from ' || v_network, 60, '1 minute');
    v_scope := 'account';
    perform app_private.take_attempt(v_account || ' from ' || v_network, 10, '1 minute');
  exception when sqlstate 'EA429' then
    get stacked diagnostics v_message = message_text, v_seconds = pg_exception_detail;
    raise exception '%', v_message using errcode = 'EA429', detail = v_seconds, hint = v_scope;
  end;
  -- Guessing from many addresses has one bucket for the account. An attacker keeps it empty, so that a few attempts from each
  -- place, and more from a known one, do not need it: or nobody would reach the account while the attack lasts.
  begin
    perform app_private.take_attempt(app_private.site_bucket(v_account), case when v_known then 50 else 2 end, '1 hour');
  exception when sqlstate 'EA429' then
    if v_known then
      raise;
    end if;
    perform app_private.take_attempt(v_account, 50, '1 hour');
  end;

  return query
    select u.tenant_id, u.id, p.password_hash,
           case
             when u.status <> 'ACTIVE' then 'user_' || lower(u.status::text)
             when t.status in ('SUSPENDED', 'CANCELLED') then 'tenant_' || lower(t.status::text)
             when not app_private.is_open(t.status, t.trial_ends_at) then 'trial_ended'
           end
      from public.users u
      join public.tenants t on t.id = u.tenant_id
      join app_private.user_passwords p on p.tenant_id = u.tenant_id and p.user_id = u.id
     where u.tenant_id = v_tenant_id
       and u.email = lower(p_email);
end
$$;
comment on function app_hidden.begin_sign_in(text, text, text) is
  'Counts an attempt to sign in (EA429, with the hint "network" or "account" where only this network is refused) and finds the account, by the tenant''s slug or else its domain; no row when there is none. refusal: why it may not be used even with the right password.';

create or replace function app_hidden.refuse_sign_in(p_slug text, p_domain text, p_email text, p_reason text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_private.find_tenant(p_slug, p_domain);
  v_user_id uuid;
begin
  select u.id into v_user_id from public.users u where u.tenant_id = v_tenant_id and u.email = lower(p_email);
  if v_tenant_id is null then
    select t.id into v_tenant_id from public.tenants t where t.slug = 'platform';
  end if;
  if v_tenant_id is not null then
    -- Only a known e-mail is written down: an unknown one may be a password in the wrong field.
    perform app_private.write_audit(
      v_tenant_id, 'session.refused', 'user', v_user_id::text,
      jsonb_strip_nulls(jsonb_build_object('reason', p_reason, 'email', case when v_user_id is not null then lower(p_email) end))
    );
  end if;
end
$$;
comment on function app_hidden.refuse_sign_in(text, text, text, text) is
  'Records a sign-in that failed: in its tenant''s log, or the operator''s when there is no such tenant.';

create or replace function app_hidden.note_throttled_sign_in(p_slug text, p_domain text, p_email text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := coalesce(app_private.find_tenant(p_slug, p_domain), (select t.id from public.tenants t where t.slug = 'platform'));
begin
  -- One row tells of an attack; one for each of its attempts would be another.
  begin
    perform app_private.take_attempt(format('throttled %s %s', v_tenant_id, app_private.request_network()), 1, '10 minutes');
  exception when sqlstate 'EA429' then
    return;
  end;
  perform app_hidden.refuse_sign_in(p_slug, p_domain, p_email, 'throttled');
end
$$;
comment on function app_hidden.note_throttled_sign_in(text, text, text) is
  'Records that sign-ins are being throttled, for each network and tenant once in ten minutes.';

create or replace function app_hidden.open_session(
  p_tenant_id uuid, p_user_id uuid, p_refresh_token_hash bytea, p_checked_hash text, p_new_hash text
)
returns table (session_id uuid, role text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_user public.users;
  v_account text;
begin
  -- The user before the password, as everybody locks them: a reset has locked the user and goes on to the password.
  perform from public.users where tenant_id = p_tenant_id and id = p_user_id for no key update;
  -- The password that was checked is still the password, and stays it until commit: only a lock reads what another
  -- transaction is about to commit.
  perform from app_private.user_passwords
    where tenant_id = p_tenant_id and user_id = p_user_id and password_hash = p_checked_hash for no key update;
  if found then
    update public.users u
       set last_login_at = now()
      from public.tenants t
     where u.tenant_id = p_tenant_id and u.id = p_user_id and u.status = 'ACTIVE'
       and t.id = u.tenant_id and app_private.is_open(t.status, t.trial_ends_at)
    returning u.* into v_user;
  end if;
  if not found then
    raise exception 'This account was changed meanwhile. Sign in again.' using errcode = 'EA401', detail = 'revoked';
  end if;
  if p_new_hash is not null then
    update app_private.user_passwords set password_hash = p_new_hash where tenant_id = p_tenant_id and user_id = p_user_id;
  end if;
  v_account := app_private.sign_in_bucket(p_tenant_id, null, v_user.email);
  perform
    app_private.give_back_attempt('sign-in from ' || app_private.request_network()),
    app_private.give_back_attempt(v_account || ' from ' || app_private.request_network()),
    -- What had to be taken from the account's own bucket stays taken: giving it back would free a guess for others.
    app_private.give_back_attempt(app_private.site_bucket(v_account));
  return query select app_private.start_session(p_tenant_id, p_user_id, p_refresh_token_hash), v_user.role::text;
end
$$;
comment on function app_hidden.open_session(uuid, uuid, bytea, text, text) is
  'Opens a session for a user whose password was checked against p_checked_hash. p_new_hash: the same password under today''s parameters, or null.';

create or replace function app_private.start_session(p_tenant_id uuid, p_user_id uuid, p_refresh_token_hash bytea) returns uuid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_session_id uuid;
begin
  insert into public.sessions (tenant_id, user_id, expires_at, ip_address, user_agent)
  values (
    p_tenant_id, p_user_id, now() + interval '30 days',
    nullif(current_setting('app.ip_address', true), ''), nullif(current_setting('app.user_agent', true), '')
  )
  returning id into v_session_id;
  insert into app_private.refresh_tokens (tenant_id, session_id, token_hash) values (p_tenant_id, v_session_id, p_refresh_token_hash);
  perform app_private.write_audit(
    p_tenant_id, 'session.created', 'session', v_session_id::text, '{}',
    p_user_id, (select u.email from public.users u where u.tenant_id = p_tenant_id and u.id = p_user_id)
  );
  return v_session_id;
end
$$;
comment on function app_private.start_session(uuid, uuid, bytea) is 'A session of 30 days and its first refresh token.';

-- One token is unused: the valid one. A used one that comes back soon is a lost answer or a second tab, and gets the
-- token that is valid now; one that comes back later was stolen from somebody, and ends the session.
create or replace function app_hidden.rotate_session(
  p_tenant_id uuid, p_session_id uuid, p_presented_hash bytea, p_successor_hash bytea
)
returns table (outcome text, user_id uuid, tenant_id uuid, role text, home_tenant_id uuid, expires_at timestamptz, valid_hash bytea)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_session record;
  v_used_at timestamptz;
begin
  -- The lock comes first and alone: what was rotated while waiting for it is read by the next statement.
  perform from public.sessions where tenant_id = p_tenant_id and id = p_session_id for update;
  select s.*, u.role as user_role, u.email into v_session
    from public.sessions s
    join public.users u on u.tenant_id = s.tenant_id and u.id = s.user_id
    join public.tenants t on t.id = s.tenant_id
   where s.tenant_id = p_tenant_id
     and s.id = p_session_id
     and u.tenant_id = p_tenant_id
     and s.revoked_at is null
     and s.expires_at > now()
     and u.status = 'ACTIVE'
     and app_private.is_open(t.status, t.trial_ends_at)
     and (s.entered_tenant_id is null or u.role = 'SUPER_ADMIN');
  if found then
    select r.used_at into v_used_at
      from app_private.refresh_tokens r
     where r.tenant_id = p_tenant_id and r.session_id = p_session_id and r.token_hash = p_presented_hash;
  end if;
  if not found then
    raise exception 'This session has ended. Sign in again.' using errcode = 'EA401', detail = 'revoked';
  end if;

  if v_used_at < now() - interval '30 seconds' then
    update public.sessions set revoked_at = now() where tenant_id = p_tenant_id and id = p_session_id;
    perform app_private.write_audit(
      p_tenant_id, 'session.refresh_reused', 'session', p_session_id::text, '{}', v_session.user_id, v_session.email
    );
    return query select 'reused', null::uuid, null::uuid, null::text, null::uuid, null::timestamptz, null::bytea;
    return;
  end if;
  if v_used_at is null then
    update app_private.refresh_tokens set used_at = now()
     where tenant_id = p_tenant_id and session_id = p_session_id and token_hash = p_presented_hash;
    insert into app_private.refresh_tokens (tenant_id, session_id, token_hash) values (p_tenant_id, p_session_id, p_successor_hash);
    update public.sessions set last_used_at = now() where tenant_id = p_tenant_id and id = p_session_id;
  end if;
  return query
    select case when v_used_at is null then 'rotated' else 'repeated' end,
           v_session.user_id, coalesce(v_session.entered_tenant_id, p_tenant_id),
           coalesce(v_session.entered_role, v_session.user_role)::text,
           case when v_session.entered_tenant_id is not null then p_tenant_id end,
           v_session.expires_at, r.token_hash
      from app_private.refresh_tokens r
     where r.tenant_id = p_tenant_id and r.session_id = p_session_id and r.used_at is null;
end
$$;
comment on function app_hidden.rotate_session(uuid, uuid, bytea, bytea) is
  'Exchanges a refresh token (by SHA-256) for its successor. valid_hash: the token that is valid now. Outcome rotated, repeated (within 30 s), or reused: then the session was revoked. EA401 for a token that it never had, or an ended session.';

create or replace function app_hidden.revoke_session(p_tenant_id uuid, p_session_id uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update public.sessions
     set revoked_at = now()
   where tenant_id = p_tenant_id
     and tenant_id = app_hidden.current_home_tenant_id()
     and id = p_session_id
     and (user_id = app_hidden.current_user_id() or id = app_hidden.current_session_id())
     and revoked_at is null;
  if found then
    perform app_private.write_audit(p_tenant_id, 'session.revoked', 'session', p_session_id::text, '{}');
  elsif not exists (
    select from public.sessions
     where tenant_id = p_tenant_id and id = p_session_id and user_id = app_hidden.current_user_id()
  ) then
    raise exception 'You have no session %.', p_session_id using errcode = 'EA404';
  end if;
end
$$;
comment on function app_hidden.revoke_session(uuid, uuid) is 'Ends a session of the current user, or the current session. EA404 when it is neither.';

create or replace function app_private.revoke_sessions(p_tenant_id uuid, p_user_id uuid, p_but uuid) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_ended text[];
begin
  with ended as (
    update public.sessions
       set revoked_at = now()
     where tenant_id = p_tenant_id and user_id = p_user_id and revoked_at is null and id is distinct from p_but
    returning id
  )
  select array_agg(id::text) into v_ended from ended;
  if v_ended is not null then
    perform app_private.write_audit(
      p_tenant_id, 'session.revoked', 'user', p_user_id::text, jsonb_build_object('sessions', to_jsonb(v_ended))
    );
  end if;
  return coalesce(cardinality(v_ended), 0);
end
$$;
comment on function app_private.revoke_sessions(uuid, uuid, uuid) is 'Ends all sessions of a user, but p_but. Returns how many.';

create or replace function app_hidden.revoke_own_sessions(p_tenant_id uuid) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app_hidden.require_user();
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  -- The user first, as everybody locks them who ends sessions and links.
  perform from public.users where tenant_id = p_tenant_id and id = v_user_id for no key update;
  perform app_private.end_links(p_tenant_id, v_user_id);
  return app_private.revoke_sessions(p_tenant_id, v_user_id, null);
end
$$;
comment on function app_hidden.revoke_own_sessions(uuid) is 'Ends all sessions of the current user, this one too. Returns how many.';

create or replace function app_hidden.record_use(p_uses jsonb) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update public.sessions s
     set last_used_at = greatest(s.last_used_at, u.at)
    from jsonb_to_recordset(p_uses) as u (tenant_id uuid, session_id uuid, at timestamptz)
   where s.tenant_id = u.tenant_id and s.id = u.session_id;
  update public.api_keys k
     set last_used_at = greatest(k.last_used_at, u.at)
    from jsonb_to_recordset(p_uses) as u (tenant_id uuid, api_key_id uuid, at timestamptz)
   where k.tenant_id = u.tenant_id and k.id = u.api_key_id;
end
$$;
comment on function app_hidden.record_use(jsonb) is
  'When sessions and API keys were last used: [{"tenant_id", "session_id" or "api_key_id", "at"}]. Written once a minute, not by the requests.';

create or replace function app_hidden.purge_expired() returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  delete from public.sessions where least(expires_at, revoked_at) < now() - interval '30 days';
  delete from app_private.one_time_tokens where expires_at < now() - interval '30 days';
  delete from app_private.rate_limits where counted_at < now() - interval '1 day';
  -- A tenant that goes takes its events with it, and these leave their marks.
  delete from app_hidden.event_marks m where not exists (select from public.tenants t where t.id = m.tenant_id);
$$;
comment on function app_hidden.purge_expired() is
  'Deletes sessions and one-time tokens that ended 30 days ago, full buckets, and marks of tenants that are gone. Used refresh tokens stay as long as their session, so that a stolen one is known.';

revoke execute on function
  app_private.find_tenant(text, text), app_private.sign_in_bucket(uuid, text, text),
  app_private.is_known_network(uuid), app_private.site_bucket(text), app_hidden.begin_sign_in(text, text, text),
  app_hidden.refuse_sign_in(text, text, text, text), app_hidden.note_throttled_sign_in(text, text, text),
  app_hidden.open_session(uuid, uuid, bytea, text, text), app_private.start_session(uuid, uuid, bytea),
  app_hidden.rotate_session(uuid, uuid, bytea, bytea), app_hidden.revoke_session(uuid, uuid),
  app_private.revoke_sessions(uuid, uuid, uuid), app_hidden.revoke_own_sessions(uuid), app_hidden.record_use(jsonb),
  app_hidden.purge_expired()
from public;
grant execute on function
  app_hidden.begin_sign_in(text, text, text), app_hidden.refuse_sign_in(text, text, text, text),
  app_hidden.note_throttled_sign_in(text, text, text),
  app_hidden.open_session(uuid, uuid, bytea, text, text), app_hidden.rotate_session(uuid, uuid, bytea, bytea)
to api_anonymous;
grant execute on function app_hidden.revoke_session(uuid, uuid), app_hidden.revoke_own_sessions(uuid)
to api_viewer, api_user, api_admin, api_super_admin;
grant execute on function app_hidden.record_use(jsonb) to erp_authenticator;
grant execute on function app_hidden.purge_expired() to erp_worker;
--! EndIncluded functions/sessions.sql
