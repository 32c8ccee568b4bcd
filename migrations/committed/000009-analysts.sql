--! Previous: sha1:3d71f9a0a6e6a9410d3cd4062be6be652d6fb788
--! Hash: sha1:c86372ae9b9519f16204e4d7ae561ebe2dc57206
--! Message: analysts

--! split: 1-current.sql
set local lock_timeout = '5s';

create schema if not exists analytics;
comment on schema analytics is 'Views for analysts'' logins, psql and BI tools. Never in GraphQL.';
grant usage on schema analytics, public to erp_analyst;

create table if not exists app_private.analysts (
  tenant_id uuid not null references public.tenants (id) on delete cascade,
  name text not null check (name ~ '^[a-z0-9_]{1,20}$'),
  granted_at timestamptz not null default now(),
  primary key (tenant_id, name)
);
comment on table app_private.analysts is 'Logins of analysts that this database granted. The logins themselves, with their passwords, belong to the cluster.';
comment on column app_private.analysts.granted_at is 'When it was granted, or last got a new password.';

--! Included functions/session_tenant.sql
-- Whose rows an analyst's login sees. Its name says it: bi_<uuid of the tenant, 32 hex digits>_<name>.
-- session_user alone: no setting, no `set role`, no `reset all` changes it; only a superuser takes another one's place
-- (`set session authorization`), and only a superuser or a role with CREATEROLE makes or renames logins. Nor is a name
-- enough: without membership in erp_analyst, which only the owner and superusers give, there is no policy and no grant.
-- STABLE, without a search_path, reading no table, so that the planner inlines it and an index serves the policy. In the
-- form with `return`, names are bound now: not to what an analyst's search_path finds.
create or replace function app_hidden.session_tenant_id() returns uuid
language sql stable parallel safe
return substring(session_user::text from '^bi_([0-9a-f]{32})_[a-z0-9_]{1,20}$')::uuid;
comment on function app_hidden.session_tenant_id() is 'Tenant of an analyst''s login; null for every other.';

revoke execute on function app_hidden.session_tenant_id() from public;
grant execute on function app_hidden.session_tenant_id() to erp_analyst;
--! EndIncluded functions/session_tenant.sql
--! Included functions/analysts.sql
-- Logins belong to the cluster, and a superuser makes them; membership in erp_analyst, without which a login reads nothing,
-- is given here: to logins that this database granted, while their tenant is open. So a suspended tenant's logins lose
-- everything in the transaction that suspends it, also in sessions that are open.
create or replace function app_private.analyst_login(p_tenant_id uuid, p_name text) returns name
language sql immutable parallel safe
as $$ select format('bi_%s_%s', replace(p_tenant_id::text, '-', ''), p_name)::name $$;
comment on function app_private.analyst_login(uuid, text) is 'Name of an analyst''s login, as app_hidden.session_tenant_id reads it.';

-- `granted by`: a member can only be dismissed by whoever admitted it.
create or replace function app_private.admit_analysts(p_tenant_id uuid default null) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_login record;
begin
  for v_login in
    select r.rolname, analyst.is_open
      from (
        select app_private.analyst_login(a.tenant_id, a.name) as login, app_private.is_open(t.status, t.trial_ends_at) as is_open
          from app_private.analysts a
          join public.tenants t on t.id = a.tenant_id
         where p_tenant_id is null or a.tenant_id = p_tenant_id
      ) analyst
      join pg_roles r on r.rolname = analyst.login
     where analyst.is_open <> exists (
             select from pg_auth_members m
              where m.roleid = 'erp_analyst'::regrole and m.member = r.oid and m.grantor = 'erp_user'::regrole
           )
  loop
    if v_login.is_open then
      execute format('grant erp_analyst to %I with inherit true, set false granted by erp_user', v_login.rolname);
    else
      execute format('revoke erp_analyst from %I granted by erp_user', v_login.rolname);
    end if;
  end loop;
end
$$;
comment on function app_private.admit_analysts(uuid) is
  'Makes logins of open tenants members of erp_analyst, and those of suspended, cancelled or expired ones members no more.';

create or replace function app_private.tg_admit_analysts() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_private.admit_analysts(new.id);
  return null;
end
$$;
comment on function app_private.tg_admit_analysts() is 'A tenant that closes shuts its analysts out at once; one that opens lets them in.';

create or replace function app_private.grant_analyst(p_tenant_id uuid, p_name text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into app_private.analysts (tenant_id, name) values (p_tenant_id, p_name)
  on conflict (tenant_id, name) do update set granted_at = clock_timestamp();
  perform app_private.admit_analysts(p_tenant_id);
end
$$;
comment on function app_private.grant_analyst(uuid, text) is 'Lets a login read its tenant''s rows, on record. A superuser makes the login: npm run analyst:grant.';

create or replace function app_private.revoke_analyst(p_tenant_id uuid, p_name text) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_login name := app_private.analyst_login(p_tenant_id, p_name);
  v_was_granted boolean;
begin
  delete from app_private.analysts where tenant_id = p_tenant_id and name = p_name;
  v_was_granted := found;
  if exists (
    select from pg_auth_members m
     where m.roleid = 'erp_analyst'::regrole and m.member = to_regrole(v_login::text) and m.grantor = 'erp_user'::regrole
  ) then
    execute format('revoke erp_analyst from %I granted by erp_user', v_login);
  end if;
  return v_was_granted;
end
$$;
comment on function app_private.revoke_analyst(uuid, text) is 'Takes a login its rights, on record. False if it had none. A superuser drops it: npm run analyst:revoke.';

-- A login can raise its own statement_timeout. It can also catch a cancel (plpgsql's query_canceled), or not read the
-- answer, which a cancel does not end: hence, a little later, the end of the session.
create or replace function app_hidden.hold_analysts(p_limit interval default '5 minutes', p_grace interval default '1 minute')
returns table (login text, pid integer, outcome text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_private.admit_analysts();
  for login, pid, outcome in
    select a.usename, a.pid,
           case
             when not pg_has_role(a.usesysid, 'erp_analyst', 'member') then 'shut out'
             when a.state like 'idle in transaction%' and a.state_change < clock_timestamp() - p_limit then 'ended idle'
             when a.state in ('active', 'fastpath function call') and a.query_start < clock_timestamp() - p_limit - p_grace then 'ended'
             -- However short its statements are, it holds up vacuum.
             when a.xact_start < clock_timestamp() - 6 * p_limit then 'ended'
             when a.state in ('active', 'fastpath function call') and a.query_start < clock_timestamp() - p_limit then 'cancelled'
           end
      from pg_stat_activity a
      join pg_roles r on r.oid = a.usesysid
     where a.datname = current_database() and a.usename ~ '^bi_[0-9a-f]{32}_' and not r.rolsuper
  loop
    if (case outcome when 'cancelled' then pg_cancel_backend(pid) else outcome is not null and pg_terminate_backend(pid) end) then
      return next;
    end if;
  end loop;
end
$$;
comment on function app_hidden.hold_analysts(interval, interval) is
  'Cancels analysts'' statements that run for longer than the limit; ends sessions that run on after a time of grace, are idle in a transaction for as long, keep one for six times as long, or have lost their rights.';

revoke execute on function
  app_private.analyst_login(uuid, text), app_private.admit_analysts(uuid), app_private.tg_admit_analysts(),
  app_private.grant_analyst(uuid, text), app_private.revoke_analyst(uuid, text), app_hidden.hold_analysts(interval, interval)
from public;
grant execute on function app_hidden.hold_analysts(interval, interval) to erp_worker;
--! EndIncluded functions/analysts.sql
--! Included functions/analytics.sql
-- What the views of schema analytics make of properties. Whoever sends events decides what is in them: what is no number or
-- time is null, not an error that ends the analyst's query, and neither are NaN and infinity.
create or replace function analytics.as_decimal(p_text text) returns numeric
language sql immutable parallel safe
return case when p_text ~ '^-?[0-9]{1,30}([.][0-9]{1,30})?$' then p_text::numeric end;
comment on function analytics.as_decimal(text) is 'The number of such a text as 4.20; null for any other.';

create or replace function analytics.as_integer(p_text text) returns bigint
language sql immutable parallel safe
return case when p_text ~ '^-?[0-9]{1,18}$' then p_text::bigint end;
comment on function analytics.as_integer(text) is 'The whole number of such a text as 42; null for any other.';

create or replace function analytics.as_date(p_text text) returns date
language sql stable parallel safe
return case when p_text ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' and pg_input_is_valid(p_text, 'date') then p_text::date end;
comment on function analytics.as_date(text) is 'The day of such a text as 2026-01-31; null for any other.';

create or replace function analytics.as_time(p_text text) returns timestamptz
language sql stable parallel safe
return case
  when p_text ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$'
   and pg_input_is_valid(p_text, 'timestamptz') then p_text::timestamptz
end;
comment on function analytics.as_time(text) is 'The time of such a text as 2026-01-31T12:00:00Z; null for any other.';

revoke execute on function
  analytics.as_decimal(text), analytics.as_integer(text), analytics.as_date(text), analytics.as_time(text)
from public;
grant execute on function
  analytics.as_decimal(text), analytics.as_integer(text), analytics.as_date(text), analytics.as_time(text)
to erp_analyst;
--! EndIncluded functions/analytics.sql
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
--! EndIncluded policies/app_private.sql
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

drop policy if exists select_analyst on public.tenants;
create policy select_analyst on public.tenants for select to erp_analyst
  using (id = app_hidden.session_tenant_id());
comment on policy select_analyst on public.tenants is 'An analyst''s login, whose name says its tenant.';

grant select on public.tenants to api_viewer, api_user, api_admin, api_super_admin, api_job;
grant update (name, settings, billing_email) on public.tenants to api_viewer, api_user, api_admin;
grant update (name, domain, status, settings, metadata, features, max_users, max_integrations, plan_type, trial_ends_at, billing_email)
  on public.tenants to api_super_admin;
grant select (id, name, slug, settings) on public.tenants to erp_analyst;
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

drop policy if exists select_analyst on public.users;
create policy select_analyst on public.users for select to erp_analyst
  using (tenant_id = app_hidden.session_tenant_id());
comment on policy select_analyst on public.users is 'An analyst''s login, whose name says its tenant.';

grant select on public.users to api_viewer, api_user, api_admin, api_super_admin;
revoke update (status) on public.users from api_admin, api_super_admin;
grant update (first_name, last_name, avatar) on public.users to api_user, api_admin, api_super_admin;
grant select (id, tenant_id, first_name, last_name, role, status, last_login_at, created_at) on public.users to erp_analyst;
-- Withheld: tenant_id; role, permissions, status and e-mail, with their rules, are the work of functions, as are insert and delete.
-- From analysts: e-mail, avatar and permissions.
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

drop policy if exists select_analyst on public.integrations;
create policy select_analyst on public.integrations for select to erp_analyst
  using (tenant_id = app_hidden.session_tenant_id());
comment on policy select_analyst on public.integrations is 'An analyst''s login, whose name says its tenant.';

grant select on public.integrations to api_viewer, api_user, api_admin, api_super_admin, api_job;
grant insert (name, provider, description, config, enabled) on public.integrations to api_viewer, api_user, api_admin, api_super_admin;
grant update (name, description, config, enabled) on public.integrations to api_viewer, api_user, api_admin, api_super_admin;
grant delete on public.integrations to api_viewer, api_user, api_admin, api_super_admin;
grant select (id, tenant_id, name, provider, description, status, enabled, last_sync_at, sync_status, sync_error, created_at, updated_at)
  on public.integrations to erp_analyst;
-- Withheld: tenant_id, and the sync's own columns, which its functions move. From analysts: config.
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

drop policy if exists select_analyst on public.analytics_events;
create policy select_analyst on public.analytics_events for select to erp_analyst
  using (tenant_id = app_hidden.session_tenant_id());
comment on policy select_analyst on public.analytics_events is 'An analyst''s login, whose name says its tenant.';

grant select on public.analytics_events to api_viewer, api_user, api_admin, api_super_admin, api_job, erp_analyst;
-- Withheld: insert, update and delete, from everybody.
--! EndIncluded policies/analytics_events.sql
--! Included triggers/analysts.sql
create or replace trigger _500_admit_analysts after update on public.tenants
  for each row when (old.status <> new.status or old.trial_ends_at is distinct from new.trial_ends_at)
  execute function app_private.tg_admit_analysts();

create or replace trigger _900_audit after insert or update or delete on app_private.analysts
  for each row execute function app_private.tg_audit('analyst', 'name', '{}', '{}');
--! EndIncluded triggers/analysts.sql
--! Included views/analytics.sql
-- What analysts' logins see: the rows of their tenant, under the names of docs/events.md, in snake case. As their caller:
-- row security and the grants on the tables decide. A column is added at the end, or the view is dropped first.
create or replace view analytics.events with (security_invoker = true) as
  select id, "timestamp", event_type, event_name, value, currency,
         properties ->> 'status' as status,
         properties ->> 'channel' as channel,
         properties ->> 'locationId' as location_id,
         properties ->> 'customerId' as customer_id,
         properties ->> 'campaignId' as campaign_id,
         properties ->> 'country' as country,
         source, source_id, properties, subject
    from public.analytics_events;
comment on view analytics.events is
  'All events of the tenant. Never add orders and payments together, nor values of different currencies.';
comment on column analytics.events."timestamp" is 'When it happened.';
comment on column analytics.events.event_type is 'order, payment, refund, payout, ad_insight, visit, signup, or a name of your own.';
comment on column analytics.events.event_name is 'What happened, such as order_completed.';
comment on column analytics.events.value is 'The main measure, in major units of currency. Refunds are negative.';
comment on column analytics.events.source is 'Where it came from: <provider>:<integration id> for integrations.';
comment on column analytics.events.source_id is 'Identifier of the record at its source: one record is one event.';
comment on column analytics.events.subject is 'What it is about: a customer, an order, a campaign.';
comment on column analytics.events.properties is 'Everything else that is known about it.';

create or replace view analytics.orders with (security_invoker = true) as
  select id, "timestamp", event_name, value, currency,
         properties ->> 'status' as status,
         properties ->> 'channel' as channel,
         properties ->> 'locationId' as location_id,
         properties ->> 'customerId' as customer_id,
         analytics.as_integer(properties ->> 'lineCount') as line_count,
         analytics.as_decimal(properties ->> 'tax') as tax,
         analytics.as_decimal(properties ->> 'discount') as discount,
         analytics.as_decimal(properties ->> 'tip') as tip,
         analytics.as_time(properties ->> 'closedAt') as closed_at,
         properties -> 'items' as items,
         source, source_id
    from public.analytics_events
   where event_type = 'order';
comment on view analytics.orders is 'Sales. Revenue is the sum of value where event_name is order_completed.';
comment on column analytics.orders.event_name is 'order_opened, order_completed, order_canceled or order_returned.';
comment on column analytics.orders.value is 'What the customer owes: with tax, tip and service charges, after discounts, before refunds.';
comment on column analytics.orders.discount is 'Already taken off value; a positive amount.';
comment on column analytics.orders.items is 'List of {name, quantity, total}.';

create or replace view analytics.payments with (security_invoker = true) as
  select id, "timestamp", event_name, value, currency,
         properties ->> 'status' as status,
         properties ->> 'method' as method,
         properties ->> 'cardBrand' as card_brand,
         properties ->> 'orderSourceId' as order_source_id,
         properties ->> 'locationId' as location_id,
         analytics.as_decimal(properties ->> 'tip') as tip,
         analytics.as_decimal(properties ->> 'fee') as fee,
         analytics.as_decimal(properties ->> 'refunded') as refunded,
         source, source_id
    from public.analytics_events
   where event_type = 'payment';
comment on view analytics.payments is 'Money that came in. Cash received is the sum of value where event_name is payment_completed.';
comment on column analytics.payments.event_name is 'payment_pending, payment_approved, payment_completed, payment_canceled or payment_failed.';
comment on column analytics.payments.value is 'With tip, before fees and refunds.';
comment on column analytics.payments.order_source_id is 'source_id of the order, of the same source.';
comment on column analytics.payments.fee is 'What the processor charges; a positive amount.';
comment on column analytics.payments.refunded is 'For information: refunds are rows of analytics.refunds.';

create or replace view analytics.refunds with (security_invoker = true) as
  select id, "timestamp", event_name, value, currency,
         properties ->> 'status' as status,
         properties ->> 'paymentSourceId' as payment_source_id,
         properties ->> 'orderSourceId' as order_source_id,
         properties ->> 'locationId' as location_id,
         properties ->> 'reason' as reason,
         source, source_id
    from public.analytics_events
   where event_type = 'refund';
comment on view analytics.refunds is 'Money given back. Those with the event_name refund_completed count.';
comment on column analytics.refunds.event_name is 'refund_pending, refund_completed or refund_failed.';
comment on column analytics.refunds.value is 'Negative.';
comment on column analytics.refunds.payment_source_id is 'source_id of the payment, of the same source.';
comment on column analytics.refunds.order_source_id is 'source_id of the order, of the same source.';

create or replace view analytics.ad_insights with (security_invoker = true) as
  select id, "timestamp", event_name, value as spend, currency,
         analytics.as_date(properties ->> 'date') as date,
         properties ->> 'accountId' as account_id,
         properties ->> 'campaignId' as campaign_id,
         properties ->> 'campaignName' as campaign_name,
         properties ->> 'adSetId' as ad_set_id,
         properties ->> 'adId' as ad_id,
         analytics.as_integer(properties ->> 'impressions') as impressions,
         analytics.as_integer(properties ->> 'clicks') as clicks,
         analytics.as_integer(properties ->> 'conversions') as conversions,
         analytics.as_decimal(properties ->> 'conversionValue') as conversion_value,
         source, source_id
    from public.analytics_events
   where event_type = 'ad_insight';
comment on view analytics.ad_insights is 'Days of advertising. A source reports one level; levels are never added together.';
comment on column analytics.ad_insights.event_name is 'ad_insight_campaign, ad_insight_ad_set or ad_insight_ad.';
comment on column analytics.ad_insights.date is 'The day, in the ad account''s time zone.';
comment on column analytics.ad_insights.conversions is 'As the platform attributes them.';
comment on column analytics.ad_insights.conversion_value is 'As the platform attributes it; never added to orders.';

create or replace view analytics.integrations with (security_invoker = true) as
  select id, name, provider, description, status::text as status, enabled, last_sync_at, sync_status, sync_error, created_at, updated_at
    from public.integrations;
comment on view analytics.integrations is 'Sources of data. source of their events is <provider>:<id>.';
comment on column analytics.integrations.last_sync_at is 'When the last successful sync ended: how fresh the data is.';
comment on column analytics.integrations.sync_error is 'Why the last sync failed.';

create or replace view analytics.users with (security_invoker = true) as
  select id, first_name, last_name, role::text as role, status::text as status, last_login_at, created_at
    from public.users;
comment on view analytics.users is 'Accounts of the tenant, without e-mail.';

create or replace view analytics.tenant with (security_invoker = true) as
  select id, name, slug,
         coalesce(settings ->> 'timeZone', 'UTC') as time_zone,
         settings ->> 'currency' as currency,
         analytics.as_integer(settings ->> 'weekStart')::integer as week_start,
         analytics.as_integer(settings ->> 'fiscalYearStart')::integer as fiscal_year_start
    from public.tenants;
comment on view analytics.tenant is 'The tenant whose rows these are: one row.';
comment on column analytics.tenant.time_zone is 'For "timestamp" at time zone time_zone: the local time, whose day or week is the tenant''s.';
comment on column analytics.tenant.week_start is '0 is Sunday.';
comment on column analytics.tenant.fiscal_year_start is 'Month, 1 to 12.';

grant select on
  analytics.events, analytics.orders, analytics.payments, analytics.refunds, analytics.ad_insights,
  analytics.integrations, analytics.users, analytics.tenant
to erp_analyst;
--! EndIncluded views/analytics.sql
