import { expect, it } from "@jest/globals";
import { tryMatrix } from "./faults/matrix.ts";

it("ends with the provider's rows, whatever happens on the way", async () => {
  const { outcomes, failures } = await tryMatrix();
  for (const { provider, fault, error } of failures) console.error(`${provider}, ${fault}: ${error}`);
  console.log(
    outcomes
      .map(({ fault, response, rows }) => `${fault}: ${response} (${rows})`)
      .sort()
      .join("\n"),
  );
  expect(failures).toEqual([]);
}, 240_000);
