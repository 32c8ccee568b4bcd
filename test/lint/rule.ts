import type pg from "pg";

/** One query that answers the offenders, or a function where SQL cannot know what is expected. */
export type Rule = { name: string; why: string } & (
  | { sql: string }
  | { find: (client: pg.ClientBase) => Promise<string[]> }
);

/** Schemas of ours: all but PostgreSQL's and the tools' own, so that a new one is looked at too. */
export const OURS =
  "n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'graphile_worker', 'graphile_migrate')";

/** Roles of requests, jobs and analysts. Logins of analysts are each cluster's own. */
export const API_ROLES = "r.rolname ~ '^api_' or r.rolname in ('erp_authenticator', 'erp_analyst')";
