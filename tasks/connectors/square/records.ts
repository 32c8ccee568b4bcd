import { z } from "zod";
import { type EventInput, minorToDecimal, type UnparsableRecord } from "../connector.ts";
import type { TimeField } from "./window.ts";

/** Square's money: whole minor units, and the currency that says how many make one major unit. */
export const money = z
  .object({ amount: z.int(), currency: z.string().regex(/^[A-Z]{3}$/) })
  .transform(({ amount, currency }) => ({ amount: BigInt(amount), currency }));
type Money = z.output<typeof money>;

export const timestamp = z.iso.datetime({ offset: true });
export const id = z.string().min(1);

export const decimal = (amount: Money) => minorToDecimal(amount.amount, amount.currency);
/** For amounts that say nothing when they are absent or zero. */
export const decimalUnlessZero = (amount: Money | undefined) =>
  amount && amount.amount !== 0n ? decimal(amount) : undefined;

/** Maps what parses, and keeps the rest with the reason: one odd record must not stop a sync, nor vanish. */
export function mapRecords<Item extends Record<TimeField, string>>(
  records: unknown[],
  { shape, kind, toEvent }: { shape: z.ZodType<Item>; kind: string; toEvent: (item: Item) => EventInput },
  field: TimeField,
) {
  const events: EventInput[] = [];
  const unparsable: UnparsableRecord[] = [];
  const times: string[] = [];
  for (const record of records) {
    const parsed = shape.safeParse(record);
    if (parsed.success) {
      events.push(withoutUndefined(toEvent(parsed.data)));
      times.push(new Date(parsed.data[field]).toISOString());
    } else {
      const known = z.object({ id }).safeParse(record);
      const reason = z.prettifyError(parsed.error);
      const sourceId = known.success ? { sourceId: `${kind}:${known.data.id}` } : {};
      unparsable.push({ ...sourceId, reason, record });
    }
  }
  // Out of order, the last says nothing of what is still to come.
  const inOrder = times.every((time, index) => time >= (times[index - 1] ?? ""));
  return { events, unparsable, reached: inOrder ? times.at(-1) : undefined };
}

/** A backfill's range is half-open; Square's is not. */
export const withinRange = <Found extends { events: EventInput[] }>(found: Found, until?: Date): Found =>
  until === undefined
    ? found
    : {
        ...found,
        events: found.events.filter(({ timestamp }) => Date.parse(timestamp ?? "") < until.getTime()),
      };

/** A property that Square does not know is left out. */
function withoutUndefined(event: EventInput): EventInput {
  const known = Object.entries(event.properties ?? {}).filter(([, value]) => value !== undefined);
  return { ...event, properties: Object.fromEntries(known) };
}
