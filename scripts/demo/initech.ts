import type { EventInput } from "../../tasks/connectors/connector.ts";
import { addDays, hourMs, startOfLocalDay } from "./calendar.ts";
import { random } from "./random.ts";
import { hundredths } from "./sales.ts";

const countries = ["US", "US", "CA", "GB"] as const;

/** A trial of a few days, sent in over the API: some visits, some accounts, a first order or two. */
export function* initech(today: string): Generator<EventInput> {
  const source = "api:website";
  for (let day = -12; day < 0; day++) {
    const date = addDays(today, day);
    const rng = random(`initech:${date}`);
    const start = startOfLocalDay(date, "America/Chicago") + 9 * hourMs;
    const at = (hour: number) => new Date(Math.floor(start + (hour + rng.next()) * hourMs)).toISOString();
    const id = date.replaceAll("-", "");
    for (let index = 1; index <= 2; index++) {
      yield {
        eventType: "visit",
        eventName: "visit_started",
        timestamp: at(index),
        source,
        sourceId: `visit:${id}${index}`,
        properties: {
          channel: rng.pick(["search", "direct", "referral"]),
          device: rng.pick(["desktop", "mobile"]),
          country: rng.pick(countries),
          landingPath: "/",
        },
      };
    }
    const signup = {
      customerId: `c${id}`,
      channel: rng.pick(["search", "direct"]),
      country: rng.pick(countries),
    };
    yield {
      eventType: "signup",
      eventName: "signup_completed",
      timestamp: at(3),
      source,
      sourceId: `signup:${id}`,
      properties: signup,
    };
    if (day % 3 !== 0) continue;
    yield {
      eventType: "order",
      eventName: "order_completed",
      timestamp: at(4),
      value: hundredths(rng.pick([1900, 4900, 9900])),
      currency: "USD",
      source,
      sourceId: `order:${id}`,
      properties: { status: "completed", channel: "online", customerId: `c${id}`, lineCount: 1 },
    };
  }
}
