--! Previous: sha1:96cef4a3067cde7d921f595cfca9fc1f82ad955a
--! Hash: sha1:e3670a219f9d9a5345d817303b051dfbf72f9a0b
--! Message: audit rows cluster asked once

--! split: 1-current.sql
-- The cluster of an audit row, asked once in a session.
set local lock_timeout = '5s';
--! Included functions/audit_place.sql
-- Where a row of the audit log was written. What orders rows is the transaction, not the time: clocks step, and a
-- transaction that began early may end late.
create or replace function app_private.cluster_id() returns bigint
language sql stable
as $$ select system_identifier from pg_catalog.pg_control_system() $$;
comment on function app_private.cluster_id() is
  'This cluster''s system identifier. A restore into another cluster has another: transactions of there have ended.';

-- pg_control_system reads a file, which takes a seventh of what auditing a row takes; a session stays in its cluster. Whoever
-- sets the setting may as well write a row with any cluster: sealing and verification ask cluster_id itself.
create or replace function app_private.own_cluster_id() returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id text := nullif(current_setting('app.cluster_id', true), '');
begin
  if v_id is null then
    v_id := app_private.cluster_id();
    perform set_config('app.cluster_id', v_id, false);
  end if;
  return v_id::bigint;
end
$$;
comment on function app_private.own_cluster_id() is 'cluster_id, asked once in a session.';

create or replace function app_private.transaction_id() returns bigint
language sql volatile
as $$ select pg_catalog.pg_current_xact_id()::text::bigint $$;
comment on function app_private.transaction_id() is 'This transaction''s id, in 64 bits: it never comes again in a cluster. As a bigint, for indexes.';

revoke execute on function app_private.cluster_id(), app_private.own_cluster_id(), app_private.transaction_id() from public;
--! EndIncluded functions/audit_place.sql
alter table public.audit_logs alter column cluster_id set default app_private.own_cluster_id();
