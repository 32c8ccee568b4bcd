import { z } from "zod";
import type { EventInput, Page, UnparsableRecord } from "./connector.ts";

/** What analytics_events takes. */
const storableEvent = z.object({
  eventType: z.string().min(1).max(100),
  eventName: z.string().min(1).max(200),
  sourceId: z.string().max(500).optional(),
  sourceVersion: z
    .string()
    .regex(/^\d{1,18}$/, "is not a whole number")
    .optional(),
  timestamp: z.iso.datetime({ offset: true }).optional(),
  value: z
    .string()
    .regex(/^-?\d{1,29}(\.\d{1,30})?$/, "is not a decimal of at most 29 digits")
    .nullish(),
  currency: z
    .string()
    .regex(/^[A-Z]{3}$/, "is not an ISO 4217 code")
    .nullish(),
  properties: z.record(z.string(), z.unknown()).optional(),
});

/** A page as PostgreSQL can store it. One odd record must not stop a sync: it is kept aside, with the reason. */
export function storablePage(
  page: Pick<Page<unknown>, "events" | "unparsable">,
  source: string,
): { events: EventInput[]; unparsable: UnparsableRecord[] } {
  const events: EventInput[] = [];
  const unparsable: UnparsableRecord[] = [...page.unparsable];
  for (const event of page.events) {
    const { error } = storableEvent.safeParse(event);
    if (!error) events.push({ ...event, source });
    else {
      const reason = error.issues.map((issue) => `${issue.path.join(".")} ${issue.message}`).join("; ");
      unparsable.push({ reason, record: event, ...(event.sourceId ? { sourceId: event.sourceId } : {}) });
    }
  }
  return { events: storableText(events), unparsable: storableText(unparsable) };
}

/** PostgreSQL's text has no NUL and no lone surrogates: U+FFFD stands in, in keys too. */
export function storableText<Value>(value: Value): Value;
export function storableText(value: unknown): unknown {
  if (typeof value === "string") return value.toWellFormed().replaceAll("\0", "\uFFFD");
  if (Array.isArray(value)) return value.map((item) => storableText(item));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [storableText(key), storableText(item)]),
  );
}
