import { canonicalMembers } from "./canonical.ts";
import { sha256 } from "./seal.ts";

/** What of a row is sealed, in the order of its canonical form. */
export const SEALED_COLUMNS = [
  "action",
  "actorId",
  "actorKind",
  "actorName",
  "changes",
  "clusterId",
  "createdAt",
  "id",
  "impersonatorId",
  "impersonatorName",
  "ipAddress",
  "requestId",
  "resource",
  "resourceId",
  "sessionId",
  "tenantId",
  "transactionId",
  "userAgent",
] as const;
type Column = (typeof SEALED_COLUMNS)[number];

/** A row as it was found, with each sealed column in canonical form. */
export type FoundRow = { id: string; hash: Buffer; createdAt: string; columns: ReadonlyMap<string, string> };

/** @param text JSON with the sealed columns, and others, which are passed over */
export function readRow(text: string): FoundRow {
  const columns = canonicalMembers(text);
  return {
    id: textOf(columns, "id"),
    createdAt: textOf(columns, "createdAt"),
    hash: hashColumns(columns),
    columns,
  };
}

/** The hash that the row would have with some columns of another. */
export const hashWith = ({ columns }: FoundRow, other: FoundRow, names: readonly Column[]): Buffer =>
  hashColumns(
    new Map([...columns, ...names.map((name) => [name, other.columns.get(name) ?? "null"] as const)]),
  );

function hashColumns(columns: ReadonlyMap<string, string>): Buffer {
  const members = SEALED_COLUMNS.map((name) => {
    const value = columns.get(name);
    if (value === undefined) throw new Error(`A row has no "${name}".`);
    return `"${name}":${value}`;
  });
  return sha256(`{${members.join(",")}}`);
}

function textOf(columns: ReadonlyMap<string, string>, name: Column): string {
  const value: unknown = JSON.parse(columns.get(name) ?? "null");
  if (typeof value !== "string") throw new Error(`A row's "${name}" is no text.`);
  return value;
}
