/**
 * What plain SQL answers, by the question: a row for each of `rows`, in the order of their fields; and one row for the
 * numbers beside them. It reads analytics_events and nothing else, and the test runs it as somebody who may do no more.
 * $1 is the tenant.
 */
export type PlainAnswers = Record<string, { rows: string; rest?: string }>;

const eventsIn = (zone: string) =>
  `with e as (select *, "timestamp" at time zone '${zone}' as local from analytics_events where tenant_id = $1)`;
/** The tenant's events, each with the local time. */
export const newYork = eventsIn("America/New_York");
export const kolkata = eventsIn("Asia/Kolkata");
export const berlin = eventsIn("Europe/Berlin");
