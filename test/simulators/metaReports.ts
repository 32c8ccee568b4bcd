import type { MetaAccount, Restatements } from "./metaData.ts";
import type { MetaFault } from "./metaFaults.ts";
import { type InsightsQuery, metaErrors } from "./metaProtocol.ts";

type Order = {
  query: InsightsQuery;
  scope: { account: MetaAccount; campaign?: string };
  /** The figures as they were when it was ordered. */
  restatements: Restatements;
};
type Report = Order & {
  id: string;
  polls: number;
  fate: "good" | "failed" | "skipped" | "stuck";
  error?: object;
};

/** The last states before it is done, in their order: 100 % comes before that. */
const states = [
  ["Job Not Started", 0],
  ["Job Started", 0],
  ["Job Running", 40],
  ["Job Running", 80],
  ["Job Running", 100],
] as const;

export function makeReports(polls: number) {
  const reports = new Map<string, Report>();
  // Ids of a run of this server are of no other run.
  let made = Date.now();

  return {
    find: (id: string) => reports.get(id),
    start(order: Order) {
      const id = `602${++made}`;
      reports.set(id, { ...order, restatements: new Map(order.restatements), id, polls: 0, fate: "good" });
      return { report_run_id: id };
    },
    poll(report: Report, fault: MetaFault | undefined) {
      if (fault?.kind === "reportFailed") {
        report.fate = "failed";
        const { body } = metaErrors[fault.reportError ?? "reportFailed"];
        const { code, message } = body;
        const subcode = "error_subcode" in body ? { error_subcode: body.error_subcode } : {};
        report.error = { error_code: code, error_message: message, ...subcode };
      }
      if (fault?.kind === "reportSkipped") report.fate = "skipped";
      if (fault?.kind === "reportStuck") report.fate = "stuck";
      if (fault?.kind === "reportExpired") reports.delete(report.id);
      const common = { id: report.id, account_id: report.scope.account.id };
      const state = (async_status: string, async_percent_completion: number) => ({
        ...common,
        async_status,
        async_percent_completion,
      });
      if (report.fate === "failed") return { ...state("Job Failed", 30), ...report.error };
      if (report.fate === "skipped") return state("Job Skipped", 0);
      if (report.fate === "stuck") return state("Job Running", 99);
      const before = states[states.length - polls + report.polls++];
      return before ? state(before[0], before[1]) : state("Job Completed", 100);
    },
  };
}
