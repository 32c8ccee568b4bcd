import type { Rule } from "../rule.ts";

export const noRestrictivePolicy: Rule = {
  name: "no policy is restrictive",
  why: "On the shards of a distributed database a restrictive policy becomes a permissive one: what narrowed then widens.",
  sql: `
    select format('%s on %s', polname, polrelid::regclass) as offender from pg_policy where not polpermissive`,
};
