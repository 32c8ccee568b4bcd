import { execFile } from "node:child_process";
import { cp, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { paths } from "../src/paths.ts";

const run = promisify(execFile);
/** A copy of what a connector needs, so that the project's own folders stay as they are. */
let root: string;

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "erp-connector-"));
  for (const part of ["src", "tasks", "scripts", "package.json", "tsconfig.json", "biome.json"])
    await cp(join(paths.root, part), join(root, part), { recursive: true });
  await cp(join(paths.root, ".gitignore"), join(root, ".gitignore"));
  await cp(join(paths.root, "test/support"), join(root, "test/support"), { recursive: true });
  await symlink(join(paths.root, "node_modules"), join(root, "node_modules"));
});
afterAll(() => rm(root, { recursive: true }));

const make = (...args: string[]) =>
  run(process.execPath, ["scripts/connectorNew.ts", ...args], { cwd: root });
const tool = (file: string, args: string[], flags: string[] = []) =>
  run(process.execPath, [...flags, join(root, "node_modules", file), ...args], { cwd: root });

it("makes a connector that type-checks, is formatted, and passes its test", async () => {
  const { stdout } = await make("north-shop");
  expect(stdout).toContain('import { northShop } from "./north-shop/index.ts"');
  const files = await readdir(join(root, "tasks/connectors/north-shop"));
  expect(files.sort()).toEqual(["api.ts", "index.ts", "orders.ts", "settings.ts"]);
  const test = "test/northShop.test.ts";
  for (const file of [...files.map((name) => `tasks/connectors/north-shop/${name}`), test])
    expect(await readFile(join(root, file), "utf8")).not.toMatch(/\bexample\b|Example/);

  await writeFile(
    join(root, "tsconfig.one.json"),
    JSON.stringify({
      extends: "./tsconfig.json",
      include: [],
      files: ["tasks/connectors/north-shop/index.ts", test],
    }),
  );
  await tool("typescript/bin/tsc", ["--noEmit", "--project", "tsconfig.one.json"]);
  await tool("@biomejs/biome/bin/biome", ["check", "tasks/connectors/north-shop", test]);
  const { jest } = JSON.parse(await readFile(join(root, "package.json"), "utf8"));
  // It needs no database.
  const { globalSetup: _setup, globalTeardown: _teardown, reporters: _reporters, ...config } = jest;
  const { stderr } = await tool(
    "jest/bin/jest.js",
    ["--config", JSON.stringify({ ...config, rootDir: root }), test],
    ["--experimental-vm-modules", "--no-warnings"],
  );
  expect(stderr).toMatch(/Tests: +9 passed, 9 total/);
}, 120_000);

it.each([
  [],
  ["North"],
  ["north_shop"],
  ["../x"],
  ["a", "b"],
  ["-x"],
  ["example"],
  ["square"],
  ["north-shop"],
])("refuses %j and leaves everything as it is", async (...args) => {
  await expect(make(...args)).rejects.toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/has small letters|Choose another/),
  });
});
