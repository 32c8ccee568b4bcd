--! Previous: sha1:7ee3a5670635344dc16432f06909fa300f5cd776
--! Hash: sha1:ce0a7579a81748578901a9ebbfab0b645c9a9ab6
--! Message: identity networks visits passwords

--! split: 1-current.sql
set local lock_timeout = '5s';

-- Knows a network again at each sign-in. Without last_used_at, which is written once a minute.
-- squawk-ignore require-concurrent-index-creation
create index if not exists sessions_network_idx on public.sessions (tenant_id, app_private.network_of(ip_address));

--! Included functions/rate_limits.sql
-- A bucket of p_burst attempts that refills within p_per. Kept in PostgreSQL, so that all instances count together.
-- A refused attempt counts nothing (the exception takes it back), so that trying on does not prolong the wait.
create or replace function app_private.take_attempts(p_bucket text, p_count integer, p_burst integer, p_per interval) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_per double precision := extract(epoch from p_per);
  v_used double precision;
begin
  insert into app_private.rate_limits as r (bucket, used, counted_at)
  values (sha256(convert_to(p_bucket, 'UTF8')), p_count, clock_timestamp())
  on conflict (bucket) do update
     set used = greatest(0, r.used - p_burst * extract(epoch from clock_timestamp() - r.counted_at) / v_per) + p_count,
         counted_at = clock_timestamp()
  returning used into v_used;
  if v_used > p_burst then
    raise exception 'Too many attempts. Try again in % seconds.', ceil((v_used - p_burst) * v_per / p_burst)
      using errcode = 'EA429', detail = ceil((v_used - p_burst) * v_per / p_burst)::text;
  end if;
end
$$;
comment on function app_private.take_attempts(text, integer, integer, interval) is 'Counts attempts. EA429, with the seconds to wait as its detail, when the bucket has not as many left.';

create or replace function app_private.take_attempt(p_bucket text, p_burst integer, p_per interval) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$ select app_private.take_attempts(p_bucket, 1, p_burst, p_per) $$;
comment on function app_private.take_attempt(text, integer, interval) is 'Counts an attempt. EA429, with the seconds to wait as its detail, when the bucket is empty.';

create or replace function app_private.give_back_attempt(p_bucket text) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$ update app_private.rate_limits set used = greatest(0, used - 1) where bucket = sha256(convert_to(p_bucket, 'UTF8')) $$;
comment on function app_private.give_back_attempt(text) is 'An attempt that succeeded does not count.';

create or replace function app_private.clear_attempts(p_bucket text) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$ delete from app_private.rate_limits where bucket = sha256(convert_to(p_bucket, 'UTF8')) $$;
comment on function app_private.clear_attempts(text) is 'Forgets what was counted.';

create or replace function app_private.network_of(p_address text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when a.address is null then 'unknown'
    -- One subscriber has a whole /64 of IPv6.
    when family(a.address) = 6 and not a.address <<= '::ffff:0:0/96' then network(set_masklen(a.address, 64))::text
    else host(a.address)
  end
    from (select nullif(p_address, '')::inet as address) a
$$;
comment on function app_private.network_of(text) is 'Whose address it is, as far as limits are concerned.';

create or replace function app_private.request_network() returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$ select app_private.network_of(current_setting('app.ip_address', true)) $$;
comment on function app_private.request_network() is 'Where this request comes from, as far as limits are concerned.';

-- Whoever has a /48 of IPv6 has 65,536 networks.
create or replace function app_private.request_site() returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select case when n.network like '%/64' then network(set_masklen(n.network::inet, 48))::text else n.network end
    from (select app_private.request_network() as network) n
$$;
comment on function app_private.request_site() is 'Where this request comes from, where new networks get something for free: a /48 of IPv6.';

revoke execute on function
  app_private.take_attempts(text, integer, integer, interval), app_private.take_attempt(text, integer, interval),
  app_private.give_back_attempt(text), app_private.clear_attempts(text), app_private.network_of(text), app_private.request_network(),
  app_private.request_site()
from public;
--! EndIncluded functions/rate_limits.sql
--! Included functions/sessions.sql
-- Signing in: the server checks the password (argon2 is not in PostgreSQL) between begin_sign_in and open_session. It
-- calls them in transactions of their own, so that attempts and refusals are kept whatever happens next.

create or replace function app_private.find_tenant(p_slug text, p_domain text) returns uuid
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select t.id from public.tenants t
   where case
     when p_slug is not null then t.slug = lower(p_slug)
     -- A host name may end in the root's dot.
     else t.domain = rtrim(lower(p_domain), '.') and 'custom_domain' = any (t.features)
   end
$$;
comment on function app_private.find_tenant(text, text) is 'The tenant of a slug, or else of a custom domain; null when there is none.';

-- Unknown accounts are counted like known ones, by what was typed.
create or replace function app_private.sign_in_bucket(p_tenant_id uuid, p_tenant text, p_email text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$ select format('sign-in %s %s', coalesce(p_tenant_id::text, lower(left(p_tenant, 300))), lower(left(p_email, 320))) $$;
comment on function app_private.sign_in_bucket(uuid, text, text) is 'The bucket of sign-ins to one account.';

-- Of the tenant, not of the user: what differed between a user and an unknown e-mail would tell who exists.
create or replace function app_private.is_known_network(p_tenant_id uuid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from public.sessions s
     where s.tenant_id = p_tenant_id
       and app_private.network_of(s.ip_address) = app_private.request_network()
       and s.last_used_at > now() - interval '30 days'
  )
$$;
comment on function app_private.is_known_network(uuid) is 'Whether anybody of this tenant had a session from where this request comes from, in the last 30 days.';

create or replace function app_private.site_bucket(p_account text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$ select p_account || ' from site ' || app_private.request_site() $$;
comment on function app_private.site_bucket(text) is 'The bucket of sign-ins to one account from this site that do not count for the account.';

create or replace function app_hidden.begin_sign_in(p_slug text, p_domain text, p_email text)
returns table (tenant_id uuid, user_id uuid, password_hash text, refusal text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_tenant_id uuid := app_private.find_tenant(p_slug, p_domain);
  v_account text := app_private.sign_in_bucket(v_tenant_id, coalesce(p_slug, p_domain), p_email);
  v_network text := app_private.request_network();
  v_known boolean := app_private.is_known_network(v_tenant_id);
  v_scope text := 'network';
  v_message text;
  v_seconds text;
begin
  begin
    perform app_private.take_attempt('sign-in from ' || v_network, 60, '1 minute');
    v_scope := 'account';
    perform app_private.take_attempt(v_account || ' from ' || v_network, 10, '1 minute');
  exception when sqlstate 'EA429' then
    get stacked diagnostics v_message = message_text, v_seconds = pg_exception_detail;
    raise exception '%', v_message using errcode = 'EA429', detail = v_seconds, hint = v_scope;
  end;
  -- Guessing from many addresses has one bucket for the account. An attacker keeps it empty, so that a few attempts from each
  -- place, and more from a known one, do not need it: or nobody would reach the account while the attack lasts.
  begin
    perform app_private.take_attempt(app_private.site_bucket(v_account), case when v_known then 50 else 2 end, '1 hour');
  exception when sqlstate 'EA429' then
    if v_known then
      raise;
    end if;
    perform app_private.take_attempt(v_account, 50, '1 hour');
  end;

  return query
    select u.tenant_id, u.id, p.password_hash,
           case
             when u.status <> 'ACTIVE' then 'user_' || lower(u.status::text)
             when t.status in ('SUSPENDED', 'CANCELLED') then 'tenant_' || lower(t.status::text)
             when not app_private.is_open(t.status, t.trial_ends_at) then 'trial_ended'
           end
      from public.users u
      join public.tenants t on t.id = u.tenant_id
      join app_private.user_passwords p on p.tenant_id = u.tenant_id and p.user_id = u.id
     where u.tenant_id = v_tenant_id
       and u.email = lower(p_email);
end
$$;
comment on function app_hidden.begin_sign_in(text, text, text) is
  'Counts an attempt to sign in (EA429, with the hint "network" or "account" where only this network is refused) and finds the account, by the tenant''s slug or else its domain; no row when there is none. refusal: why it may not be used even with the right password.';

create or replace function app_hidden.refuse_sign_in(p_slug text, p_domain text, p_email text, p_reason text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := app_private.find_tenant(p_slug, p_domain);
  v_user_id uuid;
begin
  select u.id into v_user_id from public.users u where u.tenant_id = v_tenant_id and u.email = lower(p_email);
  if v_tenant_id is null then
    select t.id into v_tenant_id from public.tenants t where t.slug = 'platform';
  end if;
  if v_tenant_id is not null then
    -- Only a known e-mail is written down: an unknown one may be a password in the wrong field.
    perform app_private.write_audit(
      v_tenant_id, 'session.refused', 'user', v_user_id::text,
      jsonb_strip_nulls(jsonb_build_object('reason', p_reason, 'email', case when v_user_id is not null then lower(p_email) end))
    );
  end if;
end
$$;
comment on function app_hidden.refuse_sign_in(text, text, text, text) is
  'Records a sign-in that failed: in its tenant''s log, or the operator''s when there is no such tenant.';

create or replace function app_hidden.note_throttled_sign_in(p_slug text, p_domain text, p_email text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant_id uuid := coalesce(app_private.find_tenant(p_slug, p_domain), (select t.id from public.tenants t where t.slug = 'platform'));
begin
  -- One row tells of an attack; one for each of its attempts would be another.
  begin
    perform app_private.take_attempt(format('throttled %s %s', v_tenant_id, app_private.request_network()), 1, '10 minutes');
  exception when sqlstate 'EA429' then
    return;
  end;
  perform app_hidden.refuse_sign_in(p_slug, p_domain, p_email, 'throttled');
end
$$;
comment on function app_hidden.note_throttled_sign_in(text, text, text) is
  'Records that sign-ins are being throttled, for each network and tenant once in ten minutes.';

create or replace function app_hidden.open_session(
  p_tenant_id uuid, p_user_id uuid, p_refresh_token_hash bytea, p_checked_hash text, p_new_hash text
)
returns table (session_id uuid, role text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_user public.users;
  v_account text;
begin
  -- The user before the password, as everybody locks them: a reset has locked the user and goes on to the password.
  perform from public.users where tenant_id = p_tenant_id and id = p_user_id for no key update;
  -- The password that was checked is still the password, and stays it until commit: only a lock reads what another
  -- transaction is about to commit.
  perform from app_private.user_passwords
    where tenant_id = p_tenant_id and user_id = p_user_id and password_hash = p_checked_hash for no key update;
  if found then
    update public.users u
       set last_login_at = now()
      from public.tenants t
     where u.tenant_id = p_tenant_id and u.id = p_user_id and u.status = 'ACTIVE'
       and t.id = u.tenant_id and app_private.is_open(t.status, t.trial_ends_at)
    returning u.* into v_user;
  end if;
  if not found then
    raise exception 'This account was changed meanwhile. Sign in again.' using errcode = 'EA401', detail = 'revoked';
  end if;
  if p_new_hash is not null then
    update app_private.user_passwords set password_hash = p_new_hash where tenant_id = p_tenant_id and user_id = p_user_id;
  end if;
  v_account := app_private.sign_in_bucket(p_tenant_id, null, v_user.email);
  perform
    app_private.give_back_attempt('sign-in from ' || app_private.request_network()),
    app_private.give_back_attempt(v_account || ' from ' || app_private.request_network()),
    -- What had to be taken from the account's own bucket stays taken: giving it back would free a guess for others.
    app_private.give_back_attempt(app_private.site_bucket(v_account));
  return query select app_private.start_session(p_tenant_id, p_user_id, p_refresh_token_hash), v_user.role::text;
end
$$;
comment on function app_hidden.open_session(uuid, uuid, bytea, text, text) is
  'Opens a session for a user whose password was checked against p_checked_hash. p_new_hash: the same password under today''s parameters, or null.';

create or replace function app_private.start_session(p_tenant_id uuid, p_user_id uuid, p_refresh_token_hash bytea) returns uuid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_session_id uuid;
begin
  insert into public.sessions (tenant_id, user_id, expires_at, ip_address, user_agent)
  values (
    p_tenant_id, p_user_id, now() + interval '30 days',
    nullif(current_setting('app.ip_address', true), ''), nullif(current_setting('app.user_agent', true), '')
  )
  returning id into v_session_id;
  insert into app_private.refresh_tokens (tenant_id, session_id, token_hash) values (p_tenant_id, v_session_id, p_refresh_token_hash);
  perform app_private.write_audit(
    p_tenant_id, 'session.created', 'session', v_session_id::text, '{}',
    p_user_id, (select u.email from public.users u where u.tenant_id = p_tenant_id and u.id = p_user_id)
  );
  return v_session_id;
end
$$;
comment on function app_private.start_session(uuid, uuid, bytea) is 'A session of 30 days and its first refresh token.';

-- One token is unused: the valid one. A used one that comes back soon is a lost answer or a second tab, and gets the
-- token that is valid now; one that comes back later was stolen from somebody, and ends the session.
create or replace function app_hidden.rotate_session(
  p_tenant_id uuid, p_session_id uuid, p_presented_hash bytea, p_successor_hash bytea
)
returns table (outcome text, user_id uuid, tenant_id uuid, role text, home_tenant_id uuid, expires_at timestamptz, valid_hash bytea)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_session record;
  v_used_at timestamptz;
begin
  -- The lock comes first and alone: what was rotated while waiting for it is read by the next statement.
  perform from public.sessions where tenant_id = p_tenant_id and id = p_session_id for update;
  select s.*, u.role as user_role, u.email into v_session
    from public.sessions s
    join public.users u on u.tenant_id = s.tenant_id and u.id = s.user_id
    join public.tenants t on t.id = s.tenant_id
   where s.tenant_id = p_tenant_id
     and s.id = p_session_id
     and u.tenant_id = p_tenant_id
     and s.revoked_at is null
     and s.expires_at > now()
     and u.status = 'ACTIVE'
     and app_private.is_open(t.status, t.trial_ends_at)
     and (s.entered_tenant_id is null or u.role = 'SUPER_ADMIN');
  if found then
    select r.used_at into v_used_at
      from app_private.refresh_tokens r
     where r.tenant_id = p_tenant_id and r.session_id = p_session_id and r.token_hash = p_presented_hash;
  end if;
  if not found then
    raise exception 'This session has ended. Sign in again.' using errcode = 'EA401', detail = 'revoked';
  end if;

  if v_used_at < now() - interval '30 seconds' then
    update public.sessions set revoked_at = now() where tenant_id = p_tenant_id and id = p_session_id;
    perform app_private.write_audit(
      p_tenant_id, 'session.refresh_reused', 'session', p_session_id::text, '{}', v_session.user_id, v_session.email
    );
    return query select 'reused', null::uuid, null::uuid, null::text, null::uuid, null::timestamptz, null::bytea;
    return;
  end if;
  if v_used_at is null then
    update app_private.refresh_tokens set used_at = now()
     where tenant_id = p_tenant_id and session_id = p_session_id and token_hash = p_presented_hash;
    insert into app_private.refresh_tokens (tenant_id, session_id, token_hash) values (p_tenant_id, p_session_id, p_successor_hash);
    update public.sessions set last_used_at = now() where tenant_id = p_tenant_id and id = p_session_id;
  end if;
  return query
    select case when v_used_at is null then 'rotated' else 'repeated' end,
           v_session.user_id, coalesce(v_session.entered_tenant_id, p_tenant_id),
           coalesce(v_session.entered_role, v_session.user_role)::text,
           case when v_session.entered_tenant_id is not null then p_tenant_id end,
           v_session.expires_at, r.token_hash
      from app_private.refresh_tokens r
     where r.tenant_id = p_tenant_id and r.session_id = p_session_id and r.used_at is null;
end
$$;
comment on function app_hidden.rotate_session(uuid, uuid, bytea, bytea) is
  'Exchanges a refresh token (by SHA-256) for its successor. valid_hash: the token that is valid now. Outcome rotated, repeated (within 30 s), or reused: then the session was revoked. EA401 for a token that it never had, or an ended session.';

create or replace function app_hidden.revoke_session(p_tenant_id uuid, p_session_id uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update public.sessions
     set revoked_at = now()
   where tenant_id = p_tenant_id
     and tenant_id = app_hidden.current_home_tenant_id()
     and id = p_session_id
     and (user_id = app_hidden.current_user_id() or id = app_hidden.current_session_id())
     and revoked_at is null;
  if found then
    perform app_private.write_audit(p_tenant_id, 'session.revoked', 'session', p_session_id::text, '{}');
  elsif not exists (
    select from public.sessions
     where tenant_id = p_tenant_id and id = p_session_id and user_id = app_hidden.current_user_id()
  ) then
    raise exception 'You have no session %.', p_session_id using errcode = 'EA404';
  end if;
end
$$;
comment on function app_hidden.revoke_session(uuid, uuid) is 'Ends a session of the current user, or the current session. EA404 when it is neither.';

create or replace function app_private.revoke_sessions(p_tenant_id uuid, p_user_id uuid, p_but uuid) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_ended text[];
begin
  with ended as (
    update public.sessions
       set revoked_at = now()
     where tenant_id = p_tenant_id and user_id = p_user_id and revoked_at is null and id is distinct from p_but
    returning id
  )
  select array_agg(id::text) into v_ended from ended;
  if v_ended is not null then
    perform app_private.write_audit(
      p_tenant_id, 'session.revoked', 'user', p_user_id::text, jsonb_build_object('sessions', to_jsonb(v_ended))
    );
  end if;
  return coalesce(cardinality(v_ended), 0);
end
$$;
comment on function app_private.revoke_sessions(uuid, uuid, uuid) is 'Ends all sessions of a user, but p_but. Returns how many.';

create or replace function app_hidden.revoke_own_sessions(p_tenant_id uuid) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app_hidden.require_user();
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  -- The user first, as everybody locks them who ends sessions and links.
  perform from public.users where tenant_id = p_tenant_id and id = v_user_id for no key update;
  perform app_private.end_links(p_tenant_id, v_user_id);
  return app_private.revoke_sessions(p_tenant_id, v_user_id, null);
end
$$;
comment on function app_hidden.revoke_own_sessions(uuid) is 'Ends all sessions of the current user, this one too. Returns how many.';

create or replace function app_hidden.record_use(p_uses jsonb) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update public.sessions s
     set last_used_at = greatest(s.last_used_at, u.at)
    from jsonb_to_recordset(p_uses) as u (tenant_id uuid, session_id uuid, at timestamptz)
   where s.tenant_id = u.tenant_id and s.id = u.session_id;
  update public.api_keys k
     set last_used_at = greatest(k.last_used_at, u.at)
    from jsonb_to_recordset(p_uses) as u (tenant_id uuid, api_key_id uuid, at timestamptz)
   where k.tenant_id = u.tenant_id and k.id = u.api_key_id;
end
$$;
comment on function app_hidden.record_use(jsonb) is
  'When sessions and API keys were last used: [{"tenant_id", "session_id" or "api_key_id", "at"}]. Written once a minute, not by the requests.';

create or replace function app_hidden.purge_expired() returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  delete from public.sessions where least(expires_at, revoked_at) < now() - interval '30 days';
  delete from app_private.one_time_tokens where expires_at < now() - interval '30 days';
  delete from app_private.rate_limits where counted_at < now() - interval '1 day';
$$;
comment on function app_hidden.purge_expired() is
  'Deletes sessions and one-time tokens that ended 30 days ago, and full buckets. Used refresh tokens stay as long as their session, so that a stolen one is known.';

revoke execute on function
  app_private.find_tenant(text, text), app_private.sign_in_bucket(uuid, text, text),
  app_private.is_known_network(uuid), app_private.site_bucket(text), app_hidden.begin_sign_in(text, text, text),
  app_hidden.refuse_sign_in(text, text, text, text), app_hidden.note_throttled_sign_in(text, text, text),
  app_hidden.open_session(uuid, uuid, bytea, text, text), app_private.start_session(uuid, uuid, bytea),
  app_hidden.rotate_session(uuid, uuid, bytea, bytea), app_hidden.revoke_session(uuid, uuid),
  app_private.revoke_sessions(uuid, uuid, uuid), app_hidden.revoke_own_sessions(uuid), app_hidden.record_use(jsonb),
  app_hidden.purge_expired()
from public;
grant execute on function
  app_hidden.begin_sign_in(text, text, text), app_hidden.refuse_sign_in(text, text, text, text),
  app_hidden.note_throttled_sign_in(text, text, text),
  app_hidden.open_session(uuid, uuid, bytea, text, text), app_hidden.rotate_session(uuid, uuid, bytea, bytea)
to api_anonymous;
grant execute on function app_hidden.revoke_session(uuid, uuid), app_hidden.revoke_own_sessions(uuid)
to api_viewer, api_user, api_admin, api_super_admin;
grant execute on function app_hidden.record_use(jsonb) to erp_authenticator;
grant execute on function app_hidden.purge_expired() to erp_worker;
--! EndIncluded functions/sessions.sql
drop function if exists app_private.is_known_network(uuid, text);
--! Included functions/users.sql
-- Who may be in a tenant, and who may say so. The rules on rows are triggers, so that they hold for plain SQL, too.

create or replace function app_private.assert_email(p_email text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_email is null or length(p_email) > 320
    -- Nothing that a mail header would read as something else, and nothing that cannot be seen.
    or p_email !~ '^[^@\s",;:<>()[\]\\[:cntrl:]\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufffd]+@[^@\s",;:<>()[\]\\[:cntrl:]\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufffd]+$'
  then
    raise exception '"%" is not an e-mail address.', coalesce(left(p_email, 320), '') using errcode = 'EA400';
  end if;
end
$$;
comment on function app_private.assert_email(text) is 'EA400 unless it can be an e-mail address.';

-- Counting is right only while nobody else adds, and with eyes for what was committed meanwhile: the lock gives the
-- first, `read committed` the second. NO KEY UPDATE, because plain FOR UPDATE would block every foreign key.
create or replace function app_private.lock_tenant(p_tenant_id uuid) returns public.tenants
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant public.tenants;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'Users and integrations change in read committed transactions only, or limits could be passed.' using errcode = '0A000';
  end if;
  select * into v_tenant from public.tenants where id = p_tenant_id for no key update;
  return v_tenant;
end
$$;
comment on function app_private.lock_tenant(uuid) is 'Locks a tenant until the end of the transaction. A row of nulls when it is gone, as in a cascade.';

create or replace function app_private.tg_hold_seats() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant public.tenants := app_private.lock_tenant(new.tenant_id);
begin
  if (select count(*) from public.users where tenant_id = new.tenant_id and status <> 'INACTIVE') > v_tenant.max_users then
    raise exception 'This tenant may have % users, and has them all. Deactivate one, or ask for a larger plan.', v_tenant.max_users
      using errcode = 'EA402', detail = 'max_users';
  end if;
  return null;
end
$$;
comment on function app_private.tg_hold_seats() is 'Holds max_users, which counts everybody but INACTIVE users. EA402.';

create or replace function app_private.tg_hold_integrations() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant public.tenants := app_private.lock_tenant(new.tenant_id);
begin
  if (select count(*) from public.integrations where tenant_id = new.tenant_id) > v_tenant.max_integrations then
    raise exception 'This tenant may have % integrations, and has them all. Remove one, or ask for a larger plan.', v_tenant.max_integrations
      using errcode = 'EA402', detail = 'max_integrations';
  end if;
  return null;
end
$$;
comment on function app_private.tg_hold_integrations() is 'Holds max_integrations. EA402.';

create or replace function app_private.tg_keep_administrator() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant public.tenants;
  v_top public.user_role;
begin
  if tg_op = 'UPDATE' and new.role = old.role and new.status = 'ACTIVE' then
    return null;
  end if;
  v_tenant := app_private.lock_tenant(old.tenant_id);
  v_top := case v_tenant.slug when 'platform' then 'SUPER_ADMIN' else 'ADMIN' end;
  if v_tenant.id is not null and old.role = v_top and not exists (
    select from public.users where tenant_id = old.tenant_id and role = v_top and status = 'ACTIVE'
  ) then
    raise exception '% is the last active % of this tenant. Make another one first.', old.email, v_top
      using errcode = 'EA409', detail = 'last_administrator';
  end if;
  return null;
end
$$;
comment on function app_private.tg_keep_administrator() is 'The last active ADMIN of a tenant (of platform: SUPER_ADMIN) stays so. EA409.';

create or replace function app_private.tg_check_role() returns trigger
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from public.tenants where id = new.tenant_id and slug = 'platform') then
    raise exception 'SUPER_ADMIN exists only in the tenant "platform".' using errcode = 'EA403';
  end if;
  return new;
end
$$;
comment on function app_private.tg_check_role() is 'SUPER_ADMIN exists only in the tenant "platform". EA403.';

-- The enum's order is from the most rights to the least.
create or replace function app_private.assert_may_grant(p_role public.user_role, p_permissions text[]) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_own public.user_role := app_hidden.current_user_role();
  v_permission text;
begin
  if v_own is null or p_role < v_own then
    raise exception 'Your role % does not reach as far as %.', coalesce(v_own::text, 'of an API key'), p_role using errcode = 'EA403';
  end if;
  if array_position(p_permissions, null) is not null then
    raise exception 'Permissions must not be null.' using errcode = 'EA400';
  end if;
  foreach v_permission in array coalesce(p_permissions, '{}') loop
    if v_permission <> all (app_hidden.role_permissions('ADMIN')) then
      raise exception 'There is no permission "%". There are: %.', v_permission, array_to_string(app_hidden.role_permissions('ADMIN'), ', ')
        using errcode = 'EA400';
    end if;
    if not app_hidden.has_permission(v_permission) then
      raise exception 'You cannot grant "%": you do not have it yourself.', v_permission using errcode = 'EA403', detail = v_permission;
    end if;
  end loop;
end
$$;
comment on function app_private.assert_may_grant(public.user_role, text[]) is
  'EA403 unless this request has the role, or a higher one, and each of the permissions.';

create or replace function app_private.managed_user(p_tenant_id uuid, p_user_id uuid) returns public.users
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user public.users;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('users:manage');
  select * into v_user from public.users where tenant_id = p_tenant_id and id = p_user_id for no key update;
  if not found then
    raise exception 'There is no user %.', p_user_id using errcode = 'EA404';
  end if;
  perform app_private.assert_may_grant(v_user.role, null);
  return v_user;
end
$$;
comment on function app_private.managed_user(uuid, uuid) is 'A user whom this request may manage, locked. EA403, EA404.';

create or replace function app_private.refuse_lasting_visit(p_tenant_id uuid) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  -- A tenant whose admins cannot come needs the operator's help.
  if exists (select from public.users where tenant_id = p_tenant_id and role = 'ADMIN' and status = 'ACTIVE') then
    perform app_private.refuse_visitor();
  end if;
end
$$;
comment on function app_private.refuse_lasting_visit(uuid) is 'EA403 for an operator who entered the tenant, unless it has no active ADMIN.';

create or replace function app_hidden.invite_user(
  p_tenant_id uuid, p_email text, p_role public.user_role, p_permissions text[], p_first_name text, p_last_name text
)
returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_email text := lower(btrim(p_email));
  v_user_id uuid;
  v_status public.user_status;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_hidden.require_permission('users:manage');
  perform app_private.refuse_lasting_visit(p_tenant_id);
  perform app_private.assert_may_grant(p_role, p_permissions);
  perform app_private.assert_email(v_email);
  select status into v_status from public.users where tenant_id = p_tenant_id and email = v_email;
  if found then
    raise exception '%', format(
      case v_status
        when 'INVITED' then '%s is invited already. Send the invitation again with resendInvitation.'
        when 'INACTIVE' then '%s is a deactivated user. Reactivate them with setUserStatus.'
        else '%s is a user already.'
      end, v_email)
      using errcode = 'EA409';
  end if;
  insert into public.users (tenant_id, email, role, permissions, first_name, last_name, status)
  values (p_tenant_id, v_email, p_role, coalesce(p_permissions, '{}'), p_first_name, p_last_name, 'INVITED')
  returning id into v_user_id;
  perform app_private.issue_token(p_tenant_id, v_user_id, 'invitation', v_email);
  return v_user_id;
end
$$;
comment on function app_hidden.invite_user(uuid, text, public.user_role, text[], text, text) is
  'Makes an INVITED user and mails the invitation. EA400, EA402, EA403, EA409.';

create or replace function app_hidden.resend_invitation(p_tenant_id uuid, p_user_id uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user public.users := app_private.managed_user(p_tenant_id, p_user_id);
begin
  perform app_private.refuse_lasting_visit(p_tenant_id);
  if v_user.status <> 'INVITED' then
    raise exception '% has no invitation that is still open.', v_user.email using errcode = 'EA409';
  end if;
  perform app_private.issue_token(p_tenant_id, p_user_id, 'invitation', v_user.email);
  perform app_private.write_audit(p_tenant_id, 'user.invitation_resent', 'user', p_user_id::text, '{}');
end
$$;
comment on function app_hidden.resend_invitation(uuid, uuid) is 'Mails a new invitation; the earlier one no longer works. EA403, EA404, EA409.';

create or replace function app_hidden.revoke_invitation(p_tenant_id uuid, p_user_id uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user public.users := app_private.managed_user(p_tenant_id, p_user_id);
begin
  if v_user.status <> 'INVITED' then
    raise exception '% has no invitation that is still open. Deactivate the user with setUserStatus.', v_user.email using errcode = 'EA409';
  end if;
  delete from public.users where tenant_id = p_tenant_id and id = p_user_id;
end
$$;
comment on function app_hidden.revoke_invitation(uuid, uuid) is 'Removes a user who was invited and has not accepted. EA403, EA404, EA409.';

create or replace function app_hidden.change_user(
  p_tenant_id uuid, p_user_id uuid, p_role public.user_role, p_permissions text[], p_status public.user_status
)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user public.users := app_private.managed_user(p_tenant_id, p_user_id);
begin
  if p_user_id = app_hidden.current_user_id() then
    raise exception 'Nobody changes their own role, permissions or status. Ask another admin.' using errcode = 'EA403', detail = 'self';
  end if;
  if p_role < v_user.role
    or (p_status = 'ACTIVE' and v_user.status <> 'ACTIVE')
    or exists (select from unnest(p_permissions) p where p <> all (v_user.permissions))
  then
    perform app_private.refuse_lasting_visit(p_tenant_id);
  end if;
  -- Whoever brings a user back gives them what they had.
  perform app_private.assert_may_grant(
    coalesce(p_role, v_user.role),
    case
      when p_status = 'ACTIVE' and v_user.status <> 'ACTIVE' then coalesce(p_permissions, v_user.permissions)
      else (select array_agg(p) from unnest(p_permissions) p where p is null or p <> all (v_user.permissions))
    end
  );
  if p_status is not null and (p_status = 'INVITED') is distinct from (v_user.status = 'INVITED') then
    raise exception '%', case
      when p_status = 'INVITED' then format('%s cannot become INVITED: invite a new user with inviteUser.', v_user.email)
      else format('%s has not accepted the invitation yet. Withdraw it with revokeInvitation.', v_user.email)
    end using errcode = 'EA409';
  end if;
  update public.users
     set role = coalesce(p_role, role),
         permissions = coalesce((select array_agg(distinct p order by p) from unnest(p_permissions) p), case when p_permissions is null then permissions else '{}' end),
         status = coalesce(p_status, status)
   where tenant_id = p_tenant_id and id = p_user_id;
  -- Reactivating somebody later brings back neither old sessions nor a change of address.
  if p_status in ('INACTIVE', 'SUSPENDED') then
    perform app_private.revoke_sessions(p_tenant_id, p_user_id, null);
    perform app_private.end_links(p_tenant_id, p_user_id);
  end if;
end
$$;
comment on function app_hidden.change_user(uuid, uuid, public.user_role, text[], public.user_status) is
  'Changes the role, permissions or status of another user; null leaves it as it is. EA400, EA402, EA403, EA404, EA409.';

revoke execute on function
  app_private.assert_email(text), app_private.lock_tenant(uuid), app_private.tg_hold_seats(), app_private.tg_hold_integrations(),
  app_private.tg_keep_administrator(), app_private.tg_check_role(), app_private.assert_may_grant(public.user_role, text[]),
  app_private.managed_user(uuid, uuid), app_private.refuse_lasting_visit(uuid), app_hidden.invite_user(uuid, text, public.user_role, text[], text, text),
  app_hidden.resend_invitation(uuid, uuid), app_hidden.revoke_invitation(uuid, uuid),
  app_hidden.change_user(uuid, uuid, public.user_role, text[], public.user_status)
from public;
grant execute on function
  app_hidden.invite_user(uuid, text, public.user_role, text[], text, text),
  app_hidden.resend_invitation(uuid, uuid), app_hidden.revoke_invitation(uuid, uuid),
  app_hidden.change_user(uuid, uuid, public.user_role, text[], public.user_status)
to api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/users.sql
--! Included functions/one_time_tokens.sql
-- Tokens that go out by mail. A row has an id only; the worker derives the token from it, under a key that PostgreSQL
-- never sees, and stores the token's hash when it sends it (mail_for_token).

create or replace function app_private.issue_token(p_tenant_id uuid, p_user_id uuid, p_purpose text, p_email text) returns uuid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_token_id uuid := gen_random_uuid();
begin
  -- By address, since a user can be invited, removed and invited again; by purpose, since anybody can ask for a reset.
  perform app_private.take_attempt(format('mail %s %s %s', p_tenant_id, p_purpose, lower(p_email)), 10, '1 hour');
  perform app_private.take_attempt(format('mails %s', p_tenant_id), 500, '1 hour');
  -- Only the newest of a kind works, but of resets all until one is used: or whoever asks for another ends the one that
  -- its owner is about to follow.
  delete from app_private.one_time_tokens
   where tenant_id = p_tenant_id and user_id = p_user_id and purpose = p_purpose and purpose <> 'password_reset' and used_at is null;
  insert into app_private.one_time_tokens (tenant_id, id, user_id, purpose, email, invited_by, expires_at)
  values (
    p_tenant_id, v_token_id, p_user_id, p_purpose, p_email,
    -- An operator who makes a tenant is none of its users.
    (select u.id from public.users u where u.tenant_id = p_tenant_id and u.id = app_hidden.current_user_id()),
    now() + case p_purpose when 'invitation' then interval '7 days' when 'password_reset' then interval '1 hour' else interval '24 hours' end
  );
  perform graphile_worker.add_job(
    'send_mail', json_build_object('tenantId', p_tenant_id, 'tokenId', v_token_id), max_attempts => 10
  );
  return v_token_id;
end
$$;
comment on function app_private.issue_token(uuid, uuid, text, text) is
  'Replaces a user''s one-time token of this purpose, and has it mailed. EA429 after ten such mails to one address in an hour, or 500 mails of one tenant.';

create or replace function app_private.send_notice(p_tenant_id uuid, p_user_id uuid, p_notice text, p_email text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  perform graphile_worker.add_job(
    'send_mail', json_build_object('tenantId', p_tenant_id, 'userId', p_user_id, 'notice', p_notice, 'email', p_email), max_attempts => 10
  );
end
$$;
comment on function app_private.send_notice(uuid, uuid, text, text) is 'Tells a user by mail what happened to the account: password_changed, email_change_requested or email_changed.';

create or replace function app_hidden.mail_for_token(p_tenant_id uuid, p_token_id uuid, p_token_hash bytea)
returns table (
  purpose text, email text, first_name text, tenant_name text, tenant_slug text, invited_by text, expires_at timestamptz
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  return query
    update app_private.one_time_tokens o
       set token_hash = p_token_hash
      from public.users u
      join public.tenants t on t.id = u.tenant_id
     where o.tenant_id = p_tenant_id
       and o.id = p_token_id
       and o.used_at is null
       and o.expires_at > now()
       and u.tenant_id = p_tenant_id
       and u.id = o.user_id
    returning o.purpose, o.email, u.first_name, t.name, t.slug,
      (select coalesce(nullif(concat_ws(' ', i.first_name, i.last_name), ''), i.email)
         from public.users i where i.tenant_id = p_tenant_id and i.id = o.invited_by),
      o.expires_at;
end
$$;
comment on function app_hidden.mail_for_token(uuid, uuid, bytea) is
  'What the mail of a one-time token says; stores the token''s SHA-256, from when on it works. No row when it was used, replaced or has expired.';

create or replace function app_hidden.mail_for_notice(p_tenant_id uuid, p_user_id uuid)
returns table (first_name text, tenant_name text, tenant_slug text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  return query
    select u.first_name, t.name, t.slug
      from public.users u join public.tenants t on t.id = u.tenant_id
     where u.tenant_id = p_tenant_id and u.id = p_user_id;
end
$$;
comment on function app_hidden.mail_for_notice(uuid, uuid) is 'What the mail of a notice says.';

create or replace function app_hidden.find_token(p_tenant_id uuid, p_token_id uuid, p_token_hash bytea, p_purposes text[])
returns table (purpose text, user_id uuid, email text, first_name text, last_name text, tenant_name text, tenant_slug text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  -- Bounds what working links can cost: a password is examined and hashed for each. One that does not work costs nothing.
  perform app_private.take_attempt('one-time token from ' || app_private.request_network(), 60, '1 minute');
  return query
    select o.purpose, u.id, o.email, u.first_name, u.last_name, t.name, t.slug
      from app_private.one_time_tokens o
      join public.users u on u.tenant_id = o.tenant_id and u.id = o.user_id
      join public.tenants t on t.id = o.tenant_id
     where o.tenant_id = p_tenant_id
       and o.id = p_token_id
       and o.token_hash = p_token_hash
       and o.purpose = any (p_purposes)
       and o.used_at is null
       and o.expires_at > now();
  if not found then
    perform app_private.refuse_token();
  end if;
end
$$;
comment on function app_hidden.find_token(uuid, uuid, bytea, text[]) is
  'Whose one-time token it is, so that nothing is hashed for one that does not work. EA400 with detail "invalid_link".';

create or replace function app_private.refuse_token() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'This link does not work: it was used already, has expired, or a newer one was sent. Ask for a new one.'
    using errcode = 'EA400', detail = 'invalid_link';
end
$$;
comment on function app_private.refuse_token() is 'EA400 with detail "invalid_link".';

create or replace function app_private.use_token(p_tenant_id uuid, p_token_id uuid, p_token_hash bytea, p_purposes text[])
returns app_private.one_time_tokens
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_token app_private.one_time_tokens;
begin
  -- The user before the token, as everybody locks them who manages users.
  perform from public.users u
    where u.tenant_id = p_tenant_id
      and u.id = (select o.user_id from app_private.one_time_tokens o where o.tenant_id = p_tenant_id and o.id = p_token_id)
      for no key update;
  update app_private.one_time_tokens
     set used_at = now()
   where tenant_id = p_tenant_id
     and id = p_token_id
     and token_hash = p_token_hash
     and purpose = any (p_purposes)
     and used_at is null
     and expires_at > now()
  returning * into v_token;
  if not found then
    perform app_private.refuse_token();
  end if;
  if not exists (
    select from public.tenants t where t.id = p_tenant_id and app_private.is_open(t.status, t.trial_ends_at)
  ) then
    raise exception 'This tenant is suspended, cancelled, or past its trial.' using errcode = 'EA403', detail = 'tenant_closed';
  end if;
  return v_token;
end
$$;
comment on function app_private.use_token(uuid, uuid, bytea, text[]) is 'Uses a one-time token up: of twenty at once, one succeeds. EA400 with detail "invalid_link".';

create or replace function app_private.act_as_owner(p_token app_private.one_time_tokens) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  -- API keys, and operators who entered the tenant, have names of their own, but are none of its users.
  if nullif(current_setting('app.actor_name', true), '') is null then
    perform set_config('app.user_id', p_token.user_id::text, true), set_config('app.actor_name', p_token.email, true);
  end if;
end
$$;
comment on function app_private.act_as_owner(app_private.one_time_tokens) is
  'Whoever followed the link is its user: so the audit log says, unless somebody is signed in or an API key is used.';

create or replace function app_hidden.accept_invitation(
  p_tenant_id uuid, p_token_id uuid, p_token_hash bytea, p_password_hash text, p_first_name text, p_last_name text,
  p_refresh_token_hash bytea
)
returns table (user_id uuid, role text, session_id uuid)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_token app_private.one_time_tokens := app_private.use_token(p_tenant_id, p_token_id, p_token_hash, '{invitation}');
  v_user public.users;
begin
  perform app_private.act_as_owner(v_token);
  update public.users u
     set status = 'ACTIVE', email_verified = true, last_login_at = now(),
         first_name = coalesce(p_first_name, u.first_name), last_name = coalesce(p_last_name, u.last_name)
   where u.tenant_id = p_tenant_id and u.id = v_token.user_id and u.status = 'INVITED' and u.email = v_token.email
  returning u.* into v_user;
  if not found then
    perform app_private.refuse_token();
  end if;
  insert into app_private.user_passwords (tenant_id, user_id, password_hash) values (p_tenant_id, v_user.id, p_password_hash);
  return query select v_user.id, v_user.role::text, app_private.start_session(p_tenant_id, v_user.id, p_refresh_token_hash);
end
$$;
comment on function app_hidden.accept_invitation(uuid, uuid, bytea, text, text, text, bytea) is
  'Makes an invited user active, with a password and a first session. EA400 with detail "invalid_link".';

create or replace function app_hidden.reset_password(p_tenant_id uuid, p_token_id uuid, p_token_hash bytea, p_password_hash text)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_token app_private.one_time_tokens := app_private.use_token(p_tenant_id, p_token_id, p_token_hash, '{password_reset}');
begin
  perform app_private.act_as_owner(v_token);
  -- The mail reached them, so the address is theirs.
  update public.users set email_verified = true
   where tenant_id = p_tenant_id and id = v_token.user_id and email = v_token.email and status = 'ACTIVE';
  if not found then
    perform app_private.refuse_token();
  end if;
  perform app_private.store_password(p_tenant_id, v_token.user_id, p_password_hash, v_token.email, null);
  -- What was guessed of the old password does not keep the new one from being used.
  perform app_private.clear_attempts(app_private.sign_in_bucket(p_tenant_id, null, v_token.email));
end
$$;
comment on function app_hidden.reset_password(uuid, uuid, bytea, text) is 'Sets a password and ends all sessions. EA400 with detail "invalid_link".';

create or replace function app_private.end_links(p_tenant_id uuid, p_user_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  delete from app_private.one_time_tokens
   where tenant_id = p_tenant_id and user_id = p_user_id and purpose in ('password_reset', 'email_change') and used_at is null;
end
$$;
comment on function app_private.end_links(uuid, uuid) is 'Ends the links by which somebody could take over the account.';

create or replace function app_private.store_password(p_tenant_id uuid, p_user_id uuid, p_password_hash text, p_email text, p_but uuid)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into app_private.user_passwords as p (tenant_id, user_id, password_hash)
  values (p_tenant_id, p_user_id, p_password_hash)
  on conflict (tenant_id, user_id) do update set password_hash = excluded.password_hash;
  perform app_private.revoke_sessions(p_tenant_id, p_user_id, p_but);
  -- A link that is still under way would undo this.
  perform app_private.end_links(p_tenant_id, p_user_id);
  perform app_private.send_notice(p_tenant_id, p_user_id, 'password_changed', p_email);
end
$$;
comment on function app_private.store_password(uuid, uuid, text, text, uuid) is 'A new password: ends all sessions but p_but, and tells the user.';

create or replace function app_hidden.confirm_email(p_tenant_id uuid, p_token_id uuid, p_token_hash bytea) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_token app_private.one_time_tokens :=
    app_private.use_token(p_tenant_id, p_token_id, p_token_hash, '{email_verification,email_change}');
  v_user public.users;
  v_own_session_id uuid := case when app_hidden.current_user_id() = v_token.user_id then app_hidden.current_session_id() end;
begin
  perform app_private.act_as_owner(v_token);
  select * into v_user from public.users where tenant_id = p_tenant_id and id = v_token.user_id for no key update;
  if v_user.status is distinct from 'ACTIVE' or (v_token.purpose = 'email_verification' and v_user.email <> v_token.email) then
    perform app_private.refuse_token();
  end if;
  if exists (select from public.users where tenant_id = p_tenant_id and email = v_token.email and id <> v_user.id) then
    raise exception 'Somebody else in this tenant has the address % by now.', v_token.email using errcode = 'EA409';
  end if;
  update public.users set email = v_token.email, email_verified = true where tenant_id = p_tenant_id and id = v_user.id;
  if v_token.purpose = 'email_change' then
    delete from app_private.one_time_tokens
     where tenant_id = p_tenant_id and user_id = v_user.id and used_at is null;
    perform app_private.revoke_sessions(p_tenant_id, v_user.id, v_own_session_id);
    perform app_private.send_notice(p_tenant_id, v_user.id, 'email_changed', v_user.email);
  end if;
  return v_token.email;
end
$$;
comment on function app_hidden.confirm_email(uuid, uuid, bytea) is
  'Proves an e-mail address, or changes to it; a change ends the user''s other sessions. EA400 with detail "invalid_link".';

-- The request itself looks up nothing, so that its time does not tell who exists.
create or replace function app_hidden.request_password_reset(p_tenant text, p_domain text, p_email text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_private.take_attempt('password reset from ' || app_private.request_network(), 20, '10 minutes');
  perform graphile_worker.add_job(
    'start_password_reset',
    json_build_object('tenant', left(p_tenant, 300), 'domain', left(p_domain, 300), 'email', left(p_email, 320)),
    max_attempts => 5
  );
end
$$;
comment on function app_hidden.request_password_reset(text, text, text) is 'Enqueues the look-up of an account to reset. EA429.';

create or replace function app_hidden.start_password_reset(p_tenant text, p_domain text, p_email text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user record;
begin
  perform set_config('app.actor_name', 'start_password_reset', true);
  select u.tenant_id, u.id, u.email into v_user
    from public.users u join public.tenants t on t.id = u.tenant_id
   where u.tenant_id = app_private.find_tenant(p_tenant, p_domain)
     and u.email = lower(btrim(p_email))
     and u.status = 'ACTIVE'
     and app_private.is_open(t.status, t.trial_ends_at);
  if not found then
    return false;
  end if;
  begin
    perform app_private.issue_token(v_user.tenant_id, v_user.id, 'password_reset', v_user.email);
  exception when sqlstate 'EA429' then
    return false;
  end;
  perform app_private.write_audit(v_user.tenant_id, 'user.password_reset_requested', 'user', v_user.id::text, '{}');
  return true;
end
$$;
comment on function app_hidden.start_password_reset(text, text, text) is
  'Mails a link to reset the password, if there is such an account and it was not asked for too often. Returns whether.';

create or replace function app_hidden.request_email_verification(p_tenant_id uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user public.users;
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  select * into v_user from public.users where tenant_id = p_tenant_id and id = app_hidden.require_user();
  if v_user.email_verified then
    raise exception '% is verified already.', v_user.email using errcode = 'EA409';
  end if;
  perform app_private.issue_token(p_tenant_id, v_user.id, 'email_verification', v_user.email);
end
$$;
comment on function app_hidden.request_email_verification(uuid) is 'Mails the current user a link that proves the e-mail. EA409 when it is proved.';

create or replace function app_hidden.request_email_change(p_tenant_id uuid, p_checked_hash text, p_email text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app_hidden.require_user();
  v_email text := lower(btrim(p_email));
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_private.assert_email(v_email);
  -- Until commit, so that a new password ends this link, too.
  perform from app_private.user_passwords
    where tenant_id = p_tenant_id and user_id = v_user_id and password_hash = p_checked_hash for no key update;
  if not found then
    raise exception 'The password was changed meanwhile.' using errcode = 'EA409';
  end if;
  if exists (select from public.users where tenant_id = p_tenant_id and email = v_email) then
    raise exception 'There is a user with the e-mail % already.', v_email using errcode = 'EA409';
  end if;
  -- Of one user to any addresses: the password is right, so its attempt was given back.
  perform app_private.take_attempt(format('email change %s %s', p_tenant_id, v_user_id), 5, '1 hour');
  perform app_private.issue_token(p_tenant_id, v_user_id, 'email_change', v_email);
  perform app_private.send_notice(
    p_tenant_id, v_user_id, 'email_change_requested', (select u.email from public.users u where u.tenant_id = p_tenant_id and u.id = v_user_id)
  );
  perform app_private.write_audit(p_tenant_id, 'user.email_change_requested', 'user', v_user_id::text, jsonb_build_object('after', jsonb_build_object('email', v_email)));
end
$$;
comment on function app_hidden.request_email_change(uuid, text, text) is
  'Mails a link to the new address; the e-mail changes when it is followed. The password was checked against p_checked_hash. EA400, EA409, EA429 after five in an hour.';

create or replace function app_hidden.own_password(p_tenant_id uuid)
returns table (password_hash text, about text[])
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_user_id uuid := app_hidden.require_user();
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_private.take_attempt(format('password %s %s', p_tenant_id, v_user_id), 10, '10 minutes');
  return query
    select p.password_hash, array_remove(array[u.email, u.first_name, u.last_name, t.name, t.slug], null)
      from app_private.user_passwords p
      join public.users u on u.tenant_id = p.tenant_id and u.id = p.user_id
      join public.tenants t on t.id = p.tenant_id
     where p.tenant_id = p_tenant_id and p.user_id = v_user_id;
end
$$;
comment on function app_hidden.own_password(uuid) is
  'The current user''s password hash, for the server to check, and what a new password must not be made of. EA429 after ten in ten minutes, of which own_password_matched gives back.';

create or replace function app_hidden.own_password_matched(p_tenant_id uuid) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  perform app_private.give_back_attempt(format('password %s %s', p_tenant_id, app_hidden.require_user()));
end
$$;
comment on function app_hidden.own_password_matched(uuid) is 'Gives back the attempt that own_password counted: whoever knows the password does not guess.';

create or replace function app_hidden.change_password(p_tenant_id uuid, p_checked_hash text, p_password_hash text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app_hidden.require_user();
begin
  perform app_hidden.assert_tenant(p_tenant_id);
  -- The user before the password, as a reset locks them.
  perform from public.users where tenant_id = p_tenant_id and id = v_user_id for no key update;
  perform from app_private.user_passwords
    where tenant_id = p_tenant_id and user_id = v_user_id and password_hash = p_checked_hash for update;
  if not found then
    raise exception 'The password was changed meanwhile.' using errcode = 'EA409';
  end if;
  perform app_private.store_password(
    p_tenant_id, v_user_id, p_password_hash,
    (select u.email from public.users u where u.tenant_id = p_tenant_id and u.id = v_user_id),
    app_hidden.current_session_id()
  );
end
$$;
comment on function app_hidden.change_password(uuid, text, text) is
  'Replaces the current user''s password, if it still is the one that was checked, and ends the other sessions. EA409.';

revoke execute on function
  app_private.issue_token(uuid, uuid, text, text), app_private.send_notice(uuid, uuid, text, text),
  app_hidden.mail_for_token(uuid, uuid, bytea), app_hidden.mail_for_notice(uuid, uuid),
  app_hidden.find_token(uuid, uuid, bytea, text[]), app_private.refuse_token(),
  app_private.use_token(uuid, uuid, bytea, text[]), app_private.act_as_owner(app_private.one_time_tokens),
  app_hidden.accept_invitation(uuid, uuid, bytea, text, text, text, bytea), app_private.end_links(uuid, uuid),
  app_hidden.reset_password(uuid, uuid, bytea, text), app_private.store_password(uuid, uuid, text, text, uuid),
  app_hidden.confirm_email(uuid, uuid, bytea),
  app_hidden.request_password_reset(text, text, text), app_hidden.start_password_reset(text, text, text),
  app_hidden.request_email_verification(uuid), app_hidden.request_email_change(uuid, text, text),
  app_hidden.own_password(uuid), app_hidden.own_password_matched(uuid), app_hidden.change_password(uuid, text, text)
from public;
grant execute on function app_hidden.mail_for_token(uuid, uuid, bytea), app_hidden.mail_for_notice(uuid, uuid) to api_job;
grant execute on function app_hidden.start_password_reset(text, text, text) to erp_worker;
grant execute on function
  app_hidden.find_token(uuid, uuid, bytea, text[]), app_hidden.accept_invitation(uuid, uuid, bytea, text, text, text, bytea),
  app_hidden.reset_password(uuid, uuid, bytea, text), app_hidden.request_password_reset(text, text, text)
to api_anonymous;
grant execute on function app_hidden.confirm_email(uuid, uuid, bytea), app_hidden.find_token(uuid, uuid, bytea, text[])
to api_anonymous, api_viewer, api_user, api_admin, api_super_admin;
grant execute on function app_hidden.request_password_reset(text, text, text)
to api_viewer, api_user, api_admin, api_super_admin;
grant execute on function
  app_hidden.request_email_verification(uuid), app_hidden.request_email_change(uuid, text, text),
  app_hidden.own_password(uuid), app_hidden.own_password_matched(uuid), app_hidden.change_password(uuid, text, text)
to api_viewer, api_user, api_admin, api_super_admin;
--! EndIncluded functions/one_time_tokens.sql
--! Included functions/tenants.sql
create or replace function app_private.assert_settings(p_settings jsonb) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key text;
  v_value jsonb;
  v_expected text;
begin
  for v_key, v_value in select * from jsonb_each(p_settings) loop
    v_expected := case v_key
      when 'timeZone' then
        case when jsonb_typeof(v_value) <> 'string' or not exists (select from pg_timezone_names z where z.name = v_value #>> '{}' and z.name <> 'Factory')
          then 'the IANA name of a time zone, such as Europe/Berlin' end
      when 'currency' then
        case when jsonb_typeof(v_value) <> 'string' or not exists (select from app_private.currencies c where c.code = v_value #>> '{}')
          then 'an ISO 4217 code, such as EUR' end
      when 'weekStart' then case when v_value not in ('0', '1', '2', '3', '4', '5', '6') then 'a number from 0 (Sunday) to 6' end
      when 'fiscalYearStart' then
        case when v_value not in ('1', '2', '3', '4', '5', '6', '7', '8', '9', '10', '11', '12') then 'a month from 1 to 12' end
      when 'retentionDays' then
        case when jsonb_typeof(v_value) <> 'number' or (v_value #>> '{}') !~ '^[0-9]{1,5}$' or (v_value #>> '{}')::integer not between 30 and 36500
          then 'a number of days from 30 to 36500' end
      else 'absent: settings are timeZone, currency, weekStart, fiscalYearStart and retentionDays'
    end;
    if v_expected is not null then
      raise exception 'Setting "%" is %; it must be %.', left(v_key, 100), left(v_value::text, 100), v_expected using errcode = 'EA400', detail = 'settings';
    end if;
  end loop;
end
$$;
comment on function app_private.assert_settings(jsonb) is 'EA400 unless each of a tenant''s settings is known and valid.';

create or replace function app_private.tg_check_tenant() returns trigger
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_plan app_private.plans;
begin
  if tg_op = 'INSERT' or new.settings <> old.settings then
    if jsonb_typeof(new.settings) <> 'object' then
      raise exception 'settings must be a JSON object.' using errcode = 'EA400', detail = 'settings';
    end if;
    perform app_private.assert_settings(new.settings);
  end if;
  if btrim(new.name) = '' then
    raise exception 'A tenant needs a name.' using errcode = 'EA400', detail = 'name';
  end if;
  if new.billing_email is not null and (tg_op = 'INSERT' or new.billing_email is distinct from old.billing_email) then
    perform app_private.assert_email(new.billing_email);
  end if;
  if new.domain is not null and (tg_op = 'INSERT' or new.domain is distinct from old.domain) then
    new.domain := rtrim(lower(new.domain), '.');
    -- An address, or a name without a dot, would make this tenant the one of whoever names none.
    if new.domain !~ '^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$' then
      raise exception '"%" is not a host name such as analytics.acme.example; with other letters, write it in Punycode.', left(new.domain, 253)
        using errcode = 'EA400', detail = 'domain';
    end if;
  end if;
  if not exists (select from app_private.plans where name = new.plan_type) then
    raise exception 'There is no plan "%". There are: %.', left(new.plan_type, 100), (select string_agg(name, ', ' order by max_users) from app_private.plans)
      using errcode = 'EA400', detail = 'planType';
  end if;
  if tg_op = 'UPDATE' then
    -- A plan brings its limits and features, unless the same statement sets others. Whoever buys one is no longer on trial.
    if new.plan_type <> old.plan_type then
      select * into v_plan from app_private.plans where name = new.plan_type;
      if new.max_users = old.max_users then new.max_users := coalesce(v_plan.max_users, new.max_users); end if;
      if new.max_integrations = old.max_integrations then new.max_integrations := coalesce(v_plan.max_integrations, new.max_integrations); end if;
      if new.features = old.features then new.features := coalesce(v_plan.features, new.features); end if;
      if old.plan_type = 'trial' and old.status = 'TRIAL' and new.status = old.status and new.trial_ends_at is not distinct from old.trial_ends_at then
        new.status := 'ACTIVE';
        new.trial_ends_at := null;
      end if;
      -- A trial has an end, and only the status TRIAL heeds it. Whoever is shut out stays so.
      if new.plan_type = 'trial' then
        if new.status = 'ACTIVE' then new.status := 'TRIAL'; end if;
        if new.trial_ends_at is not distinct from old.trial_ends_at then new.trial_ends_at := now() + interval '14 days'; end if;
      end if;
    end if;
    if new.slug = 'platform' and new.status <> 'ACTIVE' then
      raise exception 'The operator''s own tenant stays ACTIVE, or nobody could change it back.' using errcode = 'EA409';
    end if;
  end if;
  return new;
end
$$;
comment on function app_private.tg_check_tenant() is 'Validates settings, applies a new plan ("trial" is for 14 days, unless trial_ends_at is set with it), and keeps the operator''s tenant ACTIVE. EA400, EA409.';

create or replace function app_hidden.create_tenant(
  p_name text, p_slug text, p_admin_email text, p_plan text, p_trial_days integer, p_settings jsonb
)
returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_plan app_private.plans;
  v_email text := lower(btrim(p_admin_email));
  v_tenant_id uuid;
  v_user_id uuid;
begin
  if app_hidden.current_user_role() is distinct from 'SUPER_ADMIN' then
    raise exception 'Only a SUPER_ADMIN creates tenants.' using errcode = 'EA403';
  end if;
  select * into v_plan from app_private.plans where name = p_plan;
  if not found then
    raise exception 'There is no plan "%". There are: %.', left(coalesce(p_plan, ''), 100), (select string_agg(name, ', ' order by max_users) from app_private.plans)
      using errcode = 'EA400';
  end if;
  if p_trial_days is not null and (p_plan <> 'trial' or p_trial_days not between 1 and 365) then
    raise exception 'trialDays is %; it may be from 1 to 365, with the plan "trial" only.', p_trial_days using errcode = 'EA400';
  end if;
  perform app_private.assert_email(v_email);
  insert into public.tenants (name, slug, status, plan_type, max_users, max_integrations, features, settings, billing_email, trial_ends_at)
  values (
    p_name, p_slug, case when p_plan = 'trial' then 'TRIAL' else 'ACTIVE' end::public.tenant_status,
    p_plan, v_plan.max_users, v_plan.max_integrations, v_plan.features, coalesce(p_settings, '{}'), v_email,
    case when p_plan = 'trial' then now() + make_interval(days => coalesce(p_trial_days, 14)) end
  )
  returning id into v_tenant_id;
  insert into public.users (tenant_id, email, role, status) values (v_tenant_id, v_email, 'ADMIN', 'INVITED') returning id into v_user_id;
  perform app_private.issue_token(v_tenant_id, v_user_id, 'invitation', v_email);
  return v_tenant_id;
end
$$;
comment on function app_hidden.create_tenant(text, text, text, text, integer, jsonb) is
  'Makes a tenant with the limits and features of its plan, and invites its first admin. EA400, EA403.';

-- The visit is a session of the operator's own tenant, which names the tenant it is for.
create or replace function app_hidden.enter_tenant(
  p_tenant_id uuid, p_role public.user_role, p_reason text, p_minutes integer, p_refresh_token_hash bytea
)
returns table (session_id uuid, expires_at timestamptz)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_home_id uuid := app_hidden.current_tenant_id();
  v_user_id uuid := app_hidden.require_user();
  v_session public.sessions;
  v_visit jsonb := jsonb_build_object('role', p_role, 'reason', btrim(p_reason), 'minutes', p_minutes);
begin
  if app_hidden.current_user_role() is distinct from 'SUPER_ADMIN' then
    raise exception 'Only a SUPER_ADMIN enters tenants.' using errcode = 'EA403';
  end if;
  if p_role is null or p_role = 'SUPER_ADMIN' then
    raise exception 'Enter a tenant as ADMIN, USER or VIEWER.' using errcode = 'EA400';
  end if;
  if p_minutes is null or p_minutes not between 1 and 240 then
    raise exception 'minutes is %; it may be from 1 to 240.', p_minutes using errcode = 'EA400';
  end if;
  if p_reason is null or length(btrim(p_reason)) not between 5 and 500 then
    raise exception 'A reason of 5 to 500 characters is required: the tenant''s admins will read it.' using errcode = 'EA400';
  end if;
  if p_tenant_id = v_home_id or not exists (select from public.tenants where id = p_tenant_id and status <> 'CANCELLED') then
    raise exception 'There is no tenant % to enter.', p_tenant_id using errcode = 'EA404';
  end if;
  insert into public.sessions (tenant_id, user_id, expires_at, ip_address, user_agent, entered_tenant_id, entered_role, entered_reason)
  values (
    v_home_id, v_user_id, now() + make_interval(mins => p_minutes),
    nullif(current_setting('app.ip_address', true), ''), nullif(current_setting('app.user_agent', true), ''),
    p_tenant_id, p_role, btrim(p_reason)
  )
  returning * into v_session;
  insert into app_private.refresh_tokens (tenant_id, session_id, token_hash) values (v_home_id, v_session.id, p_refresh_token_hash);
  perform app_private.write_audit(v_home_id, 'tenant.entered', 'tenant', p_tenant_id::text, v_visit);
  perform app_private.write_audit(p_tenant_id, 'tenant.entered', 'tenant', p_tenant_id::text, v_visit);
  return query select v_session.id, v_session.expires_at;
end
$$;
comment on function app_hidden.enter_tenant(uuid, public.user_role, text, integer, bytea) is
  'Opens an operator''s session in a tenant, recorded in both logs. EA400, EA403, EA404.';

revoke execute on function
  app_private.assert_settings(jsonb), app_private.tg_check_tenant(),
  app_hidden.create_tenant(text, text, text, text, integer, jsonb),
  app_hidden.enter_tenant(uuid, public.user_role, text, integer, bytea)
from public;
grant execute on function
  app_hidden.create_tenant(text, text, text, text, integer, jsonb),
  app_hidden.enter_tenant(uuid, public.user_role, text, integer, bytea)
to api_super_admin;
--! EndIncluded functions/tenants.sql
