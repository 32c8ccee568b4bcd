import type { AggregateSpec } from "@graphile/pg-aggregates";
import { type PgCodec, type PgSelectSingleStep, TYPES } from "postgraphile/@dataplan/pg";
import { type SQL, sql } from "postgraphile/pg-sql2";
import { COUNT } from "../src/graphql/measures.ts";

type Behavior = `${keyof GraphileBuild.AggregateSpecIds}:${"resource:aggregates" | "attribute:aggregate"}`;

declare global {
  namespace GraphileBuild {
    interface AggregateSpecIds {
      median: true;
      p75: true;
      p90: true;
      p95: true;
      p99: true;
      any: true;
      every: true;
    }
    interface BehaviorStrings extends Record<Behavior, true> {}
  }
}

const isNumber = (codec: PgCodec) => codec.extensions?.isNumberLike === true;
const isBoolean = (codec: PgCodec) => codec === TYPES.boolean;
const isOrdered = (codec: PgCodec) => [TYPES.timestamptz, TYPES.text].some((type) => type === codec);

/**
 * Exact, where percentile_cont would go through double precision: the two middle values are both found in one sort. With an
 * even number of values the second fraction is just past the first of them; up to 500 million values it is no further.
 */
const median = (value: SQL) => {
  const middles = sql`(percentile_disc(array[0.5, 0.500000001]) within group (order by ${value}::numeric))`;
  return sql`trim_scale((${middles}[1] + ${middles}[2]) * 0.5)`;
};

const added: AggregateSpec[] = [
  {
    id: "median",
    humanLabel: "median",
    HumanLabel: "Median",
    isSuitableType: isNumber,
    sqlAggregateWrap: median,
    pgTypeCodecModifier: () => TYPES.numeric,
  },
  ...([75, 90, 95, 99] as const).map(
    (hundredths): AggregateSpec => ({
      id: `p${hundredths}`,
      humanLabel: `${hundredths}th percentile`,
      HumanLabel: `${hundredths}th percentile (nearest rank)`,
      isSuitableType: isNumber,
      sqlAggregateWrap: (value) =>
        sql`percentile_disc(${sql.literal(`0.${hundredths}`)}) within group (order by ${value})`,
    }),
  ),
  {
    id: "any",
    humanLabel: "logical or",
    HumanLabel: "Logical or",
    isSuitableType: isBoolean,
    sqlAggregateWrap: (value) => sql`bool_or(${value})`,
  },
  {
    id: "every",
    humanLabel: "logical and",
    HumanLabel: "Logical and",
    isSuitableType: isBoolean,
    sqlAggregateWrap: (value) => sql`bool_and(${value})`,
  },
];

/** In TypeScript, because pg-aggregates, which generates the SQL, takes its aggregates from plugins alone. */
export const AggregateMeasuresPlugin: GraphileConfig.Plugin = {
  name: "AggregateMeasuresPlugin",
  version: "1.0.0",
  description:
    "Adds count, median, percentiles, any, every, and min and max of times and texts to the generated aggregates",
  schema: {
    hooks: {
      build: {
        after: ["PgAggregatesSpecsPlugin"],
        before: ["PgAggregatesFilterRelationalAggregatesPlugin"],
        callback(build) {
          if (!build.pgAggregateSpecs)
            throw new Error("AggregateMeasuresPlugin needs PgAggregatesPreset, which is not in the preset.");
          for (const id of ["min", "max"]) {
            const spec = build.pgAggregateSpecs.find((candidate) => candidate.id === id);
            if (!spec)
              throw new Error(
                `AggregateMeasuresPlugin needs the aggregate ${id}, which pg-aggregates has not.`,
              );
            const { isSuitableType } = spec;
            spec.isSuitableType = (codec) => isSuitableType(codec) || isOrdered(codec);
          }
          build.pgAggregateSpecs.push(...added);
          return build;
        },
      },
      GraphQLObjectType_fields(fields, build, context) {
        if (!context.scope.isPgAggregateContainerType) return fields;
        const { GraphQLNonNull } = build.graphql;
        return build.extend(
          fields,
          {
            count: context.fieldWithHooks({ fieldName: "count" }, () => ({
              description: "How many rows there are.",
              type: new GraphQLNonNull(build.getOutputTypeByName("BigInt")),
              plan: ($row: PgSelectSingleStep) => $row.select(COUNT, TYPES.bigint),
            })),
          },
          `Adding count to ${context.Self.name}`,
        );
      },
      GraphQLObjectType_fields_field(field, _build, context) {
        const { fieldName, isConnectionType } = context.scope;
        if (!isConnectionType || fieldName !== "aggregates" || !field.plan) return field;
        const plan = field.plan;
        return {
          ...field,
          plan($connection, args, info) {
            const $row: PgSelectSingleStep = plan($connection, args, info);
            // Without an aggregate in its select list, it would be a query of all rows.
            $row.getClassStep().having(sql.true);
            return $row;
          },
        };
      },
    },
  },
};
