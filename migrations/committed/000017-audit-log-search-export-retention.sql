--! Previous: sha1:a0b67e7102d824447c41e1aee2db2608cc39eebb
--! Hash: sha1:f517d81042f53194b04182e9add32da914813372
--! Message: audit log search export retention

--! split: 1-current.sql
-- The audit log in use: search, history, export, retention.
set local lock_timeout = '5s';
--! Included functions/tenants.sql
create or replace function app_private.assert_settings(p_settings jsonb) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key text;
  v_value jsonb;
  v_expected text;
begin
  for v_key, v_value in select * from jsonb_each(p_settings) loop
    v_expected := case v_key
      when 'timeZone' then
        case when jsonb_typeof(v_value) <> 'string' or not exists (select from pg_timezone_names z where z.name = v_value #>> '{}' and z.name <> 'Factory')
          then 'the IANA name of a time zone, such as Europe/Berlin' end
      when 'currency' then
        case when jsonb_typeof(v_value) <> 'string' or not exists (select from app_private.currencies c where c.code = v_value #>> '{}')
          then 'an ISO 4217 code, such as EUR' end
      when 'weekStart' then case when v_value not in ('0', '1', '2', '3', '4', '5', '6') then 'a number from 0 (Sunday) to 6' end
      when 'fiscalYearStart' then
        case when v_value not in ('1', '2', '3', '4', '5', '6', '7', '8', '9', '10', '11', '12') then 'a month from 1 to 12' end
      when 'retentionDays' then
        case when jsonb_typeof(v_value) <> 'number' or (v_value #>> '{}') !~ '^[0-9]{1,5}$' or (v_value #>> '{}')::integer not between 30 and 36500
          then 'a number of days from 30 to 36500' end
      when 'auditRetentionDays' then
        case when jsonb_typeof(v_value) <> 'number' or (v_value #>> '{}') !~ '^[0-9]{1,5}$' or (v_value #>> '{}')::integer not between 90 and 36500
          then 'a number of days from 90 to 36500' end
      else 'absent: settings are timeZone, currency, weekStart, fiscalYearStart, retentionDays and auditRetentionDays'
    end;
    if v_expected is not null then
      raise exception 'Setting "%" is %; it must be %.', left(v_key, 100), left(v_value::text, 100), v_expected using errcode = 'EA400', detail = 'settings';
    end if;
  end loop;
end
$$;
comment on function app_private.assert_settings(jsonb) is 'EA400 unless each of a tenant''s settings is known and valid.';

create or replace function app_private.tg_check_tenant() returns trigger
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_plan app_private.plans;
begin
  if tg_op = 'INSERT' or new.settings <> old.settings then
    if jsonb_typeof(new.settings) <> 'object' then
      raise exception 'settings must be a JSON object.' using errcode = 'EA400', detail = 'settings';
    end if;
    perform app_private.assert_settings(new.settings);
  end if;
  if btrim(new.name) = '' then
    raise exception 'A tenant needs a name.' using errcode = 'EA400', detail = 'name';
  end if;
  if new.billing_email is not null and (tg_op = 'INSERT' or new.billing_email is distinct from old.billing_email) then
    perform app_private.assert_email(new.billing_email);
  end if;
  if new.domain is not null and (tg_op = 'INSERT' or new.domain is distinct from old.domain) then
    new.domain := rtrim(lower(new.domain), '.');
    -- An address, or a name without a dot, would make this tenant the one of whoever names none.
    if new.domain !~ '^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$' then
      raise exception '"%" is not a host name such as analytics.acme.example; with other letters, write it in Punycode.', left(new.domain, 253)
        using errcode = 'EA400', detail = 'domain';
    end if;
  end if;
  if not exists (select from app_private.plans where name = new.plan_type) then
    raise exception 'There is no plan "%". There are: %.', left(new.plan_type, 100), (select string_agg(name, ', ' order by max_users) from app_private.plans)
      using errcode = 'EA400', detail = 'planType';
  end if;
  if tg_op = 'UPDATE' then
    -- A plan brings its limits and features, unless the same statement sets others. Whoever buys one is no longer on trial.
    if new.plan_type <> old.plan_type then
      select * into v_plan from app_private.plans where name = new.plan_type;
      if new.max_users = old.max_users then new.max_users := coalesce(v_plan.max_users, new.max_users); end if;
      if new.max_integrations = old.max_integrations then new.max_integrations := coalesce(v_plan.max_integrations, new.max_integrations); end if;
      if new.features = old.features then new.features := coalesce(v_plan.features, new.features); end if;
      if old.plan_type = 'trial' and old.status = 'TRIAL' and new.status = old.status and new.trial_ends_at is not distinct from old.trial_ends_at then
        new.status := 'ACTIVE';
        new.trial_ends_at := null;
      end if;
      -- A trial has an end, and only the status TRIAL heeds it. Whoever is shut out stays so.
      if new.plan_type = 'trial' then
        if new.status = 'ACTIVE' then new.status := 'TRIAL'; end if;
        if new.trial_ends_at is not distinct from old.trial_ends_at then new.trial_ends_at := now() + interval '14 days'; end if;
      end if;
    end if;
    if new.slug = 'platform' and new.status <> 'ACTIVE' then
      raise exception 'The operator''s own tenant stays ACTIVE, or nobody could change it back.' using errcode = 'EA409';
    end if;
  end if;
  return new;
end
$$;
comment on function app_private.tg_check_tenant() is 'Validates settings, applies a new plan ("trial" is for 14 days, unless trial_ends_at is set with it), and keeps the operator''s tenant ACTIVE. EA400, EA409.';

create or replace function app_hidden.create_tenant(
  p_name text, p_slug text, p_admin_email text, p_plan text, p_trial_days integer, p_settings jsonb
)
returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_plan app_private.plans;
  v_email text := lower(btrim(p_admin_email));
  v_tenant_id uuid;
  v_user_id uuid;
begin
  if app_hidden.current_user_role() is distinct from 'SUPER_ADMIN' then
    raise exception 'Only a SUPER_ADMIN creates tenants.' using errcode = 'EA403';
  end if;
  select * into v_plan from app_private.plans where name = p_plan;
  if not found then
    raise exception 'There is no plan "%". There are: %.', left(coalesce(p_plan, ''), 100), (select string_agg(name, ', ' order by max_users) from app_private.plans)
      using errcode = 'EA400';
  end if;
  if p_trial_days is not null and (p_plan <> 'trial' or p_trial_days not between 1 and 365) then
    raise exception 'trialDays is %; it may be from 1 to 365, with the plan "trial" only.', p_trial_days using errcode = 'EA400';
  end if;
  perform app_private.assert_email(v_email);
  insert into public.tenants (name, slug, status, plan_type, max_users, max_integrations, features, settings, billing_email, trial_ends_at)
  values (
    p_name, p_slug, case when p_plan = 'trial' then 'TRIAL' else 'ACTIVE' end::public.tenant_status,
    p_plan, v_plan.max_users, v_plan.max_integrations, v_plan.features, coalesce(p_settings, '{}'), v_email,
    case when p_plan = 'trial' then now() + make_interval(days => coalesce(p_trial_days, 14)) end
  )
  returning id into v_tenant_id;
  insert into public.users (tenant_id, email, role, status) values (v_tenant_id, v_email, 'ADMIN', 'INVITED') returning id into v_user_id;
  perform app_private.issue_token(v_tenant_id, v_user_id, 'invitation', v_email);
  return v_tenant_id;
end
$$;
comment on function app_hidden.create_tenant(text, text, text, text, integer, jsonb) is
  'Makes a tenant with the limits and features of its plan, and invites its first admin. EA400, EA403.';

-- The visit is a session of the operator's own tenant, which names the tenant it is for.
create or replace function app_hidden.enter_tenant(
  p_tenant_id uuid, p_role public.user_role, p_reason text, p_minutes integer, p_refresh_token_hash bytea
)
returns table (session_id uuid, expires_at timestamptz)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_home_id uuid := app_hidden.current_tenant_id();
  v_user_id uuid := app_hidden.require_user();
  v_session public.sessions;
  v_visit jsonb := jsonb_build_object('role', p_role, 'reason', btrim(p_reason), 'minutes', p_minutes);
begin
  if app_hidden.current_user_role() is distinct from 'SUPER_ADMIN' then
    raise exception 'Only a SUPER_ADMIN enters tenants.' using errcode = 'EA403';
  end if;
  if p_role is null or p_role = 'SUPER_ADMIN' then
    raise exception 'Enter a tenant as ADMIN, USER or VIEWER.' using errcode = 'EA400';
  end if;
  if p_minutes is null or p_minutes not between 1 and 240 then
    raise exception 'minutes is %; it may be from 1 to 240.', p_minutes using errcode = 'EA400';
  end if;
  if p_reason is null or length(btrim(p_reason)) not between 5 and 500 then
    raise exception 'A reason of 5 to 500 characters is required: the tenant''s admins will read it.' using errcode = 'EA400';
  end if;
  if p_tenant_id = v_home_id or not exists (select from public.tenants where id = p_tenant_id and status <> 'CANCELLED') then
    raise exception 'There is no tenant % to enter.', p_tenant_id using errcode = 'EA404';
  end if;
  insert into public.sessions (tenant_id, user_id, expires_at, ip_address, user_agent, entered_tenant_id, entered_role, entered_reason)
  values (
    v_home_id, v_user_id, now() + make_interval(mins => p_minutes),
    nullif(current_setting('app.ip_address', true), ''), nullif(current_setting('app.user_agent', true), ''),
    p_tenant_id, p_role, btrim(p_reason)
  )
  returning * into v_session;
  insert into app_private.refresh_tokens (tenant_id, session_id, token_hash) values (v_home_id, v_session.id, p_refresh_token_hash);
  perform app_private.write_audit(v_home_id, 'tenant.entered', 'tenant', p_tenant_id::text, v_visit);
  perform app_private.write_audit(p_tenant_id, 'tenant.entered', 'tenant', p_tenant_id::text, v_visit);
  return query select v_session.id, v_session.expires_at;
end
$$;
comment on function app_hidden.enter_tenant(uuid, public.user_role, text, integer, bytea) is
  'Opens an operator''s session in a tenant, recorded in both logs. EA400, EA403, EA404.';

revoke execute on function
  app_private.assert_settings(jsonb), app_private.tg_check_tenant(),
  app_hidden.create_tenant(text, text, text, text, integer, jsonb),
  app_hidden.enter_tenant(uuid, public.user_role, text, integer, bytea)
from public;
grant execute on function
  app_hidden.create_tenant(text, text, text, text, integer, jsonb),
  app_hidden.enter_tenant(uuid, public.user_role, text, integer, bytea)
to api_super_admin;
--! EndIncluded functions/tenants.sql
--! Included functions/audit_search.sql
-- Full text over what the log says was changed, and the log as a file.

create or replace function app_private.audit_words(p_tenant_id uuid, p_changes jsonb) returns tsvector
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
  -- A tsvector has at most 1 MiB; without its end a row is found less often, and with it could not be written.
  select array_to_tsvector(array['tenant:' || p_tenant_id])
      || case when octet_length(p_changes::text) <= 200000 then jsonb_to_tsvector('simple', p_changes, '["all"]')
              else to_tsvector('simple', left(p_changes::text, 50000)) end
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
comment on column public.tenants.settings is
  'timeZone (IANA), currency (ISO 4217), weekStart (0 is Sunday), fiscalYearStart (month), retentionDays (of events), auditRetentionDays (of the audit log; without it, for good). An update replaces them all: send those that stay, too.';

-- Of an actor, an action or a thing, in the order of time. They replace those without time.
-- squawk-ignore require-concurrent-index-creation
create index if not exists audit_logs_actor_time_idx on public.audit_logs (tenant_id, actor_id, created_at);
-- squawk-ignore require-concurrent-index-creation
create index if not exists audit_logs_action_time_idx on public.audit_logs (tenant_id, action, created_at);
-- squawk-ignore require-concurrent-index-creation
create index if not exists audit_logs_resource_time_idx on public.audit_logs (tenant_id, resource, resource_id, created_at);
-- squawk-ignore require-concurrent-index-creation
create index if not exists audit_logs_words_idx on public.audit_logs using gin (app_private.audit_words(tenant_id, changes));
-- squawk-ignore require-concurrent-index-deletion
drop index if exists public.audit_logs_action_idx, public.audit_logs_resource_idx;
