import { z } from "zod";
import { ApiError } from "../graphql/errors.ts";

const plain = z.record(z.string(), z.unknown());
export type Problem = { path: PropertyKey[]; says: string; unknown: boolean };
type Fitted<Value> = { problems: Problem[]; value: Value | undefined };

const UNKNOWN = "is not known here";

/** What does not fit a schema; the parsed value where all does. A key that the schema drops does not fit either. */
export function misfits<Value>(schema: z.ZodType<Value>, given: unknown): Fitted<Value> {
  const parsed = schema.safeParse(given);
  if (parsed.success) {
    const dropped = droppedKeys(given, parsed.data);
    return { problems: dropped.map(unknownKey), value: parsed.data };
  }
  const known = keysOf(schema);
  const unknown = known.size === 0 ? [] : Object.keys(plain.parse(given)).filter((key) => !known.has(key));
  const problems = parsed.error.issues.flatMap((issue) => problemsOf(issue, []));
  return { problems: [...problems, ...unknown.map((key) => unknownKey([key]))], value: undefined };
}

/** The fields of a schema that is an object; none of another. */
export const keysOf = (schema: z.ZodType): Set<string> =>
  new Set(schema instanceof z.ZodObject ? Object.keys(schema.shape) : []);

/** INVALID_INPUT that names every place: `config.locationIds[0]: ...`. */
export function refuseMisfit(root: string, problems: readonly Pick<Problem, "path" | "says">[]): void {
  if (problems.length === 0) return;
  const places = problems.map(({ path }) => placeOf(root, path));
  throw new ApiError(
    "INVALID_INPUT",
    problems.map(({ says }, index) => `${places[index]}: ${says.replace(/\.$/, "")}.`).join(" "),
    { reason: "misfit", field: places[0], fields: [...new Set(places)] },
  );
}

const placeOf = (root: string, path: readonly PropertyKey[]): string =>
  path.reduce<string>(
    (place, key) => (typeof key === "number" ? `${place}[${key}]` : `${place}.${String(key)}`),
    root,
  );

function problemsOf(issue: z.core.$ZodIssue, before: PropertyKey[]): Problem[] {
  const path = [...before, ...issue.path];
  // Those of the settings themselves are told by misfits, whatever the schema says of them.
  if (issue.code === "unrecognized_keys")
    return path.length === 0 ? [] : issue.keys.map((key) => unknownKey([...path, key]));
  // Of several forms, the one that fits best is meant.
  const [best] = issue.code === "invalid_union" ? issue.errors.toSorted((a, b) => sizeOf(a) - sizeOf(b)) : [];
  if (best && best.length > 0) return best.flatMap((one) => problemsOf(one, path));
  return [{ path, says: issue.message, unknown: false }];
}
const sizeOf = (issues: readonly z.core.$ZodIssue[]) =>
  issues.reduce((size, issue) => size + (issue.code === "unrecognized_keys" ? 1 + issue.keys.length : 1), 0);
const unknownKey = (path: PropertyKey[]): Problem => ({ path, says: UNKNOWN, unknown: true });

/** Keys of objects that are given and do not come back. */
function droppedKeys(given: unknown, parsed: unknown, path: PropertyKey[] = []): PropertyKey[][] {
  if (Array.isArray(given) && Array.isArray(parsed))
    return given.flatMap((item, index) => droppedKeys(item, parsed[index], [...path, index]));
  const from = plain.safeParse(given);
  const to = plain.safeParse(parsed);
  if (!from.success || !to.success || Array.isArray(given)) return [];
  return Object.entries(from.data).flatMap(([key, value]) =>
    Object.hasOwn(to.data, key) ? droppedKeys(value, to.data[key], [...path, key]) : [[...path, key]],
  );
}
