--!include functions/audit.sql
--!include triggers/audit.sql

--!include functions/begin_request.sql
--!include functions/begin_job.sql
--!include functions/sessions.sql
--!include functions/write_events.sql
--!include functions/sync.sql
--!include functions/workers.sql
--!include functions/api.sql

--!include policies/tenants.sql
--!include policies/users.sql
--!include policies/integrations.sql
--!include policies/analytics_events.sql
--!include policies/audit_logs.sql
--!include policies/app_private.sql
--!include policies/default_partitions.sql

--!include functions/partitions.sql
