import { type PgCodec, TYPES } from "postgraphile/@dataplan/pg";
import { type SQL, sql } from "postgraphile/pg-sql2";
import type { Table } from "./tables.ts";

/** One way to group the rows of a table. */
export type GroupKey = {
  /** In the enum, such as TIMESTAMP_TRUNCATED_TO_DAY. */
  name: string;
  /** Among the plain keys, such as timestampTruncatedToDay. */
  fieldName: string;
  description: string;
  codec: PgCodec;
  of(alias: SQL, timeZone: SQL): SQL;
};

type Bucket = Pick<GroupKey, "description" | "codec"> & { id: string; of(instant: SQL, timeZone: SQL): SQL };

const truncated = (unit: string, description = `Start of the ${unit}, in \`timeZone\`.`): Bucket => ({
  id: `truncated-to-${unit}`,
  description,
  codec: TYPES.timestamptz,
  of: (instant, timeZone) => sql`date_trunc(${sql.literal(unit)}, ${instant}, ${timeZone})`,
});
const local = (instant: SQL, timeZone: SQL) => sql`(${instant} at time zone ${timeZone})`;

const buckets: Bucket[] = [
  {
    id: "truncated-to-15-minutes",
    description: "Start of the quarter of an hour, in `timeZone`.",
    codec: TYPES.timestamptz,
    // Like date_trunc below the day: what is past of the local quarter is taken off the instant, so that an hour that a
    // clock change repeats stays two hours.
    of: (instant, timeZone) => {
      const clock = local(instant, timeZone);
      return sql`(${instant} - (${clock} - date_bin('15 minutes', ${clock}, timestamp '2000-01-01')))`;
    },
  },
  truncated("hour"),
  truncated("day"),
  truncated("week", "Start of the ISO week, its Monday, in `timeZone`."),
  truncated("month"),
  truncated("quarter"),
  truncated("year"),
  {
    id: "hour-of-day",
    description: "0 to 23, on clocks in `timeZone`.",
    codec: TYPES.int,
    of: (instant, timeZone) => sql`extract(hour from ${local(instant, timeZone)})::integer`,
  },
  {
    id: "day-of-week",
    description: "1 (Monday) to 7 (Sunday), in `timeZone`.",
    codec: TYPES.int,
    of: (instant, timeZone) => sql`extract(isodow from ${local(instant, timeZone)})::integer`,
  },
];

/** What rows of a table can be grouped by: columns, buckets of time, and declared properties. By their names. */
export function groupKeysOf(build: GraphileBuild.Build, resource: Table): Map<string, GroupKey> {
  const keys = new Map<string, GroupKey>();
  const { codec } = resource;
  const constantCase = (...words: string[]) => build.inflection.constantCase(words.join("-"));
  const add = (name: string, key: Omit<GroupKey, "name" | "fieldName">) =>
    keys.set(name, { name, fieldName: build.inflection.camelCase(name), ...key });
  for (const [attributeName, attribute] of Object.entries(codec.attributes)) {
    const column = (alias: SQL) => sql`${alias}.${sql.identifier(attributeName)}`;
    const fieldName = build.inflection.attribute({ codec, attributeName });
    const matches = (behavior: "orderBy" | "attribute:groupBy") =>
      build.behavior.pgCodecAttributeMatches([codec, attributeName], behavior);
    const unique = resource.uniques.some(
      ({ attributes }) => attributes.length === 1 && attributes[0] === attributeName,
    );
    if (matches("orderBy") && matches("attribute:groupBy") && !unique) {
      const description = attribute.description ?? `The \`${fieldName}\`.`;
      add(constantCase(fieldName), { description, codec: attribute.codec, of: column });
      if (attribute.codec === TYPES.timestamptz)
        for (const { id, of, ...bucket } of buckets)
          add(constantCase(fieldName, id), { ...bucket, of: (alias, zone) => of(column(alias), zone) });
    }
    for (const property of propertiesOf(attribute.extensions?.tags?.groupByProperties)) {
      if (attribute.codec !== TYPES.jsonb)
        throw new Error(
          `Only properties of a jsonb column can be grouped by; ${codec.name}.${attributeName} is none.`,
        );
      add(constantCase(fieldName, property), {
        description: `The property \`${property}\`, as text.`,
        codec: TYPES.text,
        of: (alias) => sql`(${column(alias)} ->> ${sql.literal(property)})`,
      });
    }
  }
  return keys;
}

const propertiesOf = (tag: unknown): string[] => {
  const list = tag === undefined ? [] : Array.isArray(tag) ? tag : [tag];
  return list.map((property) => {
    if (typeof property === "string") return property;
    throw new Error(`The smart tag groupByProperties lists names of properties; ${property} is none.`);
  });
};
