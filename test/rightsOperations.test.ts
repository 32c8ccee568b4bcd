import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import type { Claims } from "../src/auth/tokens.ts";
import { permissionOf } from "./rights/cells.ts";
import { cellsOf, operations } from "./rights/matrix.ts";
import { makePeople, type People } from "./rights/people.ts";
import { type Answer, startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { SocketClient } from "./support/socket.ts";
import { SQUARE_CONFIG } from "./support/tenants.ts";

let database: TestDatabase;
let api: TestApi;
let people: People;

beforeAll(async () => {
  database = await createTestDatabase();
  // Nobody answers there, which is an answer, too.
  api = await startApi(database, { simulatorUrl: "http://127.0.0.1:9" });
  people = await makePeople(database.owner);
});
afterAll(async () => {
  await api.close();
  await database.drop();
});
beforeEach(() => database.owner.query("truncate app_private.rate_limits"));

const tokenOf = (claims: Claims | undefined) => (claims ? api.tokens.sign(claims).token : undefined);
const outcomeOf = ({ errors }: Pick<Answer, "errors">): string => errors?.[0].extensions.code ?? "done";
const ownIntegration = async (tenantId = people.acme.id): Promise<string> => {
  const { rows } = await database.owner.query("select id from integrations where tenant_id = $1 limit 1", [
    tenantId,
  ]);
  return rows[0].id;
};

/** What each comes to, for somebody. */
const attempts: Record<string, (claims: Claims | undefined) => Promise<string>> = {
  availableProviders: async (claims) =>
    outcomeOf(await api.query("{ availableProviders { name } }", { token: tokenOf(claims) })),
  setIntegrationCredentials: async (claims) =>
    outcomeOf(
      await api.query(
        "mutation ($input: SetIntegrationCredentialsInput!) { setIntegrationCredentials(input: $input) { integration { id } } }",
        {
          token: tokenOf(claims),
          variables: {
            input: {
              integrationId: await ownIntegration(claims?.tenant_id),
              credentials: { accessToken: "a token" },
            },
          },
        },
      ),
    ),
  testIntegrationConnection: async (claims) =>
    outcomeOf(
      await api.query(
        "mutation ($input: TestIntegrationConnectionInput!) { testIntegrationConnection(input: $input) { ok } }",
        {
          token: tokenOf(claims),
          variables: {
            input: {
              provider: "square",
              config: { ...SQUARE_CONFIG, environment: "simulator" },
              credentials: { accessToken: "a token" },
            },
          },
        },
      ),
    ),
  integrationUpdated: async (claims) => {
    const client = new SocketClient(api.url);
    try {
      await client.connect(tokenOf(claims) ?? "");
      if (client.messages.length === 0) return "UNAUTHENTICATED";
      client.subscribe("1", "subscription ($id: UUID!) { integrationUpdated(id: $id) { id } }", {
        id: await ownIntegration(claims?.tenant_id),
      });
      return outcomeOf(await client.next("1", 0));
    } finally {
      client.socket.terminate();
    }
  },
};

const cells = Object.entries(operations).flatMap(([name, row]) =>
  cellsOf(row).map(({ role, right }) => ({ name, role, right })),
);
it.each(cells)("$role runs $name: $right", async ({ name, role, right }) => {
  const attempt = attempts[name];
  if (!attempt) throw new Error(`Nobody knows how to run ${name}.`);
  const permission = permissionOf(right);
  if (!permission)
    return expect(await attempt(people.as(role))).toMatch(
      right === "-" ? /^(FORBIDDEN|UNAUTHENTICATED)$/ : "done",
    );
  expect(await attempt(people.with(role, permission))).toBe("done");
  expect(await attempt(people.as(role))).toBe("FORBIDDEN");
  expect(await attempt(people.without(role, permission))).toBe("FORBIDDEN");
});
