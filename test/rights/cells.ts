import { cellsOf, type MatrixRole, tables } from "./matrix.ts";

export type Operation = "select" | "insert" | "update" | "delete";
export type Cell = {
  table: string;
  operation: Operation;
  /** Of an insert or update. */
  column?: string;
  role: MatrixRole;
  right: string;
};

/** Every cell of the matrix, as one question each. */
export function allCells(): Cell[] {
  return Object.entries(tables).flatMap(([table, rights]) => [
    ...cellsOf(rights.select).map((cell) => ({ table, operation: "select" as const, ...cell })),
    ...cellsOf(rights.delete).map((cell) => ({ table, operation: "delete" as const, ...cell })),
    ...Object.entries(rights.columns).flatMap(([column, [insert, update]]) => [
      ...cellsOf(insert).map((cell) => ({ table, operation: "insert" as const, column, ...cell })),
      ...cellsOf(update).map((cell) => ({ table, operation: "update" as const, column, ...cell })),
    ]),
  ]);
}

export const titleOf = ({ role, operation, table, column, right }: Cell): string =>
  `${role} ${right === "-" ? "may not" : "may"} ${operation} ${table}${column ? `.${column}` : ""}${right === "-" ? "" : ` (${right})`}`;

export const permissionOf = (right: string): string | undefined =>
  right.startsWith("?") ? right.slice(1) : undefined;
