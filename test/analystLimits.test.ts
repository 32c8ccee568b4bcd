import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import type { JobHelpers } from "graphile-worker";
import pg from "pg";
import { withClient } from "../src/db/pools.ts";
import { cancelAnalystStatements } from "../tasks/cancel_analyst_statements.ts";
import { schedule, type TaskServices } from "../tasks/index.ts";
import { makeAnalyst, type TestAnalyst } from "./support/analysts.ts";
import { createTestDatabase, silent, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";

let database: TestDatabase;
let acme: TestTenant;
let analyst: TestAnalyst;

beforeAll(async () => {
  database = await createTestDatabase();
  acme = await createTenant(database.owner, "acme");
});
beforeEach(async () => {
  await setTenant("status = 'ACTIVE', trial_ends_at = null");
  analyst = await makeAnalyst(database, acme);
});
afterAll(async () => {
  await analyst?.revoke();
  await database.drop();
});

const setTenant = (assignments: string) =>
  database.owner.query(`update tenants set ${assignments} where id = $1`, [acme.id]);
const hold = async (limit: string, grace = "1 hour") =>
  (await database.worker.query("select login, outcome from app_hidden.hold_analysts($1, $2)", [limit, grace]))
    .rows;
const runTask = () => {
  const services = { pool: database.worker, log: silent } as unknown as TaskServices;
  return cancelAnalystStatements(services)({}, {} as JobHelpers);
};

/** A session of the analyst's, with what became of its statement, and of itself. */
async function session(...statements: string[]) {
  const client = new pg.Client({ connectionString: analyst.url });
  let ended: string | undefined;
  client.on("error", (error) => {
    ended ??= "code" in error ? String(error.code) : "cut";
  });
  await client.connect();
  await client.query("set statement_timeout = 0; set idle_in_transaction_session_timeout = 0");
  const { rows } = await client.query("select pg_backend_pid() as pid");
  const last = statements.pop() ?? "";
  for (const statement of statements) await client.query(statement);
  const outcome = refusal(client.query(last));
  const { pid } = rows[0];
  const seen = (condition: string) =>
    withClient(database.urls.root, (root) =>
      until(
        () => root.query(`select from pg_stat_activity where pid = $1 and ${condition}`, [pid]),
        ({ rowCount }) => rowCount === 1,
      ),
    );
  return {
    client,
    outcome,
    seen,
    end: () => client.end().catch(() => {}),
    whyEnded: () => until(async () => ended, Boolean),
  };
}
const LONG = "clock_timestamp() - query_start > interval '1 s' and state = 'active'";

it("has three connections, and a statement timeout to begin with", async () => {
  const open = await Promise.all([1, 2, 3].map(() => session("select")));
  await Promise.all(open.map(({ outcome }) => outcome));
  expect(await refusal(analyst.query("select"))).toBe("53300");
  await Promise.all(open.map(({ end }) => end()));
  const shown = await until(
    () => analyst.query("show statement_timeout").catch(() => undefined),
    (answer) => answer !== undefined,
  );
  expect(shown?.rows).toEqual([{ statement_timeout: "1min" }]);
});

it("has its statements cancelled that run for too long, whatever timeout it set; nobody else's", async () => {
  const long = await session("select pg_sleep(60)");
  const others = withClient(database.urls.owner, (owner) => refusal(owner.query("select pg_sleep(2)")));
  await long.seen(LONG);
  const brief = await session("select pg_sleep(2)");
  expect(await hold("1 hour")).toEqual([]);
  expect(await hold("900 ms")).toEqual([{ login: analyst.login, outcome: "cancelled" }]);
  expect(await long.outcome).toBe("57014");
  expect((await long.client.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
  expect([await brief.outcome, await others]).toEqual(["no error", "no error"]);
  await Promise.all([long.end(), brief.end()]);
});

it("is ended when it goes on in spite of a cancel", async () => {
  const stubborn = await session(
    "do $$ begin perform pg_sleep(60); exception when query_canceled then perform pg_sleep(60); end $$",
  );
  await stubborn.seen(LONG);
  expect(await hold("400 ms")).toEqual([{ login: analyst.login, outcome: "cancelled" }]);
  await stubborn.seen("wait_event = 'PgSleep'");
  expect(await hold("400 ms", "0")).toEqual([{ login: analyst.login, outcome: "ended" }]);
  expect(await stubborn.outcome).toBe("57P01");
});

it("is ended when it stays idle in a transaction", async () => {
  const idle = await session("begin", "select");
  await idle.outcome;
  await idle.seen("clock_timestamp() - state_change > interval '500 ms' and state = 'idle in transaction'");
  expect(await hold("1 hour")).toEqual([]);
  expect(await hold("400 ms")).toEqual([{ login: analyst.login, outcome: "ended idle" }]);
  expect(await idle.whyEnded()).toBe("57P01");
});

it("is ended when its transaction lasts, however short the statements in it", async () => {
  const busy = await session("begin isolation level repeatable read", "select count(*) from events");
  await busy.outcome;
  await busy.seen("clock_timestamp() - xact_start > interval '1300 ms'");
  await busy.client.query("select 1");
  expect(await hold("200 ms")).toEqual([{ login: analyst.login, outcome: "ended" }]);
  expect(await busy.whyEnded()).toBe("57P01");
});

it("may stay connected without a transaction", async () => {
  const idle = await session("select");
  await idle.outcome;
  await idle.seen("clock_timestamp() - state_change > interval '500 ms' and state = 'idle'");
  expect(await hold("10 ms")).toEqual([]);
  await idle.end();
});

it("is held to five minutes by a task that runs every minute", async () => {
  expect(schedule.filter(({ task }) => task === "cancel_analyst_statements")).toMatchObject([
    { match: "* * * * *" },
  ]);
  const { rows } = await database.owner.query(
    "select pg_get_function_arguments('app_hidden.hold_analysts'::regproc) as arguments",
  );
  expect(rows[0].arguments).toMatch(/'00:05:00'.* '00:01:00'/);
});

const COUNT = "select count(*)::integer as count from analytics.events";
it.each(["status = 'SUSPENDED'", "status = 'CANCELLED'", "status = 'TRIAL', trial_ends_at = now()"])(
  "loses everything in the transaction that sets the tenant's %s, also in an open session, and gets it back",
  async (assignments) => {
    const open = await session(`prepare counting as ${COUNT}`);
    await open.outcome;
    const count = () => open.client.query("execute counting");
    expect((await count()).rows).toEqual([{ count: 10 }]);
    await setTenant(assignments);
    expect(await refusal(count())).toBe("42501");
    expect(await refusal(analyst.query(COUNT))).toMatch(/42501/);
    await setTenant("status = 'ACTIVE', trial_ends_at = null");
    expect((await count()).rows).toEqual([{ count: 10 }]);
    await setTenant(assignments);
    await runTask();
    expect(await open.whyEnded()).toBe("57P01");
    await setTenant("status = 'ACTIVE', trial_ends_at = null");
    expect((await analyst.query(COUNT)).rows).toEqual([{ count: 10 }]);
  },
);

it("loses everything within a minute of the end of a trial, which no statement marks", async () => {
  await setTenant("status = 'TRIAL', trial_ends_at = clock_timestamp() + interval '700 ms'");
  const open = await session(COUNT);
  expect(await open.outcome).toBe("no error");
  await open.seen("state_change < clock_timestamp() - interval '800 ms'");
  await runTask();
  expect(await open.whyEnded()).toBe("57P01");
  expect(await refusal(analyst.query(COUNT))).toBe("42501");
});

it("is admitted to nothing while its tenant is closed", async () => {
  await analyst.revoke();
  await setTenant("status = 'SUSPENDED'");
  analyst = await makeAnalyst(database, acme);
  expect(await refusal(analyst.query(COUNT))).toBe("42501");
});
