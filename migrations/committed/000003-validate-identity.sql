--! Previous: sha1:939b1f0c638302163b52ed69f13a0432e4078a79
--! Hash: sha1:30cae6ba65801709acecc046286346426ead7f39
--! Message: validate identity

--! split: 1-current.sql
set local lock_timeout = '5s';

-- In a transaction of its own: reads go on while the rows are looked at.
alter table public.tenants validate constraint tenants_features_check;
alter table public.users validate constraint users_permissions_check;
alter table public.audit_logs validate constraint audit_logs_actor_kind_check;
alter table public.sessions validate constraint sessions_visit_check;
