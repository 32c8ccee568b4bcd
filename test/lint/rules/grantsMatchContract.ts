import { readFile } from "node:fs/promises";
import { describePrivileges } from "../../../src/db/catalogue/describePrivileges.ts";
import type { Rule } from "../rule.ts";

const contract = new URL("../../contract/privileges.txt", import.meta.url);

export const grantsMatchContract: Rule = {
  name: "every privilege is in test/contract/privileges.txt, and the other way round",
  why: "A right that appears or goes must be seen in review. `npm run contracts:update` accepts it.",
  async find(client) {
    const committed = (await readFile(contract, "utf8")).trimEnd().split("\n");
    const actual = await describePrivileges(client);
    return [
      ...actual.filter((line) => !committed.includes(line)).map((line) => `+ ${line}`),
      ...committed.filter((line) => !actual.includes(line)).map((line) => `- ${line}`),
    ];
  },
};
