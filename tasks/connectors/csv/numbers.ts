/** How whole numbers are written: in groups of three digits; with commas, also as in India, of two before the last three. */
const shapeOf = (separators: string) =>
  new RegExp(
    `^(?:\\d+|\\d{1,3}(?:([${separators}])\\d{3})(?:\\1\\d{3})*${separators.includes(",") ? "|\\d{1,2}(?:,\\d{2})+,\\d{3}" : ""})$`,
  );
const BLANKS_AND_APOSTROPHES = " \u00a0\u202f'\u2019";
const shapes = { ".": shapeOf(`,${BLANKS_AND_APOSTROPHES}`), ",": shapeOf(`.${BLANKS_AND_APOSTROPHES}`) };

/**
 * The exact decimal that a cell says: "-1234.56" for "(1.234,56)" with a decimal comma. Undefined when it is no number, or one
 * that lost digits before it came here, such as 1,2E+05.
 */
export function readDecimal(text: string, separator: "." | ","): string | undefined {
  let rest = text.trim();
  let isNegative = false;
  const parentheses = /^\((.*)\)$/.exec(rest);
  if (parentheses) rest = parentheses[1] ?? "";
  const leading = /^[+\-−]\s?/.exec(rest);
  const trailing = leading ? null : /\s?[+\-−]$/.exec(rest);
  if (parentheses && (leading || trailing)) return undefined;
  if (parentheses || /[-−]/.test((leading ?? trailing)?.[0] ?? "")) isNegative = true;
  if (leading) rest = rest.slice(leading[0].length);
  if (trailing) rest = rest.slice(0, -trailing[0].length);

  const [whole = "", fraction, ...more] = rest.split(separator);
  if (more.length > 0 || (fraction !== undefined && !/^\d+$/.test(fraction))) return undefined;
  if (whole === "" ? fraction === undefined : !shapes[separator].test(whole)) return undefined;
  const digits = whole.replaceAll(/\D/g, "").replace(/^0+(?=\d)/, "") || "0";
  const isZero = /^0*$/.test(digits + (fraction ?? ""));
  return `${isNegative && !isZero ? "-" : ""}${digits}${fraction === undefined ? "" : `.${fraction}`}`;
}
