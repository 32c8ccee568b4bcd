import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { type Answer, startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";
import { createTenant, SQUARE_CONFIG, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let admin: string;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  acme = await createTenant(database.owner, "acme");
  admin = await api.signIn("acme", "admin");
});
/** The three users of acme, and nobody else. */
beforeEach(async () => {
  await database.owner.query("delete from users where email !~ '^(admin|user|viewer)@'");
  await database.owner.query("update tenants set max_users = 10");
  await database.owner.query("update users set status = 'ACTIVE'");
});
afterAll(async () => {
  await api.close();
  await database.drop();
});

const call = (token: string, field: string, input: object, selection = "user { id }") => {
  const type = `${field[0]?.toUpperCase()}${field.slice(1)}Input!`;
  return api.query(`mutation ($input: ${type}) { ${field}(input: $input) { ${selection} } }`, {
    variables: { input },
    token,
  });
};
const error = ({ errors }: Answer) => errors?.[0]?.extensions;

it("holds max_users: of 100 invitations at once with 3 seats left, 3 succeed", async () => {
  await database.owner.query("update tenants set max_users = 6 where id = $1", [acme.id]);
  const answers = await Promise.all(
    Array.from({ length: 100 }, (_, index) => call(admin, "inviteUser", { email: `p${index}@acme.test` })),
  );
  const refused = answers.filter(({ errors }) => errors);
  expect(answers.length - refused.length).toBe(3);
  expect(refused.map(error)).toEqual(Array(97).fill({ code: "LIMIT_EXCEEDED", reason: "max_users" }));
  const { rows } = await database.owner.query("select count(*)::int from users where tenant_id = $1", [
    acme.id,
  ]);
  expect(rows[0].count).toBe(6);
});

it("counts suspended and invited users, not deactivated ones, and checks again when one returns", async () => {
  await database.owner.query("update tenants set max_users = 3 where id = $1", [acme.id]);
  const set = (status: string) => call(admin, "setUserStatus", { userId: acme.users.viewer.id, status });
  const inviteOne = () => call(admin, "inviteUser", { email: "seat@acme.test" });
  await set("SUSPENDED");
  expect(error(await inviteOne())).toMatchObject({ code: "LIMIT_EXCEEDED" });
  await set("INACTIVE");
  expect((await inviteOne()).errors).toBeUndefined();
  expect(error(await set("ACTIVE"))).toMatchObject({ code: "LIMIT_EXCEEDED" });
});

it.each(["read committed", "repeatable read", "serializable"])(
  "holds max_users for eight plain inserts at once, %s",
  async (isolation) => {
    await database.owner.query("update tenants set max_users = 5 where id = $1", [acme.id]);
    const outcomes = await Promise.all(
      Array.from({ length: 8 }, async (_, index) => {
        const client = await database.owner.connect();
        try {
          await client.query(`begin isolation level ${isolation}`);
          const outcome = await refusal(
            client.query("insert into users (tenant_id, email) values ($1, $2)", [
              acme.id,
              `r${index}@acme.test`,
            ]),
          );
          await client.query("commit");
          return outcome;
        } finally {
          client.release();
        }
      }),
    );
    const added = outcomes.filter((outcome) => outcome === "no error").length;
    expect(added).toBe(isolation === "read committed" ? 2 : 0);
    const { rows } = await database.owner.query("select count(*)::int from users where tenant_id = $1", [
      acme.id,
    ]);
    expect(rows[0].count).toBe(3 + added);
  },
);

it("holds max_integrations", async () => {
  await database.owner.query("update tenants set max_integrations = 2 where id = $1", [acme.id]);
  const create = (index: number) =>
    call(
      admin,
      "createIntegration",
      { integration: { name: `Shop ${index}`, provider: "square", config: SQUARE_CONFIG } },
      "integration { id }",
    );
  const answers = await Promise.all(Array.from({ length: 10 }, (_, index) => create(index)));
  const refused = answers.filter(({ errors }) => errors);
  expect(refused.map(error)).toEqual(Array(9).fill({ code: "LIMIT_EXCEEDED", reason: "max_integrations" }));
});
