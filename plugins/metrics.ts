import { sideEffectWithPgClientTransaction } from "postgraphile/@dataplan/pg";
import { context, list } from "postgraphile/grafast";
import { type PlanWrapperFn, wrapPlans } from "postgraphile/utils";
import { z } from "zod";
import { claimsOf } from "../src/auth/requests.ts";
import { checkMetric } from "../src/series/metrics.ts";

const values = z.record(z.string(), z.unknown());
const create = z.object({ metric: values }).transform(({ metric }) => ({ id: undefined, values: metric }));
const update = z
  .object({ id: z.string(), patch: values })
  .transform(({ id, patch }) => ({ id, values: patch }));

/** In TypeScript, where formulas are read. The generated mutations then write what was found sound. */
export const MetricsPlugin = wrapPlans(
  (build) => {
    const { metrics } = build.pgResources ?? {};
    if (!metrics)
      throw new Error("MetricsPlugin needs the table public.metrics, which is not in the schema.");
    const checking =
      (input: typeof create | typeof update): PlanWrapperFn =>
      (plan, _$source, fieldArgs) => {
        sideEffectWithPgClientTransaction(
          metrics.executor,
          list([context().get("identity"), fieldArgs.getRaw("input")]),
          async (client, [identity, raw]) => {
            const { id, values: given } = input.parse(raw);
            await checkMetric((query) => client.query(query), claimsOf(identity).tenant_id, given, id);
          },
        );
        return plan();
      };
    return { Mutation: { createMetric: checking(create), updateMetric: checking(update) } };
  },
  { name: "MetricsPlugin", description: "Refuses metrics that eventSeries could not answer" },
);
