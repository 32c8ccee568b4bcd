import type { PgGroupDetails, PgSelectSingleStep } from "postgraphile/@dataplan/pg";
import { access, lambda, type Step } from "postgraphile/grafast";
import { type GroupKey, groupKeysOf } from "../src/graphql/groupKeys.ts";
import { groupableTables, isGroupable, type Table } from "../src/graphql/tables.ts";

declare global {
  namespace GraphileBuild {
    interface ScopeObject {
      isGroupKeysType?: boolean;
    }
  }
}

/** What GroupedAggregatesPlugin leaves with the query: the names of the keys that it groups by. */
export const GROUP_KEYS = "groupKeys";

const typeNameOf = (build: GraphileBuild.Build, { codec }: Table) =>
  `${build.inflection.tableType(codec)}GroupKeys`;

/** The keys of a row of the query, by their fields. */
function plainKeys(
  keys: ReadonlyMap<string, GroupKey>,
  names: unknown,
  { indicies }: PgGroupDetails,
  row: readonly unknown[] | null,
): Record<string, unknown> | null {
  if (!Array.isArray(names) || names.length === 0 || !row) return null;
  return Object.fromEntries(
    names.flatMap((name, position) => {
      const key = keys.get(name);
      const text = row[indicies[position]?.index ?? -1];
      return key ? [[key.fieldName, typeof text === "string" ? key.codec.fromPg(text) : null]] : [];
    }),
  );
}

/**
 * In TypeScript, because pg-aggregates knows but two buckets, in the session's time zone, and gives keys as a list of texts.
 * Takes the place of PgAggregatesAddGroupByAggregateEnumValuesForAttributesPlugin.
 */
export const GroupKeysPlugin: GraphileConfig.Plugin = {
  name: "GroupKeysPlugin",
  version: "1.0.0",
  description:
    "Says what can be grouped by: columns, buckets of time, declared properties; and gives typed keys",
  schema: {
    behaviorRegistry: {
      add: {
        "attribute:groupBy": {
          description: "Can we group by this attribute when aggregating?",
          entities: ["pgCodecAttribute"],
        },
        groupBy: {
          description: "Can we group by this attribute when aggregating?",
          entities: ["pgCodecAttribute"],
        },
      },
    },
    entityBehavior: { pgCodecAttribute: ["attribute:groupBy"] },
    hooks: {
      init(_, build) {
        for (const resource of groupableTables(build)) {
          build.registerObjectType(
            typeNameOf(build, resource),
            { isGroupKeysType: true },
            () => ({
              description: "Each is null where it is not in `groupBy`, or where the rows have none.",
              fields: () =>
                Object.fromEntries(
                  [...groupKeysOf(build, resource).values()].flatMap(({ fieldName, description, codec }) => {
                    const type = build.getGraphQLTypeByPgCodec(codec, "output");
                    return build.graphql.isOutputType(type)
                      ? [[fieldName, { description, type, plan: ($keys: Step) => access($keys, fieldName) }]]
                      : [];
                  }),
                ),
            }),
            `Keys of the groups of ${resource.name}`,
          );
        }
        return _;
      },
      GraphQLEnumType_values(values, build, context) {
        const { isPgAggregateGroupEnum, pgTypeResource: resource } = context.scope;
        if (!isPgAggregateGroupEnum || !isGroupable(build, resource)) return values;
        const added = [...groupKeysOf(build, resource).values()].map(({ name, description }) => [
          name,
          { description },
        ]);
        return build.extend(values, Object.fromEntries(added), `Adding keys to ${context.Self.name}`);
      },
      GraphQLObjectType_fields(fields, build, context) {
        const { isPgAggregateContainerType, pgTypeResource: resource } = context.scope;
        if (!isPgAggregateContainerType || !isGroupable(build, resource)) return fields;
        const type = build.getTypeByName(typeNameOf(build, resource));
        if (!build.graphql.isObjectType(type)) return fields;
        const keys = groupKeysOf(build, resource);
        return build.extend(
          fields,
          {
            group: context.fieldWithHooks({ fieldName: "group" }, () => ({
              description: "What the rows have in common. Null where there is no key.",
              type,
              plan($row: PgSelectSingleStep) {
                const $select = $row.getClassStep();
                return lambda(
                  [$select.getMeta(GROUP_KEYS), $select.getGroupDetails(), $row],
                  ([names, details, row]) => plainKeys(keys, names, details, row),
                );
              },
            })),
          },
          `Adding typed keys to ${context.Self.name}`,
        );
      },
    },
  },
};
