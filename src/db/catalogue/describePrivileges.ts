import type pg from "pg";
import { privilegeQueries } from "./privilegeQueries.ts";
import { withQualifiedNames } from "./withQualifiedNames.ts";

export type Privilege = { grantee: string; privilege: string; object: string };

/**
 * Who may do what, one line each, by section: `api_viewer  select  public.tenants`.
 * Owners' rights on their own objects are left out.
 */
export function describePrivileges(client: pg.ClientBase): Promise<string[]> {
  return withQualifiedNames(client, async () => {
    const lines: string[] = [];
    for (const [section, query] of Object.entries(privilegeQueries)) {
      const { rows } = await client.query<Privilege>(query);
      const byRole = section === "roles" || section === "memberships";
      const key = ({ object, grantee, privilege }: Privilege) =>
        byRole ? `${grantee} ${object}` : `${object} ${grantee} ${privilege}`;
      rows.sort((one, other) => (key(one) < key(other) ? -1 : 1));
      if (lines.length > 0) lines.push("");
      lines.push(`# ${section}`, ...rows.map(line));
    }
    return lines;
  });
}

// Widths are fixed, so that a new name does not change every line.
const line = ({ grantee, privilege, object }: Privilege) =>
  `${grantee.padEnd(17)}  ${privilege.padEnd(9)}  ${object}`;
