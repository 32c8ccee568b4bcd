--! Previous: sha1:f517d81042f53194b04182e9add32da914813372
--! Hash: sha1:5ccc48a8d6741dc38f96b3f7b616ef9d335953a2
--! Message: days counted when written, deletions of unknown records

--! split: 1-current.sql
-- A day's events are counted by the transaction that writes them; deletions of unknown records are deletions; leap seconds.
set local lock_timeout = '5s';
drop function if exists app_hidden.admit_events(uuid, integer, integer);
drop function if exists app_private.insert_keys(uuid, app_private.event_record[]);
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
  v_rfc3339 constant text :=
    '^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?([Zz]|[+-](0[0-9]|1[0-5]):[0-5][0-9])$';
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
                 -- Not \d: under an ICU collation that is any script's digits, and the cast of those fails the batch.
                 app_private.number_of(r.value -> 'sourceVersion', '^-?[0-9]{1,18}$') as version,
                 app_private.number_of(r.value -> 'value', '^[+-]?[0-9]{1,30}(\.[0-9]{1,30})?$') as measure,
                 -- Without the version, which is no content. What takes 256 KiB as jsonb has more than 32 KiB of text for sure.
                 case when jsonb_typeof(r.value) = 'object' and pg_column_size(r.value) <= 262144
                   then (r.value - 'sourceVersion')::text end as said,
                 -- PostgreSQL also reads "tomorrow", 24:00:00, and times without an offset, which mean another moment to everybody,
                 -- but of second 60, a leap second, no fraction.
                 case
                   when app_private.text_of(r.value -> 'timestamp') ~ v_rfc3339 and pg_input_is_valid(r.value ->> 'timestamp', 'timestamptz')
                     then (r.value ->> 'timestamp')::timestamptz
                   when substr(app_private.text_of(r.value -> 'timestamp'), 18, 2) = '60'
                     and overlay(r.value ->> 'timestamp' placing '59' from 18) ~ v_rfc3339
                     and pg_input_is_valid(overlay(r.value ->> 'timestamp' placing '59' from 18), 'timestamptz')
                     then overlay(r.value ->> 'timestamp' placing '59' from 18)::timestamptz + interval '1 second'
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

create or replace function app_private.insert_keys(
  p_tenant_id uuid, p_records app_private.event_record[], p_on_conflict text
) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_count bigint;
begin
  insert into app_private.event_keys (tenant_id, source, source_id, "timestamp", id, source_version, content_hash)
  select p_tenant_id, r.source, r.source_id, coalesce(r.event_time, now()), r.id, r.version, r.hash
    from app_private.unnest_records(p_records) r
   where r.source_id is not null and r.problem is null
     and (r.is_whole or r.is_deletion and r.version is not null and p_on_conflict = 'update')
   order by r.source, r.source_id, r.ordinal
  on conflict (tenant_id, source, source_id) do nothing;
  get diagnostics v_count = row_count;
  return v_count;
end
$$;
comment on function app_private.insert_keys(uuid, app_private.event_record[], text) is
  'Inserts the keys that are new, of several records with one key the first''s; those of deletions, too, that say which later records are older, where deletions are taken. Returns how many.';

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
  v_is_any_deletion boolean;
  v_new app_private.event_record[];
  v_known app_private.event_record[];
begin
  select count(*) filter (where r.source_id is not null and r.problem is null), count(r.problem), coalesce(bool_or(r.is_deletion), false)
    into v_keyed, v_rejected, v_is_any_deletion
    from app_private.unnest_records(p_records) r;
  if v_rejected > 0 then
    return query
      select (app_private.rejection(r.ordinal, r.problem)).* from app_private.unnest_records(p_records) r where r.problem is not null;
  end if;
  if app_private.insert_keys(p_tenant_id, p_records, p_on_conflict) = v_keyed and not v_is_any_deletion then
    return query select * from app_private.insert_events(p_tenant_id, p_records);
    return;
  end if;

  select array_agg(i.record) filter (where i.is_new), array_agg(i.record) filter (where not i.is_new)
    into v_new, v_known
    from (
      select r as record,
             r.source_id is null
               or (k.id is not distinct from r.id and not r.is_deletion and count(*) over (partition by r.source, r.source_id) = 1) as is_new
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

-- Of deletions, the time is not what their source says, but where the event was.
create or replace function app_private.said_of_batch(p_records app_private.event_record[], p_receipts app_hidden.event_receipt[])
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'sources', (select to_jsonb((array_agg(distinct nullif(r.source, '')))[1:10]) from app_private.unnest_records(p_records) r where r.problem is null),
    'from', min(w."timestamp"), 'to', max(w."timestamp")
  )
    from unnest(p_receipts) w where w.outcome in ('accepted', 'updated', 'deleted')
$$;
comment on function app_private.said_of_batch(app_private.event_record[], app_hidden.event_receipt[]) is
  'What the audit log has of a batch beside its counts: up to ten sources, and the time from the first event to the last.';

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
    perform app_private.write_audit(p_tenant_id, 'events.written', 'analytics_event', null, v_changes || app_private.said_of_batch(v_records, v_receipts));
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
  app_private.insert_keys(uuid, app_private.event_record[], text), app_private.insert_events(uuid, app_private.event_record[]),
  app_private.write_records(uuid, app_private.event_record[], text),
  app_private.said_of_batch(app_private.event_record[], app_hidden.event_receipt[]),
  app_private.write_event_list(uuid, jsonb[], text, boolean),
  app_hidden.write_events(uuid, jsonb, text, boolean)
from public;
--! EndIncluded functions/write_events.sql
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
  v_is_known boolean;
  v_outcome text;
  v_state text;
  v_content jsonb;
  v_change app_private.event_change;
  v_is_changed boolean := false;
  v_changes app_private.event_change[] := '{}';
begin
  -- Retention may have taken a key since it was in the way.
  perform app_private.insert_keys(p_tenant_id, p_records, p_on_conflict);
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
    if v_said.key_id is null and (v_said.is_whole or v_said.is_deletion and v_said.version is not null and p_on_conflict = 'update') then
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
      when v_said.is_deletion then
        -- Of one that was never here, too, if it says since when: its record may still come, older than this.
        case when v_state = 'present' or v_state = 'absent' and v_said.version is not null then 'deleted' else 'duplicate' end
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
      v_is_known := v_state = 'present';
      v_change.hash := coalesce(v_change.hash, v_said.hash);
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
      when v_outcome = 'deleted' and not v_is_known then row(v_said.ordinal, v_outcome, null, null, null, null, null, null)::app_hidden.event_receipt
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
--! Included functions/ingest.sql
-- Events of requests: the right, and the plan's limits. What arrives counts against those of a minute, in a transaction of its
-- own before the writing one: its locks last no longer than it (the caller commits it asynchronously, and a crash of PostgreSQL
-- forgets what was counted within its last second). What was written counts as one of a day's, and at the very end of the
-- transaction that writes it: what fails, is rejected or is there already costs nothing.

create or replace function app_private.assert_day(p_limit bigint, p_count bigint) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_count > p_limit then
    raise exception 'The plan''s events of this day (UTC) are used up.'
      using errcode = 'EA429', hint = 'events_per_day',
            detail = ceil(extract(epoch from date_trunc('day', clock_timestamp(), 'UTC') + interval '1 day' - clock_timestamp()))::text;
  end if;
end
$$;
comment on function app_private.assert_day(bigint, bigint) is 'EA429, with the seconds until midnight (UTC) as its detail, beyond the plan''s events_per_day.';

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
  -- Whoever has no more to write today is told so before anything is read.
  perform app_private.assert_day(v_plan.events_per_day, 1 + coalesce((
    select c.count from app_private.event_counts c
     where c.tenant_id = p_tenant_id and c.day = (clock_timestamp() at time zone 'UTC')::date
  ), 0));
  if v_key_id is not null and v_plan.key_events_per_minute is not null then
    perform app_private.take_attempts(
      'events of key ' || v_key_id, p_count, v_plan.key_events_per_minute, '1 minute', 'key_events_per_minute');
  end if;
  if v_plan.events_per_minute is not null then
    perform app_private.take_attempts('events ' || p_tenant_id, p_count, v_plan.events_per_minute, '1 minute', 'events_per_minute');
  end if;
end
$$;
comment on function app_hidden.admit_events(uuid, integer) is
  'Counts events that a request is about to write. With 0, it only says whether it may write. EA403 without events:write; EA429, with the seconds to wait as its detail and the limit as its hint, beyond the plan''s events_per_minute or key_events_per_minute, or when its events_per_day are used up.';

create or replace function app_private.count_events(p_tenant_id uuid, p_count bigint) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_count bigint;
  v_limit bigint;
begin
  -- Not a bucket: one that refills would let twice the quota through in a day.
  insert into app_private.event_counts as c (tenant_id, day, count)
  values (p_tenant_id, (clock_timestamp() at time zone 'UTC')::date, p_count)
  on conflict (tenant_id, day) do update set count = c.count + excluded.count
  returning count into v_count;
  select p.events_per_day into v_limit from public.tenants t join app_private.plans p on p.name = t.plan_type where t.id = p_tenant_id;
  perform app_private.assert_day(v_limit, v_count);
end
$$;
comment on function app_private.count_events(uuid, bigint) is
  'Counts events that were written. EA429 when they are more than the plan''s events_per_day still has.';

create or replace function app_hidden.ingest_events(p_tenant_id uuid, p_events json, p_on_conflict text, p_atomic boolean)
returns setof app_hidden.event_receipt
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_receipts app_hidden.event_receipt[];
  v_written bigint;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('events:write');
  if json_typeof(p_events) is distinct from 'array' then
    raise exception 'Events must be a JSON array.' using errcode = 'EA400';
  end if;
  -- Not jsonb as a whole: 5 MiB of {},{},... take a backend 1 GB to parse at once.
  v_receipts := array(
    select w
      from app_private.write_event_list(
        p_tenant_id, array(select e::jsonb from json_array_elements(p_events) e), p_on_conflict, p_atomic
      ) w
  );
  select count(*) into v_written from unnest(v_receipts) w where w.outcome in ('accepted', 'updated', 'deleted');
  if v_written > 0 then
    perform app_private.count_events(p_tenant_id, v_written);
  end if;
  return query select * from unnest(v_receipts);
end
$$;
comment on function app_hidden.ingest_events(uuid, json, text, boolean) is
  'write_events for a request of the tenant. EA403 without events:write; EA429 when it would write more than the plan''s events_per_day still has.';

revoke execute on function
  app_private.assert_day(bigint, bigint), app_private.count_events(uuid, bigint),
  app_hidden.admit_events(uuid, integer), app_hidden.ingest_events(uuid, json, text, boolean)
from public;
-- To all: an API key, too, has the right as a permission.
grant execute on function app_hidden.admit_events(uuid, integer), app_hidden.ingest_events(uuid, json, text, boolean)
to api_anonymous, api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/ingest.sql
-- ISO 4217 has funds, metals and units of account, too.
insert into app_private.currencies (code)
select unnest(string_to_array('BOV CHE CHW CLF COU MXV USN UYI UYW XAG XAU XBA XBB XBC XBD XDR XPD XPT XSU XTS XUA XXX', ' '))
on conflict do nothing;
comment on table app_private.currencies is 'ISO 4217: codes of currencies, funds, metals and units of account.';
