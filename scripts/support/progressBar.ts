import { Presets, SingleBar } from "cli-progress";

/** A bar on stderr; where that is no terminal, a line every five seconds. */
export const progressBar = (format: string): SingleBar =>
  new SingleBar(
    { format, noTTYOutput: true, notTTYSchedule: 5_000, hideCursor: true },
    Presets.shades_classic,
  );
