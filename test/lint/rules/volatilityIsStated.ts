import { readdir, readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { paths } from "../../../src/paths.ts";
import type { Rule } from "../rule.ts";

const fixtures = resolve(paths.migrations, "fixtures/functions");

/** Functions whose header, up to the body, has no volatility. */
export function withoutVolatility(sql: string): string[] {
  const headers = sql.matchAll(/create (?:or replace )?function\s+([\w.]+)[\s\S]*?\b(?:as \$|return )/gi);
  return [...headers].flatMap(([header, name = ""]) =>
    /\b(volatile|stable|immutable)\b/i.test(header) ? [] : [name],
  );
}

export const volatilityIsStated: Rule = {
  name: "a function states its volatility",
  why: "The catalogue cannot tell a volatile function from a forgotten word, so the sources are read.",
  async find() {
    const names = (await readdir(fixtures)).filter((name) => name.endsWith(".sql"));
    const texts = await Promise.all(names.map((name) => readFile(resolve(fixtures, name), "utf8")));
    return texts.flatMap(withoutVolatility);
  },
};
