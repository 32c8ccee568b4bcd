create table public.users (
  id uuid primary key default uuidv7(),
  tenant_id uuid not null default app_hidden.current_tenant_id() references public.tenants (id) on delete cascade,
  email text not null check (email = lower(email) and email ~ '^[^@\s]+@[^@\s]+$' and length(email) <= 320),
  first_name text check (length(first_name) <= 200),
  last_name text check (length(last_name) <= 200),
  avatar text check (length(avatar) <= 2000),
  role public.user_role not null default 'USER',
  permissions text[] not null default '{}',
  status public.user_status not null default 'ACTIVE',
  email_verified boolean not null default false,
  last_login_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (tenant_id, id),
  unique (tenant_id, email)
);
create index users_email_idx on public.users (email);

comment on table public.users is 'An account in a tenant. The same e-mail may have an account in several tenants.';
comment on column public.users.email is 'Lower case; unique within the tenant.';
comment on column public.users.avatar is 'URL of a picture.';
comment on column public.users.role is 'What the user may do.';
comment on column public.users.permissions is 'Single rights beyond the role.';
comment on column public.users.status is 'State of the account.';
comment on column public.users.email_verified is 'Whether the user has proved to own the e-mail.';
comment on column public.users.last_login_at is 'When the user last signed in.';

create table app_private.user_passwords (
  tenant_id uuid not null,
  user_id uuid not null,
  password_hash text not null check (password_hash like '$argon2id$%'),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, user_id),
  foreign key (tenant_id, user_id) references public.users (tenant_id, id) on delete cascade
);
comment on table app_private.user_passwords is 'argon2id hashes. A table of its own: a hidden column of users would break whole-row access.';

create table app_private.sessions (
  tenant_id uuid not null,
  id uuid not null default uuidv7(),
  user_id uuid not null,
  refresh_token_hash bytea not null,
  ip_address text,
  user_agent text,
  created_at timestamptz not null default now(),
  refreshed_at timestamptz not null default now(),
  expires_at timestamptz not null,
  revoked_at timestamptz,
  primary key (tenant_id, id),
  foreign key (tenant_id, user_id) references public.users (tenant_id, id) on delete cascade
);
create index sessions_user_idx on app_private.sessions (tenant_id, user_id);
comment on table app_private.sessions is 'Sign-ins. An access token names its session, which every request checks.';
comment on column app_private.sessions.refresh_token_hash is 'SHA-256 of the only refresh token that is valid now.';
