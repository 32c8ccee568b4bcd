import { daysFrom } from "./calendar.ts";
import type { Pass } from "./checkpoint.ts";
import { MetaError } from "./errors.ts";
import { stretchOf } from "./passes.ts";
import type { Level } from "./settings.ts";

const fewestRows = 10;
/** A stretch is begun that often, then not again for some minutes. */
const attempts = 3;
const restMs = 10 * 60_000;

/** How to go on after an error; undefined when there is no way but the engine's. */
export function remedyOf(error: MetaError, pass: Pass, level: Level, now: Date): Pass | undefined {
  switch (error.remedy) {
    case "split":
      return split(pass, level);
    case "report":
      return pass.byReport ? startAnew(pass, level, now) : { ...pass, ...fromStart, byReport: true };
    case "fewerRows":
      if (pass.limit > fewestRows)
        return { ...pass, limit: Math.max(fewestRows, Math.floor(pass.limit / 2)) };
      return pass.byReport ? undefined : { ...pass, ...fromStart, byReport: true };
    case "startAnew":
      return pass.after !== null || pass.report ? startAnew(pass, level, now) : undefined;
    default:
      return undefined;
  }
}

const fromStart = { after: null, report: null } as const;

/** Half the days; of a single day, one campaign after the other. */
function split(pass: Pass, level: Level): Pass | undefined {
  const { since, until } = stretchOf(pass);
  const days = daysFrom(since, until) + 1;
  if (days > 1) return { ...pass, ...fromStart, days: Math.floor(days / 2), failures: 0 };
  if (pass.campaigns || level === "accounts" || level === "campaigns") return undefined;
  return { ...pass, ...fromStart, campaigns: { ids: [], after: "" }, failures: 0 };
}

/** From the beginning of the stretch, with another cursor and another report; of fewer days when that has not helped. */
export function startAnew(pass: Pass, level: Level, now: Date): Pass {
  const failures = pass.failures + 1;
  const smaller = failures >= attempts ? split(pass, level) : undefined;
  return smaller ?? { ...pass, ...fromStart, failures, failedAt: now.toISOString() };
}

/** Refuses to begin a stretch that has failed several times just now. */
export function afterRest(pass: Pass, now: Date): Pass {
  if (pass.failures < attempts || !pass.failedAt) return pass;
  if (Date.parse(pass.failedAt) + restMs <= now.getTime()) return { ...pass, failures: 0, failedAt: null };
  const { since, until } = stretchOf(pass);
  throw new MetaError(
    "transient",
    `Meta failed ${attempts} times to report the days from ${since} to ${until}; it is asked again in some minutes.`,
  );
}
