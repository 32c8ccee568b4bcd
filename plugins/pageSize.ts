import { ConnectionStep, constant, lambda } from "postgraphile/grafast";
import { ApiError } from "../src/graphql/errors.ts";

const DEFAULT_PAGE = 50;
const MAX_PAGE = 1_000;

/** `first`, or the default unless `last` is given. Refuses more than the maximum rather than cutting it silently. */
function pageSize([first, last]: readonly [unknown, unknown]): number | null {
  for (const [name, size] of Object.entries({ first, last }))
    if (typeof size === "number" && (size > MAX_PAGE || size < 0))
      throw new ApiError(
        "INVALID_INPUT",
        `"${name}" is ${size}; it may be from 0 to ${MAX_PAGE}. Use "after" for more.`,
      );
  if (typeof first === "number") return first;
  return typeof last === "number" ? null : DEFAULT_PAGE;
}

/** In TypeScript, because row security cannot limit how many rows are asked for. */
export const PageSizePlugin: GraphileConfig.Plugin = {
  name: "PageSizePlugin",
  version: "1.0.0",
  description: `Gives ${DEFAULT_PAGE} rows of a connection by default and ${MAX_PAGE} at most`,
  after: ["PgFirstLastBeforeAfterArgsPlugin"],
  schema: {
    hooks: {
      GraphQLObjectType_fields_field_args(args, _build, context) {
        const { isPgFieldConnection } = context.scope;
        if (!isPgFieldConnection || !args.first) return args;
        // The field's plan below applies it, with the default.
        return { ...args, first: { ...args.first, applyPlan() {} } };
      },
      GraphQLObjectType_fields_field(field, _build, context) {
        if (!context.scope.isPgFieldConnection || !field.plan) return field;
        const plan = field.plan;
        return {
          ...field,
          plan($parent, args, info) {
            const $connection = plan($parent, args, info);
            const has = (name: string) => info.field.args.some((argument) => argument.name === name);
            if ($connection instanceof ConnectionStep && has("first"))
              $connection.setFirst(
                lambda([args.getRaw("first"), has("last") ? args.getRaw("last") : constant(null)], pageSize),
              );
            return $connection;
          },
        };
      },
    },
  },
};
