import { type SQL, sql } from "postgraphile/pg-sql2";
import { z } from "zod";
import { ApiError } from "./errors.ts";
import { type GroupKey, groupKeysOf } from "./groupKeys.ts";
import { COUNT, measuresOf } from "./measures.ts";
import type { Table } from "./tables.ts";

export const MAX_GROUPS = 1_000;

/** One way to order groups. */
export type GroupOrder = {
  descending: boolean;
  /** The key that must be among those grouped by. */
  needs?: string;
  of(alias: SQL, timeZone: SQL): SQL;
};

/** What a table's groups can be made of and ordered by. */
export type Groupable = {
  keys: ReadonlyMap<string, GroupKey>;
  orders: ReadonlyMap<string, GroupOrder>;
  timeZones: ReadonlySet<string>;
};

/** What is asked of one query. */
export type Grouping = {
  keys: { name: string; fragment: SQL; codec: GroupKey["codec"] }[];
  /** All of ORDER BY but the direction of its last expression, which is ascending. */
  order: SQL;
};

export function groupableOf(build: GraphileBuild.Build, resource: Table): Groupable {
  const { timeZones } = build.input;
  if (!timeZones) throw new Error("Grouping needs TimeZonesPlugin, which is not in the preset.");
  const keys = groupKeysOf(build, resource);
  const measures = measuresOf(build, resource).map(({ aggregate, fieldName, of }) => ({
    name: build.inflection.constantCase(`${aggregate}-${fieldName}`),
    of,
  }));
  const orders = new Map<string, GroupOrder>();
  for (const { name, ...order } of [
    { name: "COUNT", of: () => COUNT },
    ...[...keys.values()].map(({ name, of }) => ({ name, of, needs: name })),
    ...measures,
  ]) {
    if (orders.has(`${name}_ASC`)) throw new Error(`Two ways to order groups are called ${name}.`);
    orders.set(`${name}_ASC`, { ...order, descending: false });
    orders.set(`${name}_DESC`, { ...order, descending: true });
  }
  return { keys, orders, timeZones };
}

const names = z.array(z.string());

function distinctNames(argument: string, list: unknown): string[] {
  const values = names.parse(list ?? []);
  const twice = values.find((value, index) => values.indexOf(value) !== index);
  if (twice) throw new ApiError("INVALID_INPUT", `"${argument}" has ${twice} more than once.`);
  return values;
}

function found<Value>(map: ReadonlyMap<string, Value>, name: string): Value {
  const value = map.get(name);
  if (value === undefined) throw new Error(`The schema has ${name}, which is not known here.`);
  return value;
}

/** As a parameter that occurs once, so that PostgreSQL sees the same expression in SELECT, GROUP BY and ORDER BY. */
function timeZoneOf(timeZones: ReadonlySet<string>, timeZone: unknown): SQL {
  const name = timeZone ?? "UTC";
  if (typeof name !== "string" || !timeZones.has(name))
    throw new ApiError(
      "INVALID_INPUT",
      `"timeZone" is ${JSON.stringify(name).slice(0, 60)}; it must be a name of the IANA database, such as "Europe/Berlin".`,
    );
  return sql`${sql.value(name)}::text`;
}

/** Reads the arguments of `groupedAggregates`. Null comes last in either direction; ties are broken by the keys. */
export function readGrouping(
  { keys, orders, timeZones }: Groupable,
  alias: SQL,
  { groupBy, orderBy, timeZone }: Record<"groupBy" | "orderBy" | "timeZone", unknown>,
): Grouping {
  const zone = timeZoneOf(timeZones, timeZone);
  const grouped = new Map(
    distinctNames("groupBy", groupBy).map((name) => {
      const { codec, of } = found(keys, name);
      return [name, { name, codec, fragment: of(alias, zone) }];
    }),
  );
  const asked = distinctNames("orderBy", orderBy).map((name) => {
    const { needs, descending, of } = found(orders, name);
    if (needs !== undefined && !grouped.has(needs))
      throw new ApiError("INVALID_INPUT", `"orderBy" has ${name}, which needs ${needs} in "groupBy".`);
    const fragment = needs === undefined ? of(alias, zone) : found(grouped, needs).fragment;
    return sql`${fragment}${descending ? sql` desc` : sql.blank} nulls last`;
  });
  const ties = [...grouped.values()].map(({ fragment }) => fragment);
  // Without a key there is one group; an aggregate makes it one even when nothing is selected.
  return {
    keys: [...grouped.values()],
    order: sql.join([...asked, ...(ties.length > 0 ? ties : [COUNT])], ", "),
  };
}

/** One more than there may be, to learn whether there are. */
export function limitOf(first: unknown): number {
  if (typeof first !== "number") return MAX_GROUPS + 1;
  if (first < 0 || first > MAX_GROUPS)
    throw new ApiError("INVALID_INPUT", `"first" is ${first}; it may be from 0 to ${MAX_GROUPS}.`);
  return first;
}
