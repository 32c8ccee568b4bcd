import { cellsOf, functions, operations, roles, tables } from "./matrix.ts";

const HEAD = `# Roles

Who may do what, cell by cell. Written by hand in \`test/rights/matrix.ts\`, of which this is the printed form; \`npm test\` tries
every cell through SQL and through GraphQL, and names the one that differs.

- **–** refused · **self** rows of one's own · **own** rows of one's own tenant · **all** rows of every tenant
- **with \`right\`** rows of one's own tenant, for a user who was granted that single permission (\`setUserPermissions\`)

ADMIN has every permission by its role, USER has \`events:write\` and \`integrations:sync\`. SUPER_ADMIN exists only in the
operator's tenant \`platform\`, and reaches other tenants' rows only by entering them (\`enterTenant\`), as ADMIN, USER or VIEWER
there. An API key with the scope \`analytics:read\` reads as a VIEWER, without sessions of its own; its other scopes are permissions.
`;

/** The matrix as a document for people. */
export function printMatrix(): string {
  const lines = [HEAD, "## Tables", ""];
  for (const [name, { select, delete: remove, columns }] of Object.entries(tables)) {
    const rows: [string, string][] = [["select", select]];
    for (const operation of ["insert", "update"] as const) {
      const byRights = new Map<string, string[]>();
      for (const [column, [insert, update]] of Object.entries(columns)) {
        const row = operation === "insert" ? insert : update;
        byRights.set(row, [...(byRights.get(row) ?? []), column]);
      }
      const isWithheld = (row: string) => /^[- ]+$/.test(row);
      const ordered = [...byRights].sort(([a], [b]) => Number(isWithheld(a)) - Number(isWithheld(b)));
      for (const [row, names] of ordered)
        rows.push([
          isWithheld(row) && byRights.size > 1
            ? `${operation} the others`
            : `${operation} ${nameAll(names, columns)}`,
          row,
        ]);
    }
    rows.push(["delete", remove]);
    lines.push(`### ${name}`, "", ...table("", rows), "");
  }
  lines.push("## Functions", "");
  lines.push(
    ...table(
      "",
      Object.entries(functions).map(([name, row]) => [`\`${name}\``, row]),
    ),
    "",
  );
  lines.push("## Operations", "", "What is neither a table nor a function.", "");
  lines.push(
    ...table(
      "",
      Object.entries(operations).map(([name, row]) => [`\`${name}\``, row]),
    ),
    "",
  );
  return lines.join("\n");
}

const nameAll = (names: string[], columns: object): string =>
  names.length === Object.keys(columns).length ? "" : names.map((name) => `\`${name}\``).join(", ");

function table(corner: string, rows: [string, string][]): string[] {
  const line = (cells: string[]) => `| ${cells.join(" | ")} |`;
  return [
    line([corner, ...roles]),
    line(["---", ...roles.map(() => "---")]),
    ...rows.map(([head, row]) => line([head.trim(), ...cellsOf(row).map(({ right }) => shown(right))])),
  ];
}

const shown = (right: string): string =>
  right === "-" ? "–" : right.startsWith("?") ? `with \`${right.slice(1)}\`` : right;
