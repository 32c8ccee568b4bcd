const dayMs = 86_400_000;

/** Calendar days, YYYY-MM-DD. */
export const addDays = (date: string, days: number) =>
  new Date(Date.parse(date) + days * dayMs).toISOString().slice(0, 10);
export const daysFrom = (first: string, second: string) =>
  Math.round((Date.parse(second) - Date.parse(first)) / dayMs);
export const later = (a: string, b: string) => (a > b ? a : b);
export const earlier = (a: string, b: string) => (a < b ? a : b);

/** The first day of which Meta still has figures. */
export function firstKeptDay(today: string): string {
  const start = new Date(today);
  start.setUTCMonth(start.getUTCMonth() - 37);
  return addDays(start.toISOString().slice(0, 10), 1);
}

const formats = new Map<string, Intl.DateTimeFormat>();

/** The wall clock's reading in a zone, as if it were UTC. */
function wallClock(time: number, timeZone: string): number {
  let format = formats.get(timeZone);
  if (!format) {
    format = new Intl.DateTimeFormat("en", {
      timeZone,
      calendar: "gregory",
      hourCycle: "h23",
      year: "numeric",
      month: "numeric",
      day: "numeric",
      hour: "numeric",
      minute: "numeric",
      second: "numeric",
    });
    formats.set(timeZone, format);
  }
  const part = Object.fromEntries(format.formatToParts(time).map(({ type, value }) => [type, Number(value)]));
  const { year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0 } = part;
  return Date.UTC(year, month - 1, day, hour, minute, second);
}

/** The calendar day in a time zone. */
export const dateIn = (time: number, timeZone: string) =>
  new Date(wallClock(time, timeZone)).toISOString().slice(0, 10);

/** The first instant of a calendar day in a time zone, also where clocks change at midnight. */
export function startOfDay(date: string, timeZone: string): number {
  const midnight = Date.parse(date);
  const offsets = [-dayMs, dayMs].map((apart) => wallClock(midnight + apart, timeZone) - midnight - apart);
  const candidates = offsets.map((offset) => midnight - offset).sort((a, b) => a - b);
  const first = candidates.find((time) => dateIn(time, timeZone) === date);
  return first ?? candidates[0] ?? midnight;
}
