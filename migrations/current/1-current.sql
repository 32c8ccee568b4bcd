set local lock_timeout = '5s';

--!include functions/purge.sql
