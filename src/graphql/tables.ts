// What these declare of inflection and behaviours is not exported by the package's index.
import type {} from "@graphile/pg-aggregates/dist/AddAggregateTypesPlugin.js";
import type {} from "@graphile/pg-aggregates/dist/AddGroupByAggregateEnumValuesForAttributesPlugin.js";
import type {} from "@graphile/pg-aggregates/dist/AddHavingAggregateTypesPlugin.js";
import type {} from "@graphile/pg-aggregates/dist/InflectionPlugin.js";
import type { PgCodecWithAttributes, PgResource } from "postgraphile/@dataplan/pg";

export type Table = PgResource<string, PgCodecWithAttributes>;

/** Whether groups of its rows can be asked for. */
export const isGroupable = (
  build: GraphileBuild.Build,
  resource: PgResource | undefined,
): resource is Table =>
  resource !== undefined &&
  resource.codec.attributes !== undefined &&
  !resource.parameters &&
  !resource.isUnique &&
  !!build.behavior.pgResourceMatches(resource, "resource:groupedAggregates");

export const groupableTables = (build: GraphileBuild.Build): Table[] =>
  Object.values(build.input.pgRegistry.pgResources).filter((resource) => isGroupable(build, resource));
