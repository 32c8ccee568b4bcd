import type { ZxcvbnFactory } from "@zxcvbn-ts/core";

/** The estimate's cost grows with the square of the length; what follows the first 100 characters does not make up for them. */
const EXAMINED = 100;

let loading: Promise<ZxcvbnFactory> | undefined;

/** Unpacking the dictionaries takes a quarter of a second of CPU: most programs never check a password. */
async function loadEstimator(): Promise<ZxcvbnFactory> {
  const [{ ZxcvbnFactory }, common, english] = await Promise.all([
    import("@zxcvbn-ts/core"),
    import("@zxcvbn-ts/language-common"),
    import("@zxcvbn-ts/language-en"),
  ]);
  return new ZxcvbnFactory({
    dictionary: { ...common.dictionary, ...english.dictionary },
    graphs: common.adjacencyGraphs,
    translations: english.translations,
    // Each is a search of its own: with the default of 100, a random password of 100 characters takes 1.2 s of CPU.
    l33tMaxSubstitutions: 8,
  });
}

/**
 * How hard a password is to guess: 0 (at once) to 4, with advice when it is easy. The least of how it is, without what only
 * separates, and with what is known as one letter each: to the estimate, a separator is as hard to guess as any character.
 * @param about words that count as known; so do their parts
 */
export async function estimateStrength(
  password: string,
  about: readonly string[],
): Promise<{ grade: number; advice: string }> {
  // What failed to load is loaded again by whoever asks next.
  loading ??= loadEstimator().catch((error: unknown) => {
    loading = undefined;
    throw error;
  });
  const estimator = await loading;
  const parts = about.map((text) => text.split(/[^\p{L}\p{N}]+/u));
  const joined = ["", "-", "_", ".", " "].flatMap((separator) => parts.map((words) => words.join(separator)));
  const known = [...about, ...parts.flat(), ...joined].filter((word) => word.length > 2);
  const examined = password.slice(0, EXAMINED);
  const withoutKnown = replaceKnown(examined, known);
  const forms = new Set([examined, withoutKnown]);
  if (hasSeparators(examined) || withoutKnown !== examined)
    for (const form of [examined, withoutKnown]) forms.add(form.replace(OTHERS, ""));
  let grade = 4;
  let advice = "";
  for (const form of forms) {
    const { score, feedback } = estimator.check(form, known);
    grade = Math.min(grade, score);
    advice ||= [feedback.warning, ...feedback.suggestions].filter(Boolean).join(" ");
  }
  return { grade, advice };
}

const OTHERS = /[^\p{L}\p{M}\p{N}]+/gu;

/** What is no letter or digit separates words where there are words, or where it is of a kind or two; otherwise it is random. */
function hasSeparators(text: string): boolean {
  const runs = text.match(OTHERS) ?? [];
  const words = text.split(OTHERS).filter(Boolean);
  const areWords = words.join("").length >= 3 * words.length && runs.every((run) => new Set(run).size === 1);
  return areWords || new Set(runs.join("")).size <= 2;
}

/** The longest first: "acme" is in "acmeretail". */
function replaceKnown(text: string, known: readonly string[]): string {
  if (known.length === 0) return text;
  const words = known
    .toSorted((one, other) => other.length - one.length)
    .map((word) => word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  return text.replace(new RegExp(words.join("|"), "giu"), "a");
}
