import { z } from "zod";
import { ProviderError } from "../connector.ts";
import { callSquare, type SquareCall } from "./api.ts";

const answer = z.object({
  locations: z
    .array(z.object({ id: z.string(), name: z.string().optional(), business_name: z.string().optional() }))
    .default([]),
});

/** GET /v2/locations: the token is good, and the locations are its own. */
export async function testSquare(call: SquareCall): Promise<{ account: string }> {
  const { locations } = await callSquare(call, { method: "GET", path: "/v2/locations" }, answer);
  const known = new Map(locations.map((location) => [location.id, location]));
  const missing = call.config.locationIds.filter((id) => !known.has(id));
  if (missing.length > 0)
    throw new ProviderError("permanent", `The token's account has no location ${missing.join(", ")}.`);
  const first = known.get(call.config.locationIds[0] ?? "");
  return { account: first?.business_name ?? first?.name ?? "Square" };
}
