import {
  PgBooleanFilter,
  type PgCodec,
  type PgCondition,
  sqlValueWithCodec,
  TYPES,
} from "postgraphile/@dataplan/pg";
import type { GrafastInputFieldConfigMap } from "postgraphile/grafast";
import { sql } from "postgraphile/pg-sql2";
import { COUNT, type Measure, measuresOf } from "../src/graphql/measures.ts";
import { groupableTables } from "../src/graphql/tables.ts";

type FilterName = Parameters<GraphileBuild.Inflection["aggregateHavingFilterInputType"]>[0] | "boolean";

const filters = new Map<PgCodec, FilterName>([
  [TYPES.int, "int"],
  [TYPES.bigint, "bigint"],
  [TYPES.float, "float"],
  [TYPES.numeric, "bigfloat"],
  [TYPES.timestamptz, "datetime"],
  [TYPES.text, "string"],
  [TYPES.boolean, "boolean"],
]);
const comparisons = {
  equalTo: sql`=`,
  notEqualTo: sql`<>`,
  greaterThan: sql`>`,
  greaterThanOrEqualTo: sql`>=`,
  lessThan: sql`<`,
  lessThanOrEqualTo: sql`<=`,
};

const filterType = (build: GraphileBuild.Build, name: FilterName) =>
  build.inflection.upperCamelCase(`having-${name}-filter`);

/** A field that compares an aggregate, or none where its type has no filter. */
function comparedField(
  build: GraphileBuild.Build,
  { fieldName, codec, of }: Pick<Measure, "fieldName" | "codec" | "of">,
): GrafastInputFieldConfigMap<PgCondition> {
  const name = filters.get(codec);
  if (!name) return {};
  const type = build.getInputTypeByName(filterType(build, name));
  return { [fieldName]: { type, apply: ($having) => new PgBooleanFilter($having, of($having.alias)) } };
}

/**
 * In TypeScript, because pg-aggregates generates the conditions, wrongly: by the column's type instead of the aggregate's,
 * for columns that the aggregate does not take, and with OR between the fields of one object.
 * Takes the place of PgAggregatesAddHavingAggregateTypesPlugin.
 */
export const GroupHavingPlugin: GraphileConfig.Plugin = {
  name: "GroupHavingPlugin",
  version: "1.0.0",
  description: "Conditions on aggregates, each of the aggregate's own type",
  schema: {
    behaviorRegistry: {
      add: {
        having: {
          description: "Should we add a 'having' option to aggregates on this resource?",
          entities: ["pgResource"],
        },
      },
    },
    entityBehavior: { pgResource: ["order", "having"] },
    hooks: {
      init(_, build) {
        const { GraphQLList, GraphQLNonNull } = build.graphql;
        for (const [codec, name] of filters)
          build.registerInputObjectType(
            filterType(build, name),
            {},
            () => ({
              fields: () => {
                const type = build.getGraphQLTypeByPgCodec(codec, "input");
                if (!build.graphql.isInputType(type))
                  throw new Error(`There is no input type for ${codec.name}.`);
                return Object.fromEntries(
                  Object.entries(comparisons)
                    .filter(([comparison]) => name !== "boolean" || comparison === "equalTo")
                    .map(([comparison, operator]) => [
                      comparison,
                      {
                        type,
                        apply($filter: PgBooleanFilter, value: unknown) {
                          if (value == null) return;
                          $filter.having(
                            sql`${$filter.expression} ${operator} ${sqlValueWithCodec(value, codec)}`,
                          );
                        },
                      },
                    ]),
                );
              },
            }),
            `Conditions on aggregates of ${codec.name}`,
          );
        for (const resource of groupableTables(build)) {
          if (!build.behavior.pgResourceMatches(resource, "resource:groupedAggregates:having")) continue;
          const typeName = build.inflection.aggregateHavingInputType({ resource });
          const measures = measuresOf(build, resource);
          const specs = build.pgAggregateSpecs.map((aggregateSpec) => ({
            fieldName: build.inflection.aggregatesField({ aggregateSpec }),
            typeName: build.inflection.aggregateHavingAggregateInputType({ resource, aggregateSpec }),
          }));
          for (const spec of specs)
            build.registerInputObjectType(
              spec.typeName,
              {},
              () => ({
                fields: () =>
                  Object.assign(
                    {},
                    ...measures
                      .filter(({ aggregate }) => aggregate === spec.fieldName)
                      .map((measure) => comparedField(build, measure)),
                  ),
              }),
              `Conditions on ${spec.fieldName} of ${resource.name}`,
            );
          build.registerInputObjectType(
            typeName,
            { pgTypeResource: resource, isPgAggregateHavingInputType: true },
            () => ({
              description: "Conditions on groups. All that are given must hold.",
              fields: () => {
                const self = () => new GraphQLList(new GraphQLNonNull(build.getInputTypeByName(typeName)));
                return {
                  AND: { type: self(), apply: ($having: PgCondition) => () => $having.andPlan() },
                  OR: {
                    type: self(),
                    apply($having: PgCondition) {
                      const $or = $having.orPlan();
                      return () => $or.andPlan();
                    },
                  },
                  ...comparedField(build, { fieldName: "count", codec: TYPES.bigint, of: () => COUNT }),
                  ...Object.fromEntries(
                    specs.flatMap((spec) => {
                      const type = build.getTypeByName(spec.typeName);
                      return build.graphql.isInputType(type)
                        ? [[spec.fieldName, { type, apply: ($having: PgCondition) => $having }]]
                        : [];
                    }),
                  ),
                };
              },
            }),
            `Conditions on groups of ${resource.name}`,
          );
        }
        return _;
      },
    },
  },
};
