import { type PgSelectQueryBuilder, PgSelectRowsStep, PgSelectStep, TYPES } from "postgraphile/@dataplan/pg";
import { type ExecutionDetails, flagError, lambda, Step } from "postgraphile/grafast";
import { ApiError } from "../src/graphql/errors.ts";
import { groupableOf, limitOf, MAX_GROUPS, readGrouping } from "../src/graphql/grouping.ts";
import { groupableTables, isGroupable, type Table } from "../src/graphql/tables.ts";
import { GROUP_KEYS } from "./groupKeys.ts";

declare global {
  namespace GraphileBuild {
    interface ScopeEnum {
      groupsOf?: Table;
    }
  }
}

/** Passes the groups on, unless the query found one more than there may be. */
class CappedGroupsStep extends Step {
  static override $$export = { moduleName: "erp-analytics", exportName: "CappedGroupsStep" };
  constructor($select: PgSelectStep) {
    super();
    this.addStrongDependency($select.items());
  }
  select(): PgSelectStep {
    const $rows = this.getDepOptions(0).step;
    if (!($rows instanceof PgSelectRowsStep)) throw new Error("The groups have been planned already.");
    return $rows.getClassStep();
  }
  listItem($item: Step) {
    return this.select().listItem($item);
  }
  override execute({ indexMap, values: [groups] }: ExecutionDetails<[unknown[] | null]>) {
    return indexMap((index) => {
      const list = groups.at(index);
      return list && list.length > MAX_GROUPS ? flagError(tooMany()) : list;
    });
  }
}

const tooMany = () =>
  new ApiError(
    "QUERY_TOO_EXPENSIVE",
    `There are more than ${MAX_GROUPS} groups. Narrow the filter, group by less, or say with "first" and "orderBy" which you want.`,
  );

const orderTypeOf = (build: GraphileBuild.Build, { codec }: Table) =>
  `${build.inflection.tableType(codec)}GroupOrderBy`;

/** The table of a connection that has grouped aggregates. */
function tableOf(
  build: GraphileBuild.Build,
  { fieldName, isConnectionType, pgCodec, pgTypeResource }: Scope,
) {
  if (!isConnectionType || fieldName !== "groupedAggregates") return undefined;
  const resource =
    pgTypeResource ??
    Object.values(build.input.pgRegistry.pgResources).find(
      ({ codec, parameters }) => codec === pgCodec && !parameters,
    );
  return isGroupable(build, resource) ? resource : undefined;
}
type Scope = GraphileBuild.ContextObjectFieldsField["scope"];

/**
 * In TypeScript, because the groups are a query that pg-aggregates generates: unordered, without end, and bucketed in the
 * session's time zone.
 */
export const GroupedAggregatesPlugin: GraphileConfig.Plugin = {
  name: "GroupedAggregatesPlugin",
  version: "1.0.0",
  description: `Gives groupedAggregates a time zone, an order, a \`first\`, and at most ${MAX_GROUPS} groups`,
  after: ["PgAggregatesAddConnectionGroupedAggregatesPlugin"],
  schema: {
    hooks: {
      init(_, build) {
        for (const resource of groupableTables(build)) {
          build.registerEnumType(
            orderTypeOf(build, resource),
            { groupsOf: resource },
            () => ({
              description:
                "Keys, which must be in `groupBy`, and measures. Null comes last in either direction.",
              values: Object.fromEntries(
                [...groupableOf(build, resource).orders.keys()].map((name) => [name, {}]),
              ),
            }),
            `Orders of the groups of ${resource.name}`,
          );
        }
        return _;
      },
      GraphQLObjectType_fields_field_args(args, build, context) {
        const resource = tableOf(build, context.scope);
        if (!resource) return args;
        const { GraphQLInt, GraphQLList, GraphQLNonNull, GraphQLString } = build.graphql;
        const { groupBy, having } = args;
        if (!groupBy || !having)
          throw new Error(`GroupedAggregatesPlugin needs groupBy and having on ${context.Self.name}.`);
        const orderType = build.getInputTypeByName(orderTypeOf(build, resource));
        return {
          // The field's plan below reads these.
          groupBy: { ...groupBy, description: "What the rows of a group have in common.", applyPlan() {} },
          timeZone: {
            type: GraphQLString,
            description: "Of all buckets of time: a name of the IANA database. Default: UTC.",
          },
          having: {
            ...having,
            applyPlan(_$connection, $groups: CappedGroupsStep, input) {
              input.apply($groups.select(), (query: PgSelectQueryBuilder) => query.havingBuilder());
            },
          },
          orderBy: {
            type: new GraphQLList(new GraphQLNonNull(orderType)),
            description: "Default, and among equals: the keys, ascending.",
          },
          first: {
            type: GraphQLInt,
            description: `Only so many groups, ${MAX_GROUPS} at most. Without it, more than ${MAX_GROUPS} are an error.`,
          },
        };
      },
      GraphQLObjectType_fields_field(field, build, context) {
        const resource = tableOf(build, context.scope);
        const plan = field.plan;
        if (!resource || !plan) return field;
        const groupable = groupableOf(build, resource);
        return {
          ...field,
          plan($connection, args, info) {
            const $select = plan($connection, args, info);
            if (!($select instanceof PgSelectStep))
              throw new Error(`${context.scope.fieldName} has no query to group.`);
            const { alias } = $select;
            const $grouping = lambda(
              [args.getRaw("groupBy"), args.getRaw("orderBy"), args.getRaw("timeZone")],
              ([groupBy, orderBy, timeZone]) =>
                readGrouping(groupable, alias, { groupBy, orderBy, timeZone }),
            );
            $select.apply(
              lambda($grouping, ({ keys }) => (query: PgSelectQueryBuilder) => {
                for (const { fragment, codec } of keys) query.groupBy({ fragment, codec });
                query.setMeta(
                  GROUP_KEYS,
                  keys.map(({ name }) => name),
                );
              }),
            );
            const $order = lambda($grouping, ({ order }) => order);
            $select.orderBy({
              fragment: $select.deferredSQL($order),
              codec: TYPES.text,
              direction: "ASC",
            });
            $select.setFirst(lambda(args.getRaw("first"), limitOf));
            return new CappedGroupsStep($select);
          },
        };
      },
    },
  },
};
