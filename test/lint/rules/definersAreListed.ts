import { OURS, type Rule } from "../rule.ts";

/** Functions that see every tenant. Each is here because somebody read it. */
const REVIEWED = [
  "app_hidden.abandoned_partition()",
  "app_hidden.accept_invitation(uuid,uuid,bytea,text,text,text,bytea)",
  "app_hidden.admit_events(uuid,integer)",
  "app_hidden.authorize_key(jsonb)",
  "app_hidden.authorize_session(jsonb)",
  "app_hidden.begin_refresh(uuid,uuid,uuid,integer)",
  "app_hidden.begin_run(uuid,uuid,uuid)",
  "app_hidden.begin_sign_in(text,text,text)",
  "app_hidden.cancel_sync(uuid,uuid,uuid)",
  "app_hidden.change_password(uuid,text,text)",
  "app_hidden.change_user(uuid,uuid,public.user_role,text[],public.user_status)",
  "app_hidden.confirm_email(uuid,uuid,bytea)",
  "app_hidden.create_api_key(uuid,uuid,text,text[],timestamp with time zone,bytea)",
  "app_hidden.create_tenant(text,text,text,text,integer,jsonb)",
  "app_hidden.doom_partition()",
  "app_hidden.drop_partition(text)",
  "app_hidden.end_refresh(uuid,uuid,uuid,integer,integer,bytea)",
  "app_hidden.enter_tenant(uuid,public.user_role,text,integer,bytea)",
  "app_hidden.extend_rollups(uuid,integer)",
  "app_hidden.fail_sync(uuid,uuid,text,text)",
  "app_hidden.find_token(uuid,uuid,bytea,text[])",
  "app_hidden.finish_run(uuid,uuid,uuid,integer,text,text)",
  "app_hidden.hold_analysts(interval,interval)",
  "app_hidden.ingest_events(uuid,json,text,boolean)",
  "app_hidden.integration_tenant(uuid)",
  "app_hidden.invite_user(uuid,text,public.user_role,text[],text,text)",
  "app_hidden.lock_metrics(uuid)",
  "app_hidden.mail_for_notice(uuid,uuid)",
  "app_hidden.mail_for_token(uuid,uuid,bytea)",
  "app_hidden.make_next_partition(integer)",
  "app_hidden.note_throttled_sign_in(text,text,text)",
  "app_hidden.open_runs(uuid,uuid,text,text[],text)",
  "app_hidden.open_session(uuid,uuid,bytea,text,text)",
  "app_hidden.own_password(uuid)",
  "app_hidden.own_password_matched(uuid)",
  "app_hidden.pause_provider(text,text[],bigint,text)",
  "app_hidden.pause_run(uuid,uuid,uuid,integer,bigint,text)",
  "app_hidden.promote_subjects(uuid,integer)",
  "app_hidden.provider_pause(text,text[])",
  "app_hidden.purge_expired()",
  "app_hidden.purge_next_events(integer)",
  "app_hidden.purge_partition_keys(text,jsonb,integer)",
  "app_hidden.purge_sync_history()",
  "app_hidden.record_export(uuid,text,text,jsonb)",
  "app_hidden.record_use(jsonb)",
  "app_hidden.refresh_rollups(uuid,integer)",
  "app_hidden.refuse_sign_in(text,text,text,text)",
  "app_hidden.renew_lease(uuid,uuid,uuid)",
  "app_hidden.request_backfill(uuid,uuid,text,timestamp with time zone,timestamp with time zone)",
  "app_hidden.request_due_syncs()",
  "app_hidden.request_email_change(uuid,text,text)",
  "app_hidden.request_email_verification(uuid)",
  "app_hidden.request_password_reset(text,text,text)",
  "app_hidden.request_sync(uuid,uuid,text[],text)",
  "app_hidden.resend_invitation(uuid,uuid)",
  "app_hidden.reset_password(uuid,uuid,bytea,text)",
  "app_hidden.retry_run(uuid,uuid,uuid,integer,text,text,bigint)",
  "app_hidden.revoke_api_key(uuid,uuid)",
  "app_hidden.revoke_invitation(uuid,uuid)",
  "app_hidden.revoke_own_sessions(uuid)",
  "app_hidden.revoke_session(uuid,uuid)",
  "app_hidden.rotate_session(uuid,uuid,bytea,bytea)",
  "app_hidden.rows_without_partition()",
  "app_hidden.run_tenant(uuid)",
  "app_hidden.save_sync_page(uuid,uuid,uuid,jsonb,jsonb,jsonb,integer,boolean,timestamp with time zone,real,jsonb)",
  "app_hidden.set_integration_service(uuid,uuid,boolean)",
  "app_hidden.set_stream_cursor(uuid,uuid,jsonb)",
  "app_hidden.start_password_reset(text,text,text)",
  "app_hidden.sweep_run(uuid,uuid,uuid,integer)",
  "app_hidden.tenants_to_promote()",
  "app_hidden.tenants_to_roll_up()",
  "app_hidden.token_keys()",
  "app_hidden.worker_heartbeat(text)",
  "app_hidden.write_events(uuid,jsonb,text,boolean)",
  "app_private.tg_add_starter_metrics()",
  "app_private.tg_admit_analysts()",
  "app_private.tg_audit()",
  "app_private.tg_check_role()",
  "app_private.tg_check_tenant()",
  "app_private.tg_credentials_changed()",
  "app_private.tg_hold_integrations()",
  "app_private.tg_hold_seats()",
  "app_private.tg_keep_administrator()",
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
