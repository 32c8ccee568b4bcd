import { readFileSync } from "node:fs";
import { z } from "zod";
import type { EventInput } from "../../tasks/connectors/connector.ts";

type Type = { names: Set<string>; properties: Map<string, string> };

const decimal = /^-?\d+(\.\d+)?$/;
const timestamp = z.iso.datetime();
const kinds: Record<string, z.ZodType> = {
  text: z.string().min(1),
  integer: z.int(),
  decimal: z.string().regex(decimal),
  date: z.iso.date(),
  timestamp,
  reference: z.string().regex(/^[a-z_]+:.+$/),
  items: z.array(
    z.strictObject({
      name: z.string(),
      quantity: z.string().regex(decimal),
      total: z.string().regex(decimal).optional(),
    }),
  ),
};

/** The tables of docs/events.md: the document is what producers are held to. */
export function readVocabulary(): Map<string, Type> {
  const types = new Map<string, Type>();
  let table: "name" | "property" | undefined;
  let type: Type | undefined;
  for (const line of readFileSync(new URL("../../docs/events.md", import.meta.url), "utf8").split("\n")) {
    const heading = /^## (?:`(\w+)`)?/.exec(line);
    if (heading) {
      type = heading[1] ? { names: new Set(), properties: new Map() } : undefined;
      if (type && heading[1]) types.set(heading[1], type);
    }
    const [first = "", second = ""] = line
      .split("|")
      .slice(1)
      .map((cell) => cell.trim());
    if (first === "name" || first === "property") table = first;
    const word = /^`(\w+)`$/.exec(first)?.[1];
    if (!word || !type) continue;
    if (table === "name") type.names.add(word);
    else type.properties.set(word, second);
  }
  return types;
}

/** Everything about the event that docs/events.md does not allow. */
export function violations(vocabulary: Map<string, Type>, event: EventInput): string[] {
  const type = vocabulary.get(event.eventType);
  if (!type) return [`type ${event.eventType}`];
  const problems: string[] = [];
  if (!type.names.has(event.eventName)) problems.push(`name ${event.eventName}`);
  if (!timestamp.safeParse(event.timestamp).success) problems.push(`timestamp ${event.timestamp}`);
  if (!event.sourceId?.startsWith(`${event.eventType}:`)) problems.push(`sourceId ${event.sourceId}`);
  if (event.sourceVersion !== undefined && !/^\d+$/.test(event.sourceVersion)) problems.push("sourceVersion");
  const measured = event.eventType !== "visit" && event.eventType !== "signup";
  if (!(measured ? decimal.test(event.value ?? "") : event.value == null))
    problems.push(`value ${event.value}`);
  if (measured !== /^[A-Z]{3}$/.test(event.currency ?? "")) problems.push(`currency ${event.currency}`);
  if (event.eventType === "refund" && !event.value?.startsWith("-"))
    problems.push(`refund of ${event.value}`);
  for (const [key, content] of Object.entries(event.properties ?? {})) {
    const kind = kinds[type.properties.get(key) ?? ""];
    if (!kind?.safeParse(content).success) problems.push(`property ${key} = ${JSON.stringify(content)}`);
  }
  return problems;
}
