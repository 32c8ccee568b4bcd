import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, it } from "@jest/globals";
import pg from "pg";
import { environmentWith } from "../src/config.ts";
import { withClient } from "../src/db/pools.ts";
import { databaseUrl } from "../src/db/roles.ts";
import { paths } from "../src/paths.ts";
import { ANALYST_PASSWORD, analystUrl, makeAnalyst } from "./support/analysts.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";

let database: TestDatabase;
let acme: TestTenant;
let globex: TestTenant;

beforeAll(async () => {
  database = await createTestDatabase();
  acme = await createTenant(database.owner, "acme");
  globex = await createTenant(database.owner, "globex");
});
afterAll(async () => {
  for (const { login, tenant } of await logins()) {
    const revoked = await run("revoke", ["--tenant", tenant, "--name", login.slice(36)]);
    expect(revoked.code).toBe(0);
  }
  await database.drop();
});

/** The command, as npm runs it. */
async function run(command: string, args: string[], { root = true, input = "" } = {}) {
  const child = spawn(
    process.execPath,
    ["--import", "./scripts/runtime.mjs", "scripts/analysts.ts", command, ...args],
    {
      cwd: paths.root,
      timeout: 25_000,
      env: environmentWith({
        DATABASE_URL: database.urls.owner,
        AUTHENTICATOR_DATABASE_URL: database.urls.authenticator,
        WORKER_DATABASE_URL: database.urls.worker,
        ROOT_DATABASE_URL: root ? database.urls.root : "",
        NODE_OPTIONS: "",
      }),
    },
  );
  child.stdin.on("error", () => {}).end(input);
  const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
  const [out, err, code] = await Promise.all([text(child.stdout), text(child.stderr), ended]);
  return { code, out, said: `${out}${err}` };
}
const asRoot = (sql: string) => withClient(database.urls.root, (root) => root.query(sql));
/** Of these tenants: other test files make logins too. */
const logins = async () => {
  const { rows } = await asRoot("select rolname as login from pg_roles where rolname ~ '^bi_' order by 1");
  const tenants = [acme.id, globex.id].map((id) => ({ id, hex: id.replaceAll("-", "") }));
  return rows.flatMap(({ login }) => {
    const tenant = tenants.find(({ hex }) => login.startsWith(`bi_${hex}_`));
    return tenant ? [{ login: String(login), tenant: tenant.id }] : [];
  });
};
const urlIn = (out: string) => /psql "(postgresql:[^"]+)"/.exec(out)?.[1] ?? "";
const COUNT = "select count(*)::integer as count from events";
const count = (url: string) => withClient(url, async (client) => (await client.query(COUNT)).rows);
const audited = async (name: string) => {
  const { rows } = await database.owner.query(
    "select action, actor_kind, actor_name from audit_logs where tenant_id = $1 and resource = 'analyst' and resource_id = $2 order by created_at",
    [acme.id, name],
  );
  return rows.map(({ action, actor_kind, actor_name }) => `${action} by ${actor_kind} ${actor_name}`);
};
const bi = ["--tenant", "acme", "--name", "bi"];

it.each<[sentence: string, command: string, args: string[], input?: string]>([
  ["npm run analyst:list [-- --tenant acme]", "make", bi],
  ["--tenant is missing", "grant", ["--name", "bi"]],
  ['There is no tenant "acm".', "grant", ["--tenant", "acm", "--name", "bi"]],
  ['There is no tenant "acm".', "revoke", ["--tenant", "acm", "--name", "bi"]],
  ['There is no tenant "acm".', "list", ["--tenant", "acm"]],
  ['--name is ""', "grant", ["--tenant", "acme"]],
  ['--name is "B-I"', "grant", ["--tenant", "acme", "--name", "B-I"]],
  [`it must have 1 to 20`, "grant", ["--tenant", "acme", "--name", "x".repeat(21)]],
  [`--name is "x; drop role"`, "revoke", ["--tenant", "acme", "--name", "x; drop role"]],
  ["Unknown option '--nam'", "grant", ["--tenant", "acme", "--nam", "bi"]],
  ["does not belong on the command line", "grant", [...bi, "--password", ANALYST_PASSWORD]],
  ["list takes no --name", "list", bi],
  ["revoke takes no password", "revoke", [...bi, "--password-stdin"]],
  ["stdin has no password", "grant", [...bi, "--password-stdin"]],
  ["easy to guess", "grant", [...bi, "--password-stdin"], "passwordpassword\n"],
  ["ASCII characters only", "grant", [...bi, "--password-stdin"], "sieben Flußpferde tanzen\n"],
  ['"acme" has no analyst "bi"', "revoke", bi],
])("says %j to %s %j, and makes nothing", async (sentence, command, args, ...[input = ""]) => {
  const { code, said } = await run(command, args, { input });
  expect([code, said]).toEqual([1, expect.stringContaining(sentence)]);
  expect(said).not.toContain("    at ");
  expect(await logins()).toEqual([]);
});

it("grants a login with the longest name, gives it another password, lists and revokes it, on record", async () => {
  const name = "x".repeat(20);
  const args = ["--tenant", "acme", "--name", name];
  const first = await run("grant", args);
  expect([first.code, first.said]).toEqual([0, expect.stringContaining('reads the rows of "acme"')]);
  expect(await count(urlIn(first.out))).toEqual([{ count: 10 }]);

  const second = await run("grant", args);
  expect(await count(urlIn(second.out))).toEqual([{ count: 10 }]);
  expect(await refusal(count(urlIn(first.out)))).toBe("28P01");
  const third = await run("grant", [...args, "--password-stdin"], { input: `${ANALYST_PASSWORD}\n` });
  expect(third.said).not.toContain("badgers");
  const { username } = new URL(urlIn(third.out));
  expect(new URL(urlIn(third.out)).password).toBe("");
  expect(await count(analystUrl(database, username))).toEqual([{ count: 10 }]);

  expect((await run("list", ["--tenant", "acme"])).out).toMatch(
    new RegExp(`^acme +${name} +${username} +20..-..-.. +\\d  reads$`, "m"),
  );
  expect((await run("list", ["--tenant", "globex"])).out).toContain("There are no analysts' logins");
  expect(await audited(name)).toEqual(
    ["created", "updated", "updated"].map((action) => `analyst.${action} by database erp_user`),
  );
  expect((await run("revoke", args)).said).toContain(`${username} is gone`);
  expect(await logins()).toEqual([]);
  expect((await audited(name)).at(-1)).toBe("analyst.deleted by database erp_user");
  expect((await run("revoke", args)).code).toBe(1);
});

const ELSEWHERE = `elsewhere_${process.pid}`;
it("ends sessions with the login, whatever they run, and whatever the login did to keep itself", async () => {
  const analyst = await makeAnalyst(database, acme);
  const other = await makeAnalyst(database, globex, "other");
  await analyst.write("alter default privileges grant select on tables to public");
  // Somebody else's, to which every login may connect.
  await asRoot(`create database ${ELSEWHERE} template template0 strategy file_copy`);
  await withClient(databaseUrl(analyst.url, ELSEWHERE), async (client) => {
    await client.query("set default_transaction_read_only = off");
    await client.query("alter default privileges grant select on tables to public");
  });
  const client = new pg.Client({ connectionString: analyst.url });
  client.on("error", () => {});
  await client.connect();
  const stubborn =
    "do $$ begin perform pg_sleep(60); exception when query_canceled then perform pg_sleep(60); end $$";
  const outcome = refusal(client.query(stubborn));
  await until(
    () => asRoot(`select from pg_stat_activity where usename = '${analyst.login}' and state = 'active'`),
    ({ rowCount }) => rowCount === 1,
  );
  expect((await run("revoke", bi)).code).toBe(0);
  await asRoot(`drop database ${ELSEWHERE}`);
  expect(await outcome).toBe("57P01");
  expect(await refusal(count(analyst.url))).toBe("28P01");
  expect((await asRoot("select from pg_default_acl where defaclrole <> 'erp_user'::regrole")).rowCount).toBe(
    0,
  );
  expect(await count(other.url)).toEqual([{ count: 10 }]);
});

it("without a superuser, prints SQL that makes the same login, and takes rights away by itself", async () => {
  const printed = await run("grant", bi, { root: false });
  expect([printed.code, printed.out]).toEqual([0, expect.stringContaining("As a superuser:")]);
  const url = urlIn(printed.out);
  const { username, password } = new URL(url);
  const sql = printed.out.slice(0, printed.out.indexOf("psql"));
  expect(sql).not.toContain(password);
  expect(await refusal(count(url))).toBe("28P01");
  expect((await run("list", [])).out).toContain("granted, but there is no such login");
  await asRoot(sql);
  expect(await count(url)).toEqual([{ count: 10 }]);
  expect(await refusal(withClient(url, (client) => client.query("set role erp_analyst")))).toBe("42501");

  const revoked = await run("revoke", bi, { root: false });
  expect(revoked.out).toContain(`${username} reads nothing any more`);
  expect(await refusal(count(url))).toBe("42501");
  await database.worker.query("select from app_hidden.hold_analysts()");
  expect(await refusal(count(url))).toBe("42501");
  expect((await run("list", [])).out).toContain("not granted here");
  await asRoot(revoked.out.slice(revoked.out.indexOf("do $$")));
  expect(await refusal(count(url))).toBe("28P01");
});

it("lists a login whose tenant is gone, which reads nothing, and drops it by the tenant's id", async () => {
  const gone = await createTenant(database.owner, "gone");
  const analyst = await makeAnalyst(database, gone);
  expect(await count(analyst.url)).toEqual([{ count: 10 }]);
  await database.owner.query("delete from tenants where id = $1", [gone.id]);
  expect(await count(analyst.url)).toEqual([{ count: 0 }]);
  expect((await run("list", [])).out).toContain(`${gone.id}  bi`);
  expect((await run("revoke", ["--tenant", gone.id, "--name", "bi"])).code).toBe(0);
  expect((await asRoot(`select from pg_roles where rolname = '${analyst.login}'`)).rowCount).toBe(0);
});

it("says which other databases of the server let the login in", async () => {
  const name = `${new URL(database.urls.root).pathname.slice(1)}_other`;
  await asRoot(`create database ${name}`);
  try {
    const { said } = await run("grant", bi);
    expect(said).toMatch(new RegExp(`lets it into .*${name}`));
  } finally {
    await asRoot(`drop database ${name}`);
  }
});
