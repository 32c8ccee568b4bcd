import { afterAll, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { makePartitions } from "../src/db/migrate.ts";
import { purgeEvents } from "../tasks/purge_events.ts";
import { createTestDatabase, silent, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";
import { until } from "./support/until.ts";

let database: TestDatabase;
let count = 0;
/** Keeps 90 days, 900 days, and everything. */
let brief: string;
let long: string;
let endless: string;

beforeAll(async () => {
  database = await createTestDatabase();
});
beforeEach(async () => {
  await database.owner.query(
    "truncate analytics_events, app_private.event_keys, app_private.doomed_partitions",
  );
  [brief, long, endless] = [await tenant(90), await tenant(900), await tenant(undefined)];
});
afterAll(() => database.drop());

async function tenant(retentionDays: number | undefined): Promise<string> {
  const { rows } = await database.owner.query(
    "insert into tenants (name, slug, status) values ('T', $1, 'ACTIVE') returning id",
    [`t${++count}`],
  );
  const { id } = rows[0];
  kept.set(id, retentionDays);
  return id;
}
const kept = new Map<string, number | undefined>();
/** Retention is set when everything is there: the door already refuses what is too old. */
const setRetention = async () => {
  for (const [id, retentionDays] of kept)
    await database.owner.query("update tenants set settings = $2 where id = $1", [
      id,
      retentionDays ? { retentionDays } : {},
    ]);
};
const daysAgo = (days: number) => new Date(Date.now() - days * 86_400_000).toISOString();
const write = async (tenantId: string, ...days: number[]) => {
  const events = days.map((age) => ({
    eventType: "order",
    eventName: "order_completed",
    source: "shop",
    sourceId: `${age}`,
    timestamp: daysAgo(age),
  }));
  // And one without an id, beside it.
  const { sourceId: _, ...anonymous } = events[0] ?? { sourceId: "" };
  await database.owner.query("select app_hidden.write_events($1, $2)", [
    tenantId,
    JSON.stringify([...events, anonymous]),
  ]);
};
const ages = async (tenantId: string) => {
  const { rows } = await database.owner.query(
    `select e.source_id, (select k.source_id from app_private.event_keys k where k.tenant_id = e.tenant_id and k.id = e.id) as key
       from analytics_events e where e.tenant_id = $1 order by e.timestamp desc, e.source_id nulls last`,
    [tenantId],
  );
  return rows.map(({ source_id, key }) => `${source_id}/${key}`);
};
const keys = async (tenantId: string) =>
  (await database.owner.query("select from app_private.event_keys where tenant_id = $1", [tenantId]))
    .rowCount;
const purged = async (tenantId: string) => {
  const { rows } = await database.owner.query(
    "select changes - 'before' as changes, actor_kind from audit_logs where tenant_id = $1 and action = 'events.purged' order by id",
    [tenantId],
  );
  return rows;
};
const purge = async () => {
  const services = { pool: database.worker, log: silent } as Parameters<typeof purgeEvents>[0];
  await purgeEvents(services)({}, {} as Parameters<ReturnType<typeof purgeEvents>>[1]);
};
const month = (age: number) => `analytics_events_${daysAgo(age).slice(0, 7).replace("-", "")}`;
const partitions = async () => {
  const { rows } = await database.owner.query(
    "select inhrelid::regclass::text as name from pg_inherits where inhparent = 'analytics_events'::regclass",
  );
  return rows.map(({ name }) => name.replace("partitions.", ""));
};

it("deletes what a tenant no longer keeps, with its keys, and records how much; nothing of the others", async () => {
  for (const id of [brief, long, endless]) await write(id, 10, 89, 91, 800);
  await setRetention();
  await purge();
  expect(await ages(brief)).toEqual(["10/10", "null/null", "89/89"]);
  expect(await keys(brief)).toBe(2);
  for (const id of [long, endless]) {
    expect(await ages(id)).toEqual(["10/10", "null/null", "89/89", "91/91", "800/800"]);
    expect(await purged(id)).toEqual([]);
  }
  expect(await purged(brief)).toEqual([{ changes: { count: 2 }, actor_kind: "job" }]);
  // A purged record does not come back as another event.
  const [again] = (
    await database.owner.query("select * from app_hidden.write_events($1, $2)", [
      brief,
      JSON.stringify([
        { eventType: "order", eventName: "o", source: "shop", sourceId: "91", timestamp: daysAgo(91) },
      ]),
    ])
  ).rows;
  expect([again.outcome, again.reason]).toEqual(["rejected", "past_retention"]);
});

it("drops a month that nobody keeps, and none that somebody does", async () => {
  await write(brief, 700, 800);
  await write(long, 800, 1_200);
  await makePartitions(database.worker);
  expect(await partitions()).toEqual(expect.arrayContaining([month(700), month(800), month(1_200)]));
  await setRetention();
  await purge();
  const left = await partitions();
  expect(left).toContain(month(800));
  expect(left).not.toContain(month(700));
  expect(left).not.toContain(month(1_200));
  expect(await ages(long)).toEqual(["800/800", "null/null"]);
  expect([await keys(brief), await keys(long)]).toEqual([0, 1]);
  expect(await purged(long)).toEqual([
    { changes: { count: 1, month: daysAgo(1_200).slice(0, 7) }, actor_kind: "job" },
  ]);
  // The month comes back with the next late event.
  await write(endless, 700);
  await makePartitions(database.worker);
  expect(await partitions()).toContain(month(700));
});

it("keeps an event that was restated to a later time, and goes on where it stopped", async () => {
  await write(brief, 700);
  await database.owner.query("select app_hidden.write_events($1, $2)", [
    brief,
    JSON.stringify([{ source: "shop", sourceId: "700", timestamp: daysAgo(5) }]),
  ]);
  await setRetention();
  await purge();
  await purge();
  expect(await ages(brief)).toEqual(["700/700"]);
});

const one = async (tenantId: string, event: object) => {
  const { rows } = await database.owner.query("select outcome, reason from app_hidden.write_events($1, $2)", [
    tenantId,
    JSON.stringify([{ eventType: "order", eventName: "order_completed", source: "shop", ...event }]),
  ]);
  return rows[0];
};
const doom = async () =>
  (await database.worker.query("select app_hidden.doom_partition() as name")).rows[0].name;

it("finishes a month that it began, whatever a tenant keeps by then, and takes no event of it meanwhile", async () => {
  await write(brief, 700, 720);
  await write(endless, 10);
  await makePartitions(database.worker);
  await setRetention();
  expect(await doom()).toBe(month(720));
  await database.worker.query("select app_hidden.purge_partition_keys($1, null, 1)", [month(720)]);
  await database.owner.query("update tenants set settings = '{}' where id = $1", [brief]);
  const again = { sourceId: "720", timestamp: daysAgo(720) };
  for (const id of [brief, endless])
    expect(await one(id, again)).toEqual({ outcome: "rejected", reason: "past_retention" });
  expect(await one(endless, { sourceId: "10", timestamp: daysAgo(720) })).toMatchObject({
    outcome: "rejected",
  });
  expect(await doom()).toBe(month(720));
  await purge();
  expect(await partitions()).not.toContain(month(720));
  expect((await ages(brief)).filter((age) => age.startsWith("720"))).toEqual([]);
  // Now that it is gone as a whole, it may come again.
  expect(await one(endless, again)).toMatchObject({ outcome: "accepted" });
});

it("dooms no month behind the back of a writer", async () => {
  await write(brief, 700);
  await makePartitions(database.worker);
  await setRetention();
  const writer = await database.owner.connect();
  await writer.query("begin");
  await writer.query("select app_hidden.write_events($1, $2)", [
    endless,
    JSON.stringify([{ eventType: "order", eventName: "o", timestamp: daysAgo(700) }]),
  ]);
  const dooming = doom();
  await until(
    () => database.owner.query("select from pg_locks where not granted"),
    ({ rowCount }) => (rowCount ?? 0) > 0,
  );
  await writer.query("commit");
  writer.release();
  expect(await dooming).toBeNull();
});

it("makes a writer wait while a month is doomed, and then refuses it", async () => {
  await write(brief, 700);
  await makePartitions(database.worker);
  await setRetention();
  const dooming = await database.worker.connect();
  await dooming.query("begin");
  await dooming.query("select app_hidden.doom_partition()");
  const writing = one(endless, { sourceId: "1", timestamp: daysAgo(700) });
  await until(
    () => database.owner.query("select from pg_locks where not granted"),
    ({ rowCount }) => (rowCount ?? 0) > 0,
  );
  await dooming.query("commit");
  dooming.release();
  expect(await writing).toEqual({ outcome: "rejected", reason: "past_retention" });
  await purge();
});

it("leaves the key of an event that was restated to another month while its own is emptied", async () => {
  await write(brief, 700);
  await makePartitions(database.worker);
  await setRetention();
  await doom();
  const writer = await database.owner.connect();
  await writer.query("begin");
  await writer.query("select app_hidden.write_events($1, $2)", [
    brief,
    JSON.stringify([{ source: "shop", sourceId: "700", timestamp: daysAgo(5) }]),
  ]);
  const emptying = database.worker.query("select app_hidden.purge_partition_keys($1, null, 10)", [
    month(700),
  ]);
  await until(
    () => database.owner.query("select from pg_locks where not granted"),
    ({ rowCount }) => (rowCount ?? 0) > 0,
  );
  await writer.query("commit");
  writer.release();
  await emptying;
  await purge();
  expect(await ages(brief)).toEqual(["700/700"]);
});

it("forgets what a source deleted when its time is past, and not before", async () => {
  await write(brief, 80, 100);
  await write(endless, 100);
  for (const [id, sourceId] of [
    [brief, "80"],
    [brief, "100"],
    [endless, "100"],
  ] as const)
    expect(await one(id, { sourceId, deleted: true })).toMatchObject({ outcome: "deleted" });
  await setRetention();
  await purge();
  expect([await keys(brief), await keys(endless)]).toEqual([1, 1]);
  expect(await purged(brief)).toEqual([{ changes: { count: 0, deletions: 1 }, actor_kind: "job" }]);
  await purge();
  expect(await purged(brief)).toHaveLength(1);
});

it("neither drops nor empties a partition that is kept, whoever asks", async () => {
  await write(endless, 700);
  await makePartitions(database.worker);
  await setRetention();
  const ask = (sql: string) => refusal(database.worker.query(sql, [month(700)]));
  expect(await ask("select app_hidden.drop_partition($1)")).toBe("EA409");
  expect(await ask("select app_hidden.purge_partition_keys($1, null, 10)")).toBe("EA409");
  expect(await keys(endless)).toBe(1);
});
