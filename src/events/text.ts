/** Deeper JSON is refused: PostgreSQL's parser and ours would run out of stack sooner or later. */
export const MAX_DEPTH = 32;
const MAX_NUMBER_LENGTH = 64;
const MAX_EXPONENT = 100;
/** Of a whole event, about: a few times what its fields may have. PostgreSQL would take a gigabyte to parse 5 MiB of {}. */
const MAX_SIZE = 65_536;

/** What is wrong with a value, with a JSON pointer to it. */
export type Flaw = {
  reason: "not_storable" | "too_deep" | "too_large" | "number_too_long" | "inexact_number";
  pointer: string;
  detail: string;
};
export type Parsed = { value: unknown; isPlain: boolean; isLossy: boolean };

declare global {
  interface JSON {
    /** ECMAScript's proposal-json-parse-with-source, which Node 24 has. */
    rawJSON(text: string): { rawJSON: string };
    isRawJSON(value: unknown): value is { rawJSON: string };
    parse(
      text: string,
      reviver: (this: unknown, key: string, value: unknown, context: { source?: string }) => unknown,
    ): unknown;
  }
}

/** Numbers that a double may not hold to the last digit; digits of a text are taken for one, which costs time only. */
const LONG_NUMBER = /[\d.]{16,}|\d[eE][+-]?\d/;
const ESCAPED_UNSTORABLE = /\\u(?:0000|d[89a-f])/i;

/**
 * Parses JSON without loss: a number that a double cannot hold stays as it was written.
 * Throws a SyntaxError. `isPlain`: nothing in it needs a closer look but its depth and size; `isLossy`: it is too deep to be
 * read with care, and its long numbers are not exact.
 */
export function parseJson(text: string): Parsed {
  const isPlain = !ESCAPED_UNSTORABLE.test(text);
  if (!LONG_NUMBER.test(text)) return { value: JSON.parse(text), isPlain, isLossy: false };
  try {
    const value = JSON.parse(text, (_key, parsed, { source }) =>
      typeof parsed === "number" && source !== undefined && String(parsed) !== source
        ? JSON.rawJSON(source)
        : parsed,
    );
    return { value, isPlain: false, isLossy: false };
  } catch (error) {
    // A reviver is called by recursion; JSON.parse alone is not.
    if (!(error instanceof RangeError)) throw error;
    return { value: JSON.parse(text), isPlain: false, isLossy: true };
  }
}

/** The texts of the elements of a JSON array, which is sound. */
export function elementsOf(text: string): string[] {
  const elements: string[] = [];
  let [depth, start, inString] = [0, 0, false];
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if (inString) {
      if (character === "\\") at++;
      else if (character === '"') inString = false;
    } else if (character === '"') inString = true;
    else if (character === "[" || character === "{") {
      if (depth++ === 0) start = at + 1;
    } else if (character === "]" || character === "}" || (character === "," && depth === 1)) {
      if (character !== ",") depth--;
      if (depth === 0 || character === ",") elements.push(text.slice(start, at));
      if (character === ",") start = at + 1;
    }
  }
  return elements.length === 1 && elements[0]?.trim() === "" ? [] : elements;
}

type Look = { isPlain: boolean; isParsed: boolean; left: number };

/**
 * The first thing in a value that cannot be stored.
 * @param options.isPlain what parseJson said
 * @param options.isParsed its numbers are doubles already: what they were before is not known
 */
export const findFlaw = (value: unknown, { isPlain = false, isParsed = false } = {}) =>
  find(value, { isPlain, isParsed, left: MAX_SIZE }, 0);

function find(value: unknown, look: Look, depth: number): Flaw | undefined {
  look.left -= typeof value === "string" ? value.length + 3 : 4;
  if (look.left < 0) return flaw("too_large", TOO_LARGE);
  if (typeof value === "string")
    return look.isPlain || isStorable(value) ? undefined : flaw("not_storable", UNSTORABLE);
  if (typeof value === "number")
    return look.isParsed && !isExact(value) ? flaw("inexact_number", INEXACT) : undefined;
  if (typeof value !== "object" || value === null) return undefined;
  if (JSON.isRawJSON(value)) {
    look.left -= printedLength(value.rawJSON);
    return isReasonable(value.rawJSON) ? undefined : flaw("number_too_long", TOO_LONG);
  }
  if (depth === MAX_DEPTH) return flaw("too_deep", TOO_DEEP);
  for (const key in value) {
    look.left -= Array.isArray(value) ? 0 : key.length + 4;
    const found =
      !look.isPlain && !isStorable(key)
        ? flaw("not_storable", UNSTORABLE)
        : find((value as Record<string, unknown>)[key], look, depth + 1);
    // Where it became too much says nothing, but for the field.
    if (found?.reason === "too_large" && depth > 0) return found;
    if (found) return { ...found, pointer: `/${escaped(key)}${found.pointer}` };
  }
  return undefined;
}

const UNSTORABLE = "A text has NUL or half a character (a lone surrogate), which cannot be stored.";
export const TOO_DEEP = `JSON is nested at most ${MAX_DEPTH} levels deep here.`;
const TOO_LARGE = `An event has at most about ${MAX_SIZE.toLocaleString("en")} bytes.`;
const INEXACT =
  "GraphQL reads numbers as doubles, and this one would change: send it as text, or to POST /v1/events.";
const TOO_LONG = `A number has at most ${MAX_NUMBER_LENGTH} characters, and an exponent of at most ${MAX_EXPONENT}.`;
const flaw = (reason: Flaw["reason"], detail: string): Flaw => ({ reason, pointer: "", detail });
const isStorable = (text: string) => text.isWellFormed() && !text.includes("\0");
const isExact = (number: number) =>
  Number.isInteger(number) ? Number.isSafeInteger(number) : Number.isFinite(number);
const exponentOf = (number: string) => Math.abs(Number(/e(.*)$/i.exec(number)?.[1] ?? 0));
const printedLength = (number: string) => number.length + exponentOf(number);
const isReasonable = (number: string) =>
  number.length <= MAX_NUMBER_LENGTH && exponentOf(number) <= MAX_EXPONENT;
/** RFC 6901; what cannot be stored cannot be shown either. */
const escaped = (key: string) =>
  key.toWellFormed().replaceAll("\0", "\uFFFD").replaceAll("~", "~0").replaceAll("/", "~1").slice(0, 200);
