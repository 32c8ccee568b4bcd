import jsep from "jsep";
import { ApiError } from "../graphql/errors.ts";

/** A formula over measures and metrics: numbers, names, + - * / and parentheses. */
export type Formula =
  | { kind: "number"; text: string }
  | { kind: "name"; name: string }
  | { kind: "negative"; of: Formula }
  | { kind: "binary"; operator: "+" | "-" | "*" | "/"; left: Formula; right: Formula };

const MAX_LENGTH = 500;
const MAX_DEPTH = 30;

const refuse = (message: string) => new ApiError("INVALID_INPUT", message, { reason: "formula" });

export function parseFormula(text: string): Formula {
  if (text.length > MAX_LENGTH) throw refuse(`A formula has at most ${MAX_LENGTH} characters.`);
  let parsed: jsep.Expression;
  try {
    parsed = jsep(text);
  } catch (error) {
    throw refuse(`The formula "${text}" cannot be read: ${error instanceof Error ? error.message : error}.`);
  }
  return convert(parsed, text, 0);
}

/** The names that a formula uses. */
export function namesOf(formula: Formula): Set<string> {
  if (formula.kind === "name") return new Set([formula.name]);
  if (formula.kind === "negative") return namesOf(formula.of);
  if (formula.kind === "binary") return new Set([...namesOf(formula.left), ...namesOf(formula.right)]);
  return new Set();
}

function convert(node: jsep.Expression, text: string, depth: number): Formula {
  if (depth > MAX_DEPTH) throw refuse(`The formula "${text}" is nested too deeply.`);
  const below = (child: unknown) => {
    if (!isExpression(child)) throw refuse(`The formula "${text}" is not complete.`);
    return convert(child, text, depth + 1);
  };
  if (node.type === "Literal" && typeof node.value === "number" && Number.isFinite(node.value)) {
    const raw = String(node.raw);
    if (!/^\d{1,30}(\.\d{1,30})?$/.test(raw)) throw refuse(`"${raw}" in a formula must be a plain number.`);
    return { kind: "number", text: raw };
  }
  if (node.type === "Identifier") return { kind: "name", name: String(node.name) };
  if (node.type === "UnaryExpression" && node.operator === "-")
    return { kind: "negative", of: below(node.argument) };
  if (node.type === "BinaryExpression") {
    const { operator } = node;
    if (operator === "+" || operator === "-" || operator === "*" || operator === "/")
      return { kind: "binary", operator, left: below(node.left), right: below(node.right) };
  }
  throw refuse(`The formula "${text}" may have numbers, names, + - * / and parentheses, and nothing else.`);
}

function isExpression(value: unknown): value is jsep.Expression {
  return typeof value === "object" && value !== null && "type" in value;
}
