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
grant usage on schema app_hidden to erp_authenticator, erp_worker;

create type public.tenant_status as enum ('ACTIVE', 'SUSPENDED', 'TRIAL', 'CANCELLED');
create type public.user_role as enum ('SUPER_ADMIN', 'ADMIN', 'USER', 'VIEWER');
create type public.user_status as enum ('ACTIVE', 'INACTIVE', 'INVITED', 'SUSPENDED');
create type public.integration_status as enum ('PENDING', 'ACTIVE', 'ERROR', 'DISABLED');

comment on type public.tenant_status is 'State of a tenant''s account. Only ACTIVE and TRIAL tenants can sign in.';
comment on type public.user_role is 'What a user may do: VIEWER reads, USER also starts syncs, ADMIN manages the tenant, SUPER_ADMIN operates the platform.';
comment on type public.user_status is 'State of a user''s account. Only ACTIVE users can sign in.';
comment on type public.integration_status is 'PENDING: never synced. ACTIVE: the last sync succeeded. ERROR: it failed. DISABLED: switched off.';

--!include functions/current_settings.sql
