export const dayMs = 86_400_000;
export const hourMs = 3_600_000;
export const minuteMs = 60_000;

/** Calendar days, YYYY-MM-DD, both included. */
export function* daysBetween(first: string, last: string): Generator<string> {
  for (let time = Date.parse(first); time <= Date.parse(last); time += dayMs) yield dateOf(time);
}

/** The calendar day in UTC. */
export const dateOf = (time: number) => new Date(time).toISOString().slice(0, 10);
export const addDays = (date: string, days: number) => dateOf(Date.parse(date) + days * dayMs);
/** 0 is Sunday. */
export const weekday = (date: string) => new Date(Date.parse(date)).getUTCDay();

const formats = new Map<string, Intl.DateTimeFormat>();

function zoneOffset(time: number, timeZone: string): number {
  let format = formats.get(timeZone);
  if (!format) {
    format = new Intl.DateTimeFormat("en", { timeZone, timeZoneName: "longOffset", hour: "numeric" });
    formats.set(timeZone, format);
  }
  const name = format.formatToParts(time).find((part) => part.type === "timeZoneName")?.value ?? "GMT";
  const [, sign, hours, minutes] = /GMT([+-])(\d\d):(\d\d)/.exec(name) ?? [];
  const size = Number(hours ?? 0) * hourMs + Number(minutes ?? 0) * minuteMs;
  return sign === "-" ? -size : size;
}

/** Midnight of a calendar day in a time zone, as milliseconds since 1970. */
export function startOfLocalDay(date: string, timeZone: string): number {
  const guess = Date.parse(date);
  return guess - zoneOffset(guess - zoneOffset(guess, timeZone), timeZone);
}

/** Black Friday is the day after the fourth Thursday of November. */
function blackFriday(year: number): string {
  const first = weekday(`${year}-11-01`);
  return `${year}-11-${String(1 + ((4 - first + 7) % 7) + 22).padStart(2, "0")}`;
}

/** How many times as much as usual a shop in the United States sells on that day. */
export function americanSeason(date: string): number {
  const sinceBlackFriday = (Date.parse(date) - Date.parse(blackFriday(Number(date.slice(0, 4))))) / dayMs;
  if (sinceBlackFriday === 0) return 3.4;
  if (sinceBlackFriday === 3) return 2.9;
  if (sinceBlackFriday > 0 && sinceBlackFriday < 3) return 2.2;
  const monthDay = date.slice(5);
  if (monthDay === "12-25") return 0.4;
  if (monthDay >= "12-05" && monthDay <= "12-20") return 1.5;
  return monthDay >= "12-26" && monthDay <= "12-31" ? 1.15 : 1;
}

// The festival follows the moon; the published days, since no calendar in Node knows it.
const diwali = [
  "2024-11-01",
  "2025-10-20",
  "2026-11-08",
  "2027-10-29",
  "2028-10-17",
  "2029-11-05",
  "2030-10-26",
];

/** The same for restaurants in India: more and more people eat out in the days before Diwali. */
export function indianSeason(date: string): number {
  for (const festival of diwali) {
    const daysAfter = (Date.parse(date) - Date.parse(festival)) / dayMs;
    if (daysAfter >= -6 && daysAfter <= 0) return 1.5 + (6 + daysAfter) * 0.2;
    if (daysAfter > 0 && daysAfter <= 2) return 1.6;
  }
  return date.slice(5) === "12-31" ? 1.8 : 1;
}
