import { type DocumentNode, type FragmentDefinitionNode, Kind, parse, type SelectionSetNode } from "graphql";
import { SafeError } from "postgraphile/grafast";

const MAX_TOKENS = 5_000;
const MAX_ROOT_FIELDS = 30;
/** Of one level below: each is repeated for every row. */
const MAX_FIELDS = 60;
const MAX_DEPTH = 14;

/**
 * Refuses a document that would keep the whole process busy while it is validated and planned: a thousand aliases take
 * nine seconds. Counting takes a millisecond. What does not parse is left to the parser, which says why.
 */
export function assertWithinLimits(source: string): void {
  let document: DocumentNode;
  try {
    document = parse(source, { maxTokens: MAX_TOKENS, noLocation: true });
  } catch (error) {
    if (error instanceof Error && error.message.includes("Document contains more that"))
      throw tooExpensive(`has more than ${MAX_TOKENS} tokens`);
    return;
  }
  const fragments = new Map<string, FragmentDefinitionNode>();
  for (const definition of document.definitions)
    if (definition.kind === Kind.FRAGMENT_DEFINITION) fragments.set(definition.name.value, definition);
  for (const definition of document.definitions) {
    if (definition.kind !== Kind.OPERATION_DEFINITION) continue;
    if (countFields(definition.selectionSet, fragments, 0, MAX_ROOT_FIELDS) > MAX_ROOT_FIELDS)
      throw tooExpensive(`has more than ${MAX_ROOT_FIELDS} fields at its root`);
    if (depthOf(definition.selectionSet, fragments, 1) > MAX_DEPTH)
      throw tooExpensive(`is more than ${MAX_DEPTH} levels deep`);
    if (isBroad(definition.selectionSet, fragments))
      throw tooExpensive(`has more than ${MAX_FIELDS} fields at one level`);
  }
}

const tooExpensive = (what: string) =>
  new SafeError(`This document ${what}. Ask in several requests.`, {
    statusCode: 400,
    code: "QUERY_TOO_EXPENSIVE",
  });

type Fragments = ReadonlyMap<string, FragmentDefinitionNode>;

/** Fields of one level, those of fragments included. A cycle of fragments counts as too many. */
function countFields(set: SelectionSetNode, fragments: Fragments, nesting: number, atMost: number): number {
  if (nesting > MAX_DEPTH) return Number.POSITIVE_INFINITY;
  let count = 0;
  for (const selection of set.selections) {
    if (count > atMost) return count;
    const inner = selection.kind === Kind.FIELD ? undefined : selectionSetOf(selection, fragments);
    count += inner ? countFields(inner, fragments, nesting + 1, atMost) : 1;
  }
  return count;
}

/** Whether any level has too many fields. For documents that are known not to be too deep. */
function isBroad(set: SelectionSetNode, fragments: Fragments): boolean {
  return set.selections.some((selection) => {
    const inner = selectionSetOf(selection, fragments);
    if (!inner) return false;
    return countFields(inner, fragments, 0, MAX_FIELDS) > MAX_FIELDS || isBroad(inner, fragments);
  });
}

/** Stops as soon as it is too deep, which also ends a cycle of fragments. */
function depthOf(set: SelectionSetNode, fragments: Fragments, depth: number): number {
  if (depth > MAX_DEPTH) return depth;
  let deepest = depth;
  for (const selection of set.selections) {
    const inner = selectionSetOf(selection, fragments);
    if (inner) deepest = Math.max(deepest, depthOf(inner, fragments, depth + 1));
    if (deepest > MAX_DEPTH) return deepest;
  }
  return deepest;
}

function selectionSetOf(selection: SelectionSetNode["selections"][number], fragments: Fragments) {
  return selection.kind === Kind.FRAGMENT_SPREAD
    ? fragments.get(selection.name.value)?.selectionSet
    : selection.selectionSet;
}
