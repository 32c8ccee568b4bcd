import pg from "pg";

export type Analyst = { tenantId: string; name: string };

/** As app_private.analysts checks it: with it, the longest login has 56 of PostgreSQL's 63 characters. */
export const ANALYST_NAME = /^[a-z0-9_]{1,20}$/;
export const CONNECTION_LIMIT = 3;

/** As app_hidden.session_tenant_id reads it. */
export const loginOf = ({ tenantId, name }: Analyst): string => `bi_${tenantId.replaceAll("-", "")}_${name}`;

/**
 * Makes the login, or gives it another password, as a superuser. A login may change all settings but temp_file_limit:
 * the rest is convenience, which is why everything that it changed of its own is reset.
 */
export function loginSql(login: string, verifier: string): string {
  const role = pg.escapeIdentifier(login);
  const settings = {
    search_path: "analytics, public",
    default_transaction_read_only: "on",
    statement_timeout: "'60s'",
    idle_in_transaction_session_timeout: "'60s'",
    temp_file_limit: "'4GB'",
  };
  return [
    `do $$ begin if to_regrole('${login}') is null then create role ${role}; end if; end $$;`,
    `alter role ${role} with login inherit nosuperuser nocreatedb nocreaterole noreplication nobypassrls`,
    `  connection limit ${CONNECTION_LIMIT} valid until 'infinity' password ${pg.escapeLiteral(verifier)};`,
    `alter role ${role} reset all;`,
    ...Object.entries(settings).map(([name, value]) => `alter role ${role} set ${name} = ${value};`),
  ].join("\n");
}

/** For a login that is made by hand: app_private.admit_analysts would do the same within a minute. */
export const admissionSql = (login: string): string =>
  `grant erp_analyst to ${pg.escapeIdentifier(login)} with inherit true, set false granted by erp_user;`;

export const lockSql = (login: string): string =>
  ifThere(login, `alter role ${pg.escapeIdentifier(login)} nologin;`);

/** `drop owned`: default privileges, which any login may set for itself, would hold it; objects it has none. */
export const dropSql = (login: string): string =>
  ifThere(login, `drop owned by ${pg.escapeIdentifier(login)}; drop role ${pg.escapeIdentifier(login)};`);
/** In each other database where it left some. */
export const dropOwnedSql = (login: string): string =>
  ifThere(login, `drop owned by ${pg.escapeIdentifier(login)};`);

const ifThere = (login: string, sql: string) =>
  `do $$ begin if to_regrole('${login}') is not null then ${sql} end if; end $$;`;
