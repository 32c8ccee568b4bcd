import { z } from "zod";

/** What the engine itself reads from an integration's `config`, whatever its connector. */
export const engineSettings = z.object({
  syncIntervalMinutes: z
    .int()
    .min(1)
    .max(999_999)
    .default(60)
    .meta({ title: "Minutes between syncs", description: "How often a sync starts by itself." }),
});
export const engineKeys = Object.keys(engineSettings.shape);
