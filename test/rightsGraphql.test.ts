import { afterAll, beforeAll, expect, it } from "@jest/globals";
import type { Claims } from "../src/auth/tokens.ts";
import { allCells, type Cell, permissionOf, titleOf } from "./rights/cells.ts";
import { makePeople, type People } from "./rights/people.ts";
import { type Answer, startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";

let database: TestDatabase;
let api: TestApi;
let people: People;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  people = await makePeople(database.owner);
});
afterAll(async () => {
  await api.close();
  await database.drop();
});

/** What GraphQL calls a table: its list, and one of it. */
const names: Record<string, { list: string; type: string }> = {
  tenants: { list: "tenants", type: "Tenant" },
  users: { list: "users", type: "User" },
  integrations: { list: "integrations", type: "Integration" },
  integration_streams: { list: "integrationStreams", type: "IntegrationStream" },
  integration_runs: { list: "integrationRuns", type: "IntegrationRun" },
  rejected_records: { list: "rejectedRecords", type: "RejectedRecord" },
  analytics_events: { list: "analyticsEvents", type: "AnalyticsEvent" },
  audit_logs: { list: "auditLogs", type: "AuditLog" },
  sessions: { list: "sessions", type: "Session" },
  api_keys: { list: "apiKeys", type: "ApiKey" },
  metrics: { list: "metrics", type: "Metric" },
  subject_properties: { list: "subjectProperties", type: "SubjectProperty" },
};
let made = 0;
/** What a new row of the table needs. */
const required: Record<string, () => Record<string, unknown>> = {
  integrations: () => ({ name: "Shop", provider: "square" }),
  metrics: () => ({ name: `m${++made}`, formula: "1" }),
  subject_properties: () => ({ eventType: `t${++made}`, property: "id" }),
};
/** A value that any row of the table may have. */
const values: Record<string, unknown> = {
  "tenants.name": "Same",
  "tenants.domain": null,
  "tenants.status": "ACTIVE",
  "tenants.settings": {},
  "tenants.metadata": {},
  "tenants.features": ["api_keys"],
  "tenants.max_users": 200,
  "tenants.max_integrations": 2000,
  "tenants.plan_type": "trial",
  "tenants.billing_email": "billing@example.com",
  "tenants.trial_ends_at": null,
  "integrations.name": "Shop",
  "integrations.config": {},
  "integrations.enabled": false,
  "integrations.sync_interval_minutes": 60,
  "integration_streams.enabled": true,
  "metrics.formula": "2",
  "metrics.measures": [],
  "metrics.format": "NUMBER",
  "subject_properties.property": "memberId",
};
/** Those of which no two rows may have the same. */
const fresh: Record<string, () => unknown> = {
  "metrics.name": () => `n${++made}`,
  "subject_properties.event_type": () => `n${++made}`,
};
const camel = (name: string) => name.replaceAll(/_(.)/g, (_, letter: string) => letter.toUpperCase());
const ask = (claims: Claims | undefined, document: string, variables: object = {}) =>
  api.query(document, {
    variables: { ...variables },
    ...(claims ? { token: api.tokens.sign(claims).token } : {}),
  });

/** "no such field", a code, or "done". */
function outcomeOf({ status, errors }: Answer): string {
  if (!errors) return "done";
  return status === 400 ? "no such field" : errors[0].extensions.code;
}
const refused = /^(no such field|FORBIDDEN|UNAUTHENTICATED)$/;

async function list(table: string, claims: Claims | undefined) {
  const { list: field } = names[table] ?? { list: table };
  const tenant = table === "tenants" ? "id" : "tenantId";
  const person = table === "sessions" ? "userId" : "id";
  const answer = await ask(
    claims,
    `{ ${field}(first: 1000) { totalCount nodes { tenant: ${tenant} person: ${person} } } }`,
  );
  const nodes: { tenant: string; person: string }[] = answer.data?.[field]?.nodes ?? [];
  return {
    outcome: outcomeOf(answer),
    tenants: new Set(nodes.map(({ tenant }) => tenant)),
    people: new Set(nodes.map(({ person }) => person)),
  };
}

async function rowOf(table: string, tenantId: string, userId?: string): Promise<string> {
  const column = table === "tenants" ? "id" : "tenant_id";
  const { rows } = await database.owner.query(
    `select id from public.${table} where ${column} = $1 and ($2::uuid is null or id <> $2) order by id limit 1`,
    [tenantId, userId ?? null],
  );
  return rows[0].id;
}
const update = async ({ table, column = "" }: Cell, claims: Claims | undefined, id: string) => {
  const { type } = names[table] ?? { type: table };
  const value = fresh[`${table}.${column}`]?.() ?? values[`${table}.${column}`] ?? null;
  const document = `mutation ($input: Update${type}Input!) { update${type}(input: $input) { clientMutationId } }`;
  return outcomeOf(await ask(claims, document, { input: { id, patch: { [camel(column)]: value } } }));
};
const remove = async ({ table }: Cell, claims: Claims | undefined, id: string) => {
  const { type } = names[table] ?? { type: table };
  const document = `mutation ($input: Delete${type}Input!) { delete${type}(input: $input) { clientMutationId } }`;
  return outcomeOf(await ask(claims, document, { input: { id } }));
};
const insert = async ({ table, column = "" }: Cell, claims: Claims | undefined) => {
  const { type } = names[table] ?? { type: table };
  const value =
    fresh[`${table}.${column}`]?.() ??
    values[`${table}.${column}`] ??
    (column === "provider" ? "square" : null);
  const row = { ...required[table]?.(), [camel(column)]: value };
  const document = `mutation ($input: Create${type}Input!) { create${type}(input: $input) { clientMutationId } }`;
  const input = { [`${type[0]?.toLowerCase()}${type.slice(1)}`]: row };
  return outcomeOf(await ask(claims, document, { input }));
};
/** A row to delete, with nothing that depends on it. */
async function newRow(table: string, tenantId: string): Promise<string> {
  const row = Object.entries({ ...required[table]?.(), tenantId });
  const columns = row.map(([name]) => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`));
  const { rows } = await database.owner.query(
    `insert into public.${table} (${columns.join(", ")}) values (${row.map((_, index) => `$${index + 1}`).join(", ")}) returning id`,
    row.map(([, value]) => value),
  );
  return rows[0].id;
}
const target = (cell: Cell, tenantId: string, but?: string) =>
  cell.operation === "delete" && required[cell.table]
    ? newRow(cell.table, tenantId)
    : rowOf(cell.table, tenantId, but);

it.each(allCells().map((cell) => [titleOf(cell), cell] as const))(
  "through GraphQL, %s",
  async (_title, cell) => {
    const { role, right, operation, table } = cell;
    const permission = permissionOf(right);
    const claims = permission ? people.with(role, permission) : people.as(role);
    const tenantId = claims?.tenant_id ?? people.acme.id;
    const lacking = permission ? [people.as(role), people.without(role, permission)] : [];

    if (operation === "select") {
      const seen = await list(table, claims);
      if (right === "-") return expect(seen.outcome).toMatch(refused);
      expect(seen.outcome).toBe("done");
      if (right === "all")
        expect([...seen.tenants]).toEqual(expect.arrayContaining([people.acme.id, people.globex.id]));
      else expect([...seen.tenants]).toEqual([tenantId]);
      if (right === "self") expect([...seen.people]).toEqual([claims?.sub]);
      for (const other of lacking) expect((await list(table, other)).outcome).toBe("FORBIDDEN");
      return;
    }
    if (operation === "insert") {
      const outcome = await insert(cell, claims);
      if (right === "-") return expect(outcome).toMatch(refused);
      expect(outcome).toBe("done");
      for (const other of lacking) expect(await insert(cell, other)).toBe("FORBIDDEN");
      return;
    }
    const change = operation === "update" ? update : remove;
    if (right === "-")
      return expect(await change(cell, claims, await target(cell, tenantId))).toMatch(refused);
    const foreign = await change(cell, claims, await target(cell, people.globex.id));
    expect(foreign).toBe(right === "all" ? "done" : "NOT_FOUND");
    if (right === "self") {
      expect(await change(cell, claims, claims?.sub ?? "")).toBe("done");
      expect(await change(cell, claims, await target(cell, tenantId, claims?.sub))).toBe("NOT_FOUND");
    } else expect(await change(cell, claims, await target(cell, tenantId))).toBe("done");
    for (const other of lacking)
      expect(await change(cell, other, await target(cell, tenantId))).toBe("FORBIDDEN");
  },
);
