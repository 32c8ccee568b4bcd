import { resolve } from "node:path";
import { paths } from "../../src/paths.ts";

export const DOCUMENT = resolve(paths.root, "docs/questions.md");
export const UPDATE_COMMAND = "npm run questions:update";

/** A question of docs/questions.md. */
export type Question = { number: number; title: string; tenant: string; request: string; answer: string };

const heading = /^### (\d+)\. (.+)$/;
const blocks =
  /^### (\d+)\. (.+)\n(?:(?!#|```).*\n)*```graphql\n(# viewer@(\w+)\.test\n[^`]+)\n```\n\n```json\n([^`]*)```\n/gm;

/** Throws where a heading has no request and answer of the expected form. */
export function readQuestions(document: string): Question[] {
  const found = [...document.matchAll(blocks)].map(
    ([, number, title = "", request = "", tenant = "", answer = ""]) => ({
      number: Number(number),
      title,
      tenant,
      request,
      answer: answer.trimEnd(),
    }),
  );
  const titles = document.split("\n").flatMap((line) => heading.exec(line)?.[2] ?? []);
  const odd = titles.find((title, index) => found[index]?.title !== title);
  if (odd !== undefined) throw new Error(`"${odd}" lacks a request, who asks it, or a place for its answer.`);
  return found;
}

/** The document with these answers, by the numbers of their questions. */
export const withAnswers = (document: string, answers: ReadonlyMap<number, string>): string =>
  document.replace(blocks, (block, number) =>
    block.replace(/```json\n[^`]*```\n$/, () => `\`\`\`json\n${answers.get(Number(number)) ?? ""}\n\`\`\`\n`),
  );

const WIDTH = 130;

/** JSON with what fits into a line in one. */
export function printAnswer(value: unknown, indent = ""): string {
  const line = printLine(value);
  if (typeof value !== "object" || value === null || indent.length + line.length <= WIDTH) return line;
  const deeper = `${indent}  `;
  const [open, close, entries] = Array.isArray(value)
    ? ["[", "]", value.map((one) => printAnswer(one, deeper))]
    : [
        "{",
        "}",
        Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${printAnswer(one, deeper)}`),
      ];
  return `${open}\n${entries.map((entry) => deeper + entry).join(",\n")}\n${indent}${close}`;
}

function printLine(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(printLine).join(", ")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  return `{${Object.entries(value)
    .map(([key, one]) => `${JSON.stringify(key)}: ${printLine(one)}`)
    .join(", ")}}`;
}
