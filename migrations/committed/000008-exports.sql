--! Previous: sha1:749b43de2276722daead2e6a273119274dcbd3c1
--! Hash: sha1:3d71f9a0a6e6a9410d3cd4062be6be652d6fb788
--! Message: exports

--! split: 1-current.sql
set local lock_timeout = '5s';

--! Included functions/exports.sql
-- Definer, because nobody but the owner writes the audit log. Committed before the first byte leaves: what left is on record.
create or replace function app_hidden.record_export(p_tenant_id uuid, p_resource text, p_format text, p_request jsonb) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('analytics:export');
  perform app_private.write_audit(
    p_tenant_id, 'analytics.exported', p_resource, null, jsonb_build_object('format', p_format, 'request', p_request)
  );
end
$$;
comment on function app_hidden.record_export(uuid, text, text, jsonb) is
  'Records who exports what, as it was asked for. EA403 without the permission "analytics:export".';

revoke execute on function app_hidden.record_export(uuid, text, text, jsonb) from public;
grant execute on function app_hidden.record_export(uuid, text, text, jsonb) to api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/exports.sql
