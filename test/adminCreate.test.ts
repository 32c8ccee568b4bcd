import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { createAdministrator } from "../src/auth/administrator.ts";
import { hashPassword } from "../src/auth/passwords.ts";
import { environmentWith } from "../src/config.ts";
import { withClient } from "../src/db/pools.ts";
import { databaseUrl } from "../src/db/roles.ts";
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
const LINE = `${GOOD}\n`;

/** The command, as npm runs it, with `input` on its stdin. */
async function adminCreate(
  args: readonly string[],
  input: string | Buffer = LINE,
  { url = database.urls.owner, keepOpen = false } = {},
) {
  const child = spawn(
    process.execPath,
    ["--import", "./scripts/runtime.mjs", "scripts/adminCreate.ts", ...args],
    {
      cwd: paths.root,
      timeout: 25_000,
      env: environmentWith({
        DATABASE_URL: url,
        AUTHENTICATOR_DATABASE_URL: database.urls.authenticator,
        WORKER_DATABASE_URL: database.urls.worker,
        DATA_DIR: dataDir,
        NODE_OPTIONS: "",
      }),
    },
  );
  child.stdin.on("error", () => {}).write(input);
  if (!keepOpen) child.stdin.end();
  const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
  const [out, err, code] = await Promise.all([text(child.stdout), text(child.stderr), ended]);
  return { code, said: `${out}${err}` };
}
const operators = async () =>
  (await database.owner.query("select email, status, email_verified from users where role = 'SUPER_ADMIN'"))
    .rows;

const email = ["--email", "boss@example.com"];
it.each<[sentence: string, args: string[], input: string | Buffer]>([
  ["--email is missing", [], LINE],
  ['"boss" is not an e-mail address', ["--email", "boss"], LINE],
  ["is not an e-mail address", ["--email", `${"x".repeat(320)}@example.com`], LINE],
  ["--first-name has more than 200", [...email, "--first-name", "x".repeat(201)], LINE],
  ["does not belong on the command line", [...email, "--password", GOOD], LINE],
  ["does not belong on the command line", [...email, "--password"], LINE],
  ["Unknown option '--admin'", [...email, "--admin"], LINE],
  ["Unexpected argument 'stray'", [...email, "stray"], LINE],
  ["stdin has no password", email, ""],
  ["is not UTF-8", email, Buffer.from("sieben Flu\u00dfpferde tanzen\n", "latin1")],
  ["12 to 1,000 characters", email, "short\n"],
  ["easy to guess", email, "boss@example.com\n"],
])("says %j, and makes nothing", async (sentence, args, input) => {
  const { code, said } = await adminCreate(args, input);
  expect([code, said]).toEqual([1, expect.stringContaining(sentence)]);
  expect(said).not.toContain("    at ");
  expect(said).not.toContain(GOOD);
  expect(await operators()).toEqual([]);
  expect((await database.owner.query("select from tenants")).rowCount).toBe(0);
});

it("sends whoever has not migrated to do so", async () => {
  const { root } = database.urls;
  const name = `${new URL(root).pathname.slice(1)}_empty`;
  await withClient(root, (client) => client.query(`create database ${name}`));
  try {
    const url = databaseUrl(database.urls.owner, name);
    const { code, said } = await adminCreate(email, undefined, { url });
    expect([code, said]).toEqual([1, expect.stringContaining("run `npm run db -- migrate` first")]);
  } finally {
    await withClient(root, (client) => client.query(`drop database ${name} with (force)`));
  }
});

it("makes the first SUPER_ADMIN, once, whoever else tries at the same time", async () => {
  const outcomes = await Promise.all(
    ["One@example.com", "two@example.com"].map((email) =>
      // As in a pipe that nobody closes.
      adminCreate(["--email", email, "--first-name", "Ona"], undefined, { keepOpen: true }),
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

it("records what it made", async () => {
  const { rows } = await database.owner.query(
    "select action, actor_kind from audit_logs where tenant_id = (select id from tenants where slug = 'platform')",
  );
  for (const action of ["tenant.created", "user.created", "user.password_set"])
    expect(rows).toContainEqual({ action, actor_kind: "database" });
});

it("takes a user of that e-mail over: no session, and no link under way, outlives it", async () => {
  const other = await createTestDatabase();
  try {
    await other.owner.query(
      `with t as (insert into tenants (name, slug, status) values ('Platform', 'platform', 'ACTIVE') returning id)
       insert into users (tenant_id, email, first_name, last_name, role, status)
       select id, 'nora@example.com', 'Nora', 'Berg', 'VIEWER', 'INACTIVE' from t`,
    );
    await other.owner.query(
      `insert into sessions (tenant_id, user_id, expires_at) select tenant_id, id, now() + interval '1 hour' from users`,
    );
    await other.owner.query(
      `insert into app_private.one_time_tokens (tenant_id, user_id, purpose, email, expires_at)
       select tenant_id, id, purpose, 'other@example.com', now() + interval '1 hour'
         from users, unnest(array['password_reset', 'email_change', 'invitation']) as purpose`,
    );
    const passwordHash = await hashPassword(GOOD);
    await createAdministrator(other.owner, {
      email: "nora@example.com",
      passwordHash,
      firstName: "Eleonora",
    });
    const { rows } = await other.owner.query(
      "select first_name, last_name, role, status, email_verified, password_hash from users u join app_private.user_passwords p on p.user_id = u.id",
    );
    const made = { role: "SUPER_ADMIN", status: "ACTIVE", email_verified: true, password_hash: passwordHash };
    expect(rows).toEqual([{ first_name: "Eleonora", last_name: "Berg", ...made }]);
    const left = await other.owner.query(
      `select (select count(*)::int from sessions where revoked_at is null) as sessions,
              (select count(*)::int from app_private.one_time_tokens) as links`,
    );
    expect(left.rows).toEqual([{ sessions: 0, links: 0 }]);
    expect(
      (await other.owner.query("select from audit_logs where action = 'session.revoked'")).rowCount,
    ).toBe(1);
    await expect(
      createAdministrator(other.owner, { email: "second@example.com", passwordHash }),
    ).rejects.toThrow("already: nora@example.com");
  } finally {
    await other.drop();
  }
});
