// Preloaded by every npm script, on whatever Node the machine has: the one file that must run on old ones.
import { readFileSync } from "node:fs";
import * as modules from "node:module";

const pinned = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")).dependencies
  .node;
if (process.versions.node.split(".")[0] !== pinned.split(".")[0]) {
  console.error(
    `This project runs on Node ${pinned}, which npm installs as a dependency, but this is Node ${process.versions.node}: ` +
      "the install scripts were skipped. Run `npm ci --ignore-scripts=false`, then use the npm scripts (npm start, npm test).",
  );
  process.exit(1);
}
// A third of what a command takes to start is compiling.
modules.enableCompileCache?.();
// Grafast's development checks cost more than they tell; NODE_ENV=development must not switch them on.
process.env.GRAPHILE_ENV ??= "production";
