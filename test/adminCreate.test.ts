import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { environmentWith } from "../src/config.ts";
import { paths } from "../src/paths.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";

let database: TestDatabase;
let api: TestApi;
let dataDir: string;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  dataDir = await mkdtemp(join(tmpdir(), "erp-admin-"));
});
afterAll(async () => {
  await api.close();
  await database.drop();
  await rm(dataDir, { recursive: true });
});

const GOOD = "seven purple otters dancing";

/** The command, as npm runs it, with `input` on its stdin. */
async function adminCreate(args: string[], input = `${GOOD}\n`) {
  const child = spawn(
    process.execPath,
    ["--import", "./scripts/runtime.mjs", "scripts/adminCreate.ts", ...args],
    {
      cwd: paths.root,
      env: environmentWith({
        DATABASE_URL: database.urls.owner,
        AUTHENTICATOR_DATABASE_URL: database.urls.authenticator,
        WORKER_DATABASE_URL: database.urls.worker,
        DATA_DIR: dataDir,
        NODE_OPTIONS: "",
      }),
    },
  );
  child.stdin.on("error", () => {}).end(input);
  const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
  const [out, err, code] = await Promise.all([text(child.stdout), text(child.stderr), ended]);
  return { code, said: `${out}${err}` };
}
const operators = async () =>
  (await database.owner.query("select email, status, email_verified from users where role = 'SUPER_ADMIN'"))
    .rows;

it("makes nothing of what it cannot use, and says why", async () => {
  const email = ["--email", "boss@example.com"];
  for (const [args, input, sentence] of [
    [[], undefined, "--email is missing"],
    [["--email", "boss"], undefined, '"boss" is not an e-mail address'],
    [[...email, "--password", GOOD], undefined, "does not belong on the command line"],
    [[...email, "--admin"], undefined, "Unknown option '--admin'"],
    [email, "", "stdin has no password"],
    [email, "short\n", "12 to 1,000 characters"],
    [email, "boss@example.com\n", "easy to guess"],
  ] as const) {
    const { code, said } = await adminCreate([...args], input);
    expect([code, said]).toEqual([1, expect.stringContaining(sentence)]);
    expect(said).not.toContain("    at ");
  }
  expect(await operators()).toEqual([]);
});

it("makes the first SUPER_ADMIN, once, whoever else tries at the same time", async () => {
  const outcomes = await Promise.all(
    ["One@example.com", "two@example.com"].map((email) =>
      adminCreate(["--email", email, "--first-name", "Ona"]),
    ),
  );
  expect(outcomes.map(({ code }) => code).sort()).toEqual([0, 1]);
  const [operator, ...others] = await operators();
  expect(others).toEqual([]);
  expect(operator).toMatchObject({ status: "ACTIVE", email_verified: true });
  for (const { code, said } of outcomes) {
    expect(said).toContain(code === 0 ? `${operator.email} is SUPER_ADMIN` : `already: ${operator.email}`);
    expect(said).not.toContain(GOOD);
  }
  const { data, errors } = await api.query(
    "mutation ($input: LoginInput!) { login(input: $input) { user { role tenant { slug status planType } } } }",
    { variables: { input: { tenant: "platform", email: operator.email, password: GOOD } } },
  );
  expect(errors).toBeUndefined();
  expect(data.login.user).toEqual({
    role: "SUPER_ADMIN",
    tenant: { slug: "platform", status: "ACTIVE", planType: "business" },
  });
});
