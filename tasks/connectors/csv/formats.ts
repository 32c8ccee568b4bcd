/** A moment as it is written down. `offset` in minutes; undefined where the text does not say. */
export type Written = {
  year: number;
  month: number;
  day: number;
  hour: number;
  minute: number;
  second: number;
  /** Of a second, 0 to 9 digits. */
  fraction: string;
  offset: number | undefined;
};
type Part = { pattern: string; read(text: string, into: Parts): void };
type Parts = Omit<Written, "fraction" | "offset"> & {
  fraction: string;
  offset: number | undefined;
  isAfternoon: boolean | undefined;
};

const number = (digits: string, field: "year" | "month" | "day" | "hour" | "minute" | "second"): Part => ({
  pattern: `(${digits})`,
  read: (text, into) => {
    into[field] = Number(text);
  },
});
const OFFSET = String.raw`(Z|[+-]\d\d(?::?\d\d)?)`;
const offset: Part = {
  pattern: OFFSET,
  read(text, into) {
    const [, sign, hours, minutes = "0"] = /^([+-])(\d\d):?(\d\d)?$/.exec(text) ?? [];
    into.offset = hours === undefined ? 0 : (sign === "-" ? -1 : 1) * (Number(hours) * 60 + Number(minutes));
  },
};
const tokens: Record<string, Part> = {
  yyyy: number(String.raw`\d{4}`, "year"),
  // 69 to 99 are of the last century, as POSIX has it.
  yy: {
    pattern: String.raw`(\d\d)`,
    read: (text, into) => {
      into.year = Number(text) + (Number(text) < 69 ? 2000 : 1900);
    },
  },
  MM: number(String.raw`\d\d`, "month"),
  M: number(String.raw`\d\d?`, "month"),
  dd: number(String.raw`\d\d`, "day"),
  d: number(String.raw`\d\d?`, "day"),
  HH: number(String.raw`\d\d`, "hour"),
  H: number(String.raw`\d\d?`, "hour"),
  hh: number(String.raw`\d\d`, "hour"),
  h: number(String.raw`\d\d?`, "hour"),
  mm: number(String.raw`\d\d`, "minute"),
  ss: number(String.raw`\d\d`, "second"),
  S: {
    pattern: String.raw`(\d{1,9})`,
    read: (text, into) => {
      into.fraction = text;
    },
  },
  a: {
    pattern: "([AaPp])\\.?[Mm]\\.?",
    read: (text, into) => {
      into.isAfternoon = text.toLowerCase() === "p";
    },
  },
  X: offset,
};
const TOKEN = /yyyy|yy|MM?|dd?|HH?|hh?|mm|ss|S+|a|X/g;
const ISO =
  /^(\d{4})-?(\d\d)-?(\d\d)(?:[T ](\d\d):?(\d\d)(?::?(\d\d)(?:[.,](\d{1,9}))?)?\s?(Z|[+-]\d\d(?::?\d\d)?)?)?$/i;

/** Of times in files. Undefined: the text is not of the format, or there is no such day or time. */
export type Format = (text: string) => Written | undefined;

/** Whether every time of the format says its offset. Of iso, each says it or not. */
export const hasOffset = (format: string) => /^unix(Ms)?$/.test(format) || tokensOf(format).includes("X");

/** Undefined for a format that can be read. */
export function flawOfFormat(format: string): string | undefined {
  if (/^(iso|unix|unixMs)$/.test(format)) return undefined;
  const found = tokensOf(format);
  const unknown = /[A-Za-z]/.exec(format.replaceAll(TOKEN, "").replaceAll(/'[^']*'|T/g, ""));
  if (unknown) return `A pattern has no letter "${unknown[0]}"; text of the file's own stands in '...'.`;
  const fields = found.map(fieldOf);
  const twice = fields.find((field, index) => fields.indexOf(field) !== index);
  if (twice) return `The pattern has the ${twice} twice.`;
  for (const field of ["year", "month", "day"])
    if (!fields.includes(field))
      return `The pattern has no ${field}: it needs yyyy, MM and dd, or shorter ones.`;
  if (/(^|[^H])h/.test(found.join(" ")) !== found.includes("a"))
    return "A pattern has h and a, or H without a.";
  return undefined;
}

const tokensOf = (format: string) =>
  [...format.replaceAll(/'[^']*'/g, "").matchAll(TOKEN)].map(([token]) => token);
function fieldOf(token: string): string {
  const fields: Record<string, string> = { y: "year", M: "month", d: "day", H: "hour", h: "hour" };
  return (
    fields[token[0] ?? ""] ??
    { m: "minute", s: "second", S: "fraction", a: "AM or PM", X: "offset" }[token[0] ?? ""] ??
    token
  );
}

export function makeFormat(format: string): Format {
  if (format === "iso") return readIso;
  if (format === "unix" || format === "unixMs") return (text) => readUnix(text, format === "unixMs");
  const parts: Part[] = [];
  const pattern = format
    .split(/('[^']*'|yyyy|yy|MM?|dd?|HH?|hh?|mm|ss|S+|a|X)/)
    .map((piece) => {
      const part = tokens[piece.startsWith("S") ? "S" : piece];
      if (!part) return escaped(piece.replaceAll("'", ""));
      parts.push(part);
      return part.pattern;
    })
    .join("");
  const whole = new RegExp(`^${pattern}$`);
  return (text) => {
    const found = whole.exec(text);
    if (!found) return undefined;
    const into = empty();
    for (const [index, part] of parts.entries()) part.read(found[index + 1] ?? "", into);
    const { isAfternoon, ...written } = into;
    if (isAfternoon === undefined) return checked(written);
    if (written.hour < 1 || written.hour > 12) return undefined;
    return checked({ ...written, hour: (written.hour % 12) + (isAfternoon ? 12 : 0) });
  };
}

const escaped = (text: string) => text.replaceAll(/[.*+?^${}()|[\]\\/-]/g, "\\$&");
const empty = (): Parts => ({
  ...{ year: 0, month: 1, day: 1, hour: 0, minute: 0, second: 0, fraction: "" },
  offset: undefined,
  isAfternoon: undefined,
});

function readIso(text: string): Written | undefined {
  const found = ISO.exec(text);
  if (!found) return undefined;
  const [, year, month, day, hour = "0", minute = "0", second = "0", fraction = "", zone] = found;
  const into = { ...empty(), fraction };
  if (zone) offset.read(zone.toUpperCase(), into);
  const { isAfternoon: _, ...others } = into;
  const numbers = { year: Number(year), month: Number(month), day: Number(day), hour: Number(hour) };
  return checked({ ...others, ...numbers, minute: Number(minute), second: Number(second) });
}

function readUnix(text: string, isMs: boolean): Written | undefined {
  const [, whole, fraction = ""] = /^(-?\d{1,14})(?:\.(\d{1,9}))?$/.exec(text) ?? [];
  if (whole === undefined || (isMs && fraction !== "")) return undefined;
  const date = new Date(isMs ? Number(whole) : Number(whole) * 1000);
  if (Number.isNaN(date.getTime()) || (whole.startsWith("-") && fraction !== "")) return undefined;
  const milliseconds = String(date.getUTCMilliseconds()).padStart(3, "0");
  return {
    year: date.getUTCFullYear(),
    month: date.getUTCMonth() + 1,
    day: date.getUTCDate(),
    hour: date.getUTCHours(),
    minute: date.getUTCMinutes(),
    second: date.getUTCSeconds(),
    fraction: isMs ? milliseconds : fraction,
    offset: 0,
  };
}

/** There is no 30 February, no 24:00, and no 60th second here. */
function checked(written: Written): Written | undefined {
  const { year, month, day, hour, minute, second, offset: minutes = 0 } = written;
  if (month < 1 || month > 12 || day < 1 || hour > 23 || minute > 59 || second > 59) return undefined;
  if (day > new Date(Date.UTC(year, month, 0)).getUTCDate() || year < 1000 || Math.abs(minutes) >= 16 * 60)
    return undefined;
  return written;
}
