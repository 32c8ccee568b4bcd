import { resolve } from "node:path";
import { paths } from "../../src/paths.ts";
import type { Outcome } from "./cell.ts";

export const DOCUMENT = resolve(paths.root, "docs/faults.md");
export const UPDATE_COMMAND = "npm run faults:update";

const introduction = `# Faults

What syncs do about each fault of a provider. Written by \`${UPDATE_COMMAND}\`, which tries every cell with the real engine
and worker against a simulator of the provider; a test does the same. In every cell the rows of the destination are equal to the
provider's in the end: none is missing, none is too many, none is old.

- _goes on_: nobody notices.
- _tries again_: after a moment, by itself.
- _waits_: until the provider may be asked again, or has made a report, by itself; nobody who shares a limit asks before.
- _stops_: until a person has mended it, and says why: the \`errorClass\` of the integration. Then it goes on where it was.
- —: the provider has no such fault.
`;

/** docs/faults.md, of what was tried. */
export function printMatrix(
  providers: readonly { provider: string; name: string; cells: readonly { name: string }[] }[],
  outcomes: readonly Outcome[],
): string {
  const faults = [...new Set(providers.flatMap(({ cells }) => cells.map(({ name }) => name)))];
  const cell = (provider: string, fault: string) =>
    outcomes.find((outcome) => outcome.provider === provider && outcome.fault === fault)?.response ?? "—";
  const rows = [
    ["fault", ...providers.map(({ name }) => name)],
    ...faults.map((fault) => [fault, ...providers.map(({ provider }) => cell(provider, fault))]),
  ];
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  const line = (row: string[]) =>
    `| ${row.map((text, column) => text.padEnd(widths[column] ?? 0)).join(" | ")} |`;
  const [head = [], ...body] = rows;
  const rule = `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`;
  return [introduction, line(head), rule, ...body.map(line), ""].join("\n");
}
