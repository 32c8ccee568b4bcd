--! Previous: sha1:13581978ca23fce7ddbec44691c82e3ea7075584
--! Hash: sha1:2113c336f7b8e4cb014bc3d6b473ba2c00465eda
--! Message: validate identity

--! split: 1-current.sql
set local lock_timeout = '5s';

-- In a transaction of its own: reads go on while the rows are looked at.
alter table public.tenants validate constraint tenants_features_check;
alter table public.users validate constraint users_permissions_check;
alter table public.audit_logs validate constraint audit_logs_actor_kind_check;
alter table public.sessions validate constraint sessions_visit_check;
