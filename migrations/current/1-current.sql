set local lock_timeout = '5s';

-- Knows a network again at each sign-in. Without last_used_at, which is written once a minute.
-- squawk-ignore require-concurrent-index-creation
create index if not exists sessions_network_idx on public.sessions (tenant_id, app_private.network_of(ip_address));

--!include functions/rate_limits.sql
--!include functions/sessions.sql
drop function if exists app_private.is_known_network(uuid, text);
--!include functions/users.sql
--!include functions/one_time_tokens.sql
--!include functions/tenants.sql
