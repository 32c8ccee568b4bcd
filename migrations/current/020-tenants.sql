create table app_private.plans (
  name text primary key,
  max_users integer not null check (max_users >= 0),
  max_integrations integer not null check (max_integrations >= 0)
);
comment on table app_private.plans is 'Subscription plans and the limits that a tenant gets with them.';
insert into app_private.plans (name, max_users, max_integrations) values
  ('trial', 10, 5),
  ('starter', 25, 10),
  ('business', 250, 50);

create table public.tenants (
  id uuid primary key default uuidv7(),
  name text not null check (length(name) between 1 and 200),
  slug text not null unique check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(slug) <= 63),
  domain text unique check (domain = lower(domain) and length(domain) <= 253),
  status public.tenant_status not null default 'TRIAL',
  settings jsonb not null default '{}' check (jsonb_typeof(settings) = 'object'),
  metadata jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object'),
  features text[] not null default '{}',
  max_users integer not null default 10 check (max_users >= 0),
  max_integrations integer not null default 5 check (max_integrations >= 0),
  plan_type text not null default 'trial' references app_private.plans (name) on update cascade on delete restrict,
  billing_email text check (length(billing_email) <= 320),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index tenants_status_idx on public.tenants (status);
create index tenants_plan_type_idx on public.tenants (plan_type);

comment on table public.tenants is 'An organisation that uses the platform.';
comment on column public.tenants.name is 'Name of the organisation.';
comment on column public.tenants.slug is 'Identifier for URLs and sign-in: lower case letters, digits and single hyphens.';
comment on column public.tenants.domain is 'Custom domain, lower case.';
comment on column public.tenants.status is 'State of the account.';
comment on column public.tenants.settings is 'Keys: timeZone (IANA name), currency (ISO 4217), weekStart (0 is Sunday), fiscalYearStart (month, 1 to 12), retentionDays.';
comment on column public.tenants.metadata is 'Free-form data about the tenant.';
comment on column public.tenants.features is 'Enabled features.';
comment on column public.tenants.max_users is 'How many users the tenant may have.';
comment on column public.tenants.max_integrations is 'How many integrations the tenant may have.';
comment on column public.tenants.plan_type is 'Subscription plan: trial, starter or business.';
comment on column public.tenants.billing_email is 'Where invoices go.';

create table app_private.tenant_keys (
  tenant_id uuid not null references public.tenants (id) on delete cascade,
  version integer not null default 1 check (version > 0),
  kek_id text not null,
  wrapped_key bytea not null,
  created_at timestamptz not null default now(),
  primary key (tenant_id, version)
);
comment on table app_private.tenant_keys is 'Data keys of tenants (AES-256), each wrapped by the key-encryption key kek_id, which PostgreSQL never sees.';
comment on column app_private.tenant_keys.wrapped_key is 'AES-256-GCM: nonce (12 bytes), ciphertext, tag (16 bytes).';
