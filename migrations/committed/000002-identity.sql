--! Previous: sha1:05b2d9aa9b1440ce96d196d51f25d9c27d38a715
--! Hash: sha1:939b1f0c638302163b52ed69f13a0432e4078a79
--! Message: identity

--! split: 1-current.sql
set local lock_timeout = '5s';

--! split: 010-tenants.sql
create table if not exists app_private.currencies (code text primary key check (code ~ '^[A-Z]{3}$'));
comment on table app_private.currencies is 'ISO 4217: codes of currencies in use.';
insert into app_private.currencies (code)
select unnest(string_to_array(
  'AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY COP '
  'CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD '
  'IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR '
  'MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP '
  'SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD XCG '
  'XOF XPF YER ZAR ZMW ZWG', ' '
))
on conflict do nothing;

alter table app_private.plans add column if not exists features text[] not null default '{}';
comment on column app_private.plans.features is 'The features that a tenant gets with the plan.';
update app_private.plans set features = case name when 'business' then '{api_keys,custom_domain}' else '{api_keys}' end::text[];

alter table public.tenants add column if not exists trial_ends_at timestamptz;
comment on column public.tenants.trial_ends_at is 'When a TRIAL ends by itself: from then on nobody can sign in. Null: it does not.';
comment on column public.tenants.features is
  'What the tenant may use: api_keys (requests with API keys), custom_domain (signing in by domain). Comes with the plan.';
comment on column public.tenants.plan_type is
  'Subscription plan: trial, starter or business. Changing it brings its limits and features, unless others are set with it.';
comment on column public.tenants.max_users is 'How many users the tenant may have; INACTIVE ones do not count.';
update public.tenants t set features = p.features from app_private.plans p where p.name = t.plan_type and t.features = '{}';
alter table public.tenants drop constraint if exists tenants_features_check;
alter table public.tenants add constraint tenants_features_check
  check (features <@ array['api_keys', 'custom_domain']) not valid;

--! split: 020-users.sql
alter table public.users drop constraint if exists users_permissions_check;
alter table public.users add constraint users_permissions_check check (permissions <@ array[
  'users:manage', 'integrations:manage', 'integrations:sync', 'events:write', 'audit:read', 'analytics:export',
  'tenant:settings', 'api_keys:manage', 'metrics:manage'
]) not valid;
comment on column public.users.permissions is
  'Single rights beyond the role: users:manage, integrations:manage, integrations:sync, events:write, audit:read, analytics:export, tenant:settings, api_keys:manage, metrics:manage.';
comment on column public.users.status is
  'ACTIVE users can sign in. INVITED: has not accepted yet. SUSPENDED: barred, and still counts towards max_users. INACTIVE: has left, and does not count.';

--! split: 030-sessions.sql
-- Sessions become part of the API; what proves them stays private.
alter table app_private.sessions set schema public;
-- squawk-ignore renaming-column
alter table public.sessions rename column refreshed_at to last_used_at;
alter table public.sessions
  add column entered_tenant_id uuid,
  add column entered_role public.user_role,
  add column entered_reason text,
  add constraint sessions_visit_check check (num_nonnulls(entered_tenant_id, entered_role, entered_reason) in (0, 3)) not valid;
comment on table public.sessions is 'A sign-in on one device. Every request of its access tokens is checked against it.';
comment on column public.sessions.ip_address is 'Address that signed in.';
comment on column public.sessions.user_agent is 'User agent that signed in.';
comment on column public.sessions.created_at is 'When it began.';
comment on column public.sessions.last_used_at is 'When it was last used, to the minute.';
comment on column public.sessions.expires_at is 'When it ends by itself.';
comment on column public.sessions.revoked_at is 'When it was ended: by logging out, a new password, or a refresh token that was used twice.';
comment on column public.sessions.entered_tenant_id is 'The tenant that an operator entered with this session. No foreign key: it is another tenant''s row.';
comment on column public.sessions.entered_role is 'The role that the operator has there.';
comment on column public.sessions.entered_reason is 'Why the operator entered.';

create table app_private.refresh_tokens (
  tenant_id uuid not null,
  session_id uuid not null,
  token_hash bytea not null,
  created_at timestamptz not null default now(),
  used_at timestamptz,
  primary key (tenant_id, session_id, token_hash),
  foreign key (tenant_id, session_id) references public.sessions (tenant_id, id) on delete cascade
);
create unique index refresh_tokens_valid_idx on app_private.refresh_tokens (tenant_id, session_id) where used_at is null;
comment on table app_private.refresh_tokens is 'Refresh tokens by SHA-256: of each session the valid one, and those that were used.';
insert into app_private.refresh_tokens (tenant_id, session_id, token_hash)
select tenant_id, id, refresh_token_hash from public.sessions;
-- What read it is replaced below, in this transaction.
-- squawk-ignore ban-drop-column
alter table public.sessions drop column refresh_token_hash;

create table app_private.one_time_tokens (
  tenant_id uuid not null,
  id uuid not null default gen_random_uuid(),
  user_id uuid not null,
  purpose text not null check (purpose in ('invitation', 'email_verification', 'email_change', 'password_reset')),
  email text not null,
  token_hash bytea,
  invited_by uuid,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  used_at timestamptz,
  primary key (tenant_id, id),
  foreign key (tenant_id, user_id) references public.users (tenant_id, id) on delete cascade,
  foreign key (tenant_id, invited_by) references public.users (tenant_id, id) on delete set null (invited_by)
);
create index one_time_tokens_user_idx on app_private.one_time_tokens (tenant_id, user_id);
create index one_time_tokens_invited_by_idx on app_private.one_time_tokens (tenant_id, invited_by);
comment on table app_private.one_time_tokens is 'Links that were mailed: each works once, and until it expires.';
comment on column app_private.one_time_tokens.token_hash is 'SHA-256 of the token; null until the mail goes out.';
comment on column app_private.one_time_tokens.email is 'Where the mail goes: for an email_change, the new address.';

-- Unlogged: after a crash everybody may try again.
create unlogged table app_private.rate_limits (
  bucket bytea primary key,
  used double precision not null,
  counted_at timestamptz not null
);
comment on table app_private.rate_limits is 'Attempts by bucket (SHA-256 of its name), as far as they have not been forgotten yet.';

create table app_private.token_keys (
  kid text primary key,
  public_jwk jsonb not null,
  kek_id text not null,
  wrapped_private_key bytea not null,
  created_at timestamptz not null default now(),
  signs_from timestamptz not null,
  retired_at timestamptz
);
comment on table app_private.token_keys is 'Keys that sign access tokens (ES256). The private ones are wrapped by the key-encryption key kek_id, which PostgreSQL never sees.';
comment on column app_private.token_keys.signs_from is 'Before it, the key is published but signs nothing.';
comment on column app_private.token_keys.retired_at is 'From then on it verifies nothing.';

--! split: 040-api-keys.sql
create table public.api_keys (
  id uuid primary key,
  tenant_id uuid not null references public.tenants (id) on delete cascade,
  name text not null check (length(name) between 1 and 200),
  scopes text[] not null check (scopes <@ array['analytics:read', 'analytics:export', 'audit:read', 'events:write', 'integrations:sync']),
  created_by uuid,
  created_at timestamptz not null default now(),
  expires_at timestamptz,
  last_used_at timestamptz,
  revoked_at timestamptz,
  unique (tenant_id, id),
  foreign key (tenant_id, created_by) references public.users (tenant_id, id) on delete set null (created_by)
);
create index api_keys_created_by_idx on public.api_keys (tenant_id, created_by);
comment on table public.api_keys is 'A key for programs. It belongs to the tenant: it goes on working when the user who made it leaves.';
comment on column public.api_keys.scopes is 'What it may do: analytics:read, analytics:export, audit:read, events:write, integrations:sync.';
comment on column public.api_keys.created_by is 'The user who made it; null for an operator, and once the user is deleted.';
comment on column public.api_keys.expires_at is 'When it ends by itself; null: never.';
comment on column public.api_keys.last_used_at is 'When it was last used, to the minute.';
comment on column public.api_keys.revoked_at is 'When it was revoked.';

create table app_private.api_key_secrets (
  tenant_id uuid not null,
  api_key_id uuid not null,
  secret_hash bytea not null,
  primary key (tenant_id, api_key_id),
  foreign key (tenant_id, api_key_id) references public.api_keys (tenant_id, id) on delete cascade
);
comment on table app_private.api_key_secrets is 'SHA-256 of the secrets of API keys. They have 256 random bits: nothing slower is needed.';

--! split: 050-audit.sql
alter table public.audit_logs
  add column impersonator_id uuid,
  add column impersonator_name text;
alter table public.audit_logs drop constraint audit_logs_actor_kind_check;
alter table public.audit_logs add constraint audit_logs_actor_kind_check
  check (actor_kind in ('user', 'anonymous', 'job', 'database', 'api_key', 'impersonator')) not valid;
comment on column public.audit_logs.actor_kind is
  'user, api_key, impersonator (an operator who entered the tenant), job, database (plain SQL) or anonymous.';
comment on column public.audit_logs.actor_id is 'Id of the user, API key or operator who acted; stays when they are deleted.';
comment on column public.audit_logs.actor_name is
  'Name of the actor at that time: a user''s e-mail, an API key''s name, "ADMIN of acme" for an operator there, a task, or a database login.';
comment on column public.audit_logs.impersonator_id is 'The operator who acted in the tenant.';
comment on column public.audit_logs.impersonator_name is 'The operator''s e-mail at that time.';

--! split: 060-rules.sql
drop function app_hidden.authorize_request(uuid, uuid, uuid, text);
drop function app_hidden.find_login(text, text);
drop function app_hidden.open_session(uuid, uuid, bytea);
drop function app_hidden.rotate_session(uuid, uuid, bytea, bytea);
drop function app_hidden.revoke_session(uuid, uuid);
--! Included functions/current_settings.sql
-- STABLE, never IMMUTABLE: a cached plan of an IMMUTABLE one answers the next tenant with this tenant's rows.
-- Plain SQL without a search_path, so that the planner inlines it and an index serves the policy.
-- nullif: once a setting was set in a session, its absence reads '', not null.
create or replace function app_hidden.current_tenant_id() returns uuid
language sql stable parallel safe
as $$ select nullif(current_setting('app.tenant_id', true), '')::uuid $$;
comment on function app_hidden.current_tenant_id() is 'Tenant of this transaction; null outside a request.';

create or replace function app_hidden.current_user_id() returns uuid
language sql stable parallel safe
as $$ select nullif(current_setting('app.user_id', true), '')::uuid $$;
comment on function app_hidden.current_user_id() is
  'User of this transaction; null outside a request, for an API key, and for an operator who entered the tenant.';

create or replace function app_hidden.current_session_id() returns uuid
language sql stable parallel safe
as $$ select nullif(current_setting('app.session_id', true), '')::uuid $$;
comment on function app_hidden.current_session_id() is 'Session of this transaction; null outside a request and for an API key.';

create or replace function app_hidden.current_home_tenant_id() returns uuid
language sql stable parallel safe
as $$ select coalesce(nullif(current_setting('app.home_tenant_id', true), ''), nullif(current_setting('app.tenant_id', true), ''))::uuid $$;
comment on function app_hidden.current_home_tenant_id() is 'Tenant of this transaction''s session: an operator''s own, whichever tenant was entered.';

create or replace function app_hidden.current_user_role() returns public.user_role
language sql stable parallel safe
as $$ select nullif(current_setting('app.role', true), '')::public.user_role $$;
comment on function app_hidden.current_user_role() is 'Role of this transaction; null outside a request and for an API key.';

grant execute on function
  app_hidden.current_tenant_id(), app_hidden.current_user_id(), app_hidden.current_session_id()
to api_anonymous, api_viewer, api_user, api_admin, api_super_admin, api_job;
grant execute on function app_hidden.current_home_tenant_id(), app_hidden.current_user_role()
to api_anonymous, api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/current_settings.sql
--! Included functions/permissions.sql
-- A right is the role's or a single permission. begin_request puts the sum of both into app.permissions, which no
-- request can set by itself.

create or replace function app_hidden.role_permissions(p_role public.user_role) returns text[]
language sql immutable parallel safe
as $$
  select case p_role
    when 'VIEWER' then array[]::text[]
    when 'USER' then array['events:write', 'integrations:sync']
    else array[
      'users:manage', 'integrations:manage', 'integrations:sync', 'events:write', 'audit:read', 'analytics:export',
      'tenant:settings', 'api_keys:manage', 'metrics:manage'
    ]
  end
$$;
comment on function app_hidden.role_permissions(public.user_role) is 'The permissions that a role has by itself. An ADMIN''s are all there are.';

create or replace function app_hidden.has_permission(p_permission text) returns boolean
language sql stable parallel safe
as $$ select coalesce(p_permission = any (string_to_array(current_setting('app.permissions', true), ',')), false) $$;
comment on function app_hidden.has_permission(text) is 'Whether this request may do it, by role or by single permission.';

-- In policies, too: without a row's column in it, the planner evaluates it once, before the first row.
create or replace function app_hidden.require_permission(p_permission text) returns boolean
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
  if not app_hidden.has_permission(p_permission) then
    raise exception 'This needs the permission "%". An admin can grant it.', p_permission using errcode = 'EA403', detail = p_permission;
  end if;
  return true;
end
$$;
comment on function app_hidden.require_permission(text) is 'True, or EA403 with the permission that is missing as its detail.';

create or replace function app_hidden.require_user() returns uuid
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app_hidden.current_user_id();
begin
  if v_user_id is null then
    raise exception 'Only a signed-in user can do this for their own account: no API key, and no operator who entered the tenant.'
      using errcode = 'EA403';
  end if;
  return v_user_id;
end
$$;
comment on function app_hidden.require_user() is 'The user of this request. EA403 for anybody else''s.';

create or replace function app_private.require_feature(p_tenant_id uuid, p_feature text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from public.tenants t where t.id = p_tenant_id and p_feature = any (t.features)) then
    raise exception 'The plan of this tenant does not include "%".', p_feature using errcode = 'EA403', detail = 'feature';
  end if;
end
$$;
comment on function app_private.require_feature(uuid, text) is 'EA403 unless the tenant has the feature.';

revoke execute on function
  app_hidden.role_permissions(public.user_role), app_hidden.has_permission(text), app_hidden.require_permission(text),
  app_hidden.require_user(), app_private.require_feature(uuid, text)
from public;
grant execute on function app_hidden.has_permission(text), app_hidden.require_permission(text), app_hidden.require_user()
to api_anonymous, api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/permissions.sql
--! Included functions/audit.sql
create or replace function app_private.write_audit(
  p_tenant_id uuid, p_action text, p_resource text, p_resource_id text, p_changes jsonb,
  p_user_id uuid default null, p_user_name text default null
)
returns void
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
    else 'database'
  end;
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
    case v_kind
      when 'database' then session_user::text
      else coalesce(p_user_name, nullif(current_setting('app.actor_name', true), ''))
    end,
    case when v_kind = 'impersonator' then v_impersonator_id end,
    case when v_kind = 'impersonator' then nullif(current_setting('app.impersonator_name', true), '') end,
    p_action, p_resource, p_resource_id, p_changes,
    case v_kind
      when 'database' then host(inet_client_addr())
      else nullif(current_setting('app.ip_address', true), '')
    end,
    case v_kind
      when 'database' then nullif(current_setting('application_name', true), '')
      else nullif(current_setting('app.user_agent', true), '')
    end,
    case when v_kind <> 'database' then nullif(current_setting('app.request_id', true), '') end,
    case when v_kind in ('user', 'impersonator') then app_hidden.current_session_id() end
  );
end
$$;
comment on function app_private.write_audit(uuid, text, text, text, jsonb, uuid, text) is
  'Writes an audit row for whoever acts in this transaction. p_user_id and p_user_name: a user whose session only begins in it.';

-- Arguments of the trigger: the resource's name (the table's would be a shard's on Citus), the column that identifies
-- it, the columns whose change is recorded but not their value, and those whose change alone is not worth a record.
create or replace function app_private.tg_audit() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_resource text := tg_argv[0];
  v_secret text[] := tg_argv[2];
  v_ignored text[] := tg_argv[3];
  v_old jsonb := case when tg_op = 'INSERT' then '{}' else to_jsonb(old) - v_ignored end;
  v_new jsonb := case when tg_op = 'DELETE' then '{}' else to_jsonb(new) - v_ignored end;
  v_row jsonb := case when tg_op = 'DELETE' then to_jsonb(old) else to_jsonb(new) end;
  v_tenant_id uuid := case when v_resource = 'tenant' then v_row ->> 'id' else v_row ->> 'tenant_id' end;
  v_before jsonb;
  v_after jsonb;
begin
  select coalesce(jsonb_object_agg(o.key, case when o.key = any (v_secret) then '"***"' else o.value end), '{}') into v_before
    from jsonb_each(v_old) o where v_new -> o.key is distinct from o.value;
  select coalesce(jsonb_object_agg(n.key, case when n.key = any (v_secret) then '"***"' else n.value end), '{}') into v_after
    from jsonb_each(v_new) n where v_old -> n.key is distinct from n.value;
  if tg_op = 'UPDATE' and v_before = '{}' and v_after = '{}' then
    return null;
  end if;

  -- In a cascade the tenant is already gone, and its log with it; the record of that goes to the operator's tenant.
  if v_resource = 'tenant' and tg_op = 'DELETE' then
    select t.id into v_tenant_id from public.tenants t where t.slug = 'platform';
  elsif not exists (select from public.tenants t where t.id = v_tenant_id) then
    v_tenant_id := null;
  end if;
  if v_tenant_id is not null then
    perform app_private.write_audit(
      v_tenant_id,
      v_resource || case tg_op when 'INSERT' then '.created' when 'UPDATE' then '.updated' else '.deleted' end,
      v_resource,
      v_row ->> tg_argv[1],
      jsonb_build_object('before', v_before, 'after', v_after)
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
  app_private.write_audit(uuid, text, text, text, jsonb, uuid, text), app_private.tg_audit(), app_private.tg_touch()
from public;
--! EndIncluded functions/audit.sql
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
      case v_live.api_role when 'api_anonymous' then '5s' when 'api_admin' then '30s' when 'api_super_admin' then '30s' else '15s' end,
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
--! Included functions/rate_limits.sql
-- A bucket of p_burst attempts that refills within p_per. Kept in PostgreSQL, so that all instances count together.
-- A refused attempt counts nothing (the exception takes it back), so that trying on does not prolong the wait.
create or replace function app_private.take_attempt(p_bucket text, p_burst integer, p_per interval) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_per double precision := extract(epoch from p_per);
  v_used double precision;
begin
  insert into app_private.rate_limits as r (bucket, used, counted_at)
  values (sha256(convert_to(p_bucket, 'UTF8')), 1, clock_timestamp())
  on conflict (bucket) do update
     set used = greatest(0, r.used - p_burst * extract(epoch from clock_timestamp() - r.counted_at) / v_per) + 1,
         counted_at = clock_timestamp()
  returning used into v_used;
  if v_used > p_burst then
    raise exception 'Too many attempts. Try again in % seconds.', ceil((v_used - p_burst) * v_per / p_burst)
      using errcode = 'EA429', detail = ceil((v_used - p_burst) * v_per / p_burst)::text;
  end if;
end
$$;
comment on function app_private.take_attempt(text, integer, interval) is 'Counts an attempt. EA429, with the seconds to wait as its detail, when the bucket is empty.';

create or replace function app_private.give_back_attempt(p_bucket text) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$ update app_private.rate_limits set used = greatest(0, used - 1) where bucket = sha256(convert_to(p_bucket, 'UTF8')) $$;
comment on function app_private.give_back_attempt(text) is 'An attempt that succeeded does not count.';

create or replace function app_private.request_network() returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when a.address is null then 'unknown'
    -- One subscriber has a whole /64 of IPv6.
    when family(a.address) = 6 and not a.address <<= '::ffff:0:0/96' then network(set_masklen(a.address, 64))::text
    else host(a.address)
  end
    from (select nullif(current_setting('app.ip_address', true), '')::inet as address) a
$$;
comment on function app_private.request_network() is 'Where this request comes from, as far as limits are concerned.';

revoke execute on function
  app_private.take_attempt(text, integer, interval), app_private.give_back_attempt(text), app_private.request_network()
from public;
--! EndIncluded functions/rate_limits.sql
--! Included functions/one_time_tokens.sql
-- Tokens that go out by mail. A row has an id only; the worker derives the token from it, under a key that PostgreSQL
-- never sees, and stores the token's hash when it sends it (mail_for_token).

create or replace function app_private.issue_token(p_tenant_id uuid, p_user_id uuid, p_purpose text, p_email text) returns uuid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_token_id uuid := gen_random_uuid();
begin
  perform app_private.take_attempt(format('mail %s %s', p_tenant_id, p_user_id), 10, '1 hour');
  -- Only the newest of a kind works.
  delete from app_private.one_time_tokens
   where tenant_id = p_tenant_id and user_id = p_user_id and purpose = p_purpose and used_at is null;
  insert into app_private.one_time_tokens (tenant_id, id, user_id, purpose, email, invited_by, expires_at)
  values (
    p_tenant_id, v_token_id, p_user_id, p_purpose, p_email,
    -- An operator who makes a tenant is none of its users.
    (select u.id from public.users u where u.tenant_id = p_tenant_id and u.id = app_hidden.current_user_id()),
    now() + case p_purpose when 'invitation' then interval '7 days' when 'password_reset' then interval '1 hour' else interval '24 hours' end
  );
  perform graphile_worker.add_job(
    'send_mail', json_build_object('tenantId', p_tenant_id, 'tokenId', v_token_id), max_attempts => 10
  );
  return v_token_id;
end
$$;
comment on function app_private.issue_token(uuid, uuid, text, text) is
  'Replaces a user''s one-time token of this purpose, and has it mailed. EA429 after ten mails to one user in an hour.';

create or replace function app_private.send_notice(p_tenant_id uuid, p_user_id uuid, p_notice text, p_email text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  perform graphile_worker.add_job(
    'send_mail', json_build_object('tenantId', p_tenant_id, 'userId', p_user_id, 'notice', p_notice, 'email', p_email), max_attempts => 10
  );
end
$$;
comment on function app_private.send_notice(uuid, uuid, text, text) is 'Tells a user by mail what happened to the account: password_changed or email_changed.';

create or replace function app_hidden.mail_for_token(p_tenant_id uuid, p_token_id uuid, p_token_hash bytea)
returns table (
  purpose text, email text, first_name text, tenant_name text, tenant_slug text, invited_by text, expires_at timestamptz
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  return query
    update app_private.one_time_tokens o
       set token_hash = p_token_hash
      from public.users u
      join public.tenants t on t.id = u.tenant_id
     where o.tenant_id = p_tenant_id
       and o.id = p_token_id
       and o.used_at is null
       and o.expires_at > now()
       and u.tenant_id = p_tenant_id
       and u.id = o.user_id
    returning o.purpose, o.email, u.first_name, t.name, t.slug,
      (select coalesce(nullif(concat_ws(' ', i.first_name, i.last_name), ''), i.email)
         from public.users i where i.tenant_id = p_tenant_id and i.id = o.invited_by),
      o.expires_at;
end
$$;
comment on function app_hidden.mail_for_token(uuid, uuid, bytea) is
  'What the mail of a one-time token says; stores the token''s SHA-256, from when on it works. No row when it was used, replaced or has expired.';

create or replace function app_hidden.mail_for_notice(p_tenant_id uuid, p_user_id uuid)
returns table (first_name text, tenant_name text, tenant_slug text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  return query
    select u.first_name, t.name, t.slug
      from public.users u join public.tenants t on t.id = u.tenant_id
     where u.tenant_id = p_tenant_id and u.id = p_user_id;
end
$$;
comment on function app_hidden.mail_for_notice(uuid, uuid) is 'What the mail of a notice says.';

create or replace function app_hidden.find_token(p_tenant_id uuid, p_token_id uuid, p_token_hash bytea, p_purposes text[])
returns table (purpose text, user_id uuid, email text, first_name text, last_name text, tenant_name text, tenant_slug text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  perform app_private.take_attempt('one-time token from ' || app_private.request_network(), 60, '1 minute');
  return query
    select o.purpose, u.id, o.email, u.first_name, u.last_name, t.name, t.slug
      from app_private.one_time_tokens o
      join public.users u on u.tenant_id = o.tenant_id and u.id = o.user_id
      join public.tenants t on t.id = o.tenant_id
     where o.tenant_id = p_tenant_id
       and o.id = p_token_id
       and o.token_hash = p_token_hash
       and o.purpose = any (p_purposes)
       and o.used_at is null
       and o.expires_at > now();
  if not found then
    perform app_private.refuse_token();
  end if;
end
$$;
comment on function app_hidden.find_token(uuid, uuid, bytea, text[]) is
  'Whose one-time token it is, so that nothing is hashed for one that does not work. EA400 with detail "invalid_link".';

create or replace function app_private.refuse_token() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'This link does not work: it was used already, has expired, or a newer one was sent. Ask for a new one.'
    using errcode = 'EA400', detail = 'invalid_link';
end
$$;
comment on function app_private.refuse_token() is 'EA400 with detail "invalid_link".';

create or replace function app_private.use_token(p_tenant_id uuid, p_token_id uuid, p_token_hash bytea, p_purposes text[])
returns app_private.one_time_tokens
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_token app_private.one_time_tokens;
begin
  update app_private.one_time_tokens
     set used_at = now()
   where tenant_id = p_tenant_id
     and id = p_token_id
     and token_hash = p_token_hash
     and purpose = any (p_purposes)
     and used_at is null
     and expires_at > now()
  returning * into v_token;
  if not found then
    perform app_private.refuse_token();
  end if;
  if not exists (
    select from public.tenants t where t.id = p_tenant_id and app_private.is_open(t.status, t.trial_ends_at)
  ) then
    raise exception 'This tenant is suspended, cancelled, or past its trial.' using errcode = 'EA403', detail = 'tenant_closed';
  end if;
  return v_token;
end
$$;
comment on function app_private.use_token(uuid, uuid, bytea, text[]) is 'Uses a one-time token up: of twenty at once, one succeeds. EA400 with detail "invalid_link".';

create or replace function app_hidden.accept_invitation(
  p_tenant_id uuid, p_token_id uuid, p_token_hash bytea, p_password_hash text, p_first_name text, p_last_name text,
  p_refresh_token_hash bytea
)
returns table (user_id uuid, role text, session_id uuid)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_token app_private.one_time_tokens := app_private.use_token(p_tenant_id, p_token_id, p_token_hash, '{invitation}');
  v_user public.users;
begin
  update public.users u
     set status = 'ACTIVE', email_verified = true, last_login_at = now(),
         first_name = coalesce(p_first_name, u.first_name), last_name = coalesce(p_last_name, u.last_name)
   where u.tenant_id = p_tenant_id and u.id = v_token.user_id and u.status = 'INVITED' and u.email = v_token.email
  returning u.* into v_user;
  if not found then
    perform app_private.refuse_token();
  end if;
  insert into app_private.user_passwords (tenant_id, user_id, password_hash) values (p_tenant_id, v_user.id, p_password_hash);
  return query select v_user.id, v_user.role::text, app_private.start_session(p_tenant_id, v_user.id, p_refresh_token_hash);
end
$$;
comment on function app_hidden.accept_invitation(uuid, uuid, bytea, text, text, text, bytea) is
  'Makes an invited user active, with a password and a first session. EA400 with detail "invalid_link".';

create or replace function app_hidden.reset_password(p_tenant_id uuid, p_token_id uuid, p_token_hash bytea, p_password_hash text)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_token app_private.one_time_tokens := app_private.use_token(p_tenant_id, p_token_id, p_token_hash, '{password_reset}');
begin
  -- The mail reached them, so the address is theirs.
  update public.users set email_verified = true
   where tenant_id = p_tenant_id and id = v_token.user_id and email = v_token.email and status = 'ACTIVE';
  if not found then
    perform app_private.refuse_token();
  end if;
  perform app_private.store_password(p_tenant_id, v_token.user_id, p_password_hash, v_token.email, null);
end
$$;
comment on function app_hidden.reset_password(uuid, uuid, bytea, text) is 'Sets a password and ends all sessions. EA400 with detail "invalid_link".';

create or replace function app_private.store_password(p_tenant_id uuid, p_user_id uuid, p_password_hash text, p_email text, p_but uuid)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into app_private.user_passwords as p (tenant_id, user_id, password_hash)
  values (p_tenant_id, p_user_id, p_password_hash)
  on conflict (tenant_id, user_id) do update set password_hash = excluded.password_hash;
  perform app_private.revoke_sessions(p_tenant_id, p_user_id, p_but);
  -- A link to reset the password that is still under way would undo this.
  delete from app_private.one_time_tokens
   where tenant_id = p_tenant_id and user_id = p_user_id and purpose in ('password_reset', 'email_change') and used_at is null;
  perform app_private.send_notice(p_tenant_id, p_user_id, 'password_changed', p_email);
end
$$;
comment on function app_private.store_password(uuid, uuid, text, text, uuid) is 'A new password: ends all sessions but p_but, and tells the user.';

create or replace function app_hidden.confirm_email(p_tenant_id uuid, p_token_id uuid, p_token_hash bytea) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_token app_private.one_time_tokens :=
    app_private.use_token(p_tenant_id, p_token_id, p_token_hash, '{email_verification,email_change}');
  v_user public.users;
begin
  select * into v_user from public.users where tenant_id = p_tenant_id and id = v_token.user_id for no key update;
  if v_user.status is distinct from 'ACTIVE' or (v_token.purpose = 'email_verification' and v_user.email <> v_token.email) then
    perform app_private.refuse_token();
  end if;
  update public.users set email = v_token.email, email_verified = true where tenant_id = p_tenant_id and id = v_user.id;
  if v_token.purpose = 'email_change' then
    delete from app_private.one_time_tokens
     where tenant_id = p_tenant_id and user_id = v_user.id and used_at is null;
    perform app_private.revoke_sessions(
      p_tenant_id, v_user.id, case when app_hidden.current_user_id() = v_user.id then app_hidden.current_session_id() end
    );
    perform app_private.send_notice(p_tenant_id, v_user.id, 'email_changed', v_user.email);
  end if;
  return v_token.email;
end
$$;
comment on function app_hidden.confirm_email(uuid, uuid, bytea) is
  'Proves an e-mail address, or changes to it; a change ends the user''s other sessions. EA400 with detail "invalid_link".';

-- The request itself looks up nothing, so that its time does not tell who exists.
create or replace function app_hidden.request_password_reset(p_tenant text, p_domain text, p_email text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_private.take_attempt('password reset from ' || app_private.request_network(), 20, '10 minutes');
  perform graphile_worker.add_job(
    'start_password_reset',
    json_build_object('tenant', left(p_tenant, 300), 'domain', left(p_domain, 300), 'email', left(p_email, 320)),
    max_attempts => 5
  );
end
$$;
comment on function app_hidden.request_password_reset(text, text, text) is 'Enqueues the look-up of an account to reset. EA429.';

create or replace function app_hidden.start_password_reset(p_tenant text, p_domain text, p_email text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user record;
begin
  select u.tenant_id, u.id, u.email into v_user
    from public.users u join public.tenants t on t.id = u.tenant_id
   where u.tenant_id = app_private.find_tenant(p_tenant, p_domain)
     and u.email = lower(p_email)
     and u.status = 'ACTIVE'
     and app_private.is_open(t.status, t.trial_ends_at);
  if not found then
    return false;
  end if;
  begin
    perform app_private.issue_token(v_user.tenant_id, v_user.id, 'password_reset', v_user.email);
  exception when sqlstate 'EA429' then
    return false;
  end;
  perform app_private.write_audit(v_user.tenant_id, 'user.password_reset_requested', 'user', v_user.id::text, '{}');
  return true;
end
$$;
comment on function app_hidden.start_password_reset(text, text, text) is
  'Mails a link to reset the password, if there is such an account and it was not asked for too often. Returns whether.';

create or replace function app_hidden.request_email_verification(p_tenant_id uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user public.users;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  select * into v_user from public.users where tenant_id = p_tenant_id and id = app_hidden.require_user();
  if v_user.email_verified then
    raise exception '% is verified already.', v_user.email using errcode = 'EA409';
  end if;
  perform app_private.issue_token(p_tenant_id, v_user.id, 'email_verification', v_user.email);
end
$$;
comment on function app_hidden.request_email_verification(uuid) is 'Mails the current user a link that proves the e-mail. EA409 when it is proved.';

create or replace function app_hidden.request_email_change(p_tenant_id uuid, p_checked_hash text, p_email text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app_hidden.require_user();
  v_email text := lower(p_email);
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_private.assert_email(v_email);
  if not exists (
    select from app_private.user_passwords where tenant_id = p_tenant_id and user_id = v_user_id and password_hash = p_checked_hash
  ) then
    raise exception 'The password was changed meanwhile.' using errcode = 'EA409';
  end if;
  if exists (select from public.users where tenant_id = p_tenant_id and email = v_email) then
    raise exception 'There is a user with the e-mail % already.', v_email using errcode = 'EA409';
  end if;
  perform app_private.issue_token(p_tenant_id, v_user_id, 'email_change', v_email);
  perform app_private.write_audit(p_tenant_id, 'user.email_change_requested', 'user', v_user_id::text, jsonb_build_object('after', jsonb_build_object('email', v_email)));
end
$$;
comment on function app_hidden.request_email_change(uuid, text, text) is
  'Mails a link to the new address; the e-mail changes when it is followed. The password was checked against p_checked_hash. EA400, EA409.';

create or replace function app_hidden.own_password(p_tenant_id uuid)
returns table (password_hash text, about text[])
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_user_id uuid := app_hidden.require_user();
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_private.take_attempt(format('password %s %s', p_tenant_id, v_user_id), 10, '10 minutes');
  return query
    select p.password_hash, array_remove(array[u.email, u.first_name, u.last_name, t.name, t.slug], null)
      from app_private.user_passwords p
      join public.users u on u.tenant_id = p.tenant_id and u.id = p.user_id
      join public.tenants t on t.id = p.tenant_id
     where p.tenant_id = p_tenant_id and p.user_id = v_user_id;
end
$$;
comment on function app_hidden.own_password(uuid) is
  'The current user''s password hash, for the server to check, and what a new password must not be made of. EA429 after ten in ten minutes.';

create or replace function app_hidden.change_password(p_tenant_id uuid, p_checked_hash text, p_password_hash text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app_hidden.require_user();
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform from app_private.user_passwords
    where tenant_id = p_tenant_id and user_id = v_user_id and password_hash = p_checked_hash for update;
  if not found then
    raise exception 'The password was changed meanwhile.' using errcode = 'EA409';
  end if;
  perform app_private.give_back_attempt(format('password %s %s', p_tenant_id, v_user_id));
  perform app_private.store_password(
    p_tenant_id, v_user_id, p_password_hash,
    (select u.email from public.users u where u.tenant_id = p_tenant_id and u.id = v_user_id),
    app_hidden.current_session_id()
  );
end
$$;
comment on function app_hidden.change_password(uuid, text, text) is
  'Replaces the current user''s password, if it still is the one that was checked, and ends the other sessions. EA409.';

revoke execute on function
  app_private.issue_token(uuid, uuid, text, text), app_private.send_notice(uuid, uuid, text, text),
  app_hidden.mail_for_token(uuid, uuid, bytea), app_hidden.mail_for_notice(uuid, uuid),
  app_hidden.find_token(uuid, uuid, bytea, text[]), app_private.refuse_token(),
  app_private.use_token(uuid, uuid, bytea, text[]),
  app_hidden.accept_invitation(uuid, uuid, bytea, text, text, text, bytea),
  app_hidden.reset_password(uuid, uuid, bytea, text), app_private.store_password(uuid, uuid, text, text, uuid),
  app_hidden.confirm_email(uuid, uuid, bytea),
  app_hidden.request_password_reset(text, text, text), app_hidden.start_password_reset(text, text, text),
  app_hidden.request_email_verification(uuid), app_hidden.request_email_change(uuid, text, text),
  app_hidden.own_password(uuid), app_hidden.change_password(uuid, text, text)
from public;
grant execute on function app_hidden.mail_for_token(uuid, uuid, bytea), app_hidden.mail_for_notice(uuid, uuid) to api_job;
grant execute on function app_hidden.start_password_reset(text, text, text) to erp_worker;
grant execute on function
  app_hidden.find_token(uuid, uuid, bytea, text[]), app_hidden.accept_invitation(uuid, uuid, bytea, text, text, text, bytea),
  app_hidden.reset_password(uuid, uuid, bytea, text), app_hidden.request_password_reset(text, text, text)
to api_anonymous;
grant execute on function app_hidden.confirm_email(uuid, uuid, bytea), app_hidden.find_token(uuid, uuid, bytea, text[])
to api_anonymous, api_viewer, api_user, api_admin, api_super_admin;
grant execute on function app_hidden.request_password_reset(text, text, text)
to api_viewer, api_user, api_admin, api_super_admin;
grant execute on function
  app_hidden.request_email_verification(uuid), app_hidden.request_email_change(uuid, text, text),
  app_hidden.own_password(uuid), app_hidden.change_password(uuid, text, text)
to api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/one_time_tokens.sql
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
     else t.domain = lower(p_domain) and 'custom_domain' = any (t.features)
   end
$$;
comment on function app_private.find_tenant(text, text) is 'The tenant of a slug, or else of a custom domain; null when there is none.';

-- Unknown accounts are counted like known ones, by what was typed.
create or replace function app_private.sign_in_bucket(p_tenant_id uuid, p_tenant text, p_email text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$ select format('sign-in %s %s', coalesce(p_tenant_id::text, lower(left(p_tenant, 300))), lower(left(p_email, 320))) $$;
comment on function app_private.sign_in_bucket(uuid, text, text) is 'The bucket of sign-ins to one account.';

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
begin
  perform app_private.take_attempt('sign-in from ' || v_network, 60, '1 minute');
  perform app_private.take_attempt(v_account || ' from ' || v_network, 10, '1 minute');
  -- Guessing from many addresses. Where the user has signed in from before stays open, or an attacker could lock them out.
  if not exists (
    select from public.sessions s
      join public.users u on u.tenant_id = s.tenant_id and u.id = s.user_id
     where s.tenant_id = v_tenant_id
       and u.tenant_id = v_tenant_id
       and u.email = lower(p_email)
       and s.ip_address = nullif(current_setting('app.ip_address', true), '')
       and s.created_at > now() - interval '30 days'
  ) then
    perform app_private.take_attempt(v_account, 50, '1 hour');
  end if;

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
  'Counts an attempt to sign in (EA429) and finds the account, by the tenant''s slug or else its domain; no row when there is none. refusal: why it may not be used even with the right password.';

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
  update public.users u
     set last_login_at = now()
    from public.tenants t
   where u.tenant_id = p_tenant_id and u.id = p_user_id and u.status = 'ACTIVE'
     and t.id = u.tenant_id and app_private.is_open(t.status, t.trial_ends_at)
     -- The password that was checked is still the password.
     and exists (
       select from app_private.user_passwords p
        where p.tenant_id = p_tenant_id and p.user_id = p_user_id and p.password_hash = p_checked_hash
     )
  returning u.* into v_user;
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
    app_private.give_back_attempt(v_account);
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
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  return app_private.revoke_sessions(p_tenant_id, app_hidden.require_user(), null);
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
  delete from app_private.refresh_tokens where used_at < now() - interval '7 days';
  delete from app_private.one_time_tokens where expires_at < now() - interval '30 days';
  delete from app_private.rate_limits where counted_at < now() - interval '1 day';
$$;
comment on function app_hidden.purge_expired() is
  'Deletes sessions and one-time tokens that ended 30 days ago, refresh tokens that were used 7 days ago, and full buckets.';

revoke execute on function
  app_private.find_tenant(text, text), app_private.sign_in_bucket(uuid, text, text),
  app_hidden.begin_sign_in(text, text, text), app_hidden.refuse_sign_in(text, text, text, text),
  app_hidden.open_session(uuid, uuid, bytea, text, text), app_private.start_session(uuid, uuid, bytea),
  app_hidden.rotate_session(uuid, uuid, bytea, bytea), app_hidden.revoke_session(uuid, uuid),
  app_private.revoke_sessions(uuid, uuid, uuid), app_hidden.revoke_own_sessions(uuid), app_hidden.record_use(jsonb),
  app_hidden.purge_expired()
from public;
grant execute on function
  app_hidden.begin_sign_in(text, text, text), app_hidden.refuse_sign_in(text, text, text, text),
  app_hidden.open_session(uuid, uuid, bytea, text, text), app_hidden.rotate_session(uuid, uuid, bytea, bytea)
to api_anonymous;
grant execute on function app_hidden.revoke_session(uuid, uuid), app_hidden.revoke_own_sessions(uuid)
to api_viewer, api_user, api_admin, api_super_admin;
grant execute on function app_hidden.record_use(jsonb) to erp_authenticator;
grant execute on function app_hidden.purge_expired() to erp_worker;
--! EndIncluded functions/sessions.sql
--! Included functions/users.sql
-- Who may be in a tenant, and who may say so. The rules on rows are triggers, so that they hold for plain SQL, too.

create or replace function app_private.assert_email(p_email text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_email is null or p_email !~ '^[^@\s]+@[^@\s]+$' or length(p_email) > 320 then
    raise exception '"%" is not an e-mail address.', left(p_email, 320) using errcode = 'EA400';
  end if;
end
$$;
comment on function app_private.assert_email(text) is 'EA400 unless it can be an e-mail address.';

-- Counting is right only while nobody else adds, and with eyes for what was committed meanwhile: the lock gives the
-- first, `read committed` the second. NO KEY UPDATE, because plain FOR UPDATE would block every foreign key.
create or replace function app_private.lock_tenant(p_tenant_id uuid) returns public.tenants
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant public.tenants;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'Users and integrations change in read committed transactions only, or limits could be passed.' using errcode = '0A000';
  end if;
  select * into v_tenant from public.tenants where id = p_tenant_id for no key update;
  return v_tenant;
end
$$;
comment on function app_private.lock_tenant(uuid) is 'Locks a tenant until the end of the transaction. A row of nulls when it is gone, as in a cascade.';

create or replace function app_private.tg_hold_seats() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant public.tenants := app_private.lock_tenant(new.tenant_id);
begin
  if (select count(*) from public.users where tenant_id = new.tenant_id and status <> 'INACTIVE') > v_tenant.max_users then
    raise exception 'This tenant may have % users, and has them all. Deactivate one, or ask for a larger plan.', v_tenant.max_users
      using errcode = 'EA402', detail = 'max_users';
  end if;
  return null;
end
$$;
comment on function app_private.tg_hold_seats() is 'Holds max_users, which counts everybody but INACTIVE users. EA402.';

create or replace function app_private.tg_hold_integrations() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant public.tenants := app_private.lock_tenant(new.tenant_id);
begin
  if (select count(*) from public.integrations where tenant_id = new.tenant_id) > v_tenant.max_integrations then
    raise exception 'This tenant may have % integrations, and has them all. Remove one, or ask for a larger plan.', v_tenant.max_integrations
      using errcode = 'EA402', detail = 'max_integrations';
  end if;
  return null;
end
$$;
comment on function app_private.tg_hold_integrations() is 'Holds max_integrations. EA402.';

create or replace function app_private.tg_keep_administrator() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant public.tenants;
  v_top public.user_role;
begin
  if tg_op = 'UPDATE' and new.role = old.role and new.status = 'ACTIVE' then
    return null;
  end if;
  v_tenant := app_private.lock_tenant(old.tenant_id);
  v_top := case v_tenant.slug when 'platform' then 'SUPER_ADMIN' else 'ADMIN' end;
  if v_tenant.id is not null and old.role = v_top and not exists (
    select from public.users where tenant_id = old.tenant_id and role = v_top and status = 'ACTIVE'
  ) then
    raise exception '% is the last active % of this tenant. Make another one first.', old.email, v_top
      using errcode = 'EA409', detail = 'last_administrator';
  end if;
  return null;
end
$$;
comment on function app_private.tg_keep_administrator() is 'The last active ADMIN of a tenant (of platform: SUPER_ADMIN) stays so. EA409.';

create or replace function app_private.tg_check_role() returns trigger
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from public.tenants where id = new.tenant_id and slug = 'platform') then
    raise exception 'SUPER_ADMIN exists only in the tenant "platform".' using errcode = 'EA403';
  end if;
  return new;
end
$$;
comment on function app_private.tg_check_role() is 'SUPER_ADMIN exists only in the tenant "platform". EA403.';

-- The enum's order is from the most rights to the least.
create or replace function app_private.assert_may_grant(p_role public.user_role, p_permissions text[]) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_own public.user_role := app_hidden.current_user_role();
  v_permission text;
begin
  if v_own is null or p_role < v_own then
    raise exception 'Your role % does not reach as far as %.', coalesce(v_own::text, 'of an API key'), p_role using errcode = 'EA403';
  end if;
  foreach v_permission in array coalesce(p_permissions, '{}') loop
    if v_permission <> all (app_hidden.role_permissions('ADMIN')) then
      raise exception 'There is no permission "%". There are: %.', v_permission, array_to_string(app_hidden.role_permissions('ADMIN'), ', ')
        using errcode = 'EA400';
    end if;
    if not app_hidden.has_permission(v_permission) then
      raise exception 'You cannot grant "%": you do not have it yourself.', v_permission using errcode = 'EA403', detail = v_permission;
    end if;
  end loop;
end
$$;
comment on function app_private.assert_may_grant(public.user_role, text[]) is
  'EA403 unless this request has the role, or a higher one, and each of the permissions.';

create or replace function app_private.managed_user(p_tenant_id uuid, p_user_id uuid) returns public.users
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user public.users;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('users:manage');
  select * into v_user from public.users where tenant_id = p_tenant_id and id = p_user_id for no key update;
  if not found then
    raise exception 'There is no user %.', p_user_id using errcode = 'EA404';
  end if;
  perform app_private.assert_may_grant(v_user.role, null);
  return v_user;
end
$$;
comment on function app_private.managed_user(uuid, uuid) is 'A user whom this request may manage, locked. EA403, EA404.';

create or replace function app_hidden.invite_user(
  p_tenant_id uuid, p_email text, p_role public.user_role, p_permissions text[], p_first_name text, p_last_name text
)
returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_email text := lower(btrim(p_email));
  v_user_id uuid;
  v_status public.user_status;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('users:manage');
  perform app_private.assert_may_grant(p_role, p_permissions);
  perform app_private.assert_email(v_email);
  select status into v_status from public.users where tenant_id = p_tenant_id and email = v_email;
  if found then
    raise exception '%', format(
      case v_status
        when 'INVITED' then '%s is invited already. Send the invitation again with resendInvitation.'
        when 'INACTIVE' then '%s is a deactivated user. Reactivate them with setUserStatus.'
        else '%s is a user already.'
      end, v_email)
      using errcode = 'EA409';
  end if;
  insert into public.users (tenant_id, email, role, permissions, first_name, last_name, status)
  values (p_tenant_id, v_email, p_role, coalesce(p_permissions, '{}'), p_first_name, p_last_name, 'INVITED')
  returning id into v_user_id;
  perform app_private.issue_token(p_tenant_id, v_user_id, 'invitation', v_email);
  return v_user_id;
end
$$;
comment on function app_hidden.invite_user(uuid, text, public.user_role, text[], text, text) is
  'Makes an INVITED user and mails the invitation. EA400, EA402, EA403, EA409.';

create or replace function app_hidden.resend_invitation(p_tenant_id uuid, p_user_id uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user public.users := app_private.managed_user(p_tenant_id, p_user_id);
begin
  if v_user.status <> 'INVITED' then
    raise exception '% has no invitation that is still open.', v_user.email using errcode = 'EA409';
  end if;
  perform app_private.issue_token(p_tenant_id, p_user_id, 'invitation', v_user.email);
  perform app_private.write_audit(p_tenant_id, 'user.invitation_resent', 'user', p_user_id::text, '{}');
end
$$;
comment on function app_hidden.resend_invitation(uuid, uuid) is 'Mails a new invitation; the earlier one no longer works. EA403, EA404, EA409.';

create or replace function app_hidden.revoke_invitation(p_tenant_id uuid, p_user_id uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user public.users := app_private.managed_user(p_tenant_id, p_user_id);
begin
  if v_user.status <> 'INVITED' then
    raise exception '% has no invitation that is still open. Deactivate the user with setUserStatus.', v_user.email using errcode = 'EA409';
  end if;
  delete from public.users where tenant_id = p_tenant_id and id = p_user_id;
end
$$;
comment on function app_hidden.revoke_invitation(uuid, uuid) is 'Removes a user who was invited and has not accepted. EA403, EA404, EA409.';

create or replace function app_hidden.change_user(
  p_tenant_id uuid, p_user_id uuid, p_role public.user_role, p_permissions text[], p_status public.user_status
)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user public.users := app_private.managed_user(p_tenant_id, p_user_id);
begin
  if p_user_id = app_hidden.current_user_id() then
    raise exception 'Nobody changes their own role, permissions or status. Ask another admin.' using errcode = 'EA403', detail = 'self';
  end if;
  perform app_private.assert_may_grant(
    coalesce(p_role, v_user.role), (select array_agg(p) from unnest(p_permissions) p where p <> all (v_user.permissions))
  );
  if p_status is not null and (p_status = 'INVITED') is distinct from (v_user.status = 'INVITED') then
    raise exception '%', case
      when p_status = 'INVITED' then format('%s cannot become INVITED: invite a new user with inviteUser.', v_user.email)
      else format('%s has not accepted the invitation yet. Withdraw it with revokeInvitation.', v_user.email)
    end using errcode = 'EA409';
  end if;
  update public.users
     set role = coalesce(p_role, role),
         permissions = coalesce((select array_agg(distinct p order by p) from unnest(p_permissions) p), case when p_permissions is null then permissions else '{}' end),
         status = coalesce(p_status, status)
   where tenant_id = p_tenant_id and id = p_user_id;
  -- Reactivating somebody later does not bring old sessions back.
  if p_status in ('INACTIVE', 'SUSPENDED') then
    perform app_private.revoke_sessions(p_tenant_id, p_user_id, null);
  end if;
end
$$;
comment on function app_hidden.change_user(uuid, uuid, public.user_role, text[], public.user_status) is
  'Changes the role, permissions or status of another user; null leaves it as it is. EA400, EA402, EA403, EA404, EA409.';

revoke execute on function
  app_private.assert_email(text), app_private.lock_tenant(uuid), app_private.tg_hold_seats(), app_private.tg_hold_integrations(),
  app_private.tg_keep_administrator(), app_private.tg_check_role(), app_private.assert_may_grant(public.user_role, text[]),
  app_private.managed_user(uuid, uuid), app_hidden.invite_user(uuid, text, public.user_role, text[], text, text),
  app_hidden.resend_invitation(uuid, uuid), app_hidden.revoke_invitation(uuid, uuid),
  app_hidden.change_user(uuid, uuid, public.user_role, text[], public.user_status)
from public;
grant execute on function
  app_hidden.invite_user(uuid, text, public.user_role, text[], text, text),
  app_hidden.resend_invitation(uuid, uuid), app_hidden.revoke_invitation(uuid, uuid),
  app_hidden.change_user(uuid, uuid, public.user_role, text[], public.user_status)
to api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/users.sql
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
        case when jsonb_typeof(v_value) <> 'string' or not exists (select from pg_timezone_names z where z.name = v_value #>> '{}')
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
      else 'absent: settings are timeZone, currency, weekStart, fiscalYearStart and retentionDays'
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
    perform app_private.assert_settings(new.settings);
  end if;
  if tg_op = 'UPDATE' then
    if new.slug = 'platform' and new.status <> 'ACTIVE' then
      raise exception 'The operator''s own tenant stays ACTIVE, or nobody could change it back.' using errcode = 'EA409';
    end if;
    -- A plan brings its limits and features, unless the same statement sets others.
    if new.plan_type <> old.plan_type then
      select * into v_plan from app_private.plans where name = new.plan_type;
      if new.max_users = old.max_users then new.max_users := coalesce(v_plan.max_users, new.max_users); end if;
      if new.max_integrations = old.max_integrations then new.max_integrations := coalesce(v_plan.max_integrations, new.max_integrations); end if;
      if new.features = old.features then new.features := coalesce(v_plan.features, new.features); end if;
    end if;
  end if;
  return new;
end
$$;
comment on function app_private.tg_check_tenant() is 'Validates settings, applies a new plan, and keeps the operator''s tenant ACTIVE. EA400, EA409.';

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
    raise exception 'There is no plan "%". There are: %.', left(p_plan, 100), (select string_agg(name, ', ' order by max_users) from app_private.plans)
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
  v_visit jsonb := jsonb_build_object('role', p_role, 'reason', p_reason, 'minutes', p_minutes);
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
--! Included functions/api_keys.sql
create or replace function app_hidden.create_api_key(
  p_tenant_id uuid, p_api_key_id uuid, p_name text, p_scopes text[], p_expires_at timestamptz, p_secret_hash bytea
)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_scopes text[] := (select array_agg(distinct s order by s) from unnest(p_scopes) s);
  v_scope text;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('api_keys:manage');
  perform app_private.require_feature(p_tenant_id, 'api_keys');
  if v_scopes is null then
    raise exception 'An API key needs a scope.' using errcode = 'EA400';
  end if;
  foreach v_scope in array v_scopes loop
    if v_scope not in ('analytics:read', 'analytics:export', 'audit:read', 'events:write', 'integrations:sync') then
      raise exception 'There is no scope "%". There are: analytics:read, analytics:export, audit:read, events:write, integrations:sync.', left(v_scope, 100)
        using errcode = 'EA400';
    end if;
    if v_scope <> 'analytics:read' and not app_hidden.has_permission(v_scope) then
      raise exception 'You cannot grant "%": you do not have it yourself.', v_scope using errcode = 'EA403', detail = v_scope;
    end if;
  end loop;
  if v_scopes <> '{events:write}' and 'analytics:read' <> all (v_scopes) then
    raise exception 'Only "events:write" can be the one scope of a key; the others need "analytics:read" beside them.' using errcode = 'EA400';
  end if;
  if p_expires_at <= now() then
    raise exception 'expiresAt lies in the past.' using errcode = 'EA400';
  end if;
  perform app_private.lock_tenant(p_tenant_id);
  if (select count(*) from public.api_keys where tenant_id = p_tenant_id and revoked_at is null) >= 100 then
    raise exception 'A tenant may have 100 API keys. Revoke one first.' using errcode = 'EA402', detail = 'api_keys';
  end if;
  insert into public.api_keys (id, tenant_id, name, scopes, expires_at, created_by)
  values (p_api_key_id, p_tenant_id, p_name, v_scopes, p_expires_at, app_hidden.current_user_id());
  insert into app_private.api_key_secrets (tenant_id, api_key_id, secret_hash) values (p_tenant_id, p_api_key_id, p_secret_hash);
end
$$;
comment on function app_hidden.create_api_key(uuid, uuid, text, text[], timestamptz, bytea) is
  'Keeps an API key whose secret only its maker has. EA400, EA402, EA403.';

create or replace function app_hidden.revoke_api_key(p_tenant_id uuid, p_api_key_id uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('api_keys:manage');
  update public.api_keys set revoked_at = coalesce(revoked_at, now()) where tenant_id = p_tenant_id and id = p_api_key_id;
  if not found then
    raise exception 'There is no API key %.', p_api_key_id using errcode = 'EA404';
  end if;
end
$$;
comment on function app_hidden.revoke_api_key(uuid, uuid) is 'Ends an API key at once and for good. EA403, EA404.';

revoke execute on function
  app_hidden.create_api_key(uuid, uuid, text, text[], timestamptz, bytea), app_hidden.revoke_api_key(uuid, uuid)
from public;
grant execute on function
  app_hidden.create_api_key(uuid, uuid, text, text[], timestamptz, bytea), app_hidden.revoke_api_key(uuid, uuid)
to api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/api_keys.sql
--! Included functions/token_keys.sql
-- Keys are added and retired by the owner's login alone (npm run tokens:rotate): who serves requests could otherwise
-- make a key that signs what it likes.
create or replace function app_hidden.token_keys()
returns table (kid text, public_jwk jsonb, kek_id text, wrapped_private_key bytea, signs_from timestamptz)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select k.kid, k.public_jwk, k.kek_id, k.wrapped_private_key, k.signs_from
    from app_private.token_keys k
   where k.retired_at is null or k.retired_at > now()
$$;
comment on function app_hidden.token_keys() is 'The keys of access tokens that are not retired; the private ones are wrapped.';
revoke execute on function app_hidden.token_keys() from public;
grant execute on function app_hidden.token_keys() to erp_authenticator;
--! EndIncluded functions/token_keys.sql
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

  select count(*) filter (where w.outcome = 'accepted'),
         count(*) filter (where w.outcome = 'updated'),
         count(*) filter (where w.outcome = 'duplicate')
    into accepted, updated, duplicate
    from app_hidden.write_events(p_tenant_id, p_events) w;

  insert into app_private.unparsable_records (tenant_id, integration_id, stream, source_id, reason, record)
  select p_tenant_id, p_integration_id, p_stream, u ->> 'sourceId', u ->> 'reason', coalesce(u -> 'record', 'null')
    from jsonb_array_elements(p_unparsable) u;

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
--! Included functions/api.sql
-- Functions of the GraphQL API. Invokers: row security decides what they see.

create or replace function public.current_account() returns public.users
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_user public.users;
begin
  select * into v_user from public.users where tenant_id = v_tenant_id and id = app_hidden.current_user_id();
  return v_user;
end
$$;
comment on function public.current_account() is 'The user who is signed in; null for an API key, and for an operator who entered the tenant.';

create or replace function public.current_session() returns public.sessions
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_session public.sessions;
begin
  select * into v_session from public.sessions where tenant_id = v_tenant_id and id = app_hidden.current_session_id();
  return v_session;
end
$$;
comment on function public.current_session() is 'The session of this request.';

create or replace function public.analytics_event_by_source(source text, source_id text) returns public.analytics_events
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_event public.analytics_events;
begin
  select e.* into v_event
    from public.analytics_events e
   where e.tenant_id = v_tenant_id
     and e.source_id = analytics_event_by_source.source_id
     and e.source = analytics_event_by_source.source
   limit 1;
  return v_event;
end
$$;
comment on function public.analytics_event_by_source(text, text) is 'The event of a record at its source.';

create or replace function public.logout() returns uuid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_session_id uuid := app_hidden.current_session_id();
begin
  perform app_hidden.revoke_session(app_hidden.current_home_tenant_id(), v_session_id);
  return v_session_id;
end
$$;
comment on function public.logout() is 'Ends the session of this request: its access and refresh tokens are refused from now on.';

create or replace function public.logout_everywhere() returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return app_hidden.revoke_own_sessions(app_hidden.current_tenant_id());
end
$$;
comment on function public.logout_everywhere() is 'Ends all sessions of the current user, this one too. Returns how many.';

create or replace function public.revoke_session(session_id uuid) returns public.sessions
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_session public.sessions;
begin
  perform app_hidden.revoke_session(v_tenant_id, session_id);
  select * into v_session from public.sessions where tenant_id = v_tenant_id and id = session_id;
  return v_session;
end
$$;
comment on function public.revoke_session(uuid) is 'Ends one of the current user''s sessions.';

create or replace function public.request_email_verification() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.request_email_verification(app_hidden.current_tenant_id());
end
$$;
comment on function public.request_email_verification() is 'Mails the current user a link that proves the e-mail address.';

create or replace function public.request_password_reset(email text, tenant text default null, domain text default null) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if email is null or num_nonnulls(tenant, domain) <> 1 then
    raise exception 'Give an e-mail, and either the tenant or its domain.' using errcode = 'EA400';
  end if;
  perform app_hidden.request_password_reset(tenant, domain, email);
end
$$;
comment on function public.request_password_reset(text, text, text) is
  'Mails a link to set a new password, if there is such an account: the answer is the same if there is none. tenant is its slug.';

create or replace function public.invite_user(
  email text, role public.user_role default 'USER', permissions text[] default '{}', first_name text default null, last_name text default null
)
returns public.users
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_user public.users;
  v_id uuid := app_hidden.invite_user(
    v_tenant_id, invite_user.email, coalesce(invite_user.role, 'USER'), invite_user.permissions,
    invite_user.first_name, invite_user.last_name
  );
begin
  select * into v_user from public.users where tenant_id = v_tenant_id and id = v_id;
  return v_user;
end
$$;
comment on function public.invite_user(text, public.user_role, text[], text, text) is
  'Makes a user with the status INVITED and mails them a link that works once, for seven days. Needs users:manage; nobody grants more than they have.';

create or replace function public.resend_invitation(user_id uuid) returns public.users
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_user public.users;
begin
  perform app_hidden.resend_invitation(v_tenant_id, user_id);
  select * into v_user from public.users where tenant_id = v_tenant_id and id = user_id;
  return v_user;
end
$$;
comment on function public.resend_invitation(uuid) is 'Mails a new invitation, for another seven days; the earlier link no longer works. Needs users:manage.';

create or replace function public.revoke_invitation(user_id uuid) returns uuid
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.revoke_invitation(app_hidden.current_tenant_id(), user_id);
  return user_id;
end
$$;
comment on function public.revoke_invitation(uuid) is 'Removes a user who has not accepted the invitation yet. Needs users:manage.';

create or replace function public.set_user_role(user_id uuid, role public.user_role) returns public.users
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_user public.users;
begin
  perform app_hidden.change_user(v_tenant_id, set_user_role.user_id, set_user_role.role, null, null);
  select * into v_user from public.users where tenant_id = v_tenant_id and id = set_user_role.user_id;
  return v_user;
end
$$;
comment on function public.set_user_role(uuid, public.user_role) is
  'Changes the role of another user, up to one''s own. Their sessions have to be refreshed. Needs users:manage.';

create or replace function public.set_user_permissions(user_id uuid, permissions text[]) returns public.users
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_user public.users;
begin
  perform app_hidden.change_user(v_tenant_id, set_user_permissions.user_id, null, set_user_permissions.permissions, null);
  select * into v_user from public.users where tenant_id = v_tenant_id and id = set_user_permissions.user_id;
  return v_user;
end
$$;
comment on function public.set_user_permissions(uuid, text[]) is
  'Replaces the single permissions of another user, which add to the role''s; at once. Needs users:manage, and each permission that it adds.';

create or replace function public.set_user_status(user_id uuid, status public.user_status) returns public.users
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_user public.users;
begin
  perform app_hidden.change_user(v_tenant_id, set_user_status.user_id, null, null, set_user_status.status);
  select * into v_user from public.users where tenant_id = v_tenant_id and id = set_user_status.user_id;
  return v_user;
end
$$;
comment on function public.set_user_status(uuid, public.user_status) is
  'Suspends, deactivates or reactivates another user; sessions end at once. INACTIVE users do not count towards max_users. Needs users:manage.';

create or replace function public.revoke_api_key(api_key_id uuid) returns public.api_keys
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_key public.api_keys;
begin
  perform app_hidden.revoke_api_key(v_tenant_id, api_key_id);
  select * into v_key from public.api_keys where tenant_id = v_tenant_id and id = api_key_id;
  return v_key;
end
$$;
comment on function public.revoke_api_key(uuid) is 'Ends an API key at once and for good. Needs api_keys:manage.';

create or replace function public.create_tenant(
  name text, slug text, admin_email text, plan text default 'trial', trial_days integer default null, settings jsonb default '{}'
)
returns public.tenants
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid := app_hidden.create_tenant(
    create_tenant.name, create_tenant.slug, admin_email, plan, trial_days, create_tenant.settings
  );
  v_tenant public.tenants;
begin
  select * into v_tenant from public.tenants where id = v_id;
  return v_tenant;
end
$$;
comment on function public.create_tenant(text, text, text, text, integer, jsonb) is
  'Makes a tenant with the limits and features of its plan, and mails an invitation to its first admin. A trial lasts 14 days unless trialDays says otherwise. Needs SUPER_ADMIN.';

create or replace function public.sync_integration(integration_id uuid) returns public.integrations
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_hidden.current_tenant_id();
  v_integration public.integrations;
begin
  perform app_hidden.request_sync(v_tenant_id, integration_id);
  select * into v_integration from public.integrations where tenant_id = v_tenant_id and id = integration_id;
  return v_integration;
end
$$;
comment on function public.sync_integration(uuid) is
  'Starts a sync of an integration now. While one is queued or running, nothing more is started. Needs integrations:sync.';

revoke execute on function
  public.current_account(), public.current_session(), public.analytics_event_by_source(text, text), public.logout(),
  public.logout_everywhere(), public.revoke_session(uuid), public.request_email_verification(),
  public.request_password_reset(text, text, text), public.invite_user(text, public.user_role, text[], text, text),
  public.resend_invitation(uuid), public.revoke_invitation(uuid), public.set_user_role(uuid, public.user_role),
  public.set_user_permissions(uuid, text[]), public.set_user_status(uuid, public.user_status), public.revoke_api_key(uuid),
  public.create_tenant(text, text, text, text, integer, jsonb), public.sync_integration(uuid)
from public;
grant execute on function public.request_password_reset(text, text, text)
to api_anonymous, api_viewer, api_user, api_admin, api_super_admin;
-- What needs a permission asks for it itself: a viewer may have been granted it.
grant execute on function
  public.current_account(), public.current_session(), public.analytics_event_by_source(text, text), public.logout(),
  public.logout_everywhere(), public.revoke_session(uuid), public.request_email_verification(),
  public.invite_user(text, public.user_role, text[], text, text), public.resend_invitation(uuid), public.revoke_invitation(uuid),
  public.set_user_role(uuid, public.user_role), public.set_user_permissions(uuid, text[]),
  public.set_user_status(uuid, public.user_status), public.revoke_api_key(uuid), public.sync_integration(uuid)
to api_viewer, api_user, api_admin, api_super_admin;
grant execute on function public.create_tenant(text, text, text, text, integer, jsonb) to api_super_admin;
--! EndIncluded functions/api.sql
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
--! EndIncluded policies/app_private.sql
--! Included policies/sessions.sql
-- People see their own sessions. They are opened, rotated and ended by functions.
alter table public.sessions enable row level security, force row level security;

drop policy if exists owner_all on public.sessions;
create policy owner_all on public.sessions to erp_user using (true) with check (true);
comment on policy owner_all on public.sessions is 'Migrations, DBAs and definer functions.';

drop policy if exists select_self on public.sessions;
create policy select_self on public.sessions for select to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id() and user_id = app_hidden.current_user_id());
comment on policy select_self on public.sessions is 'People see their own sessions.';

grant select on public.sessions to api_viewer, api_user, api_admin, api_super_admin;
-- Withheld: insert, update and delete, from everybody.
--! EndIncluded policies/sessions.sql
--! Included policies/api_keys.sql
-- Whoever has api_keys:manage sees the tenant's API keys. Functions make and revoke them; secrets are elsewhere.
alter table public.api_keys enable row level security, force row level security;

drop policy if exists owner_all on public.api_keys;
create policy owner_all on public.api_keys to erp_user using (true) with check (true);
comment on policy owner_all on public.api_keys is 'Migrations, DBAs and definer functions.';

drop policy if exists select_manager on public.api_keys;
create policy select_manager on public.api_keys for select to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('api_keys:manage'));
comment on policy select_manager on public.api_keys is 'Whoever has api_keys:manage sees the keys of the tenant. EA403 for others.';

grant select on public.api_keys to api_viewer, api_user, api_admin, api_super_admin;
-- Withheld: insert, update and delete, from everybody.
--! EndIncluded policies/api_keys.sql
--! Included policies/tenants.sql
-- A tenant sees itself. The super admin sees every tenant here, and nothing of their rows elsewhere.
alter table public.tenants enable row level security, force row level security;

drop policy if exists owner_all on public.tenants;
create policy owner_all on public.tenants to erp_user using (true) with check (true);
comment on policy owner_all on public.tenants is 'Migrations, DBAs and definer functions.';

drop policy if exists select_member on public.tenants;
create policy select_member on public.tenants for select to api_viewer, api_user, api_admin, api_job
  using (id = app_hidden.current_tenant_id());
comment on policy select_member on public.tenants is 'A tenant sees itself.';

drop policy if exists update_admin on public.tenants;
drop policy if exists update_manager on public.tenants;
create policy update_manager on public.tenants for update to api_viewer, api_user, api_admin
  using (id = app_hidden.current_tenant_id() and app_hidden.require_permission('tenant:settings'))
  with check (id = app_hidden.current_tenant_id() and app_hidden.require_permission('tenant:settings'));
comment on policy update_manager on public.tenants is
  'Whoever has tenant:settings changes their own tenant''s name, settings and billing address.';

drop policy if exists select_super_admin on public.tenants;
create policy select_super_admin on public.tenants for select to api_super_admin using (true);
comment on policy select_super_admin on public.tenants is 'The operator sees all tenants.';

drop policy if exists update_super_admin on public.tenants;
create policy update_super_admin on public.tenants for update to api_super_admin using (true) with check (true);
comment on policy update_super_admin on public.tenants is 'The operator changes plans, limits and status.';

grant select on public.tenants to api_viewer, api_user, api_admin, api_super_admin, api_job;
grant update (name, settings, billing_email) on public.tenants to api_viewer, api_user, api_admin;
grant update (name, domain, status, settings, metadata, features, max_users, max_integrations, plan_type, trial_ends_at, billing_email)
  on public.tenants to api_super_admin;
-- Withheld: insert (creating a tenant is a function's work) and delete, from everybody.
--! EndIncluded policies/tenants.sql
--! Included policies/users.sql
-- Colleagues see each other. Users keep their own profile, admins everybody's; viewers only read.
alter table public.users enable row level security, force row level security;

drop policy if exists owner_all on public.users;
create policy owner_all on public.users to erp_user using (true) with check (true);
comment on policy owner_all on public.users is 'Migrations, DBAs and definer functions.';

drop policy if exists select_member on public.users;
create policy select_member on public.users for select to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id());
comment on policy select_member on public.users is 'Colleagues see each other.';

drop policy if exists update_self on public.users;
create policy update_self on public.users for update to api_user
  using (tenant_id = app_hidden.current_tenant_id() and id = app_hidden.current_user_id())
  with check (tenant_id = app_hidden.current_tenant_id() and id = app_hidden.current_user_id());
comment on policy update_self on public.users is 'Users keep their own profile; viewers only read.';

drop policy if exists update_admin on public.users;
create policy update_admin on public.users for update to api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id()) with check (tenant_id = app_hidden.current_tenant_id());
comment on policy update_admin on public.users is 'Admins keep the profiles of their tenant.';

grant select on public.users to api_viewer, api_user, api_admin, api_super_admin;
revoke update (status) on public.users from api_admin, api_super_admin;
grant update (first_name, last_name, avatar) on public.users to api_user, api_admin, api_super_admin;
-- Withheld: tenant_id; role, permissions, status and e-mail, with their rules, are the work of functions, as are insert and delete.
--! EndIncluded policies/users.sql
--! Included policies/integrations.sql
-- Everybody in the tenant sees integrations; whoever has integrations:manage changes them. Credentials are elsewhere.
alter table public.integrations enable row level security, force row level security;

drop policy if exists owner_all on public.integrations;
create policy owner_all on public.integrations to erp_user using (true) with check (true);
comment on policy owner_all on public.integrations is 'Migrations, DBAs and definer functions.';

drop policy if exists select_member on public.integrations;
create policy select_member on public.integrations for select to api_viewer, api_user, api_admin, api_super_admin, api_job
  using (tenant_id = app_hidden.current_tenant_id());
comment on policy select_member on public.integrations is 'Everybody in the tenant, and its jobs.';

drop policy if exists insert_admin on public.integrations;
drop policy if exists insert_manager on public.integrations;
create policy insert_manager on public.integrations for insert to api_viewer, api_user, api_admin, api_super_admin
  with check (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('integrations:manage'));
comment on policy insert_manager on public.integrations is 'Whoever has integrations:manage adds integrations to the tenant.';

drop policy if exists update_admin on public.integrations;
drop policy if exists update_manager on public.integrations;
create policy update_manager on public.integrations for update to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('integrations:manage'))
  with check (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('integrations:manage'));
comment on policy update_manager on public.integrations is 'Whoever has integrations:manage changes the tenant''s integrations.';

drop policy if exists delete_admin on public.integrations;
drop policy if exists delete_manager on public.integrations;
create policy delete_manager on public.integrations for delete to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('integrations:manage'));
comment on policy delete_manager on public.integrations is 'Whoever has integrations:manage removes the tenant''s integrations; the events stay.';

grant select on public.integrations to api_viewer, api_user, api_admin, api_super_admin, api_job;
grant insert (name, provider, description, config, enabled) on public.integrations to api_viewer, api_user, api_admin, api_super_admin;
grant update (name, description, config, enabled) on public.integrations to api_viewer, api_user, api_admin, api_super_admin;
grant delete on public.integrations to api_viewer, api_user, api_admin, api_super_admin;
-- Withheld: tenant_id, and the sync's own columns, which its functions move.
--! EndIncluded policies/integrations.sql
--! Included policies/audit_logs.sql
-- Admins, and whoever has audit:read, read their tenant's log. It is written by triggers and functions of the owner alone.
alter table public.audit_logs enable row level security, force row level security;

drop policy if exists owner_all on public.audit_logs;
create policy owner_all on public.audit_logs to erp_user using (true) with check (true);
comment on policy owner_all on public.audit_logs is 'Migrations, DBAs, the audit triggers and definer functions.';

drop policy if exists select_admin on public.audit_logs;
drop policy if exists select_auditor on public.audit_logs;
create policy select_auditor on public.audit_logs for select to api_viewer, api_user, api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id() and app_hidden.require_permission('audit:read'));
comment on policy select_auditor on public.audit_logs is 'Whoever has audit:read, by role or by itself, reads the log of the tenant. EA403 for others.';

grant select on public.audit_logs to api_viewer, api_user, api_admin, api_super_admin;
-- Withheld: insert, update and delete, from everybody.
--! EndIncluded policies/audit_logs.sql
--! Included triggers/audit.sql
create or replace trigger _100_touch before update on public.tenants for each row execute function app_private.tg_touch();
create or replace trigger _100_touch before update on public.users for each row execute function app_private.tg_touch();
create or replace trigger _100_touch before update on public.integrations for each row execute function app_private.tg_touch();
create or replace trigger _100_touch before update on app_private.user_passwords for each row execute function app_private.tg_touch();
create or replace trigger _100_touch before update on app_private.integration_credentials for each row execute function app_private.tg_touch();

create or replace trigger _900_audit after insert or update or delete on public.tenants
  for each row execute function app_private.tg_audit('tenant', 'id', '{}', '{updated_at}');
create or replace trigger _900_audit after insert or update or delete on public.users
  for each row execute function app_private.tg_audit('user', 'id', '{}', '{updated_at,last_login_at}');
create or replace trigger _900_audit after insert or update or delete on public.integrations
  for each row execute function app_private.tg_audit('integration', 'id', '{}', '{updated_at}');
create or replace trigger _900_audit after insert or update or delete on app_private.user_passwords
  for each row execute function app_private.tg_audit('user_password', 'user_id', '{password_hash}', '{updated_at}');
create or replace trigger _900_audit after insert or update or delete on app_private.integration_credentials
  for each row execute function app_private.tg_audit('integration_credentials', 'integration_id', '{ciphertext}', '{updated_at}');
create or replace trigger _900_audit after insert or update or delete on app_private.tenant_keys
  for each row execute function app_private.tg_audit('tenant_key', 'version', '{wrapped_key}', '{}');
create or replace trigger _900_audit after insert or update or delete on public.api_keys
  for each row execute function app_private.tg_audit('api_key', 'id', '{}', '{last_used_at}');
--! EndIncluded triggers/audit.sql
--! Included triggers/limits.sql
-- Named to come after _100_touch and before _900_audit.
create or replace trigger _200_check before insert or update on public.tenants
  for each row execute function app_private.tg_check_tenant();
create or replace trigger _200_check_role before insert or update of role, tenant_id on public.users
  for each row when (new.role = 'SUPER_ADMIN') execute function app_private.tg_check_role();
create or replace trigger _300_seats_of_new after insert on public.users
  for each row when (new.status <> 'INACTIVE') execute function app_private.tg_hold_seats();
create or replace trigger _300_seats_of_reactivated after update of status on public.users
  for each row when (old.status = 'INACTIVE' and new.status <> 'INACTIVE') execute function app_private.tg_hold_seats();
create or replace trigger _400_keep_administrator after update of role, status or delete on public.users
  for each row when (old.status = 'ACTIVE' and old.role in ('ADMIN', 'SUPER_ADMIN')) execute function app_private.tg_keep_administrator();
create or replace trigger _300_limit after insert on public.integrations
  for each row execute function app_private.tg_hold_integrations();
--! EndIncluded triggers/limits.sql
