--! Previous: sha1:9dce0ff4f36ea1bb49107d203b917eca16b08166
--! Hash: sha1:3ad5f189d789fb9277de1f60def784658d3f096b
--! Message: audit rows that can be sealed

--! split: 1-current.sql
-- Rows of the audit log that could not be sealed, or hide from who verifies; passwords with an @ in URLs.
set local lock_timeout = '5s';
--! Included functions/audit.sql
create or replace function app_private.write_audit(
  p_tenant_id uuid, p_action text, p_resource text, p_resource_id text, p_changes jsonb,
  p_user_id uuid default null, p_user_name text default null
)
returns uuid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_impersonator_id uuid := nullif(current_setting('app.impersonator_id', true), '');
  v_key_id uuid := nullif(current_setting('app.api_key_id', true), '');
  v_user_id uuid := coalesce(p_user_id, app_hidden.current_user_id());
  -- The login decides who acts; settings, which plain SQL can set as it likes, only say which user of the API it is.
  v_kind text := case session_user
    when 'erp_authenticator' then case
      when v_impersonator_id is not null then 'impersonator'
      when v_key_id is not null then 'api_key'
      when v_user_id is not null then 'user'
      else 'anonymous'
    end
    when 'erp_worker' then 'job'
    else case when app_hidden.session_tenant_id() is null then 'database' else 'analyst' end
  end;
  v_is_sql boolean := v_kind in ('database', 'analyst');
  v_id uuid;
begin
  insert into public.audit_logs (
    tenant_id, user_id, actor_kind, actor_id, actor_name, impersonator_id, impersonator_name,
    action, resource, resource_id, changes, ip_address, user_agent, request_id, session_id
  )
  values (
    p_tenant_id,
    -- The actor may belong to another tenant, or be the row that is being deleted.
    case when v_kind = 'user' then (select u.id from public.users u where u.tenant_id = p_tenant_id and u.id = v_user_id) end,
    v_kind,
    case v_kind when 'impersonator' then v_impersonator_id when 'api_key' then v_key_id when 'user' then v_user_id end,
    case when v_is_sql then session_user::text else coalesce(p_user_name, nullif(current_setting('app.actor_name', true), '')) end,
    case when v_kind = 'impersonator' then v_impersonator_id end,
    case when v_kind = 'impersonator' then nullif(current_setting('app.impersonator_name', true), '') end,
    p_action, p_resource, p_resource_id,
    -- What nobody reads, and whoever seals and verifies would have to hold on a stack.
    case when p_changes @? 'strict $.**{100}' then jsonb_build_object('tooDeep', left(p_changes::text, 10000)) else p_changes end,
    case when v_is_sql then host(inet_client_addr()) else nullif(current_setting('app.ip_address', true), '') end,
    nullif(current_setting(case when v_is_sql then 'application_name' else 'app.user_agent' end, true), ''),
    case when not v_is_sql then nullif(current_setting('app.request_id', true), '') end,
    case when v_kind in ('user', 'impersonator') then app_hidden.current_session_id() end
  )
  returning id into v_id;
  return v_id;
end
$$;
comment on function app_private.write_audit(uuid, text, text, text, jsonb, uuid, text) is
  'Writes an audit row for whoever acts in this transaction, and returns its id. p_user_id and p_user_name: a user whose session only begins in it.';

create or replace function app_private.operator_tenant_id() returns uuid
language sql stable
set search_path = pg_catalog, pg_temp
as $$ select t.id from public.tenants t where t.slug = 'platform' $$;
comment on function app_private.operator_tenant_id() is 'The operator''s own tenant, whose log has what belongs to no tenant; null where there is none.';

-- The words are 'column=action' or 'column:value=action', the most telling first, and 'INSERT=action', 'DELETE=action'.
create or replace function app_private.audit_action(p_resource text, p_operation text, p_before jsonb, p_after jsonb, p_words text[])
returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_word text;
  v_column text;
  v_value text;
begin
  foreach v_word in array p_words loop
    v_column := split_part(split_part(v_word, '=', 1), ':', 1);
    v_value := split_part(split_part(v_word, '=', 1), ':', 2);
    if v_column = p_operation
      or (p_operation = 'UPDATE' and (p_before ? v_column or p_after ? v_column) and v_value in ('', p_after ->> v_column))
    then
      return split_part(v_word, '=', 2);
    end if;
  end loop;
  return p_resource || case p_operation when 'INSERT' then '.created' when 'UPDATE' then '.updated' else '.deleted' end;
end
$$;
comment on function app_private.audit_action(text, text, jsonb, jsonb, text[]) is 'What a change is called: <resource>.created, .updated or .deleted, or a more telling word.';

-- Arguments of the trigger: the resource's name (the table's would be a shard's on Citus), the column that identifies
-- it, the paths whose change is recorded but not their value, the columns whose change alone is not worth a record, and
-- words for audit_action. A last one, 'by_sql', is for tables that functions of ours write, which record what they do in
-- words of their own: then only what plain SQL does is recorded.
create or replace function app_private.tg_audit() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_resource text := tg_argv[0];
  v_secret text[] := tg_argv[2];
  v_ignored text[] := tg_argv[3];
  v_words text[] := coalesce(tg_argv[4], '{}');
  v_row jsonb := case when tg_op = 'DELETE' then to_jsonb(old) else to_jsonb(new) end;
  v_old jsonb := case when tg_op = 'INSERT' then '{}' else to_jsonb(old) - v_ignored end;
  v_new jsonb := case when tg_op = 'DELETE' then '{}' else v_row - v_ignored end;
  v_before jsonb := v_old;
  v_after jsonb := v_new;
  v_tenant_id uuid;
  v_context text;
begin
  if tg_argv[5] = 'by_sql' then
    -- Whoever calls is read from the stack, which no setting changes.
    get diagnostics v_context = pg_context;
    if v_context ~ '(?n)^PL/pgSQL function app_(hidden|private)\.(?!tg_)' then
      return null;
    end if;
  end if;
  if tg_op = 'UPDATE' then
    if v_old = v_new then
      return null;
    end if;
    select coalesce(jsonb_object_agg(o.key, o.value), '{}') into v_before
      from jsonb_each(v_old) o where v_new -> o.key is distinct from o.value;
    select coalesce(jsonb_object_agg(n.key, n.value), '{}') into v_after
      from jsonb_each(v_new) n where v_old -> n.key is distinct from n.value;
  end if;

  -- In a cascade the tenant is already gone, and its log with it; the record of that goes to the operator's tenant, and so
  -- does what belongs to no tenant.
  if v_resource = 'tenant' and tg_op <> 'DELETE' then
    v_tenant_id := v_row ->> 'id';
  elsif v_resource <> 'tenant' and v_row ? 'tenant_id' then
    v_tenant_id := v_row ->> 'tenant_id';
    if tg_op <> 'INSERT' and not exists (select from public.tenants t where t.id = v_tenant_id) then
      return null;
    end if;
  else
    v_tenant_id := app_private.operator_tenant_id();
  end if;
  if v_tenant_id is not null then
    perform app_private.write_audit(
      v_tenant_id,
      app_private.audit_action(v_resource, tg_op, v_before, v_after, v_words),
      v_resource,
      v_row ->> tg_argv[1],
      jsonb_build_object('before', app_private.redact(v_before, v_secret), 'after', app_private.redact(v_after, v_secret))
    );
  end if;
  return null;
end
$$;
comment on function app_private.tg_audit() is 'Writes the audit row of a change, in its transaction, with the changed keys only.';

create or replace function app_private.tg_touch() returns trigger
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  new.updated_at := now();
  return new;
end
$$;
comment on function app_private.tg_touch() is 'Keeps updated_at.';

revoke execute on function
  app_private.write_audit(uuid, text, text, text, jsonb, uuid, text), app_private.operator_tenant_id(),
  app_private.audit_action(text, text, jsonb, jsonb, text[]), app_private.tg_audit(), app_private.tg_touch()
from public;
--! EndIncluded functions/audit.sql
--! Included functions/audit_redaction.sql
-- What a secret looks like, by the name of its key and by itself. Columns that are declared secret need none of this; it is
-- for what people put into JSON and into free text.
create or replace function app_private.is_secret_key(p_key text) returns boolean
language sql immutable parallel safe
as $$
  select p_key ~* '(passw|passphrase|secret|credential|token|api[_-]?key|access[_-]?key|private[_-]?key|signing[_-]?key|encryption[_-]?key|wrapped|authori[sz]ation|bearer|cookie|cipher|^(auth|pwd|pin|otp|cvv|cvc|ssn|iban)$)'
$$;
comment on function app_private.is_secret_key(text) is 'Whether what has this name is a secret.';

create or replace function app_private.redact_text(p_text text) returns text
language sql immutable parallel safe
as $$
  select regexp_replace(
    regexp_replace(p_text, '(://[^/\s:@]*:)[^/\s]+@', '\1***@', 'g'),
    '(\m[Bb]earer\s+)?\m(eyJ[\w-]{10,}\.[\w-]+\.[\w-]+|erp_(test|live)_\w+|[spr]k_(test|live)_\w+|EAA\w{20,}|(shp|xox)[a-z]{1,3}[_-][\w-]+|gh[pousr]_\w+)|\m[Bb]earer\s+[\w.~+/-]{8,}=*',
    '\1***', 'g'
  )
$$;
comment on function app_private.redact_text(text) is 'The text without passwords in URLs, bearer tokens, JSON Web Tokens, and keys of ours and of providers.';

create or replace function app_private.redact_secrets(p_value jsonb) returns jsonb
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
  case jsonb_typeof(p_value)
    when 'object' then
      return (
        select coalesce(jsonb_object_agg(
                 e.key,
                 case
                   when e.value not in ('null', '"***"') and app_private.is_secret_key(e.key) then '"***"'
                   else app_private.redact_secrets(e.value)
                 end
               ), '{}')
          from jsonb_each(p_value) e
      );
    when 'array' then
      return (select coalesce(jsonb_agg(app_private.redact_secrets(e.value) order by e.ordinality), '[]') from jsonb_array_elements(p_value) with ordinality e);
    when 'string' then
      return to_jsonb(app_private.redact_text(p_value #>> '{}'));
    else
      return p_value;
  end case;
end
$$;
comment on function app_private.redact_secrets(jsonb) is 'The value with "***" for what is secret by its key or by itself, however deep.';

create or replace function app_private.redact_path(p_value jsonb, p_path text[]) returns jsonb
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_value is null or p_value = 'null' then
    return p_value;
  end if;
  if p_path = '{}' then
    return '"***"';
  end if;
  case jsonb_typeof(p_value)
    when 'object' then
      return (
        select coalesce(jsonb_object_agg(e.key, case when p_path[1] in (e.key, '*') then app_private.redact_path(e.value, p_path[2:]) else e.value end), '{}')
          from jsonb_each(p_value) e
      );
    when 'array' then
      return (
        select coalesce(jsonb_agg(case when p_path[1] in ((e.ordinality - 1)::text, '*') then app_private.redact_path(e.value, p_path[2:]) else e.value end order by e.ordinality), '[]')
          from jsonb_array_elements(p_value) with ordinality e
      );
    else
      return p_value;
  end case;
end
$$;
comment on function app_private.redact_path(jsonb, text[]) is 'The value with "***" where the path leads; "*" is every key, and every place of an array.';

-- One look at the text decides, for nearly all rows, that there is nothing to do.
create or replace function app_private.redact(p_value jsonb, p_paths text[]) returns jsonb
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
  v_value jsonb := p_value;
  v_path text;
begin
  foreach v_path in array p_paths loop
    if v_value ? split_part(v_path, '.', 1) then
      v_value := app_private.redact_path(v_value, string_to_array(v_path, '.'));
    end if;
  end loop;
  if v_value::text ~* 'pass|secret|credential|token|[ei][_-]?key|ss[_-]?key|g[_-]?key|n[_-]?key|wrapped|auth|bearer|cookie|cipher|://[^/\s:@]*:[^/\s@]+@|eyj|"(pwd|pin|otp|cvv|cvc|ssn|iban)"|[kp]_(test|live)_|EAA|shp|xox|gh[pousr]_' then
    v_value := app_private.redact_secrets(v_value);
  end if;
  return v_value;
end
$$;
comment on function app_private.redact(jsonb, text[]) is 'An object without its secrets: those at declared paths, such as "password_hash" or "config.webhook.key", and those that look like some.';

revoke execute on function
  app_private.is_secret_key(text), app_private.redact_text(text), app_private.redact_secrets(jsonb),
  app_private.redact_path(jsonb, text[]), app_private.redact(jsonb, text[])
from public;
--! EndIncluded functions/audit_redaction.sql
do $$
begin
  if not exists (select from pg_constraint where conrelid = 'public.audit_logs'::regclass and conname = 'audit_logs_place_check') then
    alter table public.audit_logs add constraint audit_logs_place_check check (transaction_id >= 0 and isfinite(created_at)) not valid;
    -- squawk-ignore constraint-missing-not-valid
    alter table public.audit_logs validate constraint audit_logs_place_check;
  end if;
end
$$;
