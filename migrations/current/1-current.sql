set local lock_timeout = '5s';

--!include functions/retention.sql
--!include functions/partitions.sql
--!include functions/rollups.sql
--!include functions/begin_request.sql
--!include functions/lock_metrics.sql

-- A month that was made while its rollups were computed may lack what moved there: all months are computed anew once.
insert into app_hidden.event_marks (tenant_id, bucket)
select distinct r.tenant_id, r.bucket from app_hidden.event_rollups r;
