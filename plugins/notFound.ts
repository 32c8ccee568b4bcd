import { PgUpdateSingleStep } from "postgraphile/@dataplan/pg";
import { ObjectStep, sideEffect } from "postgraphile/grafast";
import { ApiError, NO_SUCH_ROW } from "../src/graphql/errors.ts";

/** In TypeScript, because to PostgreSQL a statement that changes no row is no error. */
export const NotFoundPlugin: GraphileConfig.Plugin = {
  name: "NotFoundPlugin",
  version: "1.0.0",
  description: "Answers NOT_FOUND to an update of a row that does not exist, or that the caller may not see",
  schema: {
    hooks: {
      GraphQLObjectType_fields_field(field, _build, context) {
        const { isPgUpdateMutation } = context.scope;
        const plan = field.plan;
        if (!isPgUpdateMutation || !plan) return field;
        return {
          ...field,
          plan($parent, args, info) {
            const $payload = plan($parent, args, info);
            const $result = $payload instanceof ObjectStep ? $payload.get("result") : undefined;
            if (!($result instanceof PgUpdateSingleStep))
              throw new Error(`${context.scope.fieldName} has no row to look for.`);
            sideEffect($result.get("id"), (id) => {
              if (id == null) throw new ApiError("NOT_FOUND", NO_SUCH_ROW);
            });
            return $payload;
          },
        };
      },
    },
  },
};
