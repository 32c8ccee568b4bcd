import { z } from "zod";
import { type Pause, ProviderError } from "../connector.ts";
import { callMeta } from "./api.ts";
import { accountIdsOf, type MetaCall } from "./settings.ts";

const account = z.object({
  name: z.string().optional(),
  timezone_name: z.string(),
  currency: z.string(),
});

export async function readAccount(
  call: MetaCall,
  accountId: string,
): Promise<{ name: string; timeZone: string; pauses: Pause[] }> {
  const { answer, pauses } = await callMeta(
    call,
    { path: `act_${accountId}`, params: { fields: "name,timezone_name,currency" }, accountId },
    account,
  );
  const timeZone = answer.timezone_name;
  if (!isTimeZone(timeZone))
    throw new ProviderError(
      "permanent",
      `The ad account ${accountId} has the time zone "${timeZone}", which is not known here.`,
    );
  return { name: answer.name ?? `act_${accountId}`, timeZone, pauses };
}

/** Every account's name, which the token must be able to read. */
export async function testMeta(call: MetaCall): Promise<{ account: string }> {
  const names: string[] = [];
  for (const accountId of accountIdsOf(call.config)) names.push((await readAccount(call, accountId)).name);
  return { account: names.join(", ") };
}

function isTimeZone(name: string): boolean {
  try {
    return new Intl.DateTimeFormat("en", { timeZone: name }).resolvedOptions().timeZone !== "";
  } catch {
    return false;
  }
}
