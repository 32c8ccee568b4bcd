--! Previous: -
--! Hash: sha1:05b2d9aa9b1440ce96d196d51f25d9c27d38a715
--! Message: schema

--! split: 010-schemas.sql
-- Every new function would be executable by PUBLIC; only the form without `in schema` takes that away.
alter default privileges revoke execute on functions from public;

create schema app_hidden;
create schema app_private;
create schema partitions;

comment on schema public is 'The API: its tables, enums and functions are the GraphQL schema.';
comment on schema app_hidden is 'What policies and API roles call. Never in GraphQL.';
comment on schema app_private is 'Secrets, sessions, keys and queues. No API role has usage.';
comment on schema partitions is 'Partitions of events and audit logs, made by app_private.make_partition. Nothing is granted here.';

revoke all on schema public from public;
grant usage on schema public, app_hidden to api_anonymous, api_viewer, api_user, api_admin, api_super_admin, api_job;
-- public too: an empty-handed login is told "permission denied", not that the table does not exist.
grant usage on schema public, app_hidden to erp_authenticator, erp_worker;

create type public.tenant_status as enum ('ACTIVE', 'SUSPENDED', 'TRIAL', 'CANCELLED');
create type public.user_role as enum ('SUPER_ADMIN', 'ADMIN', 'USER', 'VIEWER');
create type public.user_status as enum ('ACTIVE', 'INACTIVE', 'INVITED', 'SUSPENDED');
create type public.integration_status as enum ('PENDING', 'ACTIVE', 'ERROR', 'DISABLED');

comment on type public.tenant_status is 'State of a tenant''s account. Only ACTIVE and TRIAL tenants can sign in.';
comment on type public.user_role is 'What a user may do: VIEWER reads, USER also starts syncs, ADMIN manages the tenant, SUPER_ADMIN operates the platform.';
comment on type public.user_status is 'State of a user''s account. Only ACTIVE users can sign in.';
comment on type public.integration_status is 'PENDING: never synced. ACTIVE: the last sync succeeded. ERROR: it failed. DISABLED: switched off.';

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
comment on function app_hidden.current_user_id() is 'User of this transaction; null outside a request.';

create or replace function app_hidden.current_session_id() returns uuid
language sql stable parallel safe
as $$ select nullif(current_setting('app.session_id', true), '')::uuid $$;
comment on function app_hidden.current_session_id() is 'Session of this transaction; null outside a request.';

grant execute on function
  app_hidden.current_tenant_id(), app_hidden.current_user_id(), app_hidden.current_session_id()
to api_anonymous, api_viewer, api_user, api_admin, api_super_admin, api_job;
--! EndIncluded functions/current_settings.sql

--! split: 020-tenants.sql
create table app_private.plans (
  name text primary key,
  max_users integer not null check (max_users >= 0),
  max_integrations integer not null check (max_integrations >= 0)
);
comment on table app_private.plans is 'Subscription plans and the limits that a tenant gets with them.';
insert into app_private.plans (name, max_users, max_integrations) values
  ('trial', 10, 5),
  ('starter', 25, 10),
  ('business', 250, 50);

create table public.tenants (
  id uuid primary key default uuidv7(),
  name text not null check (length(name) between 1 and 200),
  slug text not null unique check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(slug) <= 63),
  domain text unique check (domain = lower(domain) and length(domain) <= 253),
  status public.tenant_status not null default 'TRIAL',
  settings jsonb not null default '{}' check (jsonb_typeof(settings) = 'object'),
  metadata jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object'),
  features text[] not null default '{}',
  max_users integer not null default 10 check (max_users >= 0),
  max_integrations integer not null default 5 check (max_integrations >= 0),
  plan_type text not null default 'trial' references app_private.plans (name) on update cascade on delete restrict,
  billing_email text check (length(billing_email) <= 320),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index tenants_status_idx on public.tenants (status);
create index tenants_plan_type_idx on public.tenants (plan_type);

comment on table public.tenants is 'An organisation that uses the platform.';
comment on column public.tenants.name is 'Name of the organisation.';
comment on column public.tenants.slug is 'Identifier for URLs and sign-in: lower case letters, digits and single hyphens.';
comment on column public.tenants.domain is 'Custom domain, lower case.';
comment on column public.tenants.status is 'State of the account.';
comment on column public.tenants.settings is 'Keys: timeZone (IANA name), currency (ISO 4217), weekStart (0 is Sunday), fiscalYearStart (month, 1 to 12), retentionDays.';
comment on column public.tenants.metadata is 'Free-form data about the tenant.';
comment on column public.tenants.features is 'Enabled features.';
comment on column public.tenants.max_users is 'How many users the tenant may have.';
comment on column public.tenants.max_integrations is 'How many integrations the tenant may have.';
comment on column public.tenants.plan_type is 'Subscription plan: trial, starter or business.';
comment on column public.tenants.billing_email is 'Where invoices go.';

create table app_private.tenant_keys (
  tenant_id uuid not null references public.tenants (id) on delete cascade,
  version integer not null default 1 check (version > 0),
  kek_id text not null,
  wrapped_key bytea not null,
  created_at timestamptz not null default now(),
  primary key (tenant_id, version)
);
comment on table app_private.tenant_keys is 'Data keys of tenants (AES-256), each wrapped by the key-encryption key kek_id, which PostgreSQL never sees.';
comment on column app_private.tenant_keys.wrapped_key is 'AES-256-GCM: nonce (12 bytes), ciphertext, tag (16 bytes).';

--! split: 030-users.sql
create table public.users (
  id uuid primary key default uuidv7(),
  tenant_id uuid not null default app_hidden.current_tenant_id() references public.tenants (id) on delete cascade,
  email text not null check (email = lower(email) and email ~ '^[^@\s]+@[^@\s]+$' and length(email) <= 320),
  first_name text check (length(first_name) <= 200),
  last_name text check (length(last_name) <= 200),
  avatar text check (length(avatar) <= 2000),
  role public.user_role not null default 'USER',
  permissions text[] not null default '{}',
  status public.user_status not null default 'ACTIVE',
  email_verified boolean not null default false,
  last_login_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (tenant_id, id),
  unique (tenant_id, email)
);
create index users_email_idx on public.users (email);

comment on table public.users is 'An account in a tenant. The same e-mail may have an account in several tenants.';
comment on column public.users.email is 'Lower case; unique within the tenant.';
comment on column public.users.avatar is 'URL of a picture.';
comment on column public.users.role is 'What the user may do.';
comment on column public.users.permissions is 'Single rights beyond the role.';
comment on column public.users.status is 'State of the account.';
comment on column public.users.email_verified is 'Whether the user has proved to own the e-mail.';
comment on column public.users.last_login_at is 'When the user last signed in.';

create table app_private.user_passwords (
  tenant_id uuid not null,
  user_id uuid not null,
  password_hash text not null check (password_hash like '$argon2id$%'),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, user_id),
  foreign key (tenant_id, user_id) references public.users (tenant_id, id) on delete cascade
);
comment on table app_private.user_passwords is 'argon2id hashes. A table of its own: a hidden column of users would break whole-row access.';

create table app_private.sessions (
  tenant_id uuid not null,
  id uuid not null default uuidv7(),
  user_id uuid not null,
  refresh_token_hash bytea not null,
  ip_address text,
  user_agent text,
  created_at timestamptz not null default now(),
  refreshed_at timestamptz not null default now(),
  expires_at timestamptz not null,
  revoked_at timestamptz,
  primary key (tenant_id, id),
  foreign key (tenant_id, user_id) references public.users (tenant_id, id) on delete cascade
);
create index sessions_user_idx on app_private.sessions (tenant_id, user_id);
comment on table app_private.sessions is 'Sign-ins. An access token names its session, which every request checks.';
comment on column app_private.sessions.refresh_token_hash is 'SHA-256 of the only refresh token that is valid now.';

--! split: 040-integrations.sql
create table public.integrations (
  id uuid primary key default uuidv7(),
  tenant_id uuid not null default app_hidden.current_tenant_id() references public.tenants (id) on delete cascade,
  name text not null check (length(name) between 1 and 200),
  provider text not null check (provider ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(provider) <= 63),
  description text check (length(description) <= 2000),
  config jsonb not null default '{}' check (jsonb_typeof(config) = 'object'),
  status public.integration_status not null default 'PENDING',
  enabled boolean not null default false,
  last_sync_at timestamptz,
  sync_status text check (sync_status in ('queued', 'running', 'succeeded', 'failed')),
  sync_error text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (tenant_id, id)
);
create index integrations_tenant_provider_idx on public.integrations (tenant_id, provider);
create index integrations_tenant_status_idx on public.integrations (tenant_id, status);

comment on table public.integrations is 'A source of data, such as a point of sale or an advertising account.';
comment on column public.integrations.provider is 'Which connector pulls the data, for example square or meta-ads.';
comment on column public.integrations.config is 'Settings of the connector. Never secrets.';
comment on column public.integrations.enabled is 'Whether syncs start by themselves. config.syncIntervalMinutes says how often (default 60).';
comment on column public.integrations.last_sync_at is 'When the last successful sync ended.';
comment on column public.integrations.sync_status is 'queued, running, succeeded or failed; null before the first sync.';
comment on column public.integrations.sync_error is 'Why the last sync failed, as a sentence.';

create table app_private.integration_credentials (
  tenant_id uuid not null,
  integration_id uuid not null,
  version integer not null default 1 check (version > 0),
  key_version integer not null,
  ciphertext bytea not null,
  updated_at timestamptz not null default now(),
  primary key (tenant_id, integration_id),
  foreign key (tenant_id, integration_id) references public.integrations (tenant_id, id) on delete cascade,
  foreign key (tenant_id, key_version) references app_private.tenant_keys (tenant_id, version) on delete cascade
);
create index integration_credentials_key_idx on app_private.integration_credentials (tenant_id, key_version);
comment on table app_private.integration_credentials is 'Credentials of integrations, sealed by the application; PostgreSQL never sees the plaintext.';
comment on column app_private.integration_credentials.ciphertext is
  'AES-256-GCM under the tenant''s key of key_version: nonce (12 bytes), ciphertext, tag (16 bytes). Additional data: tenant, table, integration and version.';

create table app_private.sync_runs (
  tenant_id uuid not null,
  integration_id uuid not null,
  run_id uuid not null,
  started_at timestamptz not null default now(),
  lease_expires_at timestamptz not null,
  finished_at timestamptz,
  pages bigint not null default 0,
  events_accepted bigint not null default 0,
  events_updated bigint not null default 0,
  events_duplicate bigint not null default 0,
  primary key (tenant_id, integration_id),
  foreign key (tenant_id, integration_id) references public.integrations (tenant_id, id) on delete cascade
);
comment on table app_private.sync_runs is 'The newest run of each integration. run_id is its fencing token: every write of a sync carries it, and an older one is refused.';

create table app_private.sync_checkpoints (
  tenant_id uuid not null,
  integration_id uuid not null,
  stream text not null,
  checkpoint jsonb not null,
  updated_at timestamptz not null default now(),
  primary key (tenant_id, integration_id, stream),
  foreign key (tenant_id, integration_id) references public.integrations (tenant_id, id) on delete cascade
);
comment on table app_private.sync_checkpoints is 'How far each stream of an integration was read; moves in the transaction that writes the rows.';

create table app_private.unparsable_records (
  tenant_id uuid not null,
  id uuid not null default uuidv7(),
  integration_id uuid not null,
  stream text not null,
  source_id text,
  reason text not null,
  record jsonb not null,
  created_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, integration_id) references public.integrations (tenant_id, id) on delete cascade
);
create index unparsable_records_integration_idx on app_private.unparsable_records (tenant_id, integration_id, stream);
comment on table app_private.unparsable_records is 'Records of providers that could not be read, kept with the reason.';

create table app_private.worker_heartbeats (
  worker_id text primary key,
  beat_at timestamptz not null default now()
);
comment on table app_private.worker_heartbeats is 'When each worker was last alive.';

--! split: 050-events.sql
create table public.analytics_events (
  id uuid not null default uuidv7(),
  tenant_id uuid not null references public.tenants (id) on delete cascade,
  event_type text not null check (length(event_type) between 1 and 100),
  event_name text not null check (length(event_name) between 1 and 200),
  properties jsonb not null default '{}' check (jsonb_typeof(properties) = 'object'),
  source text check (length(source) <= 200),
  source_id text check (length(source_id) <= 500),
  -- NaN would make every sum NaN; it sorts above all numbers, so the bound refuses it too.
  value numeric check (value > '-1e30' and value < '1e30' and scale(value) <= 30),
  currency text check (currency ~ '^[A-Z]{3}$'),
  "timestamp" timestamptz not null default now() check (isfinite("timestamp")),
  primary key (tenant_id, "timestamp", id)
) partition by range ("timestamp");
create index analytics_events_type_idx on public.analytics_events (tenant_id, event_type, "timestamp");
create index analytics_events_source_id_idx on public.analytics_events (tenant_id, source_id) where source_id is not null;

comment on table public.analytics_events is 'Something that happened, at a time, with a measure.';
comment on column public.analytics_events.event_type is 'Category, for example order, refund or ad_insight.';
comment on column public.analytics_events.event_name is 'What happened, for example order_completed.';
comment on column public.analytics_events.properties is 'Whatever else is known about the event.';
comment on column public.analytics_events.source is 'Where the event came from: <provider>:<integrationId> for integrations.';
comment on column public.analytics_events.source_id is 'Identifier of the record at its source: one record is one event.';
comment on column public.analytics_events.value is 'The event''s main measure, in major units of currency where it is money. Refunds are negative.';
comment on column public.analytics_events.currency is 'ISO 4217 code of value.';
comment on column public.analytics_events."timestamp" is 'When it happened.';

create table app_private.event_keys (
  tenant_id uuid not null references public.tenants (id) on delete cascade,
  source text not null,
  source_id text not null,
  "timestamp" timestamptz not null,
  id uuid not null,
  source_version bigint,
  content_hash bytea not null,
  deleted_at timestamptz,
  primary key (tenant_id, source, source_id)
);
comment on table app_private.event_keys is
  'Where the event of a source record is. Written with the event, it makes a repeat a no-op and a change an update.';
comment on column app_private.event_keys.content_hash is 'SHA-256 of the fields of the last accepted statement.';
comment on column app_private.event_keys.deleted_at is 'The source deleted the record: only a newer version brings it back.';

create table public.audit_logs (
  id uuid not null default uuidv7(),
  tenant_id uuid not null references public.tenants (id) on delete cascade,
  user_id uuid,
  actor_kind text not null check (actor_kind in ('user', 'anonymous', 'job', 'database')),
  actor_id uuid,
  actor_name text,
  action text not null,
  resource text not null,
  resource_id text,
  changes jsonb not null default '{}' check (jsonb_typeof(changes) = 'object'),
  ip_address text,
  user_agent text,
  request_id text,
  session_id uuid,
  created_at timestamptz not null default now(),
  primary key (tenant_id, created_at, id),
  foreign key (tenant_id, user_id) references public.users (tenant_id, id) on delete set null (user_id)
) partition by range (created_at);
create index audit_logs_user_idx on public.audit_logs (tenant_id, user_id);
create index audit_logs_action_idx on public.audit_logs (tenant_id, action);
create index audit_logs_resource_idx on public.audit_logs (tenant_id, resource, resource_id);

comment on table public.audit_logs is 'Who changed what. Written in the transaction of the change; no role of the API can alter it.';
comment on column public.audit_logs.user_id is 'The user who acted; null once the user is deleted.';
comment on column public.audit_logs.actor_kind is 'user, anonymous, job, or database (plain SQL).';
comment on column public.audit_logs.actor_id is 'Id of the user who acted; stays when the user is deleted.';
comment on column public.audit_logs.actor_name is 'Name of the actor at that time: a user''s e-mail, a task, or a database login.';
comment on column public.audit_logs.action is 'What was done, for example user.updated.';
comment on column public.audit_logs.resource is 'Kind of the thing that changed, for example user.';
comment on column public.audit_logs.resource_id is 'Identifier of the thing that changed.';
comment on column public.audit_logs.changes is '{"before": {...}, "after": {...}} with the changed keys only, never secrets.';
comment on column public.audit_logs.ip_address is 'Address that the request came from.';
comment on column public.audit_logs.user_agent is 'User agent of the request.';
comment on column public.audit_logs.request_id is 'Identifier of the request, as in the response header x-request-id.';
comment on column public.audit_logs.session_id is 'Session of the request.';

create table partitions.analytics_events_default partition of public.analytics_events default;
create table partitions.audit_logs_default partition of public.audit_logs default;

--! split: 060-rules.sql
--! Included functions/audit.sql
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
  -- The login decides who acts; settings, which plain SQL can set as it likes, only say which user of the API it is.
  v_user_id uuid := case when session_user = 'erp_authenticator' then app_hidden.current_user_id() end;
  v_kind text := case session_user
    when 'erp_authenticator' then case when v_user_id is null then 'anonymous' else 'user' end
    when 'erp_worker' then 'job'
    else 'database'
  end;
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
  if v_tenant_id is null then
    return null;
  end if;

  insert into public.audit_logs (
    tenant_id, user_id, actor_kind, actor_id, actor_name, action, resource, resource_id, changes,
    ip_address, user_agent, request_id, session_id
  )
  values (
    v_tenant_id,
    -- The actor may belong to another tenant, or be the row that is being deleted.
    (select u.id from public.users u where u.tenant_id = v_tenant_id and u.id = v_user_id),
    v_kind, v_user_id,
    case v_kind
      when 'database' then session_user::text
      else nullif(current_setting('app.actor_name', true), '')
    end,
    v_resource || case tg_op when 'INSERT' then '.created' when 'UPDATE' then '.updated' else '.deleted' end,
    v_resource,
    v_row ->> tg_argv[1],
    jsonb_build_object('before', v_before, 'after', v_after),
    case v_kind
      when 'database' then host(inet_client_addr())
      else nullif(current_setting('app.ip_address', true), '')
    end,
    case v_kind
      when 'database' then nullif(current_setting('application_name', true), '')
      else nullif(current_setting('app.user_agent', true), '')
    end,
    case when v_kind <> 'database' then nullif(current_setting('app.request_id', true), '') end,
    case when v_kind = 'user' then app_hidden.current_session_id() end
  );
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

revoke execute on function app_private.tg_audit(), app_private.tg_touch() from public;
--! EndIncluded functions/audit.sql
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
--! EndIncluded triggers/audit.sql

--! Included functions/begin_request.sql
-- Every request opens with one call to begin_request: it checks the claims against the tables as they are now and
-- sets role, claims and timeouts for the transaction. What was revoked a moment ago is refused here.

-- Definer, because erp_authenticator reads no table. It locks and writes nothing: queries are read only.
create or replace function app_hidden.authorize_request(p_tenant_id uuid, p_user_id uuid, p_session_id uuid, p_role text)
returns table (email text, permissions text[])
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_role public.user_role;
begin
  select u.email, u.permissions, u.role
    into email, permissions, v_role
    from public.users u
    join public.tenants t on t.id = u.tenant_id
    join app_private.sessions s on s.tenant_id = u.tenant_id and s.user_id = u.id
   where u.tenant_id = p_tenant_id
     and u.id = p_user_id
     and u.status = 'ACTIVE'
     and t.status in ('ACTIVE', 'TRIAL')
     and s.tenant_id = p_tenant_id
     and s.id = p_session_id
     and s.revoked_at is null
     and s.expires_at > now();
  if not found then
    raise exception 'This session has ended. Sign in again.' using errcode = 'EA401', detail = 'revoked';
  end if;
  if v_role::text is distinct from p_role then
    raise exception 'The rights of this user have changed. Refresh the session.' using errcode = 'EA401', detail = 'stale';
  end if;
  return next;
end
$$;
comment on function app_hidden.authorize_request(uuid, uuid, uuid, text) is
  'The live check of a request''s claims. EA401 with detail "revoked" or "stale" when they no longer hold.';

-- Invoker: `set role` is refused inside a definer function.
create or replace function app_hidden.begin_request(p_claims jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_role text := 'api_anonymous';
  v_live record;
begin
  if p_claims ? 'sub' then
    select a.email, a.permissions
      into v_live
      from app_hidden.authorize_request(
        (p_claims ->> 'tenant_id')::uuid, (p_claims ->> 'sub')::uuid, (p_claims ->> 'sid')::uuid, p_claims ->> 'role'
      ) a;
    v_role := 'api_' || lower(p_claims ->> 'role');
  else
    select null::text as email, null::text[] as permissions into v_live;
  end if;

  -- Every key, every time: one that is skipped would keep what an earlier transaction set for the session.
  perform
    set_config('app.tenant_id', case when p_claims ? 'sub' then p_claims ->> 'tenant_id' else '' end, true),
    set_config('app.user_id', coalesce(p_claims ->> 'sub', ''), true),
    set_config('app.session_id', coalesce(p_claims ->> 'sid', ''), true),
    set_config('app.actor_name', coalesce(v_live.email, ''), true),
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
      case v_role when 'api_anonymous' then '5s' when 'api_admin' then '30s' when 'api_super_admin' then '30s' else '15s' end,
      true
    );
  perform set_config('role', v_role, true);
end
$$;
comment on function app_hidden.begin_request(jsonb) is
  'Opens the transaction of a request. Claims: sub, tenant_id, role and sid, all or none; ip_address, user_agent, request_id. Raises EA401.';

revoke execute on function app_hidden.authorize_request(uuid, uuid, uuid, text), app_hidden.begin_request(jsonb) from public;
grant execute on function app_hidden.authorize_request(uuid, uuid, uuid, text), app_hidden.begin_request(jsonb) to erp_authenticator;
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
    set_config('app.user_id', '', true),
    set_config('app.session_id', '', true),
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
--! Included functions/sessions.sql
-- Signing in: the server checks the password (argon2 is not in PostgreSQL) between find_login and open_session.

create or replace function app_hidden.find_login(p_tenant text, p_email text)
returns table (tenant_id uuid, user_id uuid, role text, password_hash text)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select u.tenant_id, u.id, u.role::text, p.password_hash
    from public.tenants t
    join public.users u on u.tenant_id = t.id
    join app_private.user_passwords p on p.tenant_id = u.tenant_id and p.user_id = u.id
   where t.slug = lower(p_tenant)
     and u.email = lower(p_email)
     and u.status = 'ACTIVE'
     and t.status in ('ACTIVE', 'TRIAL')
$$;
comment on function app_hidden.find_login(text, text) is 'The account that may sign in with this e-mail to this tenant (slug); no row otherwise.';

create or replace function app_hidden.open_session(p_tenant_id uuid, p_user_id uuid, p_refresh_token_hash bytea)
returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_session_id uuid;
  v_email text;
begin
  update public.users
     set last_login_at = now()
   where tenant_id = p_tenant_id and id = p_user_id and status = 'ACTIVE'
  returning email into v_email;
  if not found then
    raise exception 'This session has ended. Sign in again.' using errcode = 'EA401', detail = 'revoked';
  end if;
  insert into app_private.sessions (tenant_id, user_id, refresh_token_hash, expires_at, ip_address, user_agent)
  values (
    p_tenant_id, p_user_id, p_refresh_token_hash, now() + interval '30 days',
    nullif(current_setting('app.ip_address', true), ''), nullif(current_setting('app.user_agent', true), '')
  )
  returning id into v_session_id;
  insert into public.audit_logs
    (tenant_id, user_id, actor_kind, actor_id, actor_name, action, resource, resource_id, ip_address, user_agent, request_id, session_id)
  values (
    p_tenant_id, p_user_id, 'user', p_user_id, v_email, 'session.created', 'session', v_session_id::text,
    nullif(current_setting('app.ip_address', true), ''), nullif(current_setting('app.user_agent', true), ''),
    nullif(current_setting('app.request_id', true), ''), v_session_id
  );
  return v_session_id;
end
$$;
comment on function app_hidden.open_session(uuid, uuid, bytea) is 'Opens a session of 30 days for a user whose password was checked. Returns its id.';

create or replace function app_hidden.rotate_session(
  p_tenant_id uuid, p_session_id uuid, p_presented_hash bytea, p_successor_hash bytea
)
returns table (user_id uuid, role text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    update app_private.sessions s
       set refresh_token_hash = p_successor_hash, refreshed_at = now()
      from public.users u
      join public.tenants t on t.id = u.tenant_id
     where s.tenant_id = p_tenant_id
       and s.id = p_session_id
       and s.refresh_token_hash = p_presented_hash
       and s.revoked_at is null
       and s.expires_at > now()
       and u.tenant_id = p_tenant_id
       and u.id = s.user_id
       and u.status = 'ACTIVE'
       and t.status in ('ACTIVE', 'TRIAL')
    returning u.id, u.role::text;
  if not found then
    raise exception 'This session has ended. Sign in again.' using errcode = 'EA401', detail = 'revoked';
  end if;
end
$$;
comment on function app_hidden.rotate_session(uuid, uuid, bytea, bytea) is
  'Exchanges a refresh token (by SHA-256) for its successor. EA401 when it is not the valid one of a live session.';

create or replace function app_hidden.revoke_session(p_tenant_id uuid, p_session_id uuid) returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  update app_private.sessions
     set revoked_at = now()
   where tenant_id = p_tenant_id
     and tenant_id = app_hidden.current_tenant_id()
     and id = p_session_id
     and user_id = app_hidden.current_user_id()
     and revoked_at is null
$$;
comment on function app_hidden.revoke_session(uuid, uuid) is 'Ends a session of the current user.';

revoke execute on function
  app_hidden.find_login(text, text), app_hidden.open_session(uuid, uuid, bytea),
  app_hidden.rotate_session(uuid, uuid, bytea, bytea), app_hidden.revoke_session(uuid, uuid)
from public;
grant execute on function
  app_hidden.find_login(text, text), app_hidden.open_session(uuid, uuid, bytea), app_hidden.rotate_session(uuid, uuid, bytea, bytea)
to api_anonymous;
grant execute on function app_hidden.revoke_session(uuid, uuid) to api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/sessions.sql
--! Included functions/write_events.sql
-- The one way in for events: HTTP, GraphQL, import, connectors and DBAs all write through it.
--
-- Lock order is (source, source_id) everywhere, so that two batches with the same keys cannot deadlock. Keys are
-- inserted, then *all* of them locked in a second statement, then read: in one statement, a concurrent insert of the
-- same key would be neither inserted nor visible.

do $$
begin
  if to_regtype('app_private.event_record') is null then
    create type app_private.event_record as (
      source text, source_id text, version bigint, ordinal bigint, round bigint, new_id uuid,
      event_time timestamptz, content jsonb, hash bytea
    );
    comment on type app_private.event_record is 'One source record of a batch, as write_events prepares it.';
  end if;
end
$$;

-- Not inlined (it pins search_path), so that the planner believes its 1,000 rows and hashes the joins below.
create or replace function app_private.unnest_records(p_records app_private.event_record[])
returns setof app_private.event_record
language sql immutable parallel safe rows 1000
set search_path = pg_catalog, pg_temp
as $$ select * from unnest(p_records) $$;
comment on function app_private.unnest_records(app_private.event_record[]) is 'The records of a batch, as rows.';

create or replace function app_private.prepare_records(p_events jsonb) returns app_private.event_record[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_records app_private.event_record[];
  v_sound boolean;
begin
  if jsonb_typeof(p_events) is distinct from 'array' then
    raise exception 'Events must be a JSON array.' using errcode = 'EA400';
  end if;
  select bool_and(
           jsonb_typeof(e.value) = 'object'
           -- PostgreSQL also reads "tomorrow".
           and coalesce(e.value ->> 'timestamp' ~ '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d', true)
         )
    into v_sound
    from jsonb_array_elements(p_events) e;
  if not v_sound then
    raise exception 'Each event must be a JSON object, and its timestamp an RFC 3339 date and time.' using errcode = 'EA400';
  end if;

  select array_agg(row(
           coalesce(e.value ->> 'source', ''), e.value ->> 'sourceId', (e.value ->> 'sourceVersion')::bigint,
           e.ordinality, 1, uuidv7(), (e.value ->> 'timestamp')::timestamptz, e.value,
           sha256(convert_to((e.value - 'sourceVersion')::text, 'UTF8'))
         )::app_private.event_record)
    into v_records
    from jsonb_array_elements(p_events) with ordinality e;

  -- A record that comes again in the same batch has its turn in a later round. Numbering costs as much as all the rest,
  -- and is seldom needed.
  if (select count(*) <> count(distinct (r.source, r.source_id)) from unnest(v_records) r where r.source_id is not null) then
    select array_agg(row(
             n.source, n.source_id, n.version, n.ordinal, case when n.source_id is null then 1 else n.turn end,
             n.new_id, n.event_time, n.content, n.hash
           )::app_private.event_record)
      into v_records
      from (
        select r.*, row_number() over (partition by r.source, r.source_id order by r.ordinal) as turn
          from unnest(v_records) r
      ) n;
  end if;
  return v_records;
end
$$;
comment on function app_private.prepare_records(jsonb) is
  'The records of a batch. In one round each comes at most once. EA400 unless it is a JSON array of objects.';

create or replace function app_private.write_round(p_tenant_id uuid, p_records app_private.event_record[])
returns table (ordinal bigint, outcome text, id uuid, "timestamp" timestamptz)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
#variable_conflict use_column
begin
  insert into app_private.event_keys (tenant_id, source, source_id, "timestamp", id, source_version, content_hash)
  select p_tenant_id, r.source, r.source_id, coalesce(r.event_time, now()), r.new_id, r.version, r.hash
    from app_private.unnest_records(p_records) r
   where r.source_id is not null
   order by r.source, r.source_id
  on conflict (tenant_id, source, source_id) do nothing;

  perform
    from app_private.event_keys k
    join app_private.unnest_records(p_records) r on k.source = r.source and k.source_id = r.source_id
   where k.tenant_id = p_tenant_id
   order by k.source, k.source_id
     for update of k;

  return query
  with record as materialized (
    select r.*, k.id as key_id, k."timestamp" as key_timestamp,
           coalesce(r.event_time, k."timestamp", now()) as new_timestamp,
           case
             when k.id is null or k.id = r.new_id then 'accepted'
             when r.version < k.source_version then 'duplicate'
             when k.deleted_at is not null then case when r.version > k.source_version then 'revived' else 'duplicate' end
             when k.content_hash = r.hash then 'duplicate'
             else 'changed'
           end as verdict
      from app_private.unnest_records(p_records) r
      left join app_private.event_keys k
        on k.tenant_id = p_tenant_id and k.source = r.source and k.source_id = r.source_id
  ),
  inserted as (
    insert into public.analytics_events
      (tenant_id, id, "timestamp", event_type, event_name, properties, source, source_id, value, currency)
    select p_tenant_id, r.new_id, r.new_timestamp,
           r.content ->> 'eventType', r.content ->> 'eventName', coalesce(r.content -> 'properties', '{}'),
           r.content ->> 'source', r.source_id, (r.content ->> 'value')::numeric, r.content ->> 'currency'
      from record r
     where r.verdict in ('accepted', 'revived')
  ),
  restated as (
    -- A field that was left out keeps its stored value; a moved timestamp moves the row to its partition.
    update public.analytics_events e
       set "timestamp" = r.new_timestamp,
           event_type = case when r.content ? 'eventType' then r.content ->> 'eventType' else e.event_type end,
           event_name = case when r.content ? 'eventName' then r.content ->> 'eventName' else e.event_name end,
           properties = case when r.content ? 'properties' then coalesce(r.content -> 'properties', '{}') else e.properties end,
           value = case when r.content ? 'value' then (r.content ->> 'value')::numeric else e.value end,
           currency = case when r.content ? 'currency' then r.content ->> 'currency' else e.currency end
      from record r
     where r.verdict = 'changed'
       and e.tenant_id = p_tenant_id and e."timestamp" = r.key_timestamp and e.id = r.key_id
       and (
         r.new_timestamp is distinct from e."timestamp"
         or (r.content ? 'eventType' and r.content ->> 'eventType' is distinct from e.event_type)
         or (r.content ? 'eventName' and r.content ->> 'eventName' is distinct from e.event_name)
         or (r.content ? 'properties' and coalesce(r.content -> 'properties', '{}') is distinct from e.properties)
         or (r.content ? 'value' and (r.content ->> 'value')::numeric is distinct from e.value)
         or (r.content ? 'currency' and r.content ->> 'currency' is distinct from e.currency)
       )
    returning e.id
  ),
  key_moved as (
    update app_private.event_keys k
       set "timestamp" = r.new_timestamp,
           id = case when r.verdict = 'revived' then r.new_id else k.id end,
           source_version = greatest(k.source_version, r.version),
           content_hash = r.hash,
           deleted_at = null
      from record r
     where r.verdict in ('changed', 'revived')
       and k.tenant_id = p_tenant_id and k.source = r.source and k.source_id = r.source_id
  )
  select r.ordinal,
         case when r.verdict = 'accepted' then 'accepted'
              when r.verdict = 'revived' or u.id is not null then 'updated'
              else 'duplicate' end,
         case when r.verdict in ('accepted', 'revived') then r.new_id else r.key_id end,
         case when r.verdict = 'duplicate' then r.key_timestamp else r.new_timestamp end
    from record r
    left join restated u on u.id = r.key_id;
end
$$;
comment on function app_private.write_round(uuid, app_private.event_record[]) is 'Writes records, of which each comes once.';

create or replace function app_hidden.write_events(p_tenant_id uuid, p_events jsonb)
returns table (ordinal bigint, outcome text, id uuid, "timestamp" timestamptz)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
as $$
declare
  v_records app_private.event_record[] := app_private.prepare_records(p_events);
  v_rounds bigint := (select max(r.round) from unnest(v_records) r);
begin
  if v_rounds = 1 then
    return query select * from app_private.write_round(p_tenant_id, v_records);
    return;
  end if;
  -- The first round locks every key, in order; the others find them locked.
  for v_round in 1 .. coalesce(v_rounds, 0) loop
    return query
      select * from app_private.write_round(
        p_tenant_id, (select array_agg(r) from unnest(v_records) r where r.round = v_round)
      );
  end loop;
end
$$;
comment on function app_hidden.write_events(uuid, jsonb) is
  'Writes a JSON array of events {eventType, eventName, timestamp, value, currency, properties, source, sourceId, sourceVersion}, as if they came one after another, all or none. Says of each, by its position from 1, whether it was accepted, updated or a duplicate, and where it is. One (source, sourceId) is one event; an older sourceVersion never wins, a statement without a version always counts. EA400 unless it is an array of objects.';

revoke execute on function
  app_private.unnest_records(app_private.event_record[]), app_private.prepare_records(jsonb),
  app_private.write_round(uuid, app_private.event_record[]), app_hidden.write_events(uuid, jsonb)
from public;
--! EndIncluded functions/write_events.sql
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
  'Enqueues a sync, once. EA404: no such integration. EA409: it is disabled or has no credentials.';

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
       and t.status in ('ACTIVE', 'TRIAL')
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
       and i.status <> 'DISABLED' and t.status in ('ACTIVE', 'TRIAL')
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
grant execute on function app_hidden.request_sync(uuid, uuid) to api_user, api_admin, api_super_admin;
grant execute on function app_hidden.request_due_syncs(), app_hidden.integration_tenant(uuid) to erp_worker;
grant execute on function
  app_hidden.begin_sync(uuid, uuid, uuid), app_hidden.save_sync_page(uuid, uuid, uuid, text, jsonb, jsonb, jsonb),
  app_hidden.finish_sync(uuid, uuid, uuid, text), app_hidden.pause_sync(uuid, uuid, uuid, integer)
to api_job;
--! EndIncluded functions/sync.sql
--! Included functions/workers.sql
-- graphile-worker frees a crashed worker's jobs after four hours. Workers tell here that they live; the jobs of one
-- that has been silent for 30 seconds are freed by the next heartbeat of any other.
create or replace function app_hidden.worker_heartbeat(p_worker_id text) returns text[]
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_dead text[];
begin
  insert into app_private.worker_heartbeats as h (worker_id) values (p_worker_id)
  on conflict (worker_id) do update set beat_at = now();
  delete from app_private.worker_heartbeats where beat_at < now() - interval '1 hour';
  select coalesce(array_agg(distinct j.locked_by), '{}') into v_dead
    from graphile_worker.jobs j
   where j.locked_at < now() - interval '30 seconds'
     and not exists (
       select from app_private.worker_heartbeats h where h.worker_id = j.locked_by and h.beat_at > now() - interval '30 seconds'
     );
  if cardinality(v_dead) > 0 then
    perform graphile_worker.force_unlock_workers(v_dead);
  end if;
  return v_dead;
end
$$;
comment on function app_hidden.worker_heartbeat(text) is
  'Tells that a worker lives, and frees the jobs of those that do not. Returns the ids of the dead ones.';
revoke execute on function app_hidden.worker_heartbeat(text) from public;
grant execute on function app_hidden.worker_heartbeat(text) to erp_worker;
--! EndIncluded functions/workers.sql
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
comment on function public.current_account() is 'The user who is signed in.';

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
  perform app_hidden.revoke_session(app_hidden.current_tenant_id(), v_session_id);
  return v_session_id;
end
$$;
comment on function public.logout() is 'Ends the session of this request: its access and refresh tokens are refused from now on.';

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
  'Starts a sync of an integration now. While one is queued or running, nothing more is started. Needs the role USER.';

revoke execute on function
  public.current_account(), public.analytics_event_by_source(text, text), public.logout(), public.sync_integration(uuid)
from public;
grant execute on function public.current_account(), public.analytics_event_by_source(text, text), public.logout()
to api_viewer, api_user, api_admin, api_super_admin;
grant execute on function public.sync_integration(uuid) to api_user, api_admin, api_super_admin;
--! EndIncluded functions/api.sql

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
create policy update_admin on public.tenants for update to api_admin
  using (id = app_hidden.current_tenant_id()) with check (id = app_hidden.current_tenant_id());
comment on policy update_admin on public.tenants is 'Admins change their own tenant''s name, settings and billing address.';

drop policy if exists select_super_admin on public.tenants;
create policy select_super_admin on public.tenants for select to api_super_admin using (true);
comment on policy select_super_admin on public.tenants is 'The operator sees all tenants.';

drop policy if exists update_super_admin on public.tenants;
create policy update_super_admin on public.tenants for update to api_super_admin using (true) with check (true);
comment on policy update_super_admin on public.tenants is 'The operator changes plans, limits and status.';

grant select on public.tenants to api_viewer, api_user, api_admin, api_super_admin, api_job;
grant update (name, settings, billing_email) on public.tenants to api_admin;
grant update (name, domain, status, settings, metadata, features, max_users, max_integrations, plan_type, billing_email)
  on public.tenants to api_super_admin;
-- Withheld: insert (creating a tenant is a function's work) and delete, from everybody.
--! EndIncluded policies/tenants.sql
--! Included policies/users.sql
-- Colleagues see each other. Users keep their own profile, admins also the state of accounts; viewers only read.
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
comment on policy update_admin on public.users is 'Admins keep the profiles and the state of their tenant''s accounts.';

grant select on public.users to api_viewer, api_user, api_admin, api_super_admin;
grant update (first_name, last_name, avatar) on public.users to api_user;
grant update (first_name, last_name, avatar, status) on public.users to api_admin, api_super_admin;
-- Withheld: tenant_id, role and permissions (raising rights is a function's work), e-mail, insert and delete.
--! EndIncluded policies/users.sql
--! Included policies/integrations.sql
-- Everybody in the tenant sees integrations; admins manage them. Credentials are elsewhere.
alter table public.integrations enable row level security, force row level security;

drop policy if exists owner_all on public.integrations;
create policy owner_all on public.integrations to erp_user using (true) with check (true);
comment on policy owner_all on public.integrations is 'Migrations, DBAs and definer functions.';

drop policy if exists select_member on public.integrations;
create policy select_member on public.integrations for select to api_viewer, api_user, api_admin, api_super_admin, api_job
  using (tenant_id = app_hidden.current_tenant_id());
comment on policy select_member on public.integrations is 'Everybody in the tenant, and its jobs.';

drop policy if exists insert_admin on public.integrations;
create policy insert_admin on public.integrations for insert to api_admin, api_super_admin
  with check (tenant_id = app_hidden.current_tenant_id());
comment on policy insert_admin on public.integrations is 'Admins add integrations to their tenant.';

drop policy if exists update_admin on public.integrations;
create policy update_admin on public.integrations for update to api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id()) with check (tenant_id = app_hidden.current_tenant_id());
comment on policy update_admin on public.integrations is 'Admins change their tenant''s integrations.';

drop policy if exists delete_admin on public.integrations;
create policy delete_admin on public.integrations for delete to api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id());
comment on policy delete_admin on public.integrations is 'Admins remove their tenant''s integrations; the events stay.';

grant select on public.integrations to api_viewer, api_user, api_admin, api_super_admin, api_job;
grant insert (name, provider, description, config, enabled) on public.integrations to api_admin, api_super_admin;
grant update (name, description, config, enabled) on public.integrations to api_admin, api_super_admin;
grant delete on public.integrations to api_admin, api_super_admin;
-- Withheld: tenant_id, and the sync's own columns, which its functions move.
--! EndIncluded policies/integrations.sql
--! Included policies/analytics_events.sql
-- Everybody in the tenant reads events. Nobody writes them but app_hidden.write_events.
alter table public.analytics_events enable row level security, force row level security;

drop policy if exists owner_all on public.analytics_events;
create policy owner_all on public.analytics_events to erp_user using (true) with check (true);
comment on policy owner_all on public.analytics_events is 'Migrations, DBAs and definer functions.';

drop policy if exists select_member on public.analytics_events;
create policy select_member on public.analytics_events for select to api_viewer, api_user, api_admin, api_super_admin, api_job
  using (tenant_id = app_hidden.current_tenant_id());
comment on policy select_member on public.analytics_events is 'Everybody in the tenant, and its jobs.';

grant select on public.analytics_events to api_viewer, api_user, api_admin, api_super_admin, api_job;
-- Withheld: insert, update and delete, from everybody.
--! EndIncluded policies/analytics_events.sql
--! Included policies/audit_logs.sql
-- Admins read their tenant's log. It is written by triggers and functions of the owner alone.
alter table public.audit_logs enable row level security, force row level security;

drop policy if exists owner_all on public.audit_logs;
create policy owner_all on public.audit_logs to erp_user using (true) with check (true);
comment on policy owner_all on public.audit_logs is 'Migrations, DBAs, the audit triggers and definer functions.';

drop policy if exists select_admin on public.audit_logs;
create policy select_admin on public.audit_logs for select to api_admin, api_super_admin
  using (tenant_id = app_hidden.current_tenant_id());
comment on policy select_admin on public.audit_logs is 'Admins read the log of their tenant.';

grant select on public.audit_logs to api_admin, api_super_admin;
-- Withheld: insert, update and delete, from everybody.
--! EndIncluded policies/audit_logs.sql
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

alter table app_private.sessions enable row level security, force row level security;
drop policy if exists owner_all on app_private.sessions;
create policy owner_all on app_private.sessions to erp_user using (true) with check (true);
comment on policy owner_all on app_private.sessions is 'Migrations, DBAs and definer functions.';

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
--! EndIncluded policies/app_private.sql
--! Included policies/default_partitions.sql
-- Queries reach a partition through its parent, whose policies decide. Reached directly, only the owner sees rows.
alter table partitions.analytics_events_default enable row level security, force row level security;
drop policy if exists owner_all on partitions.analytics_events_default;
create policy owner_all on partitions.analytics_events_default to erp_user using (true) with check (true);
comment on policy owner_all on partitions.analytics_events_default is 'Migrations, DBAs and definer functions.';

alter table partitions.audit_logs_default enable row level security, force row level security;
drop policy if exists owner_all on partitions.audit_logs_default;
create policy owner_all on partitions.audit_logs_default to erp_user using (true) with check (true);
comment on policy owner_all on partitions.audit_logs_default is 'Migrations, DBAs and definer functions.';
--! EndIncluded policies/default_partitions.sql

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

revoke execute on function app_private.make_partition(text, date), app_hidden.make_next_partition(integer) from public;
grant execute on function app_hidden.make_next_partition(integer) to erp_worker;
--! EndIncluded functions/partitions.sql
