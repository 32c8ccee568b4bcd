import { fileURLToPath } from "node:url";

const at = (relative: string) => fileURLToPath(new URL(`../${relative}`, import.meta.url));

/** Files of the project, wherever it was started from. */
export const paths = {
  root: at("."),
  migrations: at("migrations"),
  rolesSql: at("scripts/roles.sql"),
};
