-- The roles of a cluster that serves erp-analytics. Run as a superuser, connected to the database of the product.
-- Idempotent: an existing role keeps its password. Roles belong to the cluster, so no migration can make them.
--
--   erp_user            owns everything and runs migrations. Never a superuser: superusers ignore row security.
--   erp_authenticator   serves requests. No table grants; NOINHERIT, so that a forgotten `set role` reads nothing.
--   erp_worker          runs jobs; owns schema graphile_worker.
--   api_*               what a request or a job may do. Siblings: were one a member of another, it would gain its policies.
--   erp_analyst         reads one tenant's rows, whose tenant is in the login's name. `npm run analyst:grant` makes such logins.
--
-- Passwords come from the settings erp.owner_password, erp.authenticator_password and erp.worker_password;
-- without them they are `dev_password` over loopback or a socket, and elsewhere none, which no login passes.
do $$
declare
  v_login record;
  v_role text;
begin
  for v_login in
    select *
      from (values
        ('erp_user', 'inherit', 'erp.owner_password'),
        ('erp_authenticator', 'noinherit', 'erp.authenticator_password'),
        ('erp_worker', 'inherit', 'erp.worker_password')
      ) as logins (name, inheritance, setting)
  loop
    if not exists (select from pg_catalog.pg_roles where rolname = v_login.name) then
      execute format(
        'create role %I password %L',
        v_login.name,
        coalesce(
          nullif(current_setting(v_login.setting, true), ''),
          case when coalesce(inet_server_addr() <<= '127.0.0.0/8' or inet_server_addr() = '::1', true) then 'dev_password' end
        )
      );
    end if;
    -- Also of a role that was there: as a superuser it would ignore row security. Only where something is to be changed:
    -- of two who alter one role at the same time, the second fails.
    if exists (
      select from pg_catalog.pg_roles r
       where r.rolname = v_login.name
         and (not r.rolcanlogin or r.rolinherit <> (v_login.inheritance = 'inherit') or r.rolsuper or r.rolcreatedb
              or r.rolcreaterole or r.rolreplication or r.rolbypassrls)
    ) then
      execute format(
        'alter role %I with login %s nosuperuser nocreatedb nocreaterole noreplication nobypassrls',
        v_login.name, v_login.inheritance
      );
    end if;
  end loop;

  foreach v_role in array array['api_anonymous', 'api_viewer', 'api_user', 'api_admin', 'api_super_admin', 'api_job', 'erp_analyst'] loop
    if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
      execute format('create role %I', v_role);
    end if;
    if exists (
      select from pg_catalog.pg_roles r
       where r.rolname = v_role
         and (r.rolcanlogin or r.rolinherit or r.rolsuper or r.rolcreatedb or r.rolcreaterole or r.rolreplication or r.rolbypassrls)
    ) then
      execute format('alter role %I with nologin noinherit nosuperuser nocreatedb nocreaterole noreplication nobypassrls', v_role);
    end if;
  end loop;
end
$$;

grant api_anonymous, api_viewer, api_user, api_admin, api_super_admin to erp_authenticator with inherit false, set true, admin false;
grant api_job to erp_worker with inherit false, set true, admin false;
-- The owner's definer functions enqueue jobs: only a member of the owner of graphile_worker's tables passes their row security.
grant erp_worker to erp_user with inherit true, set false, admin false;
-- The owner makes logins members of erp_analyst, and no members again; of what they run, it sees how long, and ends it.
grant erp_analyst to erp_user with inherit false, set false, admin true;
grant pg_read_all_stats, pg_signal_backend to erp_user with inherit true, set false, admin false;

do $$
begin
  execute format('alter database %I owner to erp_user', current_database());
  execute format('revoke all on database %I from public', current_database());
  execute format('grant connect on database %I to erp_authenticator, erp_worker, erp_analyst', current_database());
  -- graphile-worker makes its own schema, as its own login.
  execute format('grant create on database %I to erp_worker', current_database());
end
$$;

-- What PostgreSQL lets every login do that reaches beyond its own rows: large objects have owners but no tenants; an
-- advisory lock holds up whoever uses the same key; a logical message is written to the WAL, a gigabyte at a time.
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid::regprocedure from pg_catalog.pg_proc p
     where p.pronamespace = 'pg_catalog'::regnamespace
       and p.proname ~ '^(lo(_|read|write)|pg_(try_)?advisory_|pg_logical_emit_message$)'
  loop
    execute format('revoke execute on function %s from public', v_function);
    if v_function::text ~ 'advisory' then
      execute format('grant execute on function %s to erp_user, erp_authenticator, erp_worker', v_function);
    end if;
  end loop;
end
$$;

-- Into PostgreSQL's own databases, every login may connect, and make temporary tables and large objects there. Closed where
-- it hurts nobody: in a cluster without logins other than ours. Only if open: of two who revoke it at a time, one fails.
do $$
declare
  v_database name;
begin
  if exists (
    select from pg_catalog.pg_roles
     where rolcanlogin and not rolsuper and rolname !~ '^(erp_user|erp_authenticator|erp_worker|bi_[0-9a-f]{32}_.*)$'
  ) then
    return;
  end if;
  for v_database in
    select datname from pg_catalog.pg_database
     where datname in ('postgres', 'template1') and has_database_privilege('erp_analyst', oid, 'connect')
  loop
    execute format('revoke all on database %I from public', v_database);
  end loop;
end
$$;
