import { readFile } from "node:fs/promises";
import { expect, it } from "@jest/globals";
import { DOCUMENT, printMatrix, UPDATE_COMMAND } from "./faults/document.ts";
import { providers, tryMatrix } from "./faults/matrix.ts";

it("ends with the provider's rows, whatever happens on the way; docs/faults.md says what does", async () => {
  const { outcomes, failures } = await tryMatrix();
  expect(failures.map(({ provider, fault, error }) => `${provider}, ${fault}: ${error}`)).toEqual([]);
  const document = await readFile(DOCUMENT, "utf8");
  const printed = printMatrix(providers, outcomes);
  if (printed !== document)
    console.error(`docs/faults.md is not what syncs do: ${UPDATE_COMMAND} rewrites it.`);
  expect(printed).toBe(document);
}, 240_000);
