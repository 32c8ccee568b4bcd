import { z } from "zod";
import type { Call, PageRequest } from "../connector.ts";

/** What a person chooses. Each field needs a title and a description: forms are made of them. Never secrets. */
export const exampleConfig = z.object({
  environment: z
    .enum(["production", "simulator"])
    .meta({ title: "Environment", description: "Example itself, or the operator's simulator." }),
  backfillDays: z
    .int()
    .min(1)
    .max(3650)
    .default(365)
    .meta({ title: "Past", description: "How many days back the first sync goes." }),
});
export type ExampleConfig = z.output<typeof exampleConfig>;

export const exampleCredentials = z.object({
  accessToken: z
    .string()
    .min(1)
    .max(2000)
    .meta({ title: "Access token", description: "From the settings of the account.", writeOnly: true }),
});
export type ExampleCredentials = z.output<typeof exampleCredentials>;

/** The provider's own, by environment. The simulator's is the operator's setting. */
export const exampleHosts = { production: "https://api.example.com" } as const;

export type ExampleCall = Call<ExampleConfig, ExampleCredentials>;
export type ExampleRequest<Checkpoint> = PageRequest<ExampleConfig, ExampleCredentials, Checkpoint>;
