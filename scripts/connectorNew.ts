import { execFile } from "node:child_process";
import { access, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { promisify } from "node:util";
import { UserError } from "../src/config.ts";
import { paths } from "../src/paths.ts";
import { runProgram } from "../src/program.ts";

const format = promisify(execFile);
const biome = createRequire(import.meta.url).resolve("@biomejs/biome/bin/biome");
const USAGE = "npm run connector:new -- NAME, such as clover or google-ads";

/** Makes a connector from the template, with a test that passes: what is left is what the provider does otherwise. */
await runProgram(
  async (_onStop, say) => {
    const provider = parse(process.argv.slice(2));
    const names = namesOf(provider);
    const template = join(paths.root, "scripts/connectorTemplate");
    const folder = join(paths.root, "tasks/connectors", provider);
    const test = join(paths.root, "test", `${names.camel}.test.ts`);
    for (const taken of [folder, test])
      if (await exists(taken)) throw new UserError(`${taken} is there already. Choose another name.`);
    await mkdir(folder);
    for (const file of await readdir(template)) {
      const text = renamed(await readFile(join(template, file), "utf8"), provider, names);
      await writeFile(file === "connector.test.ts" ? test : join(folder, file), text);
    }
    // Longer or shorter names break lines elsewhere, and sort imports in another order.
    await format(process.execPath, [biome, "check", "--write", folder, test], { cwd: paths.root });
    say(`tasks/connectors/${provider}/ and test/${names.camel}.test.ts are there. Next:
1. Add it to tasks/connectors/index.ts: import { ${names.camel} } from "./${provider}/index.ts".
2. Put the provider's host, settings, records and errors where the template has its own; docs/connectors.md says how.
3. npm test -- test/${names.camel}.test.ts`);
  },
  { once: true },
);

function parse(args: string[]): string {
  const [provider, ...rest] = args;
  if (provider === undefined || rest.length > 0 || !/^[a-z][a-z0-9]*(-[a-z0-9]+)*$/.test(provider))
    throw new UserError(`A connector's name has small letters, digits and single hyphens.\n\n${USAGE}`);
  if (provider.length > 63) throw new UserError("A connector's name has at most 63 characters.");
  if (provider === "example") throw new UserError('"example" is the template\'s own name. Choose another.');
  return provider;
}

type Names = { camel: string; pascal: string; plain: string };
/** `google-ads` is googleAds to TypeScript, GoogleAds to its types and Google Ads to people. */
function namesOf(provider: string): Names {
  const words = provider.split("-").map((word) => `${word[0]?.toUpperCase()}${word.slice(1)}`);
  const pascal = words.join("");
  return { camel: `${pascal[0]?.toLowerCase()}${pascal.slice(1)}`, pascal, plain: words.join(" ") };
}

function renamed(text: string, provider: string, { camel, pascal, plain }: Names): string {
  return text
    .replaceAll('"example"', JSON.stringify(provider))
    .replaceAll("connectors/example/", `connectors/${provider}/`)
    .replaceAll("api.example.com", `api.${provider}.test`)
    .replaceAll(/(?<![a-zA-Z])Example(?![a-zA-Z])/g, plain)
    .replaceAll("Example", pascal)
    .replaceAll(/\bexample(?=[A-Z]|\b)/g, camel);
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
