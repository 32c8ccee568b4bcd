--! Previous: sha1:bc920eb08df150d04aca02f7e9753f24ce3dcd8c
--! Hash: sha1:d94c713662188cd68ef1611024afa800506208b6
--! Message: validate identity

--! split: 1-current.sql
set local lock_timeout = '5s';

-- In a transaction of its own: reads go on while the rows are looked at.
alter table public.tenants validate constraint tenants_features_check;
alter table public.users validate constraint users_permissions_check;
alter table public.audit_logs validate constraint audit_logs_actor_kind_check;
alter table public.sessions validate constraint sessions_visit_check;
