import type { EventInput } from "../../tasks/connectors/connector.ts";
import { acme } from "./acme.ts";
import { dateOf, dayMs, daysBetween } from "./calendar.ts";
import { globex } from "./globex.ts";
import { initech } from "./initech.ts";

/** `integrations` are the ids of the integrations that the events seem to come from; other keys do no harm. */
export type DemoOptions = { now: Date } & (
  | { tenant: "acme"; integrations: { onlineShop: string; metaAds: string; [key: string]: string } }
  | { tenant: "globex"; integrations: { restaurants: string; metaAds: string; [key: string]: string } }
  | { tenant: "initech"; integrations?: { [key: string]: string } }
);

/**
 * Thirteen months of a tenant's life, oldest day first, up to the start of the current day in UTC: about 100,000 events
 * for the three together. The same day gives the same events, and a later day the same ids for what it shares.
 */
export function* demoEvents(options: DemoOptions): Generator<EventInput> {
  const today = dateOf(options.now.getTime());
  const end = `${today}T00:00:00.000Z`;
  if (options.tenant === "initech") return yield* upTo(end, initech(today));

  const eventsOfDay = options.tenant === "acme" ? acme(options.integrations) : globex(options.integrations);
  const first = new Date(end);
  first.setUTCMonth(first.getUTCMonth() - 13);
  const length = Date.parse(end) - first.getTime();
  // A local day of the last date may have begun before midnight in UTC.
  for (const date of daysBetween(dateOf(first.getTime()), today)) {
    const elapsed = (Date.parse(date) - first.getTime()) / length;
    yield* upTo(end, eventsOfDay(date, 0.78 + 0.44 * Math.min(1, elapsed)));
  }
}

function* upTo(end: string, events: Iterable<EventInput>): Generator<EventInput> {
  for (const event of events) if ((event.timestamp ?? "") < end && !isUnfinishedDay(event, end)) yield event;
}

/** The figures of an advertising day exist when it is over. */
function isUnfinishedDay(event: EventInput, end: string): boolean {
  return event.eventType === "ad_insight" && Date.parse(event.timestamp ?? "") + dayMs > Date.parse(end);
}
