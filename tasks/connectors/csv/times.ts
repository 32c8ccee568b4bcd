import { Temporal } from "temporal-polyfill";
import { makeFormat, type Written } from "./formats.ts";

/** The moment of a cell, RFC 3339 in UTC; or why there is none. */
export type TimeReader = (text: string) => { time: string } | { problem: string };

export function makeTimeReader(format: string, timeZone: string | undefined): TimeReader {
  const read = makeFormat(format);
  const offsetIn = timeZone === undefined ? undefined : makeOffsets(timeZone);
  return (text) => {
    const written = read(text);
    if (!written) return { problem: `${quoted(text)} is no time of the format ${format}.` };
    const offset = written.offset === undefined ? offsetIn?.(written) : written.offset * 60_000;
    if (offset === undefined)
      return { problem: `${quoted(text)} does not say its offset, and the mapping names no time zone.` };
    const seconds = new Date(wall(written) - offset).toISOString().slice(0, 19);
    // PostgreSQL keeps microseconds, and would round up.
    const fraction = written.fraction.slice(0, 6).replace(/0+$/, "");
    return { time: `${seconds}${fraction ? `.${fraction}` : ""}Z` };
  };
}

/** The calendar day of a cell, whatever its time. */
export function makeDateReader(format: string) {
  const read = makeFormat(format);
  return (text: string): string | undefined => {
    const written = read(text);
    return written && new Date(wall(written)).toISOString().slice(0, 10);
  };
}

export const quoted = (text: string) => `"${text.length > 60 ? `${text.slice(0, 60)}…` : text}"`;

const wall = ({ year, month, day, hour, minute, second }: Written) =>
  Date.UTC(year, month - 1, day, hour, minute, second);

const HOUR = 3_600_000;

/**
 * The offset of a wall time in a zone, in milliseconds. When clocks go back, an hour comes twice: the first is meant. When they
 * go forward, one is left out: a time in it is as if they had not, as RFC 5545 and Temporal have it.
 */
function makeOffsets(timeZone: string): (written: Written) => number {
  // Files have many times in few hours.
  const known = new Map<number, number | undefined>();
  const exact = (at: number) => {
    const text = new Date(at).toISOString().slice(0, 19);
    const zoned = Temporal.PlainDateTime.from(text).toZonedDateTime(timeZone, {
      disambiguation: "compatible",
    });
    return at - zoned.epochMilliseconds;
  };
  return (written) => {
    const at = wall(written);
    const hour = Math.floor(at / HOUR);
    if (!known.has(hour)) {
      if (known.size > 10_000) known.clear();
      const first = exact(hour * HOUR);
      known.set(hour, first === exact(hour * HOUR + HOUR - 1000) ? first : undefined);
    }
    return known.get(hour) ?? exact(at);
  };
}
