set local lock_timeout = '5s';

--!include functions/purge.sql
--!include functions/starter_metrics.sql
--!include views/analytics.sql
