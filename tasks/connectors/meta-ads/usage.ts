import { z } from "zod";
import type { Pause } from "../connector.ts";
import { accountScope, appScope } from "./settings.ts";

const percent = z.number().catch(0);
const counts = { call_count: percent, total_cputime: percent, total_time: percent };
const businessUsage = z.record(
  z.string(),
  z.array(z.object({ ...counts, estimated_time_to_regain_access: percent })),
);
const appUsage = z.object(counts);
const accountUsage = z.object({ acc_id_util_pct: percent, reset_time_duration: percent });
const insightsUsage = z.object({ app_id_util_pct: percent, acc_id_util_pct: percent });

/** Blocked callers of the standard tier are let in again after a minute. */
const shortestPauseMs = 60_000;

type Usage = { scope: string; percent: number; waitMs: number };
type Place = { accountId: string; appId: string };

/** What the headers of an answer say about the limits that the call counted against. */
function readUsage(headers: Headers, { accountId, appId }: Place): Usage[] {
  const account = accountScope(accountId);
  const app = appScope(appId);
  const highest = (usage: z.output<typeof appUsage>) =>
    Math.max(usage.call_count, usage.total_cputime, usage.total_time);
  const usages: Usage[] = [];
  const business = read(headers, "x-business-use-case-usage", businessUsage);
  for (const usage of Object.values(business ?? {}).flat())
    usages.push({
      scope: account,
      percent: highest(usage),
      waitMs: usage.estimated_time_to_regain_access * 60_000,
    });
  const ofApp = read(headers, "x-app-usage", appUsage);
  if (ofApp) usages.push({ scope: app, percent: highest(ofApp), waitMs: 0 });
  const ofAccount = read(headers, "x-ad-account-usage", accountUsage);
  if (ofAccount)
    usages.push({
      scope: account,
      percent: ofAccount.acc_id_util_pct,
      waitMs: ofAccount.reset_time_duration * 1000,
    });
  const insights = read(headers, "x-fb-ads-insights-throttle", insightsUsage);
  if (insights) {
    usages.push({ scope: app, percent: insights.app_id_util_pct, waitMs: 0 });
    usages.push({ scope: account, percent: insights.acc_id_util_pct, waitMs: 0 });
  }
  return usages;
}

/** One pause per limit that is used up to the threshold, as long as the headers ask, and a minute at least. */
export function pausesOf(headers: Headers, place: Place, threshold: number): Pause[] {
  const pauses = new Map<string, Pause>();
  for (const usage of readUsage(headers, place)) {
    if (usage.percent < threshold) continue;
    const milliseconds = Math.max(usage.waitMs, shortestPauseMs, pauses.get(usage.scope)?.milliseconds ?? 0);
    const reason = `Meta says that ${usage.percent} % of the limit are used.`;
    pauses.set(usage.scope, { scope: usage.scope, milliseconds, reason });
  }
  return [...pauses.values()];
}

/** How long the headers of a refusal ask to wait; undefined when they do not say. */
export function waitOf(headers: Headers, place: Place, scope: string): number | undefined {
  const waits = readUsage(headers, place).flatMap((usage) => (usage.scope === scope ? [usage.waitMs] : []));
  const retryAfter = Number(headers.get("retry-after") ?? 0) * 1000;
  const longest = Math.max(0, ...waits, Number.isFinite(retryAfter) ? retryAfter : 0);
  return longest > 0 ? longest : undefined;
}

/** A header that cannot be read is none: it only advises. */
function read<Shape>(headers: Headers, name: string, shape: z.ZodType<Shape>): Shape | undefined {
  try {
    return shape.safeParse(JSON.parse(headers.get(name) ?? "null")).data;
  } catch {
    return undefined;
  }
}
