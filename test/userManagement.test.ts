import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { type Answer, startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";

let database: TestDatabase;
/** Two instances on one database. */
let api: TestApi;
let other: TestApi;
let acme: TestTenant;
let globex: TestTenant;
let platform: TestTenant;
const tokens = { admin: "", user: "", viewer: "" };

beforeAll(async () => {
  database = await createTestDatabase();
  [api, other] = [await startApi(database), await startApi(database)];
  acme = await createTenant(database.owner, "acme");
  globex = await createTenant(database.owner, "globex");
  platform = await createTenant(database.owner, "platform");
});
/** The three users of acme as they began, with fresh sessions. */
beforeEach(async () => {
  await database.owner.query("truncate app_private.rate_limits");
  await database.owner.query(
    `update users set status = 'ACTIVE', permissions = '{}', role = upper(split_part(email, '@', 1))::user_role
      where email ~ '^(admin|user|viewer)@'`,
  );
  await database.owner.query("delete from users where email !~ '^(admin|user|viewer)@'");
  for (const role of ["admin", "user", "viewer"] as const) tokens[role] = await api.signIn("acme", role);
});
afterAll(async () => {
  await api.close();
  await other.close();
  await database.drop();
});

const call = (
  token: string,
  field: string,
  input: object,
  selection = "user { id role status permissions }",
) => {
  const type = `${field[0]?.toUpperCase()}${field.slice(1)}Input!`;
  return api.query(`mutation ($input: ${type}) { ${field}(input: $input) { ${selection} } }`, {
    variables: { input },
    token,
  });
};
const error = ({ errors }: Answer) => errors?.[0]?.extensions;
const id = (role: "admin" | "user" | "viewer", tenant = acme) => tenant.users[role].id;
const grant = (role: "user" | "viewer", ...permissions: string[]) =>
  database.owner.query("update users set permissions = $2 where id = $1", [id(role), permissions]);
async function addAdmin() {
  const { rows } = await database.owner.query(
    "insert into users (tenant_id, email, role) values ($1, 'second@acme.test', 'ADMIN') returning id",
    [acme.id],
  );
  return rows[0].id as string;
}

it.each([
  "",
  "x",
  "x@",
  "a b@acme.test",
  "a@b@acme.test",
  "a,b@acme.test",
  "<a@acme.test>",
  '"a"@acme.test',
  "a\\@acme.test",
  "a\u200bx@acme.test",
  "a\u202ex@acme.test",
  "a\u00ad@acme.test",
  "\ufeffa@acme.test",
])("invites nobody as %j", async (email) =>
  expect(error(await call(tokens.admin, "inviteUser", { email }))).toEqual({ code: "INVALID_INPUT" }),
);

it("feels a demotion on another instance at once: stale, and with a refresh the lower role", async () => {
  const read = () => other.query("{ auditLogs(first: 1) { nodes { id } } }", { token: tokens.user });
  await addAdmin();
  await call(tokens.admin, "setUserRole", { userId: id("user"), role: "ADMIN" });
  const { accessToken } = (
    await other.query(
      `mutation { login(input: {tenant: "acme", email: "user@acme.test", password: "Test-password-1"}) { accessToken } }`,
    )
  ).data.login;
  tokens.user = accessToken;
  expect((await read()).errors).toBeUndefined();
  await call(tokens.admin, "setUserRole", { userId: id("user"), role: "VIEWER" });
  expect(error(await read())).toEqual({ code: "UNAUTHENTICATED", reason: "stale" });
});

it("feels permissions granted and taken away on another instance at once, with the same token", async () => {
  const read = () => other.query("{ auditLogs(first: 1) { nodes { id } } }", { token: tokens.viewer });
  expect(error(await read())).toEqual({ code: "FORBIDDEN", reason: "audit:read" });
  const set = (permissions: string[]) =>
    call(tokens.admin, "setUserPermissions", { userId: id("viewer"), permissions });
  expect((await set(["audit:read", "audit:read"])).data.setUserPermissions.user.permissions).toEqual([
    "audit:read",
  ]);
  expect((await read()).data.auditLogs.nodes).toHaveLength(1);
  await set([]);
  expect(error(await read())).toMatchObject({ code: "FORBIDDEN" });
});

it("feels a suspension on another instance at once, and does not revive the session with the account", async () => {
  const me = () => other.query("{ currentUser { id } }", { token: tokens.user });
  const set = (status: string) => call(tokens.admin, "setUserStatus", { userId: id("user"), status });
  for (const status of ["SUSPENDED", "INACTIVE"]) {
    tokens.user = await api.signIn("acme", "user");
    expect((await me()).errors).toBeUndefined();
    expect((await set(status)).data.setUserStatus.user.status).toBe(status);
    expect(error(await me())).toMatchObject({ reason: "revoked" });
    await set("ACTIVE");
    expect(error(await me())).toMatchObject({ reason: "revoked" });
  }
});

it("lets nobody without users:manage manage users, and says what is missing", async () => {
  for (const role of ["user", "viewer"] as const)
    for (const [field, input, selection] of [
      ["inviteUser", { email: "x@acme.test" }],
      ["setUserRole", { userId: id("viewer"), role: "USER" }],
      ["setUserPermissions", { userId: id("viewer"), permissions: [] }],
      ["setUserStatus", { userId: id("viewer"), status: "INACTIVE" }],
      ["resendInvitation", { userId: id("viewer") }],
      ["revokeInvitation", { userId: id("viewer") }, "userId"],
    ] as const)
      expect(error(await call(tokens[role], field, input, selection))).toEqual({
        code: "FORBIDDEN",
        reason: "users:manage",
      });
});

it("lets nobody raise, or change at all, their own rights", async () => {
  await addAdmin();
  await grant("user", "users:manage");
  const own = (role: "admin" | "user", field: string, input: object) =>
    call(tokens[role], field, { userId: id(role), ...input });
  for (const role of ["admin", "user"] as const) {
    const self = { code: "FORBIDDEN", reason: "self" };
    expect(error(await own(role, "setUserRole", { role: "VIEWER" }))).toEqual(self);
    expect(error(await own(role, "setUserPermissions", { permissions: ["audit:read"] }))).toEqual(self);
    expect(error(await own(role, "setUserStatus", { status: "INACTIVE" }))).toEqual(self);
  }
  const patch = await call(tokens.user, "updateUser", { id: id("user"), patch: { role: "ADMIN" } });
  expect(error(patch)).toEqual({ code: "INVALID_INPUT" });
});

it("lets nobody grant what they do not have", async () => {
  await grant("user", "users:manage");
  await grant("viewer", "audit:read");
  // Whom to spare, so that it is the rank that refuses and not the last admin's rule.
  await addAdmin();
  const above = { userId: id("admin") };
  for (const [field, input] of [
    ["setUserRole", { ...above, role: "USER" }],
    ["setUserPermissions", { ...above, permissions: [] }],
    ["setUserStatus", { ...above, status: "INACTIVE" }],
  ] as const)
    expect([field, error(await call(tokens.user, field, input))]).toEqual([field, { code: "FORBIDDEN" }]);
  const viewer = { userId: id("viewer") };
  expect(error(await call(tokens.user, "setUserRole", { ...viewer, role: "ADMIN" }))).toEqual({
    code: "FORBIDDEN",
  });
  expect(
    error(await call(tokens.user, "setUserPermissions", { ...viewer, permissions: ["analytics:export"] })),
  ).toEqual({
    code: "FORBIDDEN",
    reason: "analytics:export",
  });
  expect(error(await call(tokens.user, "inviteUser", { email: "x@acme.test", role: "ADMIN" }))).toEqual({
    code: "FORBIDDEN",
  });
  expect(
    error(await call(tokens.user, "inviteUser", { email: "x@acme.test", permissions: ["tenant:settings"] })),
  ).toMatchObject({ code: "FORBIDDEN" });
  expect(
    error(await call(tokens.user, "setUserStatus", { userId: id("admin"), status: "SUSPENDED" })),
  ).toEqual({
    code: "FORBIDDEN",
  });
  expect(error(await call(tokens.admin, "setUserRole", { ...viewer, role: "SUPER_ADMIN" }))).toEqual({
    code: "FORBIDDEN",
  });
  expect(error(await call(tokens.admin, "setUserPermissions", { ...viewer, permissions: ["all"] }))).toEqual({
    code: "INVALID_INPUT",
  });
  // What they have, they may; and what the other has already, they may leave.
  expect((await call(tokens.user, "setUserRole", { ...viewer, role: "USER" })).errors).toBeUndefined();
  expect(
    (
      await call(tokens.user, "setUserPermissions", {
        ...viewer,
        permissions: ["events:write", "users:manage", "audit:read"],
      })
    ).errors,
  ).toBeUndefined();
});

it("makes nobody a user who has not accepted, nor an invitation of a user", async () => {
  const { data } = await call(tokens.admin, "inviteUser", { email: "new@acme.test" });
  const set = async (userId: string, status: string) =>
    error(await call(tokens.admin, "setUserStatus", { userId, status }));
  for (const status of ["ACTIVE", "SUSPENDED", "INACTIVE"])
    expect(await set(data.inviteUser.user.id, status)).toEqual({ code: "CONFLICT" });
  expect(await set(id("viewer"), "INVITED")).toEqual({ code: "CONFLICT" });
});

it("manages nobody in another tenant", async () => {
  const foreign = await call(tokens.admin, "setUserStatus", {
    userId: id("viewer", globex),
    status: "SUSPENDED",
  });
  expect(error(foreign)).toEqual({ code: "NOT_FOUND" });
  const { rows } = await database.owner.query("select status from users where id = $1", [
    id("viewer", globex),
  ]);
  expect(rows).toEqual([{ status: "ACTIVE" }]);
});

it("keeps the last active admin, also from plain SQL", async () => {
  const second = await addAdmin();
  await call(tokens.admin, "setUserStatus", { userId: second, status: "INACTIVE" });
  for (const sql of [
    "update users set role = 'USER' where id = $1",
    "update users set status = 'SUSPENDED' where id = $1",
    "delete from users where id = $1",
  ])
    expect(await refusal(database.owner.query(sql, [id("admin")]))).toBe("EA409");
  await database.owner.query("update users set status = 'ACTIVE' where id = $1", [second]);
  expect(
    await refusal(database.owner.query("update users set role = 'USER' where id = $1", [id("admin")])),
  ).toBe("no error");
});

/** What the second statement comes to, when the first commits only once the second waits for it, or is done. */
async function meanwhile(first: [string, string[]], second: [string, string[]]): Promise<string> {
  const [one, two] = [await database.owner.connect(), await database.owner.connect()];
  try {
    await one.query("begin");
    await two.query("begin");
    const { rows } = await two.query("select pg_backend_pid() as pid");
    await one.query(...first);
    let done = false;
    const outcome = refusal(two.query(...second)).finally(() => {
      done = true;
    });
    await until(
      async () =>
        done ||
        (await database.owner.query("select from pg_locks where pid = $1 and not granted", [rows[0].pid]))
          .rowCount,
      Boolean,
    );
    await one.query("commit");
    return await outcome;
  } finally {
    await one.query("rollback");
    await two.query("rollback");
    one.release();
    two.release();
  }
}

it("keeps one of two admins who demote each other at the same time", async () => {
  const demote = "update users set role = 'USER' where id = $1";
  expect(await meanwhile([demote, [id("admin")]], [demote, [await addAdmin()]])).toBe("EA409");
});

it("gives the last seat, and the last integration, to one of two at the same time", async () => {
  await database.owner.query("update tenants set max_users = 4, max_integrations = 2 where id = $1", [
    acme.id,
  ]);
  const user = "insert into users (tenant_id, email) values ($1, $2)";
  expect(await meanwhile([user, [acme.id, "a@acme.test"]], [user, [acme.id, "b@acme.test"]])).toBe("EA402");
  const shop = "insert into integrations (tenant_id, name, provider) values ($1, $2, 'square')";
  expect(await meanwhile([shop, [acme.id, "A"]], [shop, [acme.id, "B"]])).toBe("EA402");
  await database.owner.query("delete from integrations where name = 'A'");
});

it("has SUPER_ADMIN in the operator's tenant only, whoever writes it", async () => {
  const client = await database.owner.connect();
  const promote = async (tenant: TestTenant) => {
    await client.query("begin");
    const outcome = await refusal(
      client.query("update users set role = 'SUPER_ADMIN' where id = $1", [id("viewer", tenant)]),
    );
    if (tenant === platform)
      expect(
        await refusal(
          client.query("update users set role = 'ADMIN' where id = $1", [id("viewer", platform)]),
        ),
      ).toBe("EA409");
    await client.query("rollback");
    return outcome;
  };
  try {
    expect(await promote(acme)).toBe("EA403");
    expect(await promote(platform)).toBe("no error");
  } finally {
    client.release();
  }
});

it("lets a deleted tenant take its last admin with it", async () => {
  const gone = await createTenant(database.owner, "gone");
  await database.owner.query("delete from tenants where id = $1", [gone.id]);
  expect((await database.owner.query("select from users where tenant_id = $1", [gone.id])).rowCount).toBe(0);
});

it("lets nobody bring back a user with permissions that they could not grant", async () => {
  await grant("user", "users:manage");
  await grant("viewer", "audit:read", "events:write");
  for (const status of ["SUSPENDED", "INACTIVE"]) {
    await call(tokens.admin, "setUserStatus", { userId: id("viewer"), status });
    const back = await call(tokens.user, "setUserStatus", { userId: id("viewer"), status: "ACTIVE" });
    expect(error(back)).toEqual({ code: "FORBIDDEN", reason: "audit:read" });
    const { rows } = await database.owner.query("select status from users where id = $1", [id("viewer")]);
    expect(rows).toEqual([{ status }]);
  }
  await grant("viewer", "events:write");
  const back = await call(tokens.user, "setUserStatus", { userId: id("viewer"), status: "ACTIVE" });
  expect(back.data.setUserStatus.user.status).toBe("ACTIVE");
});

it("takes no null for a permission", async () => {
  await grant("viewer", "events:write");
  for (const permissions of [[null], ["audit:read", null]])
    for (const answer of [
      await call(tokens.admin, "inviteUser", { email: "null@acme.test", permissions }),
      await call(tokens.admin, "setUserPermissions", { userId: id("viewer"), permissions }),
    ])
      expect(error(answer)).toEqual({ code: "INVALID_INPUT" });
});
