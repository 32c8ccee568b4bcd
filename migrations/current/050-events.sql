create table public.analytics_events (
  id uuid not null default uuidv7(),
  tenant_id uuid not null references public.tenants (id) on delete cascade,
  event_type text not null check (length(event_type) between 1 and 100),
  event_name text not null check (length(event_name) between 1 and 200),
  properties jsonb not null default '{}' check (jsonb_typeof(properties) = 'object'),
  source text check (length(source) <= 200),
  source_id text check (length(source_id) <= 500),
  value numeric,
  currency text check (currency ~ '^[A-Z]{3}$'),
  "timestamp" timestamptz not null default now() check (isfinite("timestamp")),
  primary key (tenant_id, "timestamp", id)
) partition by range ("timestamp");
create index analytics_events_type_idx on public.analytics_events (tenant_id, event_type, "timestamp");
create index analytics_events_source_id_idx on public.analytics_events (tenant_id, source_id) where source_id is not null;

comment on table public.analytics_events is 'Something that happened, at a time, with a measure.';
comment on column public.analytics_events.event_type is 'Category, for example order, refund or ad_insight.';
comment on column public.analytics_events.event_name is 'What happened, for example order_completed.';
comment on column public.analytics_events.properties is 'Whatever else is known about the event.';
comment on column public.analytics_events.source is 'Where the event came from: <provider>:<integrationId> for integrations.';
comment on column public.analytics_events.source_id is 'Identifier of the record at its source: one record is one event.';
comment on column public.analytics_events.value is 'The event''s main measure, in major units of currency where it is money. Refunds are negative.';
comment on column public.analytics_events.currency is 'ISO 4217 code of value.';
comment on column public.analytics_events."timestamp" is 'When it happened.';

create table app_private.event_keys (
  tenant_id uuid not null references public.tenants (id) on delete cascade,
  source text not null,
  source_id text not null,
  "timestamp" timestamptz not null,
  id uuid not null,
  source_version bigint,
  content_hash bytea not null,
  deleted_at timestamptz,
  primary key (tenant_id, source, source_id)
);
comment on table app_private.event_keys is
  'Where the event of a source record is. Written with the event, it makes a repeat a no-op and a change an update..';
comment on column app_private.event_keys.content_hash is 'SHA-256 of the fields of the last accepted statement.';
comment on column app_private.event_keys.deleted_at is 'The source deleted the record: only a newer version brings it back.';

create table public.audit_logs (
  id uuid not null default uuidv7(),
  tenant_id uuid not null references public.tenants (id) on delete cascade,
  user_id uuid,
  actor_kind text not null check (actor_kind in ('user', 'anonymous', 'job', 'database')),
  actor_id uuid,
  actor_name text,
  action text not null,
  resource text not null,
  resource_id text,
  changes jsonb not null default '{}' check (jsonb_typeof(changes) = 'object'),
  ip_address text,
  user_agent text,
  request_id text,
  session_id uuid,
  created_at timestamptz not null default now(),
  primary key (tenant_id, created_at, id),
  foreign key (tenant_id, user_id) references public.users (tenant_id, id) on delete set null (user_id)
) partition by range (created_at);
create index audit_logs_user_idx on public.audit_logs (tenant_id, user_id);
create index audit_logs_action_idx on public.audit_logs (tenant_id, action);
create index audit_logs_resource_idx on public.audit_logs (tenant_id, resource, resource_id);

comment on table public.audit_logs is 'Who changed what. Written by triggers in the transaction of the change; nobody can alter it.';
comment on column public.audit_logs.user_id is 'The user who acted; null once the user is deleted.';
comment on column public.audit_logs.actor_kind is 'user, anonymous, job, or database (plain SQL).';
comment on column public.audit_logs.actor_id is 'Id of the user who acted; stays when the user is deleted.';
comment on column public.audit_logs.actor_name is 'Name of the actor at that time: a user''s e-mail, a task, or a database login.';
comment on column public.audit_logs.action is 'What was done, for example user.updated.';
comment on column public.audit_logs.resource is 'Kind of the thing that changed, for example user.';
comment on column public.audit_logs.resource_id is 'Identifier of the thing that changed.';
comment on column public.audit_logs.changes is '{"before": {...}, "after": {...}} with the changed keys only, never secrets.';
comment on column public.audit_logs.ip_address is 'Address that the request came from.';
comment on column public.audit_logs.user_agent is 'User agent of the request.';
comment on column public.audit_logs.request_id is 'Identifier of the request, as in the response header x-request-id.';
comment on column public.audit_logs.session_id is 'Session of the request.';

create table partitions.analytics_events_default partition of public.analytics_events default;
create table partitions.audit_logs_default partition of public.audit_logs default;
