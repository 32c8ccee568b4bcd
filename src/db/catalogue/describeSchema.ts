import type pg from "pg";
import { schemaQueries } from "./schemaQueries.ts";
import { withQualifiedNames } from "./withQualifiedNames.ts";

export type SchemaDescription = { [name: string]: string | string[] | SchemaDescription };

/** Everything that defines our part of a database, the same for every database of these migrations. */
export function describeSchema(client: pg.ClientBase): Promise<SchemaDescription> {
  return withQualifiedNames(client, async () => {
    const description: SchemaDescription = {};
    for (const query of schemaQueries) {
      const { rows } = await client.query<{ path: string[]; value: string | string[] }>(query);
      for (const { path, value } of rows) place(description, path, value);
    }
    return description;
  });
}

function place(description: SchemaDescription, path: string[], value: string | string[]) {
  const [name = "", ...rest] = path;
  if (rest.length === 0) {
    description[name] = value;
    return;
  }
  description[name] ??= {};
  const inner = description[name];
  if (typeof inner === "object" && !Array.isArray(inner)) place(inner, rest, value);
}
