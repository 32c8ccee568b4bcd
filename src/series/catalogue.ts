import { z } from "zod";
import type { Run } from "./plan.ts";
import { filterSchema, measureName, measureSchema } from "./request.ts";
import type { Metric } from "./resolve.ts";

export const metricSchema = z.object({
  name: measureName,
  formula: z.string(),
  measures: measureSchema.array().max(10, "A metric has at most 10 measures."),
  filter: filterSchema.nullable(),
  unit: z.string().nullable(),
  format: z.string().nullable(),
});
const stored = metricSchema.extend({ id: z.string() });

/** The metrics of a tenant, by name. */
export async function loadMetrics(run: Run, tenantId: string): Promise<Map<string, Metric & { id: string }>> {
  const { rows } = await run({
    text: "select id, name, formula, measures, filter, unit, format from public.metrics where tenant_id = $1",
    values: [tenantId],
  });
  return new Map(
    stored
      .array()
      .parse(rows)
      .map((metric) => [metric.name, metric]),
  );
}
