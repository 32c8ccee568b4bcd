--! Previous: sha1:5ccc48a8d6741dc38f96b3f7b616ef9d335953a2
--! Hash: sha1:82e115d0023d10a8fad54edef944b99c3bc536f0
--! Message: audit words planned once

--! split: 1-current.sql
-- The words of the audit log, planned once.
set local lock_timeout = '5s';
--! Included functions/audit_search.sql
-- Full text over what the log says was changed, and the log as a file.

-- Not in SQL: every statement that writes a row would plan it anew, which takes longer than all else that auditing does.
create or replace function app_private.audit_words(p_tenant_id uuid, p_changes jsonb) returns tsvector
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant tsvector := array_to_tsvector(array['tenant:' || p_tenant_id]);
begin
  -- A tsvector has at most 1 MiB; without its end a row is found less often, and with it could not be written.
  if octet_length(p_changes::text) > 200000 then
    return v_tenant || to_tsvector('simple', left(p_changes::text, 50000));
  end if;
  return v_tenant || jsonb_to_tsvector('simple', p_changes, '["all"]');
end
$$;
comment on function app_private.audit_words(uuid, jsonb) is
  'The words of keys and values, as they are, and the tenant as one more: an index on it finds a tenant''s rows alone.';

create or replace function app_hidden.search_audit_logs(p_search text, p_since timestamptz, p_until timestamptz)
returns setof public.audit_logs
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
rows 100
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_words tsquery := websearch_to_tsquery('simple', left(p_search, 1000));
  v_first timestamptz;
  v_from timestamptz;
  v_to timestamptz;
  v_found integer;
  v_left integer := 1000;
begin
  perform app_hidden.require_audit_read();
  if length(p_search) > 1000 then
    raise exception 'search has % characters; at most 1,000 are permitted.', length(p_search) using errcode = 'EA400';
  end if;
  -- Of words that must not be there alone, no index knows where they are not.
  if querytree(v_words) in ('', 'T') then
    raise exception 'search has no word to look for.' using errcode = 'EA400';
  end if;
  v_words := format('''tenant:%s''', v_tenant_id)::tsquery && v_words;
  select min(l.created_at), max(l.created_at) + interval '1 microsecond' into v_first, v_to
    from public.audit_logs l where l.tenant_id = v_tenant_id;
  v_first := greatest(v_first, p_since);
  v_to := least(v_to, p_until);
  -- Month by month, the newest first: a word that is everywhere costs no more than one of them.
  while v_to > v_first and v_left > 0 loop
    v_from := greatest(v_first, date_trunc('month', v_to - interval '1 microsecond', 'UTC'));
    return query
      with found as materialized (
        select * from public.audit_logs l
         where l.tenant_id = v_tenant_id and l.created_at >= v_from and l.created_at < v_to
           and app_private.audit_words(l.tenant_id, l.changes) @@ v_words
           -- Every search would find itself.
           and l.resource <> 'audit_log'
      )
      select * from found f order by f.created_at desc, f.id desc limit v_left;
    get diagnostics v_found = row_count;
    v_left := v_left - v_found;
    v_to := v_from;
  end loop;
end
$$;
comment on function app_hidden.search_audit_logs(text, timestamptz, timestamptz) is
  'The newest 1,000 rows of this request''s tenant whose changes have these words, as a web search has them. EA400 without a word; EA403 unless the request may read the log, and is on record for it.';

create or replace function public.search_audit_logs(search text, since timestamptz default null, until timestamptz default null)
returns setof public.audit_logs
language plpgsql stable
set search_path = pg_catalog, pg_temp
rows 100
as $$
begin
  return query select * from app_hidden.search_audit_logs(search, since, until);
end
$$;
comment on function public.search_audit_logs(text, timestamptz, timestamptz) is
  'Full text over changes: words of keys and values, all of them, in any case; "words in a row" in quotes, or, and - before a word that must not be there. The newest 1,000 rows from since (included) until (not included), without the records of who read the log (resource audit_log).';

create or replace function app_hidden.read_sealed_rows(p_tenant_id uuid, p_after bigint)
returns table (seal bigint, sequence bigint, content text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_number bigint := p_after;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_audit_read();
  loop
    select s.number into v_number
      from app_private.audit_seals s where s.tenant_id = p_tenant_id and s.number > v_number order by s.number limit 1;
    exit when not found;
    return query
      select v_number, r.sequence, r.content from app_private.sealed_rows(p_tenant_id, v_number) r order by r.sequence;
    exit when found;
  end loop;
end
$$;
comment on function app_hidden.read_sealed_rows(uuid, bigint) is
  'The rows of the first seal after p_after that still has some, as they were sealed; none at the end of the log. EA403 unless the request may read the log, and is on record for it.';

create or replace function app_hidden.audit_retention() returns table (tenant_id uuid, kept_since timestamptz)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select t.id, now() - make_interval(days => (t.settings ->> 'auditRetentionDays')::integer)
      from public.tenants t
     where t.settings ? 'auditRetentionDays'
     order by t.id;
end
$$;
comment on function app_hidden.audit_retention() is 'Tenants that do not keep their log for good, and since when they do; never less than app_private.audit_floor().';

revoke execute on function
  app_private.audit_words(uuid, jsonb), app_hidden.search_audit_logs(text, timestamptz, timestamptz),
  public.search_audit_logs(text, timestamptz, timestamptz), app_hidden.read_sealed_rows(uuid, bigint), app_hidden.audit_retention()
from public;
grant execute on function
  app_hidden.search_audit_logs(text, timestamptz, timestamptz), public.search_audit_logs(text, timestamptz, timestamptz),
  app_hidden.read_sealed_rows(uuid, bigint)
to api_viewer, api_user, api_admin, api_super_admin;
grant execute on function app_hidden.audit_retention() to erp_worker;
--! EndIncluded functions/audit_search.sql
