import { OURS, type Rule } from "../rule.ts";

/** Functions that see every tenant. Each is here because somebody read it. */
const REVIEWED = [
  "app_hidden.authorize_request(uuid,uuid,uuid,text)",
  "app_hidden.begin_sync(uuid,uuid,uuid)",
  "app_hidden.find_login(text,text)",
  "app_hidden.finish_sync(uuid,uuid,uuid,text)",
  "app_hidden.integration_tenant(uuid)",
  "app_hidden.make_next_partition(integer)",
  "app_hidden.open_session(uuid,uuid,bytea)",
  "app_hidden.pause_sync(uuid,uuid,uuid,integer)",
  "app_hidden.request_due_syncs()",
  "app_hidden.request_sync(uuid,uuid)",
  "app_hidden.revoke_session(uuid,uuid)",
  "app_hidden.rotate_session(uuid,uuid,bytea,bytea)",
  "app_hidden.save_sync_page(uuid,uuid,uuid,text,jsonb,jsonb,jsonb)",
  "app_hidden.worker_heartbeat(text)",
  "app_hidden.write_events(uuid,jsonb)",
  "app_private.tg_audit()",
];
const reviewed = REVIEWED.map((signature) => `('${signature}')`).join(", ");

export const definersAreListed: Rule = {
  name: "a definer function was reviewed, and pins its search_path",
  why: "It runs as the owner, whom no policy binds; with the caller's search_path it runs the caller's functions as the owner.",
  sql: `
    with definer as (
      select f.oid::regprocedure::text as name,
             (select regexp_replace(setting, '^search_path=', '') from unnest(f.proconfig) setting where setting ~ '^search_path=') as path
        from pg_proc f
        join pg_namespace n on n.oid = f.pronamespace
       where ${OURS} and f.prosecdef
    ),
    reviewed (name) as (values ${reviewed})
    select name || ' is not listed' as offender from definer where name not in (select name from reviewed)
    union all
    select name || ' is listed, but no definer' from reviewed where name not in (select name from definer)
    union all
    select format('%s has search_path %s', name, coalesce(path, 'of its caller')) from definer
     where path is distinct from 'pg_catalog, pg_temp'`,
};
