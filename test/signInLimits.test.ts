import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { hash } from "@node-rs/argon2";
import { startApi, type TestApi } from "./support/api.ts";
import { asRequest } from "./support/asRequest.ts";
import { emptyAuditLog } from "./support/audit.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { codes, type Input, loginAt, right, times, wrong } from "./support/logins.ts";
import { refusal } from "./support/refusal.ts";
import { createTenant, PASSWORD, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let api: TestApi;
let behindProxy: TestApi;
let acme: TestTenant;
let passed = 0;
const clock = () => performance.now() + passed;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database, { clock });
  behindProxy = await startApi(database, { clock, config: { TRUST_PROXY: ["loopback"] } });
  acme = await createTenant(database.owner, "acme");
  await createTenant(database.owner, "platform");
});
beforeEach(async () => {
  passed += 3_600_000;
  await database.owner.query("truncate app_private.rate_limits");
  await database.owner.query("delete from sessions");
});
afterAll(async () => {
  await api.close();
  await behindProxy.close();
  await database.drop();
});

const login = (input: Input, { at = api, headers = {} }: { at?: TestApi; headers?: object } = {}) =>
  loginAt(at, input, headers);
/** As if so much time had passed, for what is counted in the database and what is remembered in memory. */
async function later(seconds: number) {
  passed += seconds * 1_000;
  await database.owner.query(
    "update app_private.rate_limits set counted_at = counted_at - make_interval(secs => $1)",
    [seconds],
  );
}

it("stops guessing at one account after ten attempts a minute, and says how long to wait", async () => {
  const answers = await times(30, () => login(wrong));
  expect(codes(answers)).toEqual({ UNAUTHENTICATED: 10, RATE_LIMITED: 20 });
  const refused = answers.find(({ error }) => error.code === "RATE_LIMITED");
  expect(refused?.error.retryAfterSeconds).toBeGreaterThan(0);
  expect(refused?.error.retryAfterSeconds).toBeLessThanOrEqual(6);
  // Not even the right password helps from there, and others are not affected.
  expect((await login(right)).error.code).toBe("RATE_LIMITED");
  expect((await login({ ...right, email: "Viewer@Acme.test" })).error.code).toBe("RATE_LIMITED");
  expect((await login({ ...right, email: "User@acme.test" })).user.email).toBe("user@acme.test");
  // A tenth of a minute later, one more attempt is free.
  await later(6);
  expect((await login(wrong)).error.code).toBe("UNAUTHENTICATED");
});

it("treats unknown accounts and tenants alike", async () => {
  for (const unknown of [
    { ...wrong, email: "nobody@acme.test" },
    { ...wrong, tenant: "nowhere" },
  ])
    expect(codes(await times(15, () => login(unknown)))).toEqual({ UNAUTHENTICATED: 10, RATE_LIMITED: 5 });
  // Each by what was typed: one unknown tenant is not another.
  expect((await login({ ...wrong, tenant: "elsewhere" })).error.code).toBe("UNAUTHENTICATED");
});

it("lets in whoever knows the password: what succeeds does not count", async () => {
  for (let index = 0; index < 15; index++) expect((await login(right)).user).toBeDefined();
  const counted = await database.owner.query("select from app_private.rate_limits where used > 0");
  expect(counted.rowCount).toBe(0);
});

it("takes no forged X-Forwarded-For for another address", async () => {
  const answers = await times(15, (index) =>
    login(wrong, { headers: { "x-forwarded-for": `198.51.100.${index}` } }),
  );
  expect(codes(answers)).toEqual({ UNAUTHENTICATED: 10, RATE_LIMITED: 5 });
});

const from = (address: string) => ({ at: behindProxy, headers: { "x-forwarded-for": address } });
it("records that sign-ins are throttled once in ten minutes for each network and tenant", async () => {
  await emptyAuditLog(database);
  const guess = (address: string, input = wrong) => times(15, () => login(input, from(address)));
  const throttled = async () => {
    const { rows } = await database.owner.query(
      `select t.slug, l.actor_kind, l.resource_id, l.changes ->> 'email' as email, l.ip_address
         from audit_logs l join tenants t on t.id = l.tenant_id
        where l.action = 'session.refused' and l.changes ->> 'reason' = 'throttled' order by l.id`,
    );
    return rows;
  };
  const row = { actor_kind: "anonymous", resource_id: acme.users.viewer.id, email: "viewer@acme.test" };
  const here = { slug: "acme", ...row, ip_address: "198.51.100.1" };
  const there = { slug: "acme", ...row, ip_address: "198.51.100.2" };
  const nobody = { ...here, slug: "platform", resource_id: null, email: null };
  await guess("198.51.100.1");
  await guess("198.51.100.1", { ...wrong, email: "admin@acme.test" });
  expect(await throttled()).toEqual([here]);
  await guess("198.51.100.2");
  await guess("198.51.100.1", { ...wrong, tenant: "nowhere" });
  expect(await throttled()).toEqual([here, there, nobody]);
  await later(600);
  await guess("198.51.100.1");
  expect(await throttled()).toEqual([here, there, nobody, here]);
});

it("counts a whole /64 of IPv6 as one address", async () => {
  const answers = await times(15, (index) => login(wrong, from(`2001:db8::${index + 1}`)));
  expect(codes(answers)).toEqual({ UNAUTHENTICATED: 10, RATE_LIMITED: 5 });
});

it("refuses a thousand sign-ins in one request before any of them is tried", async () => {
  const aliases = Array.from(
    { length: 1_000 },
    (_, index) =>
      `a${index}: login(input: {tenant: "acme", email: "a@acme.test", password: "x"}) { accessToken }`,
  );
  const { status, errors } = await api.query(`mutation { ${aliases.join(" ")} }`);
  expect([status, errors?.[0].extensions.code]).toEqual([400, "QUERY_TOO_EXPENSIVE"]);
  expect((await database.owner.query("select from app_private.rate_limits")).rowCount).toBe(0);
});

it("signs in by custom domain, given or in the Host header, where the plan has it", async () => {
  await database.owner.query(
    "update tenants set domain = 'analytics.acme.example', features = '{custom_domain}' where id = $1",
    [acme.id],
  );
  const { tenant: _tenant, ...nameless } = right;
  for (const domain of ["Analytics.Acme.Example", "analytics.acme.example."]) {
    expect((await login({ ...nameless, domain })).user).toBeDefined();
    const viaHost = { at: behindProxy, headers: { "x-forwarded-host": domain } };
    expect((await login(nameless, viaHost)).user).toBeDefined();
  }
  expect((await login(nameless)).error.code).toBe("UNAUTHENTICATED");
  await database.owner.query("update tenants set features = '{}' where id = $1", [acme.id]);
  expect((await login({ ...nameless, domain: "analytics.acme.example" })).error.code).toBe("UNAUTHENTICATED");
});

it("takes an e-mail as it was pasted, in any case and with spaces around it", async () => {
  expect((await login({ ...right, email: " Viewer@Acme.test\t" })).user.email).toBe("viewer@acme.test");
});

it("tells why an account is closed to whoever knows its password, and to nobody else", async () => {
  const close = async (sql: string, reason: string) => {
    await database.owner.query("truncate app_private.rate_limits");
    await database.owner.query(sql, [acme.id]);
    expect((await login(right)).error).toEqual({ code: "FORBIDDEN", reason });
    expect((await login(wrong)).message).toBe("Unknown tenant or e-mail, or wrong password.");
    await database.owner.query("update tenants set status = 'ACTIVE', trial_ends_at = null where id = $1", [
      acme.id,
    ]);
    await database.owner.query("update users set status = 'ACTIVE' where tenant_id = $1", [acme.id]);
  };
  await close("update tenants set status = 'SUSPENDED' where id = $1", "tenant_suspended");
  await close("update tenants set status = 'CANCELLED' where id = $1", "tenant_cancelled");
  await close("update tenants set status = 'TRIAL', trial_ends_at = now() where id = $1", "trial_ended");
  await close(
    "update users set status = 'SUSPENDED' where tenant_id = $1 and role = 'VIEWER'",
    "user_suspended",
  );
  await close(
    "update users set status = 'INACTIVE' where tenant_id = $1 and role = 'VIEWER'",
    "user_inactive",
  );
  expect((await login(right)).user).toBeDefined();
});

it("opens no session for an account that was changed while its password was checked", async () => {
  const { rows } = await database.owner.query(
    "select password_hash from app_private.user_passwords where user_id = $1",
    [acme.users.viewer.id],
  );
  const open = (checked: string = rows[0].password_hash) =>
    asRequest(database.authenticator, undefined, (client) =>
      refusal(
        client.query("select * from app_hidden.open_session($1, $2, $3, $4, null)", [
          acme.id,
          acme.users.viewer.id,
          Buffer.alloc(32),
          checked,
        ]),
      ),
    );
  expect(await open()).toBe("no error");
  expect(await open("another hash")).toBe("EA401");
  for (const [close, reopen] of [
    ["update users set status = 'SUSPENDED' where role = 'VIEWER'", "update users set status = 'ACTIVE'"],
    ["update tenants set status = 'SUSPENDED' where slug = 'acme'", "update tenants set status = 'ACTIVE'"],
  ] as const) {
    await database.owner.query(close);
    const outcome = await open();
    await database.owner.query(reopen);
    expect([close, outcome]).toEqual([close, "EA401"]);
  }
});

it("records sign-ins that succeed and that fail, and no e-mail that is nobody's", async () => {
  await emptyAuditLog(database);
  await login(right);
  await login(wrong);
  await login({ ...wrong, email: "my-secret-password" });
  await login({ ...wrong, tenant: "nowhere" });
  const { rows } = await database.owner.query(
    `select t.slug, l.action, l.actor_kind, l.actor_name, l.resource_id, l.changes, l.ip_address
       from audit_logs l join tenants t on t.id = l.tenant_id order by l.id`,
  );
  const { id } = acme.users.viewer;
  const refused = {
    action: "session.refused",
    actor_kind: "anonymous",
    actor_name: null,
    ip_address: "127.0.0.1",
  };
  const reason = "wrong_credentials";
  expect(rows).toEqual([
    expect.objectContaining({ slug: "acme", action: "session.created", actor_name: "viewer@acme.test" }),
    { slug: "acme", ...refused, resource_id: id, changes: { reason, email: "viewer@acme.test" } },
    { slug: "acme", ...refused, resource_id: null, changes: { reason } },
    { slug: "platform", ...refused, resource_id: null, changes: { reason } },
  ]);
  const user = await database.owner.query("select last_login_at from users where id = $1", [id]);
  expect(Date.now() - user.rows[0].last_login_at.getTime()).toBeLessThan(10_000);
});

it("hashes a password anew, at a sign-in, when the parameters have grown", async () => {
  const stored = async () => {
    const { rows } = await database.owner.query(
      "select password_hash from app_private.user_passwords where user_id = $1",
      [acme.users.viewer.id],
    );
    return rows[0].password_hash;
  };
  const weak = await hash(PASSWORD, { memoryCost: 8_192, timeCost: 1, parallelism: 1 });
  await database.owner.query("update app_private.user_passwords set password_hash = $2 where user_id = $1", [
    acme.users.viewer.id,
    weak,
  ]);
  expect((await login(wrong)).error.code).toBe("UNAUTHENTICATED");
  expect(await stored()).toBe(weak);
  expect((await login(right)).user).toBeDefined();
  expect(await stored()).toMatch(/^\$argon2id\$v=19\$m=19456,t=2,p=1\$/);
  expect((await login(right)).user).toBeDefined();
});
