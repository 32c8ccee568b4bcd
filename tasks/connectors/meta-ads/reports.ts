import { z } from "zod";
import type { Pause } from "../connector.ts";
import { callMeta } from "./api.ts";
import { accountIdOf, type Pass } from "./checkpoint.ts";
import { MetaError, metaError } from "./errors.ts";
import { accountScope, type MetaCall } from "./settings.ts";

/** Meta's reports take seconds to minutes; one that takes longer is stuck. */
const longestMs = 3_600_000;
/** A failed report that nobody has looked at for so long says nothing about the settings of today. */
const staleMs = 10 * 60_000;
const [pollAtLeastMs, pollAtMostMs] = [5_000, 30_000];

const started = z.object({
  report_run_id: z.union([z.string(), z.int().transform(String)]).pipe(z.string().regex(/^\d+$/)),
});
const state = z.object({
  async_status: z.string(),
  async_percent_completion: z.number().optional(),
  error_code: z.int().optional(),
  error_subcode: z.int().optional(),
  error_message: z.string().optional(),
  error_user_msg: z.string().optional(),
});

export async function startReport(
  call: MetaCall,
  pass: Pass,
  path: string,
  params: Record<string, string>,
): Promise<{ pass: Pass; pauses: Pause[] }> {
  const accountId = accountIdOf(pass);
  const { answer, pauses } = await callMeta(call, { method: "POST", path, params, accountId }, started);
  const report = { id: answer.report_run_id, startedAt: call.now.toISOString(), isReady: false };
  const reason = "Meta is making a report.";
  const pause = { scope: accountScope(accountId), milliseconds: pollAtLeastMs, reason };
  return { pass: { ...pass, report, after: null }, pauses: [pause, ...pauses] };
}

/** Returns once the report can be read; until then an error says when to ask again. */
export async function awaitReport(call: MetaCall, pass: Pass): Promise<Pass> {
  const { report } = pass;
  if (!report || report.isReady) return pass;
  const accountId = accountIdOf(pass);
  const { answer } = await callMeta(call, { path: report.id, accountId }, state);
  const ageMs = call.now.getTime() - Date.parse(report.startedAt);
  switch (answer.async_status) {
    // Not 100 %: that comes before the rows can be read.
    case "Job Completed":
      return { ...pass, report: { ...report, isReady: true } };
    case "Job Failed":
    case "Job Skipped":
      throw failure(call, accountId, answer, ageMs);
    default:
      if (ageMs > longestMs)
        throw new MetaError("transient", "Meta did not finish a report within an hour.", {
          remedy: "startAnew",
        });
      throw new MetaError(
        "throttled",
        `Meta is making a report (${answer.async_percent_completion ?? 0} %).`,
        {
          scope: accountScope(accountId),
          retryAfterMs: Math.min(Math.max(ageMs / 4, pollAtLeastMs), pollAtMostMs),
        },
      );
  }
}

function failure(call: MetaCall, accountId: string, answer: z.output<typeof state>, ageMs: number) {
  const error = metaError({
    status: 200,
    code: answer.error_code ?? -2,
    subcode: answer.error_subcode,
    message: answer.error_user_msg ?? answer.error_message ?? answer.async_status,
    wait: () => undefined,
    accountId,
    appId: call.credentials.appId,
  });
  if (error.remedy === "split") return error;
  const isFinal = error.kind === "permanent" || error.kind === "reauth";
  if (isFinal && ageMs < staleMs) return error;
  return new MetaError("transient", error.message, {
    remedy: "startAnew",
    ...(error.code ? { code: error.code } : {}),
  });
}
