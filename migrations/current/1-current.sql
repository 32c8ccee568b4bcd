set local lock_timeout = '5s';

--!include functions/users.sql
--!include functions/one_time_tokens.sql
--!include functions/tenants.sql
