import type pg from "pg";
import { grantAnalyst, revokeAnalyst } from "../../src/analysts/analysts.ts";
import { withClient } from "../../src/db/pools.ts";
import type { TestDatabase } from "./database.ts";
import type { TestTenant } from "./tenants.ts";

export const ANALYST_PASSWORD = "four orange badgers reading";

export type TestAnalyst = {
  login: string;
  url: string;
  /** Runs SQL on a connection of its own; answers the last statement. */
  query(sql: string): Promise<pg.QueryResult>;
  /** The same, after it has switched off what is only convenience. */
  write(sql: string): Promise<pg.QueryResult>;
  revoke(): Promise<unknown>;
};

/** A real login, as the command makes it. Roles belong to the cluster, which test files share: revoke it in the end. */
export async function makeAnalyst(
  database: TestDatabase,
  { id: tenantId }: Pick<TestTenant, "id">,
  name = "bi",
): Promise<TestAnalyst> {
  const { login } = await grantAnalyst(database.urls, { tenantId, name }, ANALYST_PASSWORD);
  const url = analystUrl(database, login);
  const query = (sql: string) => withClient(url, (client) => last(client, sql));
  return {
    login,
    url,
    query,
    write: (sql) =>
      withClient(url, async (client) => {
        await client.query("set default_transaction_read_only = off");
        return last(client, sql);
      }),
    revoke: () => revokeAnalyst(database.urls, { tenantId, name }),
  };
}

export function analystUrl(database: TestDatabase, login: string, password = ANALYST_PASSWORD): string {
  const url = new URL(database.urls.owner);
  url.username = login;
  url.password = password;
  return url.href;
}

/** One by one: statements sent together are one transaction. */
async function last(client: pg.Client, sql: string): Promise<pg.QueryResult> {
  const statements = sql.split(/; (?![^$]*\$\$)/);
  for (const statement of statements.slice(0, -1)) await client.query(statement);
  return client.query(statements.at(-1) ?? "");
}

/** Events of docs/events.md, each worth 5 USD. */
export const writeEvents = (
  owner: pg.Pool,
  { id: tenantId }: Pick<TestTenant, "id">,
  events: { type: string; id?: string; properties?: object }[],
) =>
  owner.query("select app_hidden.write_events($1, $2)", [
    tenantId,
    JSON.stringify(
      events.map(({ type, id = "1", properties = {} }) => ({
        ...{ eventType: type, eventName: `${type}_completed`, source: "test", sourceId: `${type}:${id}` },
        ...{ timestamp: "2026-02-01T12:00:00Z", value: 5, currency: "USD", properties },
      })),
    ),
  ]);
