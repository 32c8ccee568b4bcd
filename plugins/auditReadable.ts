import { type PgSelectSingleStep, TYPES } from "postgraphile/@dataplan/pg";
import { lambda, object } from "postgraphile/grafast";
import { sql } from "postgraphile/pg-sql2";
import { extendSchema } from "postgraphile/utils";
import { differencesOf, sentenceOf } from "../src/audit/readable.ts";

/** In TypeScript, as the export and the verification read the log: `changes` as text, so that no number is rounded. */
export const AuditReadablePlugin = extendSchema((build) => {
  if (!build.pgResources.audit_logs)
    throw new Error("AuditReadablePlugin needs the table public.audit_logs, which is not in the schema.");
  const changesOf = ($log: PgSelectSingleStep) =>
    $log.select(sql`${$log.getClassStep().alias}.changes::text`, TYPES.text);
  return {
    typeDefs: /* GraphQL */ `
      type AuditDifference {
        """The key, and those within it after points: role, settings.timeZone."""
        path: String!
        """Text as it was, anything else as JSON with every digit; null where there was nothing."""
        before: String
        after: String
      }
      extend type AuditLog {
        """changes, key by key."""
        differences: [AuditDifference!]!
        """Who did what, to what, for people: admin@acme.test: user.role_changed 01a2... (role: USER → ADMIN)."""
        sentence: String!
      }
    `,
    objects: {
      AuditLog: {
        plans: {
          differences: ($log: PgSelectSingleStep) =>
            lambda(changesOf($log), (text) => differencesOf(String(text))),
          sentence: ($log: PgSelectSingleStep) =>
            lambda(
              object({
                action: $log.get("action"),
                actorKind: $log.get("actor_kind"),
                actorName: $log.get("actor_name"),
                impersonatorName: $log.get("impersonator_name"),
                resource: $log.get("resource"),
                resourceId: $log.get("resource_id"),
                changes: changesOf($log),
              }),
              sentenceOf,
            ),
        },
      },
    },
  };
}, "AuditReadablePlugin");
