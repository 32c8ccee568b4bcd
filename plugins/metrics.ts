import { sideEffectWithPgClientTransaction } from "postgraphile/@dataplan/pg";
import { context, list } from "postgraphile/grafast";
import { type PlanWrapperFn, wrapPlans } from "postgraphile/utils";
import { z } from "zod";
import { claimsOf } from "../src/auth/requests.ts";
import { checkDeletion, checkMetric } from "../src/series/metrics.ts";
import type { Run } from "../src/series/plan.ts";

const values = z.record(z.string(), z.unknown());
const create = z.object({ metric: values }).transform(({ metric }) => ({ id: undefined, values: metric }));
const remove = z.object({ id: z.string() });
const update = z
  .object({ id: z.string(), patch: values })
  .transform(({ id, patch }) => ({ id, values: patch }));

/** What PostgreSQL keeps as JSON has types here, so that a schema-aware editor helps, and enums can be written as such. */
export const MetricInputsPlugin: GraphileConfig.Plugin = {
  name: "MetricInputsPlugin",
  version: "1.0.0",
  description: "Measures and filters of metrics are those of eventSeries",
  schema: {
    hooks: {
      GraphQLInputObjectType_fields_field(field, build, { scope }) {
        const { pgCodec, fieldName } = scope;
        const type = pgCodec?.name === "metrics" ? inputs[fieldName] : undefined;
        if (!type) return field;
        const { GraphQLList, GraphQLNonNull, isNonNullType } = build.graphql;
        const input = build.getInputTypeByName(type);
        const typed = type === "EventMeasure" ? new GraphQLList(new GraphQLNonNull(input)) : input;
        return { ...field, type: isNonNullType(field.type) ? new GraphQLNonNull(typed) : typed };
      },
    },
  },
};
const inputs: Record<string, string> = { measures: "EventMeasure", filter: "EventSeriesFilter" };

/** In TypeScript, where formulas are read. The generated mutations then write what was found sound. */
export const MetricsPlugin = wrapPlans(
  (build) => {
    const { metrics } = build.pgResources ?? {};
    if (!metrics)
      throw new Error("MetricsPlugin needs the table public.metrics, which is not in the schema.");
    const first =
      (check: (run: Run, tenantId: string, input: unknown) => Promise<void>): PlanWrapperFn =>
      (plan, _$source, fieldArgs) => {
        sideEffectWithPgClientTransaction(
          metrics.executor,
          list([context().get("identity"), fieldArgs.getRaw("input")]),
          (client, [identity, input]) =>
            check((query) => client.query(query), claimsOf(identity).tenant_id, input),
        );
        return plan();
      };
    const checking = (read: typeof create | typeof update) =>
      first((run, tenantId, input) => {
        const { id, values: given } = read.parse(input);
        return checkMetric(run, tenantId, given, id);
      });
    return {
      Mutation: {
        createMetric: checking(create),
        updateMetric: checking(update),
        deleteMetric: first((run, tenantId, input) => checkDeletion(run, tenantId, remove.parse(input).id)),
      },
    };
  },
  { name: "MetricsPlugin", description: "Refuses metrics that eventSeries could not answer" },
);
