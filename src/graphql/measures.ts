import type { PgCodec } from "postgraphile/@dataplan/pg";
import { type SQL, sql } from "postgraphile/pg-sql2";
import type { Table } from "./tables.ts";

/** An aggregate of a column, as `aggregates { sum { value } }` selects it. */
export type Measure = {
  /** Such as "sum", and the column's field, such as "value". */
  aggregate: string;
  fieldName: string;
  codec: PgCodec;
  of(alias: SQL): SQL;
};

export const COUNT = sql`count(*)`;

/** The measures of a table beside its count. */
export function measuresOf(build: GraphileBuild.Build, resource: Table): Measure[] {
  const { codec } = resource;
  return build.pgAggregateSpecs
    .filter(({ id }) => build.behavior.pgResourceMatches(resource, `${id}:resource:aggregates`))
    .flatMap((spec) =>
      Object.entries(codec.attributes).flatMap(([attributeName, attribute]) => {
        const suits =
          build.behavior.pgCodecAttributeMatches([codec, attributeName], `${spec.id}:attribute:aggregate`) &&
          (spec.shouldApplyToEntity?.({ type: "attribute", codec, attributeName }) ?? true) &&
          spec.isSuitableType(attribute.codec);
        if (!suits) return [];
        const fieldName = build.inflection.attribute({ codec, attributeName });
        return {
          aggregate: build.inflection.aggregatesField({ aggregateSpec: spec }),
          fieldName,
          codec: spec.pgTypeCodecModifier?.(attribute.codec) ?? attribute.codec,
          of: (alias: SQL) =>
            spec.sqlAggregateWrap(sql`${alias}.${sql.identifier(attributeName)}`, attribute.codec),
        };
      }),
    );
}
