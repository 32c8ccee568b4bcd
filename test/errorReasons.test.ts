import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "@jest/globals";
import { paths } from "../src/paths.ts";

async function read(folder: string, ending: string): Promise<string[]> {
  const names = await readdir(join(paths.root, folder), { recursive: true });
  const files = names.filter((name) => name.endsWith(ending)).sort();
  return Promise.all(files.map((name) => readFile(join(paths.root, folder, name), "utf8")));
}
const found = (texts: readonly string[], pattern: RegExp) =>
  texts.flatMap((text) => [...text.matchAll(pattern)].map(([, first = ""]) => first));
const quoted = (texts: readonly string[]) => found(texts, /"([^"]+)"/g);

/** Where reasons are written down: `reason: "a" | "b"`, the first argument of what makes a problem, the keys of refusals. */
async function reasonsOfTypeScript() {
  const texts = (await Promise.all([read("src", ".ts"), read("plugins", ".ts")])).flat();
  const written = found(texts, /reason: ((?:"[^"]+"(?: \| )?)+)/g);
  const refusals = found(texts, /const refusals\b[^{]*\{([^}]*)\}/gi);
  return [
    ...quoted(written),
    ...found(texts, /\b(?:flaw|problem)\("([^"]+)"/g),
    ...found(refusals, /^ {2}(\w+):/gm),
  ];
}

/** Where PostgreSQL says them: as DETAIL, and of rejected events. */
async function reasonsOfSql() {
  const texts = await read("migrations/fixtures", ".sql");
  const rejection = found(texts, /function app_private\.rejection\(([\s\S]*?)\$\$;/g);
  return [...found(texts, /\bdetail = '([^']+)'/g), ...found(rejection, /\bwhen '([^']+)' then/g)];
}

it("docs/errors.md has every reason that an error or a rejected event can have", async () => {
  const [typeScript, sql] = [await reasonsOfTypeScript(), await reasonsOfSql()];
  expect(typeScript).toEqual(
    expect.arrayContaining(["weak_password", "trial_ended", "too_deep", "too_many_events", "not_csv"]),
  );
  expect(sql).toEqual(
    expect.arrayContaining(["last_administrator", "invalid_link", "not_a_time", "differs"]),
  );
  const page = await readFile(join(paths.root, "docs/errors.md"), "utf8");
  const reasons = [...new Set([...typeScript, ...sql])].sort();
  expect(reasons.filter((reason) => !page.includes(`\`${reason}\``))).toEqual([]);
});
