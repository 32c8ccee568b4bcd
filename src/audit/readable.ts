import { canonicalMembers } from "./canonical.ts";

/** One key that was changed, by its path; null where there was, or is, none. Text as it is, the rest as JSON. */
export type Difference = { path: string; before: string | null; after: string | null };
/** Of a row of the log, what its sentence is made of. `changes`: as PostgreSQL prints it. */
export type Told = {
  action: string;
  actorKind: string;
  actorName: string | null;
  impersonatorName: string | null;
  resource: string;
  resourceId: string | null;
  changes: string;
};

/** The row says these, or nobody wants to know. */
const UNTOLD = new Set(["id", "tenant_id", "created_at", "updated_at"]);
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what a sentence must not have
const UNSEEN = /[\0-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
const LONGEST_VALUE = 80;
const MOST_DIFFERENCES = 6;

/** What changed, key by key. Of what is no change, what there is to know. Numbers as they are written: no double rounds them. */
export function differencesOf(changes: string): Difference[] {
  const members = canonicalMembers(changes);
  const [before, after] = [members.get("before"), members.get("after")];
  const isChange = [...members.keys()].every((name) => name === "before" || name === "after");
  const found = isChange ? compare("", before, after) : compare("", undefined, changes);
  // One secret took another's place: neither shows.
  return found.length > 0 ? found : secretsIn("", after);
}

function compare(path: string, before: string | undefined, after: string | undefined): Difference[] {
  if (before === after || (isNothing(before) && isNothing(after))) return [];
  const [old, now] = [membersOf(before), membersOf(after)];
  // An object that came, went or changed: each of its members by itself.
  if ((old?.size || now?.size) && (old || isNothing(before)) && (now || isNothing(after)))
    return [...new Set([...(old?.keys() ?? []), ...(now?.keys() ?? [])])].flatMap((name) =>
      compare(path === "" ? name : `${path}.${name}`, old?.get(name), now?.get(name)),
    );
  return [{ path, before: textOf(before), after: textOf(after) }];
}

function secretsIn(path: string, json: string | undefined): Difference[] {
  if (json === '"***"') return [{ path, before: "***", after: "***" }];
  return [...(membersOf(json) ?? [])].flatMap(([name, value]) =>
    secretsIn(path === "" ? name : `${path}.${name}`, value),
  );
}

const isNothing = (json: string | undefined) => json === undefined || json === "null";
const membersOf = (json: string | undefined) => (json?.startsWith("{") ? canonicalMembers(json) : undefined);
const textOf = (json: string | undefined): string | null =>
  json === undefined || json === "null" ? null : json.startsWith('"') ? String(JSON.parse(json)) : json;

/** One sentence for people: who, what, to which thing, and what changed. */
export function sentenceOf(row: Told): string {
  const { action, resource, resourceId, changes } = row;
  const differences = differencesOf(changes).filter(({ path }) => !UNTOLD.has(path));
  const told = differences.slice(0, MOST_DIFFERENCES).map(tell);
  if (differences.length > told.length) told.push(`and ${differences.length - told.length} more`);
  const thing = [action.startsWith(`${resource}.`) ? "" : resource, resourceId ?? ""]
    .filter(Boolean)
    .join(" ");
  const sentence = `${actorOf(row)}: ${action}${thing ? ` ${thing}` : ""}${told.length > 0 ? ` (${told.join("; ")})` : ""}`;
  return sentence.replaceAll(UNSEEN, "\uFFFD");
}

function tell({ path, before, after }: Difference): string {
  const name = path || "changes";
  if (before === null) return `${name}: ${shortened(after)}`;
  return `${name}: ${shortened(before)} → ${shortened(after)}`;
}
const shortened = (text: string | null) => {
  if (text === null) return "nothing";
  const characters = [...text.replaceAll(/\s+/g, " ")];
  return characters.length > LONGEST_VALUE
    ? `${characters.slice(0, LONGEST_VALUE).join("")}...`
    : characters.join("");
};

function actorOf({ actorKind, actorName, impersonatorName }: Told): string {
  const name = actorName ?? "somebody unknown";
  switch (actorKind) {
    case "user":
      return name;
    case "impersonator":
      return `${impersonatorName ?? "an operator"} as ${name}`;
    case "anonymous":
      return actorName === null ? "somebody who is not signed in" : `${name}, not signed in`;
    case "api_key":
      return `API key "${name}"`;
    case "database":
      return `SQL as ${name}`;
    default:
      return `${actorKind} ${name}`;
  }
}
