import { TYPES } from "postgraphile/@dataplan/pg";
import { context, lambda } from "postgraphile/grafast";
import { sql } from "postgraphile/pg-sql2";

/** In TypeScript, because a policy cannot turn the tenant into a parameter of the statement. */
export const TenantPredicatePlugin: GraphileConfig.Plugin = {
  name: "TenantPredicatePlugin",
  version: "1.0.0",
  description:
    "Adds `tenant_id = $n` to every generated select of a tenant's table, and a check of the snapshot to those of events",
  gather: {
    hooks: {
      pgTables_PgResourceOptions(_info, event) {
        const { resourceOptions } = event;
        const { codec } = resourceOptions;
        if (!codec.attributes || !("tenant_id" in codec.attributes)) return;
        resourceOptions.selectAuth = ($select) => {
          // A mutation's own row, and what a function returned, come from no FROM clause that could take it.
          if ($select.mode === "mutation" || $select.resource.parameters) return;
          const $tenantId = lambda(
            context().get("identity"),
            (identity) => identity?.claims?.tenant_id ?? null,
          );
          $select.where(sql`${$select.alias}.tenant_id = ${$select.placeholder($tenantId, TYPES.uuid)}`);
          // Once a statement: rows may have moved into a partition since the snapshot was taken.
          if (resourceOptions.name === "analytics_events")
            $select.where(sql`(select app_hidden.assert_fresh_snapshot() is null) is not null`);
        };
      },
    },
  },
};
