import { z } from "zod";

export const problem = z.looseObject({
  type: z.literal("about:blank"),
  title: z.string(),
  status: z.int(),
  detail: z.string(),
  code: z.string(),
  requestId: z.string(),
});

/** A schema of what clients send, without the dialect, which the document states once. */
export const schemaOf = (schema: z.ZodType) => {
  const { $schema: _, ...json } = z.toJSONSchema(schema, { io: "input" });
  return json;
};
export const ref = (name: string) => ({ $ref: `#/components/schemas/${name}` });
export const problems = (description: string, schema: object = ref("Problem")) => ({
  description,
  content: { "application/problem+json": { schema } },
});
export const retryable = (description: string) => ({
  ...problems(description),
  headers: { "Retry-After": { description: "Seconds.", schema: { type: "integer" } } },
});
