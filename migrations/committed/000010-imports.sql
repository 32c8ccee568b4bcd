--! Previous: sha1:c86372ae9b9519f16204e4d7ae561ebe2dc57206
--! Hash: sha1:8eafe09602c7e7283d66448e3e69b9dfb8ed4b0b
--! Message: imports

--! split: 1-current.sql
set local lock_timeout = '5s';

comment on column app_private.event_imports.fingerprint is 'SHA-256 of the file''s content, its size and the way it is read.';

--! Included functions/imports.sql
create or replace function app_hidden.write_import_batch(
  p_tenant_id uuid, p_fingerprint bytea, p_events jsonb, p_on_conflict text, p_progress jsonb
)
returns setof app_hidden.event_receipt
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_receipts app_hidden.event_receipt[];
begin
  -- Two imports of one file at a time would count what has no sourceId twice.
  perform from app_private.event_imports
    where tenant_id = p_tenant_id and fingerprint = p_fingerprint and byte_offset = (p_progress ->> 'from')::bigint
      for update;
  if not found then
    raise exception 'Another import of this file went on meanwhile.' using errcode = 'EA409';
  end if;
  v_receipts := array(select w from app_hidden.write_events(p_tenant_id, p_events, p_on_conflict) w);
  update app_private.event_imports i
     set byte_offset = (p_progress ->> 'offset')::bigint,
         line = (p_progress ->> 'line')::bigint,
         accepted = i.accepted + r.accepted, updated = i.updated + r.updated, duplicate = i.duplicate + r.duplicate,
         rejected = i.rejected + r.rejected + (p_progress ->> 'refused')::bigint,
         updated_at = now()
    from (
      select count(*) filter (where w.outcome = 'accepted') as accepted, count(*) filter (where w.outcome in ('updated', 'deleted')) as updated,
             count(*) filter (where w.outcome = 'duplicate') as duplicate, count(*) filter (where w.outcome = 'rejected') as rejected
        from unnest(v_receipts) w
    ) r
   where i.tenant_id = p_tenant_id and i.fingerprint = p_fingerprint;
  return query select * from unnest(v_receipts);
end
$$;
comment on function app_hidden.write_import_batch(uuid, bytea, jsonb, text, jsonb) is
  'Writes a batch of a file and moves the import''s place, together or not at all. p_progress: {from, offset, line, refused}. EA409 when somebody else moved it. What it deleted counts as updated.';

revoke execute on function app_hidden.write_import_batch(uuid, bytea, jsonb, text, jsonb) from public;
--! EndIncluded functions/imports.sql
