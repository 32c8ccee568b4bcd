/** Deeper JSON is refused: PostgreSQL's parser and ours would run out of stack sooner or later. */
export const MAX_DEPTH = 32;
const MAX_NUMBER_LENGTH = 64;
const MAX_EXPONENT = 100;

/** What is wrong with a value, with a JSON pointer to it. */
export type Flaw = {
  reason: "not_storable" | "too_deep" | "number_too_long";
  pointer: string;
  detail: string;
};
export type Parsed = { value: unknown; isPlain: boolean };

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
 * Throws a SyntaxError. `isPlain`: nothing in it needs a closer look but its depth.
 */
export function parseJson(text: string): Parsed {
  const isPlain = !ESCAPED_UNSTORABLE.test(text);
  if (!LONG_NUMBER.test(text)) return { value: JSON.parse(text), isPlain };
  const value = JSON.parse(text, (_key, parsed, { source }) =>
    typeof parsed === "number" && source !== undefined && String(parsed) !== source
      ? JSON.rawJSON(source)
      : parsed,
  );
  return { value, isPlain: false };
}

/** The first thing in a value that cannot be stored. */
export function findFlaw(value: unknown, isPlain = false, depth = 0): Flaw | undefined {
  if (typeof value === "string")
    return isPlain || isStorable(value) ? undefined : flaw("not_storable", UNSTORABLE);
  if (typeof value !== "object" || value === null) return undefined;
  if (JSON.isRawJSON(value))
    return isReasonable(value.rawJSON) ? undefined : flaw("number_too_long", TOO_LONG);
  if (depth === MAX_DEPTH) return flaw("too_deep", `JSON is nested at most ${MAX_DEPTH} levels deep here.`);
  for (const key in value) {
    const found =
      !isPlain && !isStorable(key)
        ? flaw("not_storable", UNSTORABLE)
        : findFlaw((value as Record<string, unknown>)[key], isPlain, depth + 1);
    if (found) return { ...found, pointer: `/${escaped(key)}${found.pointer}` };
  }
  return undefined;
}

const UNSTORABLE = "A text has NUL or half a character (a lone surrogate), which cannot be stored.";
const TOO_LONG = `A number has at most ${MAX_NUMBER_LENGTH} characters, and an exponent of at most ${MAX_EXPONENT}.`;
const flaw = (reason: Flaw["reason"], detail: string): Flaw => ({ reason, pointer: "", detail });
const isStorable = (text: string) => text.isWellFormed() && !text.includes("\0");
const isReasonable = (number: string) =>
  number.length <= MAX_NUMBER_LENGTH && Math.abs(Number(/e(.*)$/i.exec(number)?.[1] ?? 0)) <= MAX_EXPONENT;
/** RFC 6901; what cannot be stored cannot be shown either. */
const escaped = (key: string) =>
  key.toWellFormed().replaceAll("\0", "\uFFFD").replaceAll("~", "~0").replaceAll("/", "~1").slice(0, 200);
