import { ZxcvbnFactory } from "@zxcvbn-ts/core";
import * as common from "@zxcvbn-ts/language-common";
import * as english from "@zxcvbn-ts/language-en";

/** The estimate's cost grows with the square of the length; what follows the first 100 characters does not make up for them. */
const EXAMINED = 100;

let estimator: ZxcvbnFactory | undefined;

/**
 * How hard a password is to guess: 0 (at once) to 4, with advice when it is easy.
 * @param about words that count as known; so do their parts
 */
export function estimateStrength(
  password: string,
  about: readonly string[],
): { grade: number; advice: string } {
  estimator ??= new ZxcvbnFactory({
    dictionary: { ...common.dictionary, ...english.dictionary },
    graphs: common.adjacencyGraphs,
    translations: english.translations,
    // Each is a search of its own: with the default of 100, a random password of 100 characters takes 1.2 s of CPU.
    l33tMaxSubstitutions: 8,
  });
  const parts = about.map((text) => text.split(/[^\p{L}\p{N}]+/u));
  const joined = ["", "-", "_", ".", " "].flatMap((separator) => parts.map((words) => words.join(separator)));
  const known = [...about, ...parts.flat(), ...joined].filter((word) => word.length > 2);
  const { score, feedback } = estimator.check(password.slice(0, EXAMINED), known);
  const advice = [feedback.warning, ...feedback.suggestions].filter(Boolean).join(" ");
  return { grade: score, advice };
}
