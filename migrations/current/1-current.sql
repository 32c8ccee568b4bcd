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

--!include functions/session_tenant.sql
--!include functions/analysts.sql
--!include functions/analytics.sql
--!include policies/app_private.sql
--!include policies/tenants.sql
--!include policies/users.sql
--!include policies/integrations.sql
--!include policies/analytics_events.sql
--!include triggers/analysts.sql
--!include views/analytics.sql
