import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { makePool, withClient } from "../src/db/pools.ts";
import { OperationTransaction } from "../src/graphql/operationTransaction.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, silent, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

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
afterAll(async () => {
  await api.close();
  await database.drop();
});

const create = (alias: string, name: string, provider = "square") =>
  `${alias}: createIntegration(input: { integration: { name: "${name}", provider: "${provider}", config: { environment: "sandbox", locationIds: ["L1"] } } }) { integration { name } }`;

it("takes back a mutation that fails, and keeps those beside it", async () => {
  const { data, errors } = await api.query(
    `mutation { ${create("a", "First")} ${create("b", "Second", "NOT A PROVIDER")} ${create("c", "Third")} }`,
    { token: admin },
  );
  expect(data).toEqual({
    a: { integration: { name: "First" } },
    b: null,
    c: { integration: { name: "Third" } },
  });
  expect(errors).toEqual([
    expect.objectContaining({
      path: ["b"],
      extensions: { code: "INVALID_INPUT", reason: "unknown_provider", field: "provider" },
    }),
  ]);
  const { rows } = await database.owner.query(
    "select name from integrations where name <> 'Shop' order by name",
  );
  expect(rows).toEqual([{ name: "First" }, { name: "Third" }]);
});

it("answers with an error and no data when the commit fails", async () => {
  await database.owner.query(`
    create function app_private.tg_fail() returns trigger language plpgsql as $$ begin raise exception 'no' using errcode = '40001'; end $$;
    create constraint trigger fail after insert on integrations deferrable initially deferred
      for each row when (new.name = 'Doomed') execute function app_private.tg_fail();
    grant execute on function app_private.tg_fail() to public`);
  const { data, errors } = await api.query(`mutation { ${create("a", "Doomed")} }`, { token: admin });
  expect(data).toBeNull();
  expect(errors?.[0].extensions.code).toBe("CONFLICT");
  expect((await database.owner.query("select from integrations where name = 'Doomed'")).rowCount).toBe(0);
});

it("runs a query in one read-only transaction on one connection", async () => {
  await database.owner.query(`
    create function public.backend() returns text language sql volatile
      as $$ select pg_backend_pid() || ' ' || current_setting('transaction_read_only') || ' ' || current_setting('transaction_isolation') || ' ' || current_setting('statement_timeout') $$;
    comment on function public.backend() is '@behavior queryField -mutationField';
    alter function public.backend() stable;
    grant execute on function public.backend() to api_admin, api_viewer`);
  const own = await startApi(database);
  try {
    const { data, errors } = await own.query("{ a: backend b: backend users { nodes { id } } c: backend }", {
      token: admin,
    });
    expect(errors).toBeUndefined();
    expect(data.a).toMatch(/^\d+ on repeatable read 30s$/);
    expect(new Set([data.a, data.b, data.c]).size).toBe(1);
  } finally {
    await own.close();
    await database.owner.query("drop function public.backend()");
  }
});

it("gives 50 rows by default and refuses more than 1,000", async () => {
  const events = Array.from({ length: 60 }, (_, index) => ({ eventType: "visit", eventName: `v${index}` }));
  await database.owner.query("select app_hidden.write_events($1, $2)", [acme.id, JSON.stringify(events)]);
  const sizes = async (page: string) => {
    const { data, errors } = await api.query(`{ analyticsEvents${page} { nodes { id } } }`, { token: admin });
    return errors?.[0].extensions.code ?? data.analyticsEvents.nodes.length;
  };
  expect(await sizes("")).toBe(50);
  expect(await sizes("(first: 3)")).toBe(3);
  expect(await sizes("(last: 4)")).toBe(4);
  expect(await sizes("(first: 1000)")).toBe(70);
  expect(await sizes("(first: 1001)")).toBe("INVALID_INPUT");
  expect(await sizes("(last: 1001)")).toBe("INVALID_INPUT");
  expect(await sizes("(first: -1)")).toBe("INVALID_INPUT");
  const nested = await api.query("{ tenants { nodes { users(first: 1001) { nodes { id } } } } }", {
    token: admin,
  });
  expect(nested.errors?.[0].extensions.code).toBe("INVALID_INPUT");
});

it("cuts off a statement that takes longer than the role permits", async () => {
  await database.owner.query(`
    create function public.slow() returns text language plpgsql stable as $$ begin perform pg_sleep(60); return ''; end $$;
    grant execute on function public.slow() to api_anonymous`);
  const own = await startApi(database);
  try {
    const { errors } = await own.query("{ slow }");
    expect(errors?.[0].extensions.code).toBe("TIMEOUT");
  } finally {
    await own.close();
    await database.owner.query("drop function public.slow()");
  }
});

it("answers 400 with the reason and a code to a document that is malformed or asks for what is not there", async () => {
  for (const [document, reason] of [
    ["{ nope", /Syntax Error/],
    ["{ nope }", /Cannot query field "nope"/],
  ] as const) {
    const { status, errors } = await api.query(document, { token: admin });
    expect(status).toBe(400);
    expect(errors?.[0].message).toMatch(reason);
    expect(errors?.[0].extensions.code).toBe("INVALID_INPUT");
  }
});

it("masks what is unexpected under an id, and says nothing of the schema", async () => {
  await database.owner.query(`
    create function public.broken() returns text language plpgsql stable as $$ begin raise exception 'secret of app_private.nothing'; end $$;
    grant execute on function public.broken() to api_anonymous`);
  const own = await startApi(database);
  try {
    const { errors } = await own.query("{ broken }");
    expect(errors?.[0].extensions).toEqual({ code: "INTERNAL", errorId: expect.any(String) });
    expect(JSON.stringify(errors)).not.toMatch(/nothing|secret|app_private/);
  } finally {
    await own.close();
    await database.owner.query("drop function public.broken()");
  }
});

it("recovers by itself when the database ends its connections", async () => {
  expect((await api.query("{ currentUser { id } }", { token: admin })).errors).toBeUndefined();
  await withClient(database.urls.root, (client) =>
    client.query(
      "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'erp_authenticator' and datname = current_database()",
    ),
  );
  const answers = [];
  for (let attempt = 0; attempt < 3; attempt++)
    answers.push(await api.query("{ currentUser { id } }", { token: admin }));
  expect(answers.at(-1)?.errors).toBeUndefined();
  for (const { errors } of answers) if (errors) expect(errors[0].extensions.code).toBe("UNAVAILABLE");
});

it("answers TIMEOUT, and frees the connection, when the server behind it does not answer", async () => {
  const pool = makePool(database.urls.authenticator, { name: "hung", max: 1, log: silent, pipeline: true });
  const identity = { claims: undefined, origin: {} };
  const transaction = new OperationTransaction(pool, "query", identity, 300);
  const hung = transaction.withPgClient(null, (client) => client.query({ text: "select pg_sleep(4)" }));
  await expect(hung).rejects.toMatchObject({ code: "TIMEOUT" });
  await transaction.finish().catch(() => {});
  expect((await pool.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
  await pool.end();
});

it("does not let a field that is refused disturb the others", async () => {
  const viewer = await api.signIn("acme", "viewer");
  const { data, errors } = await api.query(
    "{ before: users { totalCount } auditLogs { totalCount } after: tenants { totalCount } }",
    { token: viewer },
  );
  expect(data).toEqual({ before: { totalCount: 3 }, auditLogs: null, after: { totalCount: 1 } });
  expect(errors?.map((error) => [error.path[0], error.extensions.code])).toEqual([
    ["auditLogs", "FORBIDDEN"],
  ]);
});

it("suggests names only where introspection is on", async () => {
  const misspelt = async (target: TestApi) => (await target.query("{ userz { id } }")).errors?.[0].message;
  expect(await misspelt(api)).toMatch(/Did you mean/);
  const production = await startApi(database, { config: { NODE_ENV: "production" } });
  try {
    expect(await misspelt(production)).toBe('Cannot query field "userz" on type "Query".');
  } finally {
    await production.close();
  }
});

it.each([
  [
    "a thousand aliases",
    `{ ${Array.from({ length: 1000 }, (_, i) => `a${i}: users { totalCount }`).join(" ")} }`,
  ],
  [
    "aliases in fragments",
    `{ ...f ...f } fragment f on Query { ${Array.from({ length: 20 }, (_, i) => `a${i}: __typename`).join(" ")} }`,
  ],
  ["fifteen levels", `{ tenants ${"{ nodes { users ".repeat(7)} { nodes { id } } ${"} }".repeat(7)} }`],
  ["fragments in a circle", "{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }"],
  ["thousands of tokens", `{ __typename ${"@skip(if: false) ".repeat(2000)} }`],
])("refuses a document with %s at once, without a token", async (_case, document) => {
  const { status, errors } = await api.query(document);
  expect(status).toBe(400);
  expect(errors).toHaveLength(1);
  expect(errors?.[0].extensions.code).toBe("QUERY_TOO_EXPENSIVE");
});

it("takes null for a filter as no filter", async () => {
  const { data, errors } = await api.query(
    "query ($filter: UserFilter, $email: String) { a: users(filter: $filter) { totalCount } b: users(filter: { email: { equalTo: $email } }) { totalCount } }",
    { token: admin, variables: { filter: null, email: null } },
  );
  expect(errors).toBeUndefined();
  expect(data).toEqual({ a: { totalCount: 3 }, b: { totalCount: 3 } });
});
