import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import type pg from "pg";
import { startApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";

let database: TestDatabase;
let tenantId: string;
let month = 0;

beforeAll(async () => {
  database = await createTestDatabase();
  const { rows } = await database.owner.query(
    "insert into tenants (name, slug, status) values ('T', 't', 'ACTIVE') returning id",
  );
  tenantId = rows[0].id;
});
beforeEach(async () => {
  await database.owner.query("truncate analytics_events, app_private.event_keys");
  month++;
});
afterAll(() => database.drop());

const day = (number: number) => `2019-0${month}-${String(number).padStart(2, "0")}T00:00:00Z`;
const event = (sourceId: string, more: object = {}) => ({
  eventType: "order",
  eventName: "order_completed",
  source: "shop",
  sourceId,
  timestamp: day(15),
  value: 1,
  ...more,
});
const write = (client: Pick<pg.ClientBase, "query">, ...events: object[]) =>
  client.query("select app_hidden.write_events($1, $2)", [tenantId, JSON.stringify(events)]);
const stored = async () => {
  const { rows } = await database.owner.query(
    "select source_id as id, value::text, tableoid::regclass::text as partition from analytics_events order by source_id",
  );
  return rows;
};
const move = (client: Pick<pg.ClientBase, "query">) =>
  client.query("select app_private.make_partition('analytics_events', $1)", [day(1)]);
const somebodyWaits = () =>
  until(
    () => database.owner.query("select from pg_locks where not granted"),
    ({ rowCount }) => (rowCount ?? 0) > 0,
  );

it("a reader who waits for a move finds every row, once", async () => {
  await write(database.owner, event("1"), event("2"));
  const reader = await database.owner.connect();
  const read = () => reader.query("select source_id from analytics_events where tenant_id = $1", [tenantId]);
  // It knows the partitions of before.
  await read();
  const mover = await database.owner.connect();
  await mover.query("begin");
  await move(mover);
  const reading = read();
  await somebodyWaits();
  await mover.query("commit");
  mover.release();
  expect((await reading).rowCount).toBe(2);
  reader.release();
});

it("what changes while rows are copied is as it was left", async () => {
  await write(database.owner, ...["kept", "updated", "deleted", "moved away"].map((id) => event(id)));
  const writer = await database.owner.connect();
  await writer.query("begin");
  await write(writer, event("before"));
  const moving = move(database.owner);
  // The rows are copied; what this transaction wrote is not, and what it writes now is not.
  await somebodyWaits();
  await write(
    writer,
    event("updated", { value: 2 }),
    { source: "shop", sourceId: "deleted", deleted: true },
    event("moved away", { timestamp: "2019-12-24T00:00:00Z" }),
    event("after"),
    event("before", { value: 3 }),
  );
  await writer.query("commit");
  writer.release();
  await moving;
  const partition = `partitions.analytics_events_20190${month}`;
  expect(await stored()).toEqual([
    { id: "after", value: "1", partition },
    { id: "before", value: "3", partition },
    { id: "kept", value: "1", partition },
    { id: "moved away", value: "1", partition: "partitions.analytics_events_default" },
    { id: "updated", value: "2", partition },
  ]);
  const { rows } = await database.owner.query(
    "select relname from pg_class where relnamespace = 'partitions'::regnamespace and relname like '%moved%'",
  );
  expect(rows).toEqual([]);
});

it("a GraphQL query and an export that began before a move find every row, once", async () => {
  await database.owner.query("update app_private.plans set events_per_day = null");
  const { id, slug } = await createTenant(database.owner, "moves");
  await database.owner.query("select app_hidden.write_events($1, $2)", [
    id,
    JSON.stringify([event("1"), event("2")]),
  ]);
  const api = await startApi(database);
  const mover = await database.owner.connect();
  try {
    const token = await api.signIn(slug, "admin");
    const range = { from: day(1), to: day(28) };
    const ask = () =>
      api.query(
        `{ analyticsEvents(filter: {timestamp: {greaterThanOrEqualTo: "${range.from}", lessThan: "${range.to}"}}) { nodes { sourceId } } }`,
        { token },
      );
    const download = () =>
      fetch(new URL("/v1/exports/events?format=ndjson", api.url), {
        method: "POST",
        headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
        body: JSON.stringify({ ...range, columns: ["sourceId"] }),
      });
    expect((await ask()).data.analyticsEvents.nodes).toHaveLength(2);
    await mover.query("begin");
    await move(mover);
    const answers = Promise.all([ask(), download()]);
    await until(
      () => database.owner.query("select from pg_locks where not granted"),
      ({ rowCount }) => rowCount === 2,
    );
    await mover.query("commit");
    const [asked, downloaded] = await answers;
    expect(asked.errors).toBeUndefined();
    expect(asked.data.analyticsEvents.nodes).toHaveLength(2);
    expect((await downloaded.text()).trim().split("\n")).toHaveLength(2);
  } finally {
    mover.release();
    await api.close();
  }
});
