set local lock_timeout = '5s';


-- Returns the row's id now.
do $$
begin
  if exists (
    select from pg_proc p
     where p.oid = to_regprocedure('app_private.write_audit(uuid, text, text, text, jsonb, uuid, text)') and p.prorettype = 'void'::regtype
  ) then
    drop function app_private.write_audit(uuid, text, text, text, jsonb, uuid, text);
  end if;
end
$$;

--!include functions/audit_place.sql
-- Rows from before count as those of another cluster, 0: what wrote them has ended long ago.
alter table public.audit_logs
  add column if not exists cluster_id bigint not null default 0,
  add column if not exists transaction_id bigint not null default 0;
alter table public.audit_logs
  alter column cluster_id set default app_private.cluster_id(),
  alter column transaction_id set default app_private.transaction_id();
comment on column public.audit_logs.cluster_id is 'PostgreSQL cluster (system identifier) in which the row was written.';
comment on column public.audit_logs.transaction_id is 'Transaction that wrote the row: rows that were written together share it.';

-- Small: no index of this table needs to be built beside its writers yet.
-- squawk-ignore require-concurrent-index-creation
create index if not exists audit_logs_sealing_idx on public.audit_logs (tenant_id, cluster_id, transaction_id, id);
comment on index public.audit_logs_sealing_idx is 'The order in which rows are sealed and verified.';
-- squawk-ignore require-concurrent-index-creation
create index if not exists audit_logs_transaction_idx on public.audit_logs using brin (transaction_id) with (pages_per_range = 32);
comment on index public.audit_logs_transaction_idx is 'Finds the tenants with new rows; costs writers nothing.';

do $$
begin
  if not exists (
    select from pg_constraint where conrelid = 'public.audit_logs'::regclass and conname = 'audit_logs_actor_kind_check'
       and pg_get_constraintdef(oid) ~ 'analyst'
  ) then
    alter table public.audit_logs drop constraint audit_logs_actor_kind_check;
    alter table public.audit_logs add constraint audit_logs_actor_kind_check
      check (actor_kind in ('user', 'anonymous', 'job', 'database', 'api_key', 'impersonator', 'analyst')) not valid;
    -- squawk-ignore constraint-missing-not-valid
    alter table public.audit_logs validate constraint audit_logs_actor_kind_check;
  end if;
end
$$;
comment on table public.audit_logs is
  'Who did what. Written in the transaction of the change; nobody can alter it unseen: docs/audit.md. Reading it is recorded in it.';
comment on column public.audit_logs.actor_kind is
  'user, api_key, impersonator (an operator who entered the tenant), job, analyst (a login that reads one tenant), database (plain SQL) or anonymous.';
comment on column public.audit_logs.action is 'What was done, for example user.role_changed.';
comment on column public.audit_logs.changes is
  '{"before": {...}, "after": {...}} with the changed keys only; for what is no change, what there is to know. Secrets read "***".';

create table if not exists app_private.audit_keys (
  key_id text primary key,
  public_key bytea not null check (length(public_key) = 32),
  kek_id text,
  wrapped_private_key bytea,
  created_at timestamptz not null default now(),
  retired_at timestamptz,
  endorsed_by text references app_private.audit_keys (key_id) on delete restrict,
  endorsement bytea,
  check ((endorsed_by is null) = (endorsement is null))
);
-- squawk-ignore require-concurrent-index-creation
create index if not exists audit_keys_endorsed_by_idx on app_private.audit_keys (endorsed_by);
comment on table app_private.audit_keys is
  'Ed25519 keys of audit seals. Public ones stay for ever; a private one, wrapped by a key-encryption key, until it is replaced.';
comment on column app_private.audit_keys.endorsement is 'Signature of the key before it over this one: who knows one key knows its successors.';

create table if not exists app_private.audit_seals (
  tenant_id uuid not null,
  number bigint not null check (number > 0),
  first_sequence bigint not null check (first_sequence > 0),
  row_count integer not null check (row_count > 0),
  cluster_id bigint not null,
  last_transaction_id bigint not null,
  last_id uuid not null,
  rows bytea not null check (length(rows) = 48 * row_count),
  chain bytea not null check (length(chain) = 32),
  previous_seal bytea not null check (length(previous_seal) = 32),
  hash bytea not null check (length(hash) = 32),
  key_id text not null references app_private.audit_keys (key_id) on delete restrict,
  signature bytea not null check (length(signature) = 64),
  sealed_at timestamptz not null,
  primary key (tenant_id, number),
  unique (tenant_id, first_sequence),
  unique (tenant_id, cluster_id, last_transaction_id, last_id)
);
alter table app_private.audit_seals alter column rows set storage external;
-- squawk-ignore require-concurrent-index-creation
create index if not exists audit_seals_key_idx on app_private.audit_seals (key_id);
comment on table app_private.audit_seals is
  'Seals of the audit log: docs/audit-format.md. They outlive their tenant, so that the anchors stay explained.';
comment on column app_private.audit_seals.rows is 'Of each row that it seals, in their order: id (16 bytes) and SHA-256 of its canonical JSON (32).';
comment on column app_private.audit_seals.chain is 'SHA-256 over the chain before and the row''s hash, of the last row.';
comment on column app_private.audit_seals.hash is 'SHA-256 of the seal without its signature: the next one''s previous_seal.';

create table if not exists app_private.audit_purges (
  tenant_id uuid not null,
  through_seal bigint not null,
  through_sequence bigint not null,
  row_count bigint not null,
  kept_since timestamptz not null,
  transaction_id bigint not null default app_private.transaction_id(),
  purged_at timestamptz not null default now(),
  primary key (tenant_id, through_seal)
);
comment on table app_private.audit_purges is
  'What retention took from audit logs. Its own rows allow the deletion, in their transaction; the log has a record of each.';

create table if not exists app_private.audit_anchorings (
  anchor_id uuid not null,
  tenant_id uuid not null,
  number bigint not null,
  anchored_at timestamptz not null default now(),
  primary key (anchor_id, tenant_id)
);
-- squawk-ignore require-concurrent-index-creation
create index if not exists audit_anchorings_tenant_idx on app_private.audit_anchorings (tenant_id, number);
comment on table app_private.audit_anchorings is 'Up to which seal of a tenant each anchor has them.';

create table if not exists app_private.audit_sealing (
  is_only boolean primary key default true check (is_only),
  cluster_id bigint,
  sealed_below bigint,
  sealed_as_of timestamptz,
  unanchored_since timestamptz,
  ran_at timestamptz
);
insert into app_private.audit_sealing default values on conflict do nothing;
comment on table app_private.audit_sealing is 'How far sealing has come: transactions below sealed_below, and what was written before sealed_as_of, are sealed.';

--!include functions/audit_redaction.sql
--!include functions/audit.sql
--!include functions/audit_events.sql
--!include functions/audit_guard.sql
--!include functions/audit_requests.sql
--!include functions/audit_seals.sql
--!include functions/audit_anchors.sql
--!include functions/audit_purge.sql
--!include functions/partitions.sql
--!include functions/write_events.sql
--!include functions/sync_leases.sql
--!include functions/begin_request.sql
--!include functions/begin_job.sql
--!include policies/audit_logs.sql
--!include policies/audit_seals.sql
--!include triggers/audit.sql
--!include triggers/audit_guard.sql
--!include functions/integration_credentials.sql
--!include triggers/sync.sql
