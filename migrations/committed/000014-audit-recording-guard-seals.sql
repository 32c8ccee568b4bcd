--! Previous: sha1:1acbfc237952e476c77eaa1765221447ce691042
--! Hash: sha1:c6a7bfde549825ae43d6960dd23dd70abbfbbc3b
--! Message: audit: recording, guard, seals

--! split: 1-current.sql
set local lock_timeout = '5s';


-- Returns the row's id now.
do $$
begin
  if exists (
    select from pg_proc p
     where p.oid = to_regprocedure('app_private.write_audit(uuid, text, text, text, jsonb, uuid, text)') and p.prorettype = 'void'::regtype
  ) then
    drop function app_private.write_audit(uuid, text, text, text, jsonb, uuid, text);
  end if;
end
$$;

--! Included functions/audit_place.sql
-- Where a row of the audit log was written. What orders rows is the transaction, not the time: clocks step, and a
-- transaction that began early may end late.
create or replace function app_private.cluster_id() returns bigint
language sql stable
as $$ select system_identifier from pg_catalog.pg_control_system() $$;
comment on function app_private.cluster_id() is
  'This cluster''s system identifier. A restore into another cluster has another: transactions of there have ended.';

create or replace function app_private.transaction_id() returns bigint
language sql volatile
as $$ select pg_catalog.pg_current_xact_id()::text::bigint $$;
comment on function app_private.transaction_id() is 'This transaction''s id, in 64 bits: it never comes again in a cluster. As a bigint, for indexes.';

revoke execute on function app_private.cluster_id(), app_private.transaction_id() from public;
--! EndIncluded functions/audit_place.sql
-- Rows from before count as those of another cluster, 0: what wrote them has ended long ago.
alter table public.audit_logs
  add column if not exists cluster_id bigint not null default 0,
  add column if not exists transaction_id bigint not null default 0;
alter table public.audit_logs
  alter column cluster_id set default app_private.cluster_id(),
  alter column transaction_id set default app_private.transaction_id();
comment on column public.audit_logs.cluster_id is 'PostgreSQL cluster (system identifier) in which the row was written.';
comment on column public.audit_logs.transaction_id is 'Transaction that wrote the row: rows that were written together share it.';

-- Small: no index of this table needs to be built beside its writers yet.
-- squawk-ignore require-concurrent-index-creation
create index if not exists audit_logs_sealing_idx on public.audit_logs (tenant_id, cluster_id, transaction_id, id);
comment on index public.audit_logs_sealing_idx is 'The order in which rows are sealed and verified.';
-- squawk-ignore require-concurrent-index-creation
create index if not exists audit_logs_transaction_idx on public.audit_logs using brin (transaction_id) with (pages_per_range = 32);
comment on index public.audit_logs_transaction_idx is 'Finds the tenants with new rows; costs writers nothing.';

do $$
begin
  if not exists (
    select from pg_constraint where conrelid = 'public.audit_logs'::regclass and conname = 'audit_logs_actor_kind_check'
       and pg_get_constraintdef(oid) ~ 'analyst'
  ) then
    alter table public.audit_logs drop constraint audit_logs_actor_kind_check;
    alter table public.audit_logs add constraint audit_logs_actor_kind_check
      check (actor_kind in ('user', 'anonymous', 'job', 'database', 'api_key', 'impersonator', 'analyst')) not valid;
    -- squawk-ignore constraint-missing-not-valid
    alter table public.audit_logs validate constraint audit_logs_actor_kind_check;
  end if;
end
$$;
comment on table public.audit_logs is
  'Who did what. Written in the transaction of the change; nobody can alter it unseen: docs/audit.md. Reading it is recorded in it.';
comment on column public.audit_logs.actor_kind is
  'user, api_key, impersonator (an operator who entered the tenant), job, analyst (a login that reads one tenant), database (plain SQL) or anonymous.';
comment on column public.audit_logs.action is 'What was done, for example user.role_changed.';
comment on column public.audit_logs.changes is
  '{"before": {...}, "after": {...}} with the changed keys only; for what is no change, what there is to know. Secrets read "***".';

create table if not exists app_private.audit_keys (
  key_id text primary key,
  public_key bytea not null check (length(public_key) = 32),
  kek_id text,
  wrapped_private_key bytea,
  created_at timestamptz not null default now(),
  retired_at timestamptz,
  endorsed_by text references app_private.audit_keys (key_id) on delete restrict,
  endorsement bytea,
  check ((endorsed_by is null) = (endorsement is null))
);
-- squawk-ignore require-concurrent-index-creation
create index if not exists audit_keys_endorsed_by_idx on app_private.audit_keys (endorsed_by);
comment on table app_private.audit_keys is
  'Ed25519 keys of audit seals. Public ones stay for ever; a private one, wrapped by a key-encryption key, until it is replaced.';
comment on column app_private.audit_keys.endorsement is 'Signature of the key before it over this one: who knows one key knows its successors.';

create table if not exists app_private.audit_seals (
  tenant_id uuid not null,
  number bigint not null check (number > 0),
  first_sequence bigint not null check (first_sequence > 0),
  row_count integer not null check (row_count > 0),
  cluster_id bigint not null,
  last_transaction_id bigint not null,
  last_id uuid not null,
  rows bytea not null check (length(rows) = 48 * row_count),
  chain bytea not null check (length(chain) = 32),
  previous_seal bytea not null check (length(previous_seal) = 32),
  hash bytea not null check (length(hash) = 32),
  key_id text not null references app_private.audit_keys (key_id) on delete restrict,
  signature bytea not null check (length(signature) = 64),
  sealed_at timestamptz not null,
  primary key (tenant_id, number),
  unique (tenant_id, first_sequence),
  unique (tenant_id, cluster_id, last_transaction_id, last_id)
);
alter table app_private.audit_seals alter column rows set storage external;
-- squawk-ignore require-concurrent-index-creation
create index if not exists audit_seals_key_idx on app_private.audit_seals (key_id);
comment on table app_private.audit_seals is
  'Seals of the audit log: docs/audit-format.md. They outlive their tenant, so that the anchors stay explained.';
comment on column app_private.audit_seals.rows is 'Of each row that it seals, in their order: id (16 bytes) and SHA-256 of its canonical JSON (32).';
comment on column app_private.audit_seals.chain is 'SHA-256 over the chain before and the row''s hash, of the last row.';
comment on column app_private.audit_seals.hash is 'SHA-256 of the seal without its signature: the next one''s previous_seal.';

create table if not exists app_private.audit_purges (
  tenant_id uuid not null,
  through_seal bigint not null,
  through_sequence bigint not null,
  row_count bigint not null,
  kept_since timestamptz not null,
  transaction_id bigint not null default app_private.transaction_id(),
  purged_at timestamptz not null default now(),
  primary key (tenant_id, through_seal)
);
comment on table app_private.audit_purges is
  'What retention took from audit logs. Its own rows allow the deletion, in their transaction; the log has a record of each.';

create table if not exists app_private.audit_anchorings (
  anchor_id uuid not null,
  tenant_id uuid not null,
  number bigint not null,
  anchored_at timestamptz not null default now(),
  primary key (anchor_id, tenant_id)
);
-- squawk-ignore require-concurrent-index-creation
create index if not exists audit_anchorings_tenant_idx on app_private.audit_anchorings (tenant_id, number);
comment on table app_private.audit_anchorings is 'Up to which seal of a tenant each anchor has them.';

create table if not exists app_private.audit_sealing (
  is_only boolean primary key default true check (is_only),
  cluster_id bigint,
  sealed_below bigint,
  sealed_as_of timestamptz,
  unanchored_since timestamptz,
  ran_at timestamptz
);
insert into app_private.audit_sealing default values on conflict do nothing;
comment on table app_private.audit_sealing is 'How far sealing has come: transactions below sealed_below, and what was written before sealed_as_of, are sealed.';

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
    regexp_replace(p_text, '(://[^/\s:@]*:)[^/\s@]+@', '\1***@', 'g'),
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
    p_action, p_resource, p_resource_id, p_changes,
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
--! Included functions/audit_events.sql
-- Events are recorded by batch: write_events says what it wrote, and this trigger what plain SQL did.
create or replace function app_private.tg_audit_events() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_context text;
  v_batch record;
begin
  -- Whoever calls is read from the stack, which no setting changes. Who sets out to mislead it owns the table, and could as
  -- well disable the trigger.
  get diagnostics v_context = pg_context;
  if v_context ~ '(?n)^PL/pgSQL function app_(private\.write_event_list|private\.purge_tenant_events|hidden\.promote_subjects)\(' then
    return null;
  end if;
  for v_batch in execute format(
    'select e.tenant_id, count(*) as count, min(e."timestamp") as earliest, max(e."timestamp") as latest,
            (array_agg(distinct e.source))[1:10] as sources
       from %s e
      where exists (select from public.tenants t where t.id = e.tenant_id)
      group by e.tenant_id', case when tg_op = 'DELETE' then 'old_rows' else 'new_rows' end
  ) loop
    perform app_private.write_audit(
      v_batch.tenant_id, 'events.' || case tg_op when 'INSERT' then 'inserted' when 'UPDATE' then 'updated' else 'deleted' end,
      'analytics_event', null,
      jsonb_build_object('count', v_batch.count, 'from', v_batch.earliest, 'to', v_batch.latest, 'sources', to_jsonb(v_batch.sources))
    );
  end loop;
  return null;
end
$$;
comment on function app_private.tg_audit_events() is 'Records, by tenant, what a statement of plain SQL did to events.';

revoke execute on function app_private.tg_audit_events() from public;
--! EndIncluded functions/audit_events.sql
--! Included functions/audit_guard.sql
-- Nobody changes the audit log, whatever their grants: its owner and superusers neither. Whoever owns a table can also
-- disable its triggers; that leaves rows that are not what was sealed, which `npm run audit:verify` names.
create or replace function app_private.tg_guard_audit() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_partition regclass;
  v_found boolean;
begin
  if tg_op = 'UPDATE' and old.user_id is not null and new.user_id is null then
    -- The foreign key's doing: the user is gone, and all else is equal.
    perform from public.users u where u.tenant_id = old.tenant_id and u.id = old.user_id;
    v_found := found;
    old.user_id := null;
    if not v_found and new is not distinct from old then
      return new;
    end if;
  elsif tg_op = 'DELETE' then
    -- Its tenant is gone, or going, of which the operator's log has a record.
    if not exists (select from public.tenants t where t.id = old.tenant_id)
      or exists (select from app_private.tenant_deletions d where d.tenant_id = old.tenant_id and d.keys_destroyed_at is not null)
    then
      return old;
    end if;
    -- Retention, in the transaction that recorded it, and no further than it said.
    if exists (
      select from app_private.audit_purges p
        join app_private.audit_seals s on s.tenant_id = p.tenant_id and s.number <= p.through_seal
       where p.tenant_id = old.tenant_id and p.transaction_id = app_private.transaction_id() and p.purged_at = now()
         and old.created_at < p.kept_since
         and s.cluster_id = old.cluster_id and (s.last_transaction_id, s.last_id) >= (old.transaction_id, old.id)
    ) then
      return old;
    end if;
    -- From the default partition to the month's, where an exact copy is: nothing goes.
    v_partition := to_regclass(format('partitions.audit_logs_%s', to_char(old.created_at, 'YYYYMM')));
    if tg_table_name = 'audit_logs_default' and v_partition is not null then
      execute format('select exists (select from %s c where c.tenant_id = $1 and c.created_at = $2 and c.id = $3 and to_jsonb(c) = $4)', v_partition)
        into v_found using old.tenant_id, old.created_at, old.id, to_jsonb(old);
      if v_found then
        return old;
      end if;
    end if;
  end if;
  raise exception 'The audit log is never changed. Retention deletes from it, through app_hidden.purge_audit_log.' using errcode = '42501';
end
$$;
comment on function app_private.tg_guard_audit() is
  'Refuses every change of an audit row but the nulling of user_id by its foreign key, and every deletion but that of retention, of a tenant that is gone, and of a row that moves to its partition. 42501.';

create or replace function app_private.tg_guard_seals() returns trigger
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'Nothing in %.% is ever changed or deleted.', tg_table_schema, tg_table_name using errcode = '42501';
end
$$;
comment on function app_private.tg_guard_seals() is 'Refuses every change of what proves the audit log. 42501.';

revoke execute on function app_private.tg_guard_audit(), app_private.tg_guard_seals() from public;
--! EndIncluded functions/audit_guard.sql
--! Included functions/audit_requests.sql
-- What leaves no change behind, and is recorded all the same: refusals, after the rollback, and reads of the log, before.

create or replace function app_hidden.record_denial(p_operation text, p_reason text, p_count integer) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
begin
  if v_tenant_id is not null then
    perform app_private.write_audit(
      v_tenant_id, 'access.denied', 'operation', left(p_operation, 200),
      jsonb_build_object('reason', left(p_reason, 500), 'count', p_count)
    );
  end if;
end
$$;
comment on function app_hidden.record_denial(text, text, integer) is
  'Records that this request was denied something for want of a right, p_count times since the last record of it.';

create or replace function app_hidden.record_audit_read(p_tenant_id uuid, p_action text, p_request jsonb) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('audit:read');
  if p_action not in ('audit_log.read', 'audit_log.exported') then
    raise exception 'A read of the log is audit_log.read or audit_log.exported.' using errcode = 'EA400';
  end if;
  return to_jsonb(now()) ->> 0 || ' ' || app_private.write_audit(p_tenant_id, p_action, 'audit_log', null, jsonb_build_object('request', p_request));
end
$$;
comment on function app_hidden.record_audit_read(uuid, text, jsonb) is
  'Records that this request is about to read the log (audit_log.read) or take it away (audit_log.exported), and returns what begin_request takes as audit_read. Committed before anything is read. EA403 without the permission "audit:read".';

-- Asked by the policy on the log: by whatever way a request comes there, it is on record.
create or replace function app_hidden.require_audit_read() returns boolean
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_record text := nullif(current_setting('app.audit_read', true), '');
begin
  perform app_hidden.require_permission('audit:read');
  perform from public.audit_logs l
    where l.tenant_id = app_hidden.current_tenant_id()
      and l.created_at = split_part(v_record, ' ', 1)::timestamptz and l.id = split_part(v_record, ' ', 2)::uuid
      and l.action in ('audit_log.read', 'audit_log.exported')
      and l.request_id is not distinct from nullif(current_setting('app.request_id', true), '')
      and l.created_at > now() - interval '1 day';
  if not found then
    raise exception 'The audit log is read only by requests that are on record in it.' using errcode = 'EA403', detail = 'not_recorded';
  end if;
  return true;
end
$$;
comment on function app_hidden.require_audit_read() is 'True, or EA403: this request lacks "audit:read", or record_audit_read has not been called for it.';

revoke execute on function
  app_hidden.record_denial(text, text, integer), app_hidden.record_audit_read(uuid, text, jsonb), app_hidden.require_audit_read()
from public;
grant execute on function app_hidden.record_denial(text, text, integer) to api_anonymous, api_viewer, api_user, api_admin, api_super_admin;
grant execute on function app_hidden.record_audit_read(uuid, text, jsonb), app_hidden.require_audit_read()
to api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/audit_requests.sql
--! Included functions/audit_seals.sql
-- Sealing, as the worker does it: each tenant's rows of transactions that have ended get the next numbers, and a signed
-- seal. Hashing and signing is the worker's part: PostgreSQL never has the key. docs/audit-format.md.

create or replace function app_hidden.audit_horizon() returns table (cluster_id bigint, below bigint, as_of timestamptz)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  -- What writes now has begun by then: whatever was committed before is sealed.
  as_of := least(
    clock_timestamp(),
    (select min(a.xact_start) from pg_stat_activity a where a.backend_xid is not null),
    (select min(p.prepared) from pg_prepared_xacts p)
  );
  below := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
  cluster_id := app_private.cluster_id();
  return next;
end
$$;
comment on function app_hidden.audit_horizon() is
  'Transactions of this cluster below it have ended, and nothing more comes from them. as_of: no row of them is missing that was written before.';

create or replace function app_hidden.tenants_to_seal(p_cluster_id bigint, p_below bigint) returns setof uuid
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_sealed app_private.audit_sealing;
begin
  select * into strict v_sealed from app_private.audit_sealing;
  if v_sealed.cluster_id is distinct from p_cluster_id then
    return query select t.id from public.tenants t order by t.id;
  else
    return query
      select distinct l.tenant_id from public.audit_logs l
       where l.transaction_id >= v_sealed.sealed_below and l.transaction_id < p_below
       order by 1;
  end if;
end
$$;
comment on function app_hidden.tenants_to_seal(bigint, bigint) is
  'Tenants with rows that wait to be sealed, below the horizon; in a cluster that has sealed nothing yet, all.';

create or replace function app_private.seal_place(p_tenant_id uuid, p_cluster_id bigint, out transaction_id bigint, out id uuid)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  select s.last_transaction_id, s.last_id into transaction_id, id
    from app_private.audit_seals s
   where s.tenant_id = p_tenant_id and s.cluster_id = p_cluster_id
   order by s.last_transaction_id desc, s.last_id desc limit 1;
  transaction_id := coalesce(transaction_id, -1);
  id := coalesce(id, '00000000-0000-0000-0000-000000000000');
end
$$;
comment on function app_private.seal_place(uuid, bigint) is 'The last row of a tenant and cluster that is sealed.';

-- Its columns are those that are sealed. user_id is not: its foreign key empties it.
create or replace function app_private.audit_content(p_row public.audit_logs) returns text
language sql stable
as $$
  select json_build_object(
    'action', p_row.action, 'actorId', p_row.actor_id, 'actorKind', p_row.actor_kind, 'actorName', p_row.actor_name,
    'changes', p_row.changes, 'clusterId', p_row.cluster_id::text,
    'createdAt', to_char(p_row.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'id', p_row.id, 'impersonatorId', p_row.impersonator_id, 'impersonatorName', p_row.impersonator_name,
    'ipAddress', p_row.ip_address, 'requestId', p_row.request_id, 'resource', p_row.resource, 'resourceId', p_row.resource_id,
    'sessionId', p_row.session_id, 'tenantId', p_row.tenant_id, 'transactionId', p_row.transaction_id::text, 'userAgent', p_row.user_agent
  )::text
$$;
comment on function app_private.audit_content(public.audit_logs) is 'What of a row is sealed, as JSON; numbers in changes as they are stored.';

create or replace function app_hidden.rows_to_seal(p_tenant_id uuid, p_cluster_id bigint, p_below bigint, p_limit integer)
returns table (cluster_id bigint, transaction_id bigint, id uuid, content text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_sort = off
as $$
declare
  v_cluster_id bigint;
  v_place record;
begin
  -- Until the transaction ends, one sealer has the tenant; the statements behind see what another one sealed before.
  if not pg_try_advisory_xact_lock(hashtextextended('audit ' || p_tenant_id, 0)) then
    raise exception 'Another sealer has the log of tenant %.', p_tenant_id using errcode = '55P03';
  end if;
  -- Of other clusters first, each as a whole: they will get no more.
  for v_cluster_id in
    with recursive cluster as (
      (select min(l.cluster_id) as id from public.audit_logs l where l.tenant_id = p_tenant_id)
      union all
      select (select min(l.cluster_id) from public.audit_logs l where l.tenant_id = p_tenant_id and l.cluster_id > c.id)
        from cluster c where c.id is not null
    )
    select c.id from cluster c where c.id is not null order by c.id = p_cluster_id, c.id
  loop
    v_place := app_private.seal_place(p_tenant_id, v_cluster_id);
    return query
      select l.cluster_id, l.transaction_id, l.id, app_private.audit_content(l)
        from public.audit_logs l
       where l.tenant_id = p_tenant_id and l.cluster_id = v_cluster_id
         and (l.transaction_id, l.id) > (v_place.transaction_id, v_place.id)
         and (v_cluster_id <> p_cluster_id or l.transaction_id < p_below)
       order by l.tenant_id, l.cluster_id, l.transaction_id, l.id
       limit p_limit;
    if found then
      return;
    end if;
  end loop;
end
$$;
comment on function app_hidden.rows_to_seal(uuid, bigint, bigint, integer) is
  'The next rows of a tenant, of one cluster, in the order in which they are sealed, below the horizon. 55P03 while another sealer has the tenant; until this transaction ends, this one has.';

create or replace function app_hidden.last_seal(p_tenant_id uuid) returns table (number bigint, next_sequence bigint, chain bytea, hash bytea)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select s.number, s.first_sequence + s.row_count, s.chain, s.hash
      from app_private.audit_seals s where s.tenant_id = p_tenant_id order by s.number desc limit 1;
end
$$;
comment on function app_hidden.last_seal(uuid) is 'Where a tenant''s chain goes on.';

create or replace function app_hidden.save_seal(
  p_tenant_id uuid, p_number bigint, p_first_sequence bigint, p_row_count integer, p_cluster_id bigint, p_last_transaction_id bigint,
  p_last_id uuid, p_rows bytea, p_chain bytea, p_previous_seal bytea, p_hash bytea, p_key_id text, p_signature bytea, p_sealed_at timestamptz
)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_last record;
begin
  select * into v_last from app_hidden.last_seal(p_tenant_id);
  if p_number <> coalesce(v_last.number, 0) + 1 or p_first_sequence <> coalesce(v_last.next_sequence, 1)
    or p_previous_seal <> coalesce(v_last.hash, decode(repeat('00', 32), 'hex'))
  then
    raise exception 'Seal % of tenant % does not follow the one before it: another sealer was faster.', p_number, p_tenant_id using errcode = 'EA409';
  end if;
  insert into app_private.audit_seals (
    tenant_id, number, first_sequence, row_count, cluster_id, last_transaction_id, last_id, rows, chain, previous_seal, hash, key_id,
    signature, sealed_at
  )
  values (
    p_tenant_id, p_number, p_first_sequence, p_row_count, p_cluster_id, p_last_transaction_id, p_last_id, p_rows, p_chain,
    p_previous_seal, p_hash, p_key_id, p_signature, p_sealed_at
  );
end
$$;
comment on function app_hidden.save_seal(uuid, bigint, bigint, integer, bigint, bigint, uuid, bytea, bytea, bytea, bytea, text, bytea, timestamptz) is
  'Appends a seal to a tenant''s chain. EA409 when it is not the next one.';

create or replace function app_private.sealed_rows(p_tenant_id uuid, p_number bigint)
returns table (sequence bigint, id uuid, content text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
  return query
    select s.first_sequence + entry.place, l.id, app_private.audit_content(l)
      from app_private.audit_seals s
     cross join lateral (
       select place, encode(substr(s.rows, place * 48 + 1, 16), 'hex')::uuid as id from generate_series(0, s.row_count - 1) place
     ) entry
      join public.audit_logs l
        on l.tenant_id = s.tenant_id and l.cluster_id = s.cluster_id and l.id = entry.id
       and (l.transaction_id, l.id) <= (s.last_transaction_id, s.last_id)
       and l.transaction_id >= coalesce((
             select b.last_transaction_id from app_private.audit_seals b
              where b.tenant_id = s.tenant_id and b.cluster_id = s.cluster_id
                and (b.last_transaction_id, b.last_id) < (s.last_transaction_id, s.last_id)
              order by b.last_transaction_id desc, b.last_id desc limit 1
           ), 0)
     where s.tenant_id = p_tenant_id and s.number = p_number;
end
$$;
comment on function app_private.sealed_rows(uuid, bigint) is 'The rows of a seal, with their numbers, as far as they are still there.';

create or replace function app_hidden.note_sealing(p_cluster_id bigint, p_below bigint, p_as_of timestamptz) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  -- Of two sealers, the one that looked earlier may be done later.
  update app_private.audit_sealing s
     set cluster_id = p_cluster_id, sealed_below = p_below, sealed_as_of = p_as_of, ran_at = now()
   where s.cluster_id is distinct from p_cluster_id or s.sealed_below <= p_below;
end
$$;
comment on function app_hidden.note_sealing(bigint, bigint, timestamptz) is 'Notes that everything below the horizon is sealed.';

create or replace function app_hidden.audit_keys()
returns table (key_id text, public_key bytea, created_at timestamptz, retired_at timestamptz, endorsed_by text, endorsement bytea)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select k.key_id, k.public_key, k.created_at, k.retired_at, k.endorsed_by, k.endorsement from app_private.audit_keys k order by k.created_at
$$;
comment on function app_hidden.audit_keys() is 'All keys that ever signed seals, for whoever verifies them.';

create or replace function app_hidden.audit_signing_key() returns table (key_id text, public_key bytea, kek_id text, wrapped_private_key bytea)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select k.key_id, k.public_key, k.kek_id, k.wrapped_private_key
    from app_private.audit_keys k
   where k.retired_at is null and k.wrapped_private_key is not null
   order by k.created_at desc limit 1
$$;
comment on function app_hidden.audit_signing_key() is 'The key that signs seals; its private half is wrapped.';

create or replace function app_hidden.audit_lag() returns table (sealed_as_of timestamptz, unanchored_since timestamptz)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$ select s.sealed_as_of, s.unanchored_since from app_private.audit_sealing s $$;
comment on function app_hidden.audit_lag() is
  'Up to when the log is sealed, null when it never was, and when the oldest seal was made that no anchor has, null when there is none.';

revoke execute on function
  app_hidden.audit_horizon(), app_hidden.tenants_to_seal(bigint, bigint), app_private.seal_place(uuid, bigint),
  app_private.audit_content(public.audit_logs), app_private.sealed_rows(uuid, bigint), app_hidden.rows_to_seal(uuid, bigint, bigint, integer), app_hidden.last_seal(uuid),
  app_hidden.save_seal(uuid, bigint, bigint, integer, bigint, bigint, uuid, bytea, bytea, bytea, bytea, text, bytea, timestamptz),
  app_hidden.note_sealing(bigint, bigint, timestamptz), app_hidden.audit_keys(), app_hidden.audit_signing_key(), app_hidden.audit_lag()
from public;
grant execute on function
  app_hidden.audit_horizon(), app_hidden.tenants_to_seal(bigint, bigint), app_hidden.rows_to_seal(uuid, bigint, bigint, integer),
  app_hidden.last_seal(uuid),
  app_hidden.save_seal(uuid, bigint, bigint, integer, bigint, bigint, uuid, bytea, bytea, bytea, bytea, text, bytea, timestamptz),
  app_hidden.note_sealing(bigint, bigint, timestamptz), app_hidden.audit_keys(), app_hidden.audit_signing_key()
to erp_worker;
grant execute on function app_hidden.audit_keys(), app_hidden.audit_lag() to erp_authenticator;
--! EndIncluded functions/audit_seals.sql
--! Included functions/audit_anchors.sql
-- Anchors are files outside the database: whoever rewrites the log here cannot rewrite them there.
create or replace function app_hidden.seals_to_anchor(p_anchor_id uuid, p_limit integer)
returns table (
  tenant_id uuid, number bigint, first_sequence bigint, row_count integer, cluster_id bigint, last_transaction_id bigint,
  rows bytea, chain bytea, previous_seal bytea,
  key_id text, signature bytea, sealed_at timestamptz
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  -- One writer at a time, until the transaction ends.
  if not pg_try_advisory_xact_lock(hashtextextended('audit anchor ' || p_anchor_id, 0)) then
    return;
  end if;
  return query
    with recursive sealed as (
      (select s.tenant_id from app_private.audit_seals s order by s.tenant_id limit 1)
      union all
      select (select s.tenant_id from app_private.audit_seals s where s.tenant_id > p.tenant_id order by s.tenant_id limit 1)
        from sealed p where p.tenant_id is not null
    )
    select s.tenant_id, s.number, s.first_sequence, s.row_count, s.cluster_id, s.last_transaction_id,
           s.rows, s.chain, s.previous_seal, s.key_id, s.signature, s.sealed_at
      from sealed t
      left join app_private.audit_anchorings a on a.anchor_id = p_anchor_id and a.tenant_id = t.tenant_id
     cross join lateral (
       select s.* from app_private.audit_seals s
        where s.tenant_id = t.tenant_id and s.number > coalesce(a.number, 0)
        order by s.number limit p_limit
     ) s
     where t.tenant_id is not null
     order by s.tenant_id, s.number
     limit p_limit;
end
$$;
comment on function app_hidden.seals_to_anchor(uuid, integer) is
  'Seals that an anchor does not have yet, by tenant and number. None when another process writes to it, until this transaction ends.';

create or replace function app_hidden.note_anchored(p_anchor_id uuid, p_places jsonb) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into app_private.audit_anchorings as a (anchor_id, tenant_id, number)
  select p_anchor_id, p.tenant_id, max(p.number) from jsonb_to_recordset(p_places) as p (tenant_id uuid, number bigint)
   group by p.tenant_id order by p.tenant_id
  on conflict (anchor_id, tenant_id) do update set number = greatest(a.number, excluded.number), anchored_at = now();
end
$$;
comment on function app_hidden.note_anchored(uuid, jsonb) is 'Notes which seals are in an anchor: [{"tenant_id", "number"}].';

create or replace function app_hidden.note_anchoring() returns timestamptz
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_since timestamptz;
begin
  with recursive sealed as (
    (select s.tenant_id from app_private.audit_seals s order by s.tenant_id limit 1)
    union all
    select (select s.tenant_id from app_private.audit_seals s where s.tenant_id > p.tenant_id order by s.tenant_id limit 1)
      from sealed p where p.tenant_id is not null
  )
  select min(s.sealed_at) into v_since
    from sealed t
   cross join lateral (
     select s.sealed_at from app_private.audit_seals s
      where s.tenant_id = t.tenant_id
        and s.number > coalesce((select max(a.number) from app_private.audit_anchorings a where a.tenant_id = t.tenant_id), 0)
      order by s.number limit 1
   ) s;
  update app_private.audit_sealing s set unanchored_since = v_since where s.unanchored_since is distinct from v_since;
  return v_since;
end
$$;
comment on function app_hidden.note_anchoring() is 'Notes, and returns, when the oldest seal was made that no anchor has; null when there is none.';

revoke execute on function
  app_hidden.seals_to_anchor(uuid, integer), app_hidden.note_anchored(uuid, jsonb), app_hidden.note_anchoring()
from public;
grant execute on function
  app_hidden.seals_to_anchor(uuid, integer), app_hidden.note_anchored(uuid, jsonb), app_hidden.note_anchoring()
to erp_worker;
--! EndIncluded functions/audit_anchors.sql
--! Included functions/audit_purge.sql
-- Retention takes whole seals from the beginning of a tenant's log, none of whose rows is to be kept. It records that in the
-- log before the first row goes: the record is sealed like every other, and without it verification takes them for deleted.
create or replace function app_private.audit_floor() returns interval
language sql immutable parallel safe
as $$ select interval '90 days' $$;
comment on function app_private.audit_floor() is 'For how long every audit log is kept, whatever a tenant''s retention says.';

create or replace function app_hidden.purge_audit_log(p_tenant_id uuid, p_kept_since timestamptz, p_limit integer default 5000) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_from record;
  v_seal record;
  v_sequence bigint;
  v_through bigint;
  v_count integer := 0;
begin
  if p_kept_since > now() - app_private.audit_floor() then
    raise exception 'An audit log is kept for at least % days.', extract(day from app_private.audit_floor()) using errcode = 'EA400';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('audit ' || p_tenant_id, 0));
  select coalesce(max(p.through_seal), 0) as seal into v_from from app_private.audit_purges p where p.tenant_id = p_tenant_id;
  for v_seal in
    select s.number, s.first_sequence + s.row_count - 1 as last_sequence, s.row_count, s.cluster_id, s.last_transaction_id, s.last_id
      from app_private.audit_seals s
     where s.tenant_id = p_tenant_id and s.number > v_from.seal
     order by s.number
  loop
    exit when v_count > 0 and v_count + v_seal.row_count > p_limit;
    exit when exists (
      select from app_private.audit_seals s where s.tenant_id = p_tenant_id and s.number = v_seal.number and s.sealed_at >= p_kept_since
    ) or exists (
      select from public.audit_logs l
       where l.tenant_id = p_tenant_id and l.cluster_id = v_seal.cluster_id
         and (l.transaction_id, l.id) <= (v_seal.last_transaction_id, v_seal.last_id) and l.created_at >= p_kept_since
    );
    v_through := v_seal.number;
    v_sequence := v_seal.last_sequence;
    v_count := v_count + v_seal.row_count;
  end loop;
  if v_through is null then
    return 0;
  end if;
  insert into app_private.audit_purges (tenant_id, through_seal, through_sequence, row_count, kept_since)
  values (p_tenant_id, v_through, v_sequence, v_count, p_kept_since);
  perform app_private.write_audit(
    p_tenant_id, 'audit_log.purged', 'audit_log', null,
    jsonb_build_object('throughSequence', v_sequence::text, 'count', v_count, 'keptSince', p_kept_since)
  );
  delete from public.audit_logs l
   using (
     select distinct on (s.cluster_id) s.cluster_id, s.last_transaction_id, s.last_id
       from app_private.audit_seals s
      where s.tenant_id = p_tenant_id and s.number > v_from.seal and s.number <= v_through
      order by s.cluster_id, s.number desc
   ) s
   where l.tenant_id = p_tenant_id and l.cluster_id = s.cluster_id
     and (l.transaction_id, l.id) <= (s.last_transaction_id, s.last_id) and l.created_at < p_kept_since;
  return v_count;
end
$$;
comment on function app_hidden.purge_audit_log(uuid, timestamptz, integer) is
  'Deletes, with a record of it in the log, the oldest sealed rows of a tenant that were written and sealed before p_kept_since; as many seals as have p_limit rows, at least one. Returns how many rows; 0 when there are none. EA400 when that is too recent.';

revoke execute on function app_private.audit_floor(), app_hidden.purge_audit_log(uuid, timestamptz, integer) from public;
grant execute on function app_hidden.purge_audit_log(uuid, timestamptz, integer) to erp_worker;
--! EndIncluded functions/audit_purge.sql
--! Included functions/partitions.sql
-- One partition a month, in UTC. Rows that came before their partition lie in the default one: they move in the
-- transaction that attaches the partition. A snapshot of before finds them in neither place: assert_fresh_snapshot tells.
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
  if p_table = 'audit_logs' then
    execute format(
      'create trigger _000_guard_truncate before truncate on partitions.%I for each statement execute function app_private.tg_guard_seals()', v_name
    );
  end if;
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
  app_private.insert_keys(uuid, app_private.event_record[]), app_private.insert_events(uuid, app_private.event_record[]),
  app_private.write_records(uuid, app_private.event_record[], text),
  app_private.said_of_batch(app_private.event_record[], app_hidden.event_receipt[]),
  app_private.write_event_list(uuid, jsonb[], text, boolean),
  app_hidden.write_events(uuid, jsonb, text, boolean)
from public;
--! EndIncluded functions/write_events.sql
--! Included functions/sync_leases.sql
-- A worker reads a stream under a lease (20 s, renewed every 5 s and by each page), whose token every write carries: whoever
-- was overtaken, canceled or reset is refused. A dead worker's lease is over before its job is freed (30 s after its
-- last heartbeat).

create or replace function app_private.release_lease(p_tenant_id uuid, p_stream_id uuid, p_run_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  delete from app_private.sync_leases l where l.tenant_id = p_tenant_id and l.stream_id = p_stream_id and l.run_id = p_run_id;
  if not found then
    return;
  end if;
  -- In the order in which turns are given: whoever finds none free below is seen here.
  perform pg_advisory_xact_lock(hashtextextended('sync turns ' || p_tenant_id, 0));
  perform app_private.enqueue_run(p_tenant_id, w.id, now())
     from (
       select r.id from public.integration_runs r
        where r.tenant_id = p_tenant_id and r.ended_at is null and r.waits_for = 'turn'
        order by r.kind <> 'incremental', r.requested_at limit 2
          -- One that is just being canceled is left to that.
          for no key update skip locked
     ) w;
end
$$;
comment on function app_private.release_lease(uuid, uuid, uuid) is 'Ends a run''s lease, and wakes those that wait for a turn.';

create or replace function app_private.hold_lease(p_tenant_id uuid, p_run_id uuid, p_token uuid) returns public.integration_runs
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs;
begin
  -- The lock lasts until commit: whoever overtakes waits here, and whoever was overtaken is refused.
  perform from app_private.sync_leases l where l.tenant_id = p_tenant_id and l.run_id = p_run_id and l.token = p_token for update;
  if not found then
    raise exception 'This run was canceled, or superseded by another.' using errcode = 'EA409', detail = 'superseded';
  end if;
  update app_private.sync_leases l set expires_at = clock_timestamp() + interval '20 seconds'
   where l.tenant_id = p_tenant_id and l.run_id = p_run_id;
  select * into strict v_run from public.integration_runs r where r.tenant_id = p_tenant_id and r.id = p_run_id;
  return v_run;
end
$$;
comment on function app_private.hold_lease(uuid, uuid, uuid) is 'The run, whose lease is locked and renewed. EA409 with detail "superseded" when the token is no longer the lease''s.';

create or replace function app_hidden.renew_lease(p_tenant_id uuid, p_run_id uuid, p_token uuid) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  update app_private.sync_leases l set expires_at = clock_timestamp() + interval '20 seconds'
   where l.tenant_id = p_tenant_id and l.run_id = p_run_id and l.token = p_token;
  return found;
end
$$;
comment on function app_hidden.renew_lease(uuid, uuid, uuid) is 'Prolongs a lease during a long call to a provider. False when it is no longer held: stop.';

create or replace function app_private.take_lease(p_tenant_id uuid, p_run public.integration_runs, p_token uuid) returns timestamptz
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_lease app_private.sync_leases;
  v_max integer;
begin
  select * into v_lease from app_private.sync_leases l
   where l.tenant_id = p_tenant_id and l.stream_id = p_run.stream_id for update;
  if v_lease.expires_at > clock_timestamp() then
    return v_lease.expires_at + interval '1 second';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('sync turns ' || p_tenant_id, 0));
  select p.max_concurrent_syncs into strict v_max
    from public.tenants t join app_private.plans p on p.name = t.plan_type where t.id = p_tenant_id;
  -- One turn is kept for syncs that are soon over.
  if app_private.is_bulk(p_tenant_id, p_run.kind, p_run.stream_id) then
    v_max := greatest(v_max - 1, 1);
  end if;
  if (
    select count(*) from app_private.sync_leases l
     where l.tenant_id = p_tenant_id and l.stream_id <> p_run.stream_id and l.expires_at > clock_timestamp()
  ) >= v_max then
    return clock_timestamp() + make_interval(secs => 5 + 5 * random());
  end if;
  insert into app_private.sync_leases as l (tenant_id, stream_id, run_id, token, expires_at)
  values (p_tenant_id, p_run.stream_id, p_run.id, p_token, clock_timestamp() + interval '20 seconds')
  on conflict (tenant_id, stream_id) do update
     set run_id = excluded.run_id, token = excluded.token, expires_at = excluded.expires_at;
  -- It left without a word: a page that kills its worker must not do so for ever.
  if v_lease.run_id = p_run.id then
    update public.integration_runs r set attempts = r.attempts + 1, retries = r.retries + 1
     where r.tenant_id = p_tenant_id and r.id = p_run.id;
  end if;
  return null;
end
$$;
comment on function app_private.take_lease(uuid, public.integration_runs, uuid) is
  'Takes the lease of a run''s stream; or says when to try again, because another worker has it, or the tenant has as many as its plan says.';

create or replace function app_hidden.begin_run(p_tenant_id uuid, p_run_id uuid, p_token uuid)
returns table (
  integration_id uuid, provider text, config jsonb, stream text, kind text, is_bulk boolean, cursor jsonb,
  since timestamptz, until timestamptz, is_read boolean,
  version integer, ciphertext bytea, key_version integer, kek_id text, wrapped_key bytea
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_run public.integration_runs;
  v_stream public.integration_streams;
  v_integration public.integrations;
  v_later timestamptz;
  v_trouble text;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  select i.* into v_integration
    from public.integration_runs r join public.integrations i on i.tenant_id = r.tenant_id and i.id = r.integration_id
   where r.tenant_id = p_tenant_id and r.id = p_run_id
     for no key update of i;
  select * into v_run from public.integration_runs r where r.tenant_id = p_tenant_id and r.id = p_run_id and r.ended_at is null;
  if not found then
    return;
  end if;
  select * into strict v_stream from public.integration_streams s where s.tenant_id = p_tenant_id and s.id = v_run.stream_id;
  if not v_stream.enabled then
    v_trouble := 'The stream was switched off.';
  elsif v_integration.status = 'DISABLED' then
    v_trouble := 'The integration was disabled.';
  elsif not exists (select from public.tenants t where t.id = p_tenant_id and app_private.is_open(t.status, t.trial_ends_at)) then
    v_trouble := 'The tenant is suspended, or its trial has ended.';
  end if;
  if v_trouble is not null then
    perform app_private.end_run(p_tenant_id, p_run_id, 'canceled', null, v_trouble);
    perform app_private.settle_sync(p_tenant_id, v_integration.id);
    return;
  end if;
  v_later := app_private.take_lease(p_tenant_id, v_run, p_token);
  if v_later is not null then
    update public.integration_runs r set state = 'waiting' where r.tenant_id = p_tenant_id and r.id = p_run_id and r.state <> 'waiting';
    perform app_private.enqueue_run(p_tenant_id, p_run_id, v_later, 'turn');
    return;
  end if;
  update public.integration_runs r
     set state = 'running', started_at = coalesce(r.started_at, clock_timestamp()), resumes_at = null, waits_for = null
   where r.tenant_id = p_tenant_id and r.id = p_run_id
  returning r.* into v_run;
  if v_run.attempts >= 5 then
    perform app_private.fail_run(p_tenant_id, p_run_id, 'internal', 'The sync broke off five times at the same place.');
    perform app_private.settle_sync(p_tenant_id, v_integration.id);
    return;
  end if;
  if v_run.kind <> 'backfill' then
    update public.integration_streams s set state = 'running'
     where s.tenant_id = p_tenant_id and s.id = v_run.stream_id and s.state is distinct from 'running';
    update public.integrations i set sync_status = 'running'
     where i.tenant_id = p_tenant_id and i.id = v_integration.id and i.sync_status is distinct from 'running';
  end if;
  perform app_private.write_audit(
            p_tenant_id, 'integration.credentials_used', 'integration', v_integration.id::text,
            jsonb_build_object('version', c.version, 'run', p_run_id)
          )
     from app_private.integration_credentials c
    where c.tenant_id = p_tenant_id and c.integration_id = v_integration.id;
  return query
    select v_integration.id, v_integration.provider, v_integration.config, v_stream.name, v_run.kind,
           app_private.is_bulk(p_tenant_id, v_run.kind, v_run.stream_id),
           case v_run.kind when 'incremental' then v_stream.cursor else v_run.cursor end,
           v_run.since, v_run.until,
           exists (select from app_private.refresh_sweeps w where w.tenant_id = p_tenant_id and w.run_id = p_run_id),
           c.version, c.ciphertext, c.key_version, k.kek_id, k.wrapped_key
      from (select) one
      left join app_private.integration_credentials c on c.tenant_id = p_tenant_id and c.integration_id = v_integration.id
      left join app_private.tenant_keys k on k.tenant_id = c.tenant_id and k.version = c.key_version;
end
$$;
comment on function app_hidden.begin_run(uuid, uuid, uuid) is
  'Takes the lease for a run and returns what it needs; nothing when the run is over, or was put off. is_read: a full refresh has read everything, and sweeps.';

create or replace function app_private.lock_run(p_tenant_id uuid, p_run_id uuid, p_token uuid, p_calls integer) returns public.integration_runs
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform from public.integration_runs r join public.integrations i on i.tenant_id = r.tenant_id and i.id = r.integration_id
    where r.tenant_id = p_tenant_id and r.id = p_run_id
      for no key update of i;
  v_run := app_private.hold_lease(p_tenant_id, p_run_id, p_token);
  update public.integration_runs r set calls = r.calls + p_calls where r.tenant_id = p_tenant_id and r.id = p_run_id;
  return v_run;
end
$$;
comment on function app_private.lock_run(uuid, uuid, uuid, integer) is 'Locks the integration and the lease, in that order, and counts calls. EA409 when the lease is lost.';

create or replace function app_private.put_off(p_run public.integration_runs, p_run_at timestamptz, p_waits_for text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  update public.integration_runs r set state = 'waiting' where r.tenant_id = p_run.tenant_id and r.id = p_run.id;
  if p_run.kind <> 'backfill' then
    update public.integration_streams s set state = 'waiting' where s.tenant_id = p_run.tenant_id and s.id = p_run.stream_id;
  end if;
  perform app_private.enqueue_run(p_run.tenant_id, p_run.id, p_run_at, p_waits_for);
  perform app_private.release_lease(p_run.tenant_id, p_run.stream_id, p_run.id);
  perform app_private.settle_sync(p_run.tenant_id, p_run.integration_id, false);
end
$$;
comment on function app_private.put_off(public.integration_runs, timestamptz, text) is 'Ends a job''s part of a run and enqueues the next.';

create or replace function app_hidden.pause_run(
  p_tenant_id uuid, p_run_id uuid, p_token uuid, p_calls integer, p_milliseconds bigint, p_waits_for text default null
)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_private.put_off(
    app_private.lock_run(p_tenant_id, p_run_id, p_token, p_calls),
    clock_timestamp() + make_interval(secs => greatest(p_milliseconds, 0) / 1000.0), p_waits_for
  );
end
$$;
comment on function app_hidden.pause_run(uuid, uuid, uuid, integer, bigint, text) is
  'Gives the lease back and enqueues the rest: when a slice is over, the worker stops, or the provider asks for patience.';

create or replace function app_hidden.retry_run(
  p_tenant_id uuid, p_run_id uuid, p_token uuid, p_calls integer, p_error_class text, p_error text, p_after_ms bigint default 0
)
returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs := app_private.lock_run(p_tenant_id, p_run_id, p_token, p_calls);
begin
  if v_run.attempts >= 4 then
    perform app_private.fail_run(p_tenant_id, p_run_id, p_error_class, p_error);
    perform app_private.settle_sync(p_tenant_id, v_run.integration_id);
    return false;
  end if;
  update public.integration_runs r
     set attempts = r.attempts + 1, retries = r.retries + 1, error_class = p_error_class, error = p_error
   where r.tenant_id = p_tenant_id and r.id = p_run_id;
  -- 5, 10, 20, 40 seconds, each by half more or less, so that those that failed together do not come back together.
  perform app_private.put_off(
    v_run,
    clock_timestamp() + make_interval(secs => greatest(p_after_ms / 1000.0, 5 * 2 ^ v_run.attempts * (0.5 + random()))), 'retry'
  );
  return true;
end
$$;
comment on function app_hidden.retry_run(uuid, uuid, uuid, integer, text, text, bigint) is
  'Puts a run off after a failure that may pass, longer each time; the fifth without a page in between ends it. Returns whether it goes on.';

create or replace function app_hidden.finish_run(
  p_tenant_id uuid, p_run_id uuid, p_token uuid, p_calls integer, p_error_class text, p_error text
)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs := app_private.lock_run(p_tenant_id, p_run_id, p_token, p_calls);
begin
  perform app_private.fail_run(p_tenant_id, p_run_id, p_error_class, p_error);
  perform app_private.settle_sync(p_tenant_id, v_run.integration_id);
end
$$;
comment on function app_hidden.finish_run(uuid, uuid, uuid, integer, text, text) is
  'Ends a run that trying again would not mend, with the class of the error and a sentence for people.';

revoke execute on function
  app_private.release_lease(uuid, uuid, uuid), app_private.hold_lease(uuid, uuid, uuid), app_hidden.renew_lease(uuid, uuid, uuid),
  app_private.take_lease(uuid, public.integration_runs, uuid), app_hidden.begin_run(uuid, uuid, uuid),
  app_private.lock_run(uuid, uuid, uuid, integer), app_private.put_off(public.integration_runs, timestamptz, text),
  app_hidden.pause_run(uuid, uuid, uuid, integer, bigint, text),
  app_hidden.retry_run(uuid, uuid, uuid, integer, text, text, bigint),
  app_hidden.finish_run(uuid, uuid, uuid, integer, text, text)
from public;
grant execute on function
  app_hidden.renew_lease(uuid, uuid, uuid), app_hidden.begin_run(uuid, uuid, uuid),
  app_hidden.pause_run(uuid, uuid, uuid, integer, bigint, text),
  app_hidden.retry_run(uuid, uuid, uuid, integer, text, text, bigint),
  app_hidden.finish_run(uuid, uuid, uuid, integer, text, text)
to api_job;
--! EndIncluded functions/sync_leases.sql
--! Included functions/sync_credentials.sql
-- Refreshed credentials have one copy and one writer: whoever is about to ask the provider for new ones holds this
-- lock, and saves them over the version that it read, under its run's lease, before anybody uses them.

create or replace function app_hidden.begin_refresh(p_tenant_id uuid, p_run_id uuid, p_token uuid, p_version integer) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs;
  v_version integer;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  v_run := app_private.hold_lease(p_tenant_id, p_run_id, p_token);
  insert into app_private.credential_refreshes as f (tenant_id, integration_id, token, expires_at)
  values (p_tenant_id, v_run.integration_id, p_token, clock_timestamp() + interval '60 seconds')
  on conflict (tenant_id, integration_id) do update
     set token = excluded.token, expires_at = excluded.expires_at
   where f.expires_at <= clock_timestamp() or f.token = excluded.token
      or not exists (select from app_private.sync_leases l where l.tenant_id = f.tenant_id and l.token = f.token);
  if not found then
    return 'busy';
  end if;
  -- Only now: whoever had the lock before may have saved others a moment ago.
  select c.version into v_version from app_private.integration_credentials c
   where c.tenant_id = p_tenant_id and c.integration_id = v_run.integration_id;
  if v_version is distinct from p_version then
    delete from app_private.credential_refreshes f
     where f.tenant_id = p_tenant_id and f.integration_id = v_run.integration_id and f.token = p_token;
    return 'changed';
  end if;
  return 'go';
end
$$;
comment on function app_hidden.begin_refresh(uuid, uuid, uuid, integer) is
  'Whether this run may ask for new credentials now: go, busy (another run does), or changed (there are newer ones).';

create or replace function app_hidden.end_refresh(
  p_tenant_id uuid, p_run_id uuid, p_token uuid, p_version integer, p_key_version integer, p_ciphertext bytea
)
returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_run public.integration_runs;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  v_run := app_private.hold_lease(p_tenant_id, p_run_id, p_token);
  delete from app_private.credential_refreshes f
   where f.tenant_id = p_tenant_id and f.integration_id = v_run.integration_id and f.token = p_token;
  if not found then
    raise exception 'Another run refreshes these credentials.' using errcode = 'EA409', detail = 'superseded';
  end if;
  if p_ciphertext is null then
    return true;
  end if;
  update app_private.integration_credentials c
     set version = p_version + 1, key_version = p_key_version, ciphertext = p_ciphertext
   where c.tenant_id = p_tenant_id and c.integration_id = v_run.integration_id and c.version = p_version;
  return found;
end
$$;
comment on function app_hidden.end_refresh(uuid, uuid, uuid, integer, integer, bytea) is
  'Saves refreshed credentials as the next version, or, without any, only gives the lock back. False when somebody set others meanwhile: those count.';

create or replace function app_private.tg_credentials_changed() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update public.integrations i
     set status = case when i.status <> 'ERROR' then i.status when i.last_sync_at is null then 'PENDING' else 'ACTIVE' end::public.integration_status,
         error_class = null, sync_error = null, failing_since = null, next_sync_at = null
   where i.tenant_id = new.tenant_id and i.id = new.integration_id and i.error_class = 'needs_reauth';
  if found then
    update public.integration_streams s
       set state = null, error_class = null, error = null
     where s.tenant_id = new.tenant_id and s.integration_id = new.integration_id and s.error_class = 'needs_reauth';
  end if;
  return null;
end
$$;
comment on function app_private.tg_credentials_changed() is
  'New credentials end needs_reauth, and the schedule goes on at once. Only a new version is new: a key that is rotated seals the same again.';

revoke execute on function
  app_hidden.begin_refresh(uuid, uuid, uuid, integer),
  app_hidden.end_refresh(uuid, uuid, uuid, integer, integer, bytea), app_private.tg_credentials_changed()
from public;
grant execute on function
  app_hidden.begin_refresh(uuid, uuid, uuid, integer), app_hidden.end_refresh(uuid, uuid, uuid, integer, integer, bytea)
to api_job;
--! EndIncluded functions/sync_credentials.sql
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
    set_config('app.audit_read', coalesce(p_claims ->> 'audit_read', ''), true),
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
  'Opens the transaction of a request. Claims: sub, tenant_id, role, sid and, for an operator in another tenant, home_tenant_id; or tenant_id, key_id, key_hash (hex); or none. Also ip_address, user_agent, request_id, and audit_read as record_audit_read returned it. Raises EA401.';

revoke execute on function
  app_private.is_open(public.tenant_status, timestamptz), app_hidden.authorize_session(jsonb), app_hidden.authorize_key(jsonb),
  app_hidden.begin_request(jsonb)
from public;
grant execute on function app_hidden.authorize_session(jsonb), app_hidden.authorize_key(jsonb), app_hidden.begin_request(jsonb)
to erp_authenticator;
--! EndIncluded functions/begin_request.sql
--! Included functions/begin_job.sql
-- The same for jobs: one tenant, role api_job, so that row security binds the worker too.
create or replace function app_hidden.begin_job(p_tenant_id uuid, p_task text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  perform
    set_config('app.tenant_id', p_tenant_id::text, true),
    set_config('app.home_tenant_id', '', true),
    set_config('app.user_id', '', true),
    set_config('app.session_id', '', true),
    set_config('app.api_key_id', '', true),
    set_config('app.impersonator_id', '', true),
    set_config('app.impersonator_name', '', true),
    set_config('app.role', '', true),
    set_config('app.actor_name', p_task, true),
    set_config('app.permissions', '', true),
    set_config('app.ip_address', '', true),
    set_config('app.user_agent', '', true),
    set_config('app.request_id', '', true),
    set_config('app.audit_read', '', true),
    set_config('timezone', 'UTC', true),
    set_config('lock_timeout', '10s', true),
    set_config('idle_in_transaction_session_timeout', '60s', true),
    set_config('transaction_timeout', '300s', true),
    set_config('statement_timeout', '60s', true);
  perform set_config('role', 'api_job', true);
end
$$;
comment on function app_hidden.begin_job(uuid, text) is 'Opens a transaction of a job on one tenant.';
revoke execute on function app_hidden.begin_job(uuid, text) from public;
grant execute on function app_hidden.begin_job(uuid, text) to erp_worker;
--! EndIncluded functions/begin_job.sql
--! Included policies/audit_logs.sql
-- Admins, and whoever has audit:read, read their tenant's log, and are on record in it before they do. It is written by
-- triggers and functions of the owner alone.
alter table public.audit_logs enable row level security, force row level security;

drop policy if exists owner_all on public.audit_logs;
create policy owner_all on public.audit_logs to erp_user using (true) with check (true);
comment on policy owner_all on public.audit_logs is 'Migrations, DBAs, the audit triggers and definer functions.';

drop policy if exists select_admin on public.audit_logs;
drop policy if exists select_auditor on public.audit_logs;
create policy select_auditor on public.audit_logs for select to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_audit_read());
comment on policy select_auditor on public.audit_logs is 'Whoever has audit:read, by role or by itself, reads the log of the tenant, once the log has a record of it. EA403 for others.';

grant select on public.audit_logs to api_viewer, api_user, api_admin, api_super_admin;
-- Withheld: insert, update and delete, from everybody.
--! EndIncluded policies/audit_logs.sql
--! Included policies/audit_seals.sql
-- Seen by the owner alone; the sealer goes through functions.
alter table app_private.audit_keys enable row level security, force row level security;
drop policy if exists owner_all on app_private.audit_keys;
create policy owner_all on app_private.audit_keys to erp_user using (true) with check (true);
comment on policy owner_all on app_private.audit_keys is 'Migrations, DBAs and definer functions.';

alter table app_private.audit_seals enable row level security, force row level security;
drop policy if exists owner_all on app_private.audit_seals;
create policy owner_all on app_private.audit_seals to erp_user using (true) with check (true);
comment on policy owner_all on app_private.audit_seals is 'Migrations, DBAs and definer functions.';

alter table app_private.audit_purges enable row level security, force row level security;
drop policy if exists owner_all on app_private.audit_purges;
create policy owner_all on app_private.audit_purges to erp_user using (true) with check (true);
comment on policy owner_all on app_private.audit_purges is 'Migrations, DBAs and definer functions.';

alter table app_private.audit_anchorings enable row level security, force row level security;
drop policy if exists owner_all on app_private.audit_anchorings;
create policy owner_all on app_private.audit_anchorings to erp_user using (true) with check (true);
comment on policy owner_all on app_private.audit_anchorings is 'Migrations, DBAs and definer functions.';

alter table app_private.audit_sealing enable row level security, force row level security;
drop policy if exists owner_all on app_private.audit_sealing;
create policy owner_all on app_private.audit_sealing to erp_user using (true) with check (true);
comment on policy owner_all on app_private.audit_sealing is 'Migrations, DBAs and definer functions.';
--! EndIncluded policies/audit_seals.sql
--! Included triggers/audit.sql
create or replace trigger _100_touch before update on public.tenants for each row execute function app_private.tg_touch();
create or replace trigger _100_touch before update on public.users for each row execute function app_private.tg_touch();
create or replace trigger _100_touch before update on public.integrations for each row execute function app_private.tg_touch();
create or replace trigger _100_touch before update on app_private.user_passwords for each row execute function app_private.tg_touch();
create or replace trigger _100_touch before update on app_private.integration_credentials for each row execute function app_private.tg_touch();

create or replace trigger _900_audit after insert or update or delete on public.tenants
  for each row execute function app_private.tg_audit(
    'tenant', 'id', '{}', '{updated_at}', '{status=tenant.status_changed,plan_type=tenant.plan_changed,settings=tenant.settings_changed}'
  );
create or replace trigger _900_audit after insert or update or delete on public.users
  for each row execute function app_private.tg_audit(
    'user', 'id', '{}', '{updated_at,last_login_at}',
    '{role=user.role_changed,permissions=user.permissions_changed,status:SUSPENDED=user.suspended,status:INACTIVE=user.deactivated,status:ACTIVE=user.activated,email=user.email_changed}'
  );
create or replace trigger _900_audit after insert or update or delete on public.integrations
  for each row execute function app_private.tg_audit(
    'integration', 'id', '{}', '{updated_at,next_sync_at,credentials_set_at}', '{enabled:true=integration.enabled,enabled:false=integration.disabled}'
  );
create or replace trigger _900_audit after insert or update or delete on app_private.user_passwords
  for each row execute function app_private.tg_audit(
    'user', 'user_id', '{password_hash}', '{updated_at}', '{INSERT=user.password_set,UPDATE=user.password_changed,DELETE=user.password_removed}'
  );
create or replace trigger _900_audit after insert or update or delete on app_private.integration_credentials
  for each row execute function app_private.tg_audit(
    'integration', 'integration_id', '{ciphertext}', '{updated_at}',
    '{INSERT=integration.credentials_set,UPDATE=integration.credentials_set,DELETE=integration.credentials_removed}'
  );
create or replace trigger _900_audit after insert or update or delete on app_private.tenant_keys
  for each row execute function app_private.tg_audit('tenant_key', 'version', '{wrapped_key}', '{}', '{UPDATE=tenant_key.rewrapped,DELETE=tenant_key.destroyed}');
create or replace trigger _900_audit after insert or update or delete on public.api_keys
  for each row execute function app_private.tg_audit('api_key', 'id', '{}', '{last_used_at}', '{revoked_at=api_key.revoked}');

-- What belongs to no tenant is in the operator's log.
create or replace trigger _900_audit after insert or update or delete on app_private.token_keys
  for each row execute function app_private.tg_audit('token_key', 'kid', '{wrapped_private_key}', '{}', '{retired_at=token_key.retired}');
create or replace trigger _900_audit after insert or update or delete on app_private.audit_keys
  for each row execute function app_private.tg_audit('audit_key', 'key_id', '{wrapped_private_key}', '{}', '{retired_at=audit_key.retired}');
create or replace trigger _900_audit after insert or update or delete on app_private.plans
  for each row execute function app_private.tg_audit('plan', 'name', '{}', '{}');

-- Requests and jobs write these through functions alone, which record what they do in words of their own: no need to ask.
create or replace trigger _900_audit after insert or update or delete on public.sessions
  for each row when (session_user not in ('erp_authenticator', 'erp_worker'))
  execute function app_private.tg_audit('session', 'id', '{}', '{last_used_at}', '{revoked_at=session.revoked}', 'by_sql');
create or replace trigger _900_audit after insert or update or delete on app_private.refresh_tokens
  for each row when (session_user not in ('erp_authenticator', 'erp_worker'))
  execute function app_private.tg_audit('refresh_token', 'session_id', '{token_hash}', '{}', '{}', 'by_sql');
create or replace trigger _900_audit after insert or update or delete on app_private.one_time_tokens
  for each row when (session_user not in ('erp_authenticator', 'erp_worker'))
  execute function app_private.tg_audit('one_time_token', 'id', '{token_hash}', '{}', '{}', 'by_sql');
create or replace trigger _900_audit after insert or update or delete on app_private.api_key_secrets
  for each row when (session_user not in ('erp_authenticator', 'erp_worker'))
  execute function app_private.tg_audit('api_key', 'api_key_id', '{secret_hash}', '{}', '{INSERT=api_key.secret_set,UPDATE=api_key.secret_set,DELETE=api_key.secret_removed}', 'by_sql');

create or replace trigger _900_audit_insert after insert on public.analytics_events
  referencing new table as new_rows for each statement when (session_user not in ('erp_authenticator', 'erp_worker'))
  execute function app_private.tg_audit_events();
create or replace trigger _900_audit_update after update on public.analytics_events
  referencing old table as old_rows new table as new_rows for each statement when (session_user not in ('erp_authenticator', 'erp_worker'))
  execute function app_private.tg_audit_events();
create or replace trigger _900_audit_delete after delete on public.analytics_events
  referencing old table as old_rows for each statement when (session_user not in ('erp_authenticator', 'erp_worker'))
  execute function app_private.tg_audit_events();
--! EndIncluded triggers/audit.sql
--! Included triggers/audit_guard.sql
-- Triggers for rows of a partitioned table are those of its partitions, too. One for TRUNCATE is not: make_partition
-- makes it.
create or replace trigger _000_guard before update or delete on public.audit_logs
  for each row execute function app_private.tg_guard_audit();
create or replace trigger _000_guard_truncate before truncate on public.audit_logs
  for each statement execute function app_private.tg_guard_seals();
do $$
declare
  v_partition regclass;
begin
  for v_partition in select i.inhrelid::regclass from pg_inherits i where i.inhparent = 'public.audit_logs'::regclass loop
    execute format(
      'create or replace trigger _000_guard_truncate before truncate on %s for each statement execute function app_private.tg_guard_seals()', v_partition
    );
  end loop;
end
$$;

create or replace trigger _000_guard before update or delete on app_private.audit_seals
  for each row execute function app_private.tg_guard_seals();
create or replace trigger _000_guard_truncate before truncate on app_private.audit_seals
  for each statement execute function app_private.tg_guard_seals();
create or replace trigger _000_guard before update or delete on app_private.audit_purges
  for each row execute function app_private.tg_guard_seals();
create or replace trigger _000_guard_truncate before truncate on app_private.audit_purges
  for each statement execute function app_private.tg_guard_seals();
create or replace trigger _000_guard before delete on app_private.audit_keys
  for each row execute function app_private.tg_guard_seals();
create or replace trigger _000_guard_truncate before truncate on app_private.audit_keys
  for each statement execute function app_private.tg_guard_seals();
--! EndIncluded triggers/audit_guard.sql
--! Included functions/integration_credentials.sql
-- Credentials come sealed: the API reads the tenant's newest data key, seals, and hands in the ciphertext, all in one
-- transaction. Each function takes the tenant and refuses another than the transaction's.

create or replace function app_private.editable_integration(p_tenant_id uuid, p_integration_id uuid) returns public.integrations
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_integration public.integrations;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('integrations:manage');
  select * into v_integration from public.integrations where tenant_id = p_tenant_id and id = p_integration_id for no key update;
  if not found then
    raise exception 'There is no integration %.', p_integration_id using errcode = 'EA404';
  end if;
  return v_integration;
end
$$;
comment on function app_private.editable_integration(uuid, uuid) is 'Locks an integration. EA403 without integrations:manage, EA404.';

create or replace function app_hidden.begin_credentials(p_tenant_id uuid, p_integration_id uuid)
returns table (provider text, version integer, key_version integer, kek_id text, wrapped_key bytea)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_integration public.integrations := app_private.editable_integration(p_tenant_id, p_integration_id);
begin
  return query
    select v_integration.provider,
           1 + greatest(
             (select c.version from app_private.integration_credentials c
               where c.tenant_id = p_tenant_id and c.integration_id = p_integration_id),
             (select max(r.version) from app_private.retired_credentials r
               where r.tenant_id = p_tenant_id and r.integration_id = p_integration_id),
             0
           ),
           k.version, k.kek_id, k.wrapped_key
      from (select 1) one
      left join lateral (
        -- The lock keeps the key from being purged until what is sealed under it is there.
        select n.version, n.kek_id, n.wrapped_key from app_private.tenant_keys n
         where n.tenant_id = p_tenant_id
         order by n.version desc limit 1
           for share
      ) k on true;
end
$$;
comment on function app_hidden.begin_credentials(uuid, uuid) is
  'What it takes to seal credentials: their next version, and the tenant''s newest data key; key_version is null before the first. EA403, EA404.';

create or replace function app_hidden.add_first_tenant_key(p_tenant_id uuid, p_kek_id text, p_wrapped_key bytea)
returns table (key_version integer, kek_id text, wrapped_key bytea)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('integrations:manage');
  insert into app_private.tenant_keys (tenant_id, version, kek_id, wrapped_key)
  select p_tenant_id, 1, p_kek_id, p_wrapped_key
   where not exists (select from app_private.tenant_keys k where k.tenant_id = p_tenant_id)
  on conflict do nothing;
  -- A statement of its own, so that it sees the key of whoever was first.
  return query
    select k.version, k.kek_id, k.wrapped_key from app_private.tenant_keys k
     where k.tenant_id = p_tenant_id
     order by k.version desc limit 1
       for share;
end
$$;
comment on function app_hidden.add_first_tenant_key(uuid, text, bytea) is
  'Gives a tenant its first data key, unless it has one. Returns the newest there is. EA403.';

create or replace function app_hidden.set_integration_credentials(
  p_tenant_id uuid, p_integration_id uuid, p_version integer, p_key_version integer, p_ciphertext bytea
)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_integration public.integrations := app_private.editable_integration(p_tenant_id, p_integration_id);
begin
  -- Webhooks may be signed with what is replaced, for a while.
  insert into app_private.retired_credentials (tenant_id, integration_id, version, key_version, ciphertext)
  select c.tenant_id, c.integration_id, c.version, c.key_version, c.ciphertext
    from app_private.integration_credentials c
   where c.tenant_id = p_tenant_id and c.integration_id = p_integration_id;
  insert into app_private.integration_credentials as c (tenant_id, integration_id, version, key_version, ciphertext)
  values (p_tenant_id, p_integration_id, p_version, p_key_version, p_ciphertext)
  on conflict (tenant_id, integration_id) do update
     set version = excluded.version, key_version = excluded.key_version, ciphertext = excluded.ciphertext
   where c.version < excluded.version;
  if not found then
    raise exception 'Somebody else set these credentials at the same time. Try again.' using errcode = 'EA409';
  end if;
  update public.integrations i set credentials_set_at = now() where i.tenant_id = p_tenant_id and i.id = p_integration_id;
  -- What the triggers of sync.sql do for needs_reauth: whatever else was wrong may have been the account's.
  update public.integrations i
     set status = case when i.last_sync_at is null then 'PENDING' else 'ACTIVE' end::public.integration_status,
         error_class = null, sync_error = null, failing_since = null, next_sync_at = null
   where i.tenant_id = p_tenant_id and i.id = p_integration_id and i.status = 'ERROR';
end
$$;
comment on function app_hidden.set_integration_credentials(uuid, uuid, integer, integer, bytea) is
  'Keeps sealed credentials, and for a day those before. An integration in ERROR is tried again. EA403, EA404, EA409.';

create or replace function app_hidden.begin_connection_test(p_tenant_id uuid, p_integration_id uuid)
returns table (provider text, version integer, key_version integer, ciphertext bytea, kek_id text, wrapped_key bytea)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('integrations:manage');
  perform app_private.take_attempt('connection tests of ' || p_tenant_id, 20, '5 minutes');
  if p_integration_id is null then
    return;
  end if;
  return query
    select i.provider, c.version, c.key_version, c.ciphertext, k.kek_id, k.wrapped_key
      from public.integrations i
      left join app_private.integration_credentials c on c.tenant_id = i.tenant_id and c.integration_id = i.id
      left join app_private.tenant_keys k on k.tenant_id = c.tenant_id and k.version = c.key_version
     where i.tenant_id = p_tenant_id and i.id = p_integration_id;
  if not found then
    raise exception 'There is no integration %.', p_integration_id using errcode = 'EA404';
  end if;
end
$$;
comment on function app_hidden.begin_connection_test(uuid, uuid) is
  'Counts a test of a connection, 20 in five minutes, and returns the sealed credentials of an integration, if one is named. EA403, EA404, EA429.';

-- Plain SQL that writes or removes credentials shows as well.
create or replace function app_private.tg_note_credentials() returns trigger
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'INSERT' then
    update public.integrations set credentials_set_at = now() where tenant_id = new.tenant_id and id = new.integration_id;
  else
    update public.integrations set credentials_set_at = null where tenant_id = old.tenant_id and id = old.integration_id;
  end if;
  return null;
end
$$;
comment on function app_private.tg_note_credentials() is 'Keeps integrations.credentials_set_at.';
create or replace trigger _500_note after insert or delete on app_private.integration_credentials
  for each row execute function app_private.tg_note_credentials();

revoke execute on function
  app_private.editable_integration(uuid, uuid), app_hidden.begin_credentials(uuid, uuid),
  app_hidden.add_first_tenant_key(uuid, text, bytea),
  app_hidden.set_integration_credentials(uuid, uuid, integer, integer, bytea),
  app_hidden.begin_connection_test(uuid, uuid), app_private.tg_note_credentials()
from public;
-- Each asks for the permission itself: a viewer may have been granted it.
grant execute on function
  app_hidden.begin_credentials(uuid, uuid), app_hidden.add_first_tenant_key(uuid, text, bytea),
  app_hidden.set_integration_credentials(uuid, uuid, integer, integer, bytea), app_hidden.begin_connection_test(uuid, uuid)
to api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/integration_credentials.sql
--! Included triggers/sync.sql
create or replace trigger _500_credentials_set after insert on app_private.integration_credentials
  for each row execute function app_private.tg_credentials_changed();
create or replace trigger _500_credentials_changed after update of version on app_private.integration_credentials
  for each row when (new.version <> old.version) execute function app_private.tg_credentials_changed();
create or replace trigger _100_touch before update on public.integration_streams for each row execute function app_private.tg_touch();

-- What the worker does is told by the runs; what people do to them, by the audit log.
create or replace trigger _900_audit after insert or update or delete on public.integration_streams
  for each row when (session_user <> 'erp_worker')
  execute function app_private.tg_audit('integration_stream', 'id', '{}', '{updated_at,state}');
create or replace trigger _900_audit after insert or update or delete on public.integration_runs
  for each row when (session_user <> 'erp_worker')
  execute function app_private.tg_audit('integration_run', 'id', '{}', '{resumes_at,waits_for,repeats}');
--! EndIncluded triggers/sync.sql
