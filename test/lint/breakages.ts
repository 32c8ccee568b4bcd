import type { rules } from "./rules/index.ts";

/** A change that breaks a rule, and exactly what the rule then answers. */
type Breakage = { rule: keyof typeof rules; sql: string; as?: "postgres"; found: string[] };

const TENANT = "tenant_id = app_hidden.current_tenant_id()";
const tenantPrinted = `(${TENANT})`;
const SESSION_TENANT = "tenant_id = app_hidden.session_tenant_id()";
const LOGIN = "bi_00000000000070008000000000000000_x";

export const breakages: Breakage[] = [
  {
    rule: "rowSecurityForced",
    sql: "alter table public.users no force row level security",
    found: ["public.users"],
  },
  {
    rule: "rowSecurityForced",
    sql: "create table app_private.notes (tenant_id uuid)",
    found: ["app_private.notes"],
  },
  {
    rule: "rowSecurityForced",
    sql: "create table partitions.old partition of public.audit_logs for values from ('2001-01-01') to ('2001-02-01')",
    found: ["partitions.old"],
  },
  {
    rule: "tenantTablesAreAudited",
    sql: "create table app_private.notes (tenant_id uuid)",
    found: [
      "app_private.notes is not recorded on delete",
      "app_private.notes is not recorded on insert",
      "app_private.notes is not recorded on update",
    ],
  },
  {
    rule: "tenantTablesAreAudited",
    sql: "drop trigger _900_audit_delete on public.analytics_events",
    found: ["public.analytics_events is not recorded on delete"],
  },
  {
    rule: "tenantTablesAreAudited",
    sql: "alter table public.users disable trigger _900_audit",
    found: [
      "public.users is not recorded on delete",
      "public.users is not recorded on insert",
      "public.users is not recorded on update",
    ],
  },
  {
    rule: "auditIsGuarded",
    sql: "alter table only public.audit_logs disable trigger _000_guard",
    found: ["public.audit_logs does not refuse delete", "public.audit_logs does not refuse update"],
  },
  {
    rule: "auditIsGuarded",
    sql: "create table partitions.old partition of public.audit_logs for values from ('2001-01-01') to ('2001-02-01')",
    found: ["partitions.old does not refuse truncate"],
  },
  {
    rule: "auditIsGuarded",
    sql: "grant insert (action) on public.audit_logs to api_admin",
    found: ["api_admin may insert public.audit_logs"],
  },
  {
    rule: "policiesNameTheTenant",
    sql: `alter policy select_member on public.users using (${TENANT} or role = 'ADMIN')`,
    found: [`select_member on public.users: using (${tenantPrinted} OR (role = 'ADMIN'::public.user_role))`],
  },
  {
    rule: "policiesNameTheTenant",
    sql: "alter policy update_manager on public.integrations with check (true)",
    found: ["update_manager on public.integrations: with check true"],
  },
  {
    rule: "policiesNameTheTenant",
    sql: `create policy half on public.users for update to api_viewer using (${TENANT})`,
    found: ["half on public.users: with check is missing"],
  },
  {
    rule: "policiesNameTheTenant",
    sql: "alter policy owner_all on public.users to erp_user, api_viewer",
    found: ["owner_all on public.users: using true", "owner_all on public.users: with check true"],
  },
  {
    rule: "policiesNameTheTenant",
    sql: `alter policy select_auditor on public.audit_logs using (${TENANT} and exists (select 1 as one from public.tenants))`,
    found: [
      `select_auditor on public.audit_logs: using (${tenantPrinted} AND (EXISTS ( SELECT 1 AS one\n   FROM public.tenants)))`,
    ],
  },
  {
    rule: "policiesNameTheTenant",
    sql: `alter policy select_member on public.users using (${SESSION_TENANT})`,
    found: [`select_member on public.users: using (${SESSION_TENANT})`],
  },
  {
    rule: "policiesNameTheTenant",
    sql: "alter policy select_analyst on public.users to erp_analyst, api_viewer",
    found: [`select_analyst on public.users: using (${SESSION_TENANT})`],
  },
  {
    rule: "policiesNameTheTenant",
    sql: `alter policy select_analyst on public.users using (${TENANT})`,
    found: [`select_analyst on public.users: using ${tenantPrinted}`],
  },
  {
    rule: "policiesNameTheTenant",
    sql: `alter policy select_analyst on public.users using (${SESSION_TENANT} or role = 'ADMIN')`,
    found: [
      `select_analyst on public.users: using ((${SESSION_TENANT}) OR (role = 'ADMIN'::public.user_role))`,
    ],
  },
  {
    rule: "policiesNameTheTenant",
    sql: `create policy delete_analyst on public.users for delete to erp_analyst using (${SESSION_TENANT})`,
    found: [`delete_analyst on public.users: using (${SESSION_TENANT})`],
  },
  {
    rule: "onePolicyPerCommand",
    sql: "drop policy select_analyst on public.users",
    found: ["erp_analyst, select on public.users: 0 policies"],
  },
  {
    rule: "onePolicyPerCommand",
    sql: `create policy again on public.users for select to api_viewer using (${TENANT})`,
    found: ["api_viewer, select on public.users: 2 policies"],
  },
  {
    rule: "onePolicyPerCommand",
    sql: "grant delete on public.users to api_admin",
    found: ["api_admin, delete on public.users: 0 policies"],
  },
  {
    rule: "onePolicyPerCommand",
    sql: "revoke select on public.tenants from api_job",
    found: ["api_job, select on public.tenants: 1 policies, no grant"],
  },
  {
    rule: "onePolicyPerCommand",
    sql: "create policy everybody on public.users for delete using (true)",
    found: ["PUBLIC, delete on public.users: 1 policies, no grant"],
  },
  {
    rule: "noRestrictivePolicy",
    sql: "create policy narrow on public.users as restrictive using (email_verified)",
    found: ["narrow on public.users"],
  },
  {
    rule: "viewsAskAsCaller",
    sql: "create view public.people as select email from public.users",
    found: ["public.people"],
  },
  {
    rule: "viewsAskAsCaller",
    sql: "create materialized view public.people as select email from public.users; grant select on public.people to api_viewer",
    found: ["public.people"],
  },
  {
    rule: "settingsAreNotConstant",
    sql: "create function app_hidden.zone() returns text language sql immutable as $$ select current_setting('app.zone') $$",
    found: ["app_hidden.zone() is immutable and reads a setting or the login"],
  },
  {
    rule: "settingsAreNotConstant",
    sql: "create function app_hidden.login() returns text language sql immutable return session_user",
    found: ["app_hidden.login() is immutable and reads a setting or the login"],
  },
  {
    rule: "settingsAreNotConstant",
    sql: "alter function app_hidden.session_tenant_id() security definer",
    found: ["app_hidden.session_tenant_id() is not a plain stable, parallel safe SQL function"],
  },
  {
    rule: "settingsAreNotConstant",
    sql: "create or replace function app_hidden.session_tenant_id() returns uuid language sql stable parallel safe return coalesce(app_hidden.current_tenant_id(), null)",
    found: ["app_hidden.session_tenant_id() depends on more than the login"],
  },
  {
    rule: "settingsAreNotConstant",
    sql: "alter function app_hidden.current_tenant_id() set search_path = pg_catalog",
    found: ["app_hidden.current_tenant_id() is not a plain stable, parallel safe SQL function"],
  },
  {
    rule: "referencesStayInTenant",
    sql: "create table public.notes (tenant_id uuid, user_id uuid references public.users (id))",
    found: [
      "notes_user_id_fkey on public.notes (user_id) does not start with tenant_id on both sides",
      "notes_user_id_fkey on public.notes (user_id) does not state on delete",
      "notes_user_id_fkey on public.notes (user_id) has no index",
    ],
  },
  {
    rule: "referencesStayInTenant",
    sql: `create table public.notes (
            tenant_id uuid, user_id uuid, unique (user_id, tenant_id),
            constraint author foreign key (tenant_id, user_id) references public.users (tenant_id, id) on delete set null
          )`,
    found: ["author on public.notes (tenant_id, user_id) empties tenant_id"],
  },
  {
    rule: "referencesStayInTenant",
    sql: "drop index public.sessions_user_idx",
    found: ["sessions_tenant_id_user_id_fkey on public.sessions (tenant_id, user_id) has no index"],
  },
  {
    rule: "grantsMatchContract",
    sql: "grant select on app_private.refresh_tokens to api_viewer",
    found: ["+ api_viewer         select     app_private.refresh_tokens"],
  },
  {
    rule: "grantsMatchContract",
    sql: "revoke update (avatar) on public.users from api_user",
    found: [
      "+ api_user           update     public.users (first_name, last_name)",
      "- api_user           update     public.users (avatar, first_name, last_name)",
    ],
  },
  {
    rule: "nothingForPublic",
    sql: "grant execute on function app_hidden.begin_sign_in(text, text, text) to public",
    found: ["function app_hidden.begin_sign_in(text,text,text): execute"],
  },
  {
    rule: "nothingForPublic",
    sql: "grant usage on schema app_private to public; grant select (id) on public.users to public",
    found: ["column public.users.id: select", "schema app_private: usage"],
  },
  {
    rule: "nothingForPublic",
    sql: "alter default privileges grant execute on functions to public",
    found: ["new functions of erp_user: execute"],
  },
  {
    rule: "requestsHaveFewRights",
    sql: "grant truncate, references on public.users to api_admin",
    found: ["api_admin may references public.users", "api_admin may truncate public.users"],
  },
  {
    rule: "requestsHaveFewRights",
    sql: "grant usage on schema app_private, partitions to api_viewer",
    found: ["api_viewer may use schema app_private", "api_viewer may use schema partitions"],
  },
  {
    rule: "requestsHaveFewRights",
    sql: "grant usage on schema app_hidden to erp_analyst; grant usage on schema analytics to api_viewer",
    found: ["api_viewer may use schema analytics", "erp_analyst may use schema app_hidden"],
  },
  {
    rule: "requestsHaveFewRights",
    sql: "grant insert (name), delete on public.integrations to erp_analyst",
    found: ["erp_analyst may delete public.integrations", "erp_analyst may insert public.integrations"],
  },
  {
    rule: "requestsHaveFewRights",
    sql: "grant execute on function app_hidden.current_tenant_id() to erp_analyst",
    found: ["erp_analyst may call app_hidden.current_tenant_id()"],
  },
  {
    rule: "rolesStaySmall",
    as: "postgres",
    sql: `create role ${LOGIN} login createrole in role api_viewer`,
    found: [
      `${LOGIN} has an attribute that passes row security or makes roles`,
      `${LOGIN} is a member of api_viewer`,
    ],
  },
  {
    rule: "rolesStaySmall",
    as: "postgres",
    sql: `create role ${LOGIN} login; grant erp_analyst to ${LOGIN} with set true`,
    found: [`${LOGIN} is a member of erp_analyst`],
  },
  {
    rule: "rolesStaySmall",
    as: "postgres",
    sql: "grant erp_analyst to erp_worker; grant erp_analyst to api_viewer",
    found: ["api_viewer is a member of erp_analyst", "erp_worker is a member of erp_analyst"],
  },
  {
    rule: "rolesStaySmall",
    as: "postgres",
    sql: "alter role erp_user bypassrls",
    found: ["erp_user has an attribute that passes row security or makes roles"],
  },
  {
    rule: "rolesStaySmall",
    as: "postgres",
    sql: "grant api_admin to api_viewer",
    found: ["api_viewer is a member of api_admin"],
  },
  {
    rule: "rolesStaySmall",
    as: "postgres",
    sql: "alter table public.users owner to api_admin",
    found: ["api_admin owns table public.users", "public.users is owned by api_admin"],
  },
  {
    rule: "definersAreListed",
    sql: "create function app_hidden.peek() returns bigint language sql security definer as $$ select count(*) from public.users $$",
    found: ["app_hidden.peek() has search_path of its caller", "app_hidden.peek() is not listed"],
  },
  {
    rule: "definersAreListed",
    sql: "alter function app_hidden.begin_sign_in(text, text, text) set search_path = pg_temp, pg_catalog",
    found: ["app_hidden.begin_sign_in(text,text,text) has search_path pg_temp, pg_catalog"],
  },
  {
    rule: "definersAreListed",
    sql: "alter function app_hidden.begin_sign_in(text, text, text) security invoker",
    found: ["app_hidden.begin_sign_in(text,text,text) is listed, but no definer"],
  },
];
