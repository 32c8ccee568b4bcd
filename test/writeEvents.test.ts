import { afterAll, beforeAll, beforeEach, describe, expect, it } from "@jest/globals";
import { makePartitions } from "../src/db/migrate.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { until } from "./support/until.ts";

let database: TestDatabase;
let tenantId: string;
let count = 0;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());
beforeEach(async () => {
  const { rows } = await database.owner.query(
    "insert into tenants (name, slug, status) values ('T', $1, 'ACTIVE') returning id",
    [`t${++count}`],
  );
  tenantId = rows[0].id;
});

const order = {
  eventType: "order",
  eventName: "order_completed",
  source: "shop",
  sourceId: "1",
  value: "10.50",
};
const write = async (...events: unknown[]) => {
  const { rows } = await database.owner.query(
    "select outcome from app_hidden.write_events($1, $2) order by ordinal",
    [tenantId, JSON.stringify(events)],
  );
  return rows.map((row) => row.outcome);
};
const receipts = async (events: unknown[], onConflict = "update", atomic = false) => {
  const { rows } = await database.owner.query(
    `select jsonb_strip_nulls(to_jsonb(w) - 'ordinal') as receipt
       from app_hidden.write_events($1, $2, $3, $4) w order by ordinal`,
    [tenantId, JSON.stringify(events), onConflict, atomic],
  );
  return rows.map((row) => row.receipt);
};
const keys = async () =>
  (await database.owner.query("select from app_private.event_keys where tenant_id = $1", [tenantId]))
    .rowCount;
const stored = async () => {
  const { rows } = await database.owner.query(
    `select e.event_name as name, e.value::text, e.currency, to_char(e.timestamp at time zone 'UTC', 'YYYY-MM-DD') as day,
            e.tableoid::regclass::text as partition, k.id = e.id and k.timestamp = e.timestamp as found
       from analytics_events e
       left join app_private.event_keys k
         on k.tenant_id = e.tenant_id and k.source = coalesce(e.source, '') and k.source_id = e.source_id
      where e.tenant_id = $1 order by e.source_id, e.timestamp`,
    [tenantId],
  );
  return rows;
};

describe("write_events", () => {
  it.each([
    ["2026-03-05t10:00:00z", "2026-03-05 10:00:00"],
    ["2016-12-31T23:59:60Z", "2017-01-01 00:00:00"],
    ["2016-12-31T23:59:60.25Z", "2017-01-01 00:00:00.25"],
    ["2026-03-05T10:00:00.123456789+05:30", "2026-03-05 04:30:00.123457"],
  ])("takes %s, as RFC 3339 has it", async (timestamp, moment) => {
    await write({ ...order, timestamp });
    const { rows } = await database.owner.query(
      "select (timestamp at time zone 'UTC')::text as moment from analytics_events where tenant_id = $1",
      [tenantId],
    );
    expect(rows).toEqual([{ moment }]);
  });

  it("takes a record once, however often it comes, with or without its timestamp", async () => {
    expect(await write({ ...order, timestamp: "2026-03-05T10:00:00Z" })).toEqual(["accepted"]);
    expect(await write({ ...order, timestamp: "2026-03-05T10:00:00Z" })).toEqual(["duplicate"]);
    expect(await write(order)).toEqual(["duplicate"]);
    expect(await stored()).toMatchObject([{ value: "10.50", day: "2026-03-05", found: true }]);
  });

  it("counts every event without a source id as its own", async () => {
    const { sourceId: _, ...anonymous } = order;
    expect(await write(anonymous, anonymous)).toEqual(["accepted", "accepted"]);
    expect(await write(anonymous)).toEqual(["accepted"]);
    expect(await stored()).toHaveLength(3);
  });

  it("updates what a restatement says, keeps what it leaves out, and clears what it says is null", async () => {
    await write({ ...order, currency: "USD", timestamp: "2026-03-05T10:00:00Z" });
    expect(await write({ source: "shop", sourceId: "1", value: 12 })).toEqual(["updated"]);
    expect(await stored()).toMatchObject([
      { name: "order_completed", value: "12", currency: "USD", day: "2026-03-05", found: true },
    ]);
    expect(await write({ source: "shop", sourceId: "1", currency: null })).toEqual(["updated"]);
    expect(await stored()).toMatchObject([{ value: "12", currency: null }]);
  });

  it("moves an event whose timestamp moved, into the partition of its new month", async () => {
    await write({ ...order, timestamp: "2026-03-05T10:00:00Z" });
    await makePartitions(database.worker);
    expect(await stored()).toMatchObject([{ partition: "partitions.analytics_events_202603", found: true }]);
    expect(await write({ ...order, timestamp: "2026-04-01T10:00:00Z" })).toEqual(["updated"]);
    expect(await stored()).toMatchObject([{ day: "2026-04-01", found: true }]);
    await makePartitions(database.worker);
    expect(await stored()).toMatchObject([{ partition: "partitions.analytics_events_202604", found: true }]);
  });

  it("lets no older version win", async () => {
    expect(await write({ ...order, sourceVersion: "5" })).toEqual(["accepted"]);
    expect(await write({ ...order, value: 1, sourceVersion: "4" })).toEqual(["duplicate"]);
    expect(await write({ ...order, value: 2, sourceVersion: "6" })).toEqual(["updated"]);
    expect(await write({ ...order, value: 3, sourceVersion: "5" })).toEqual(["duplicate"]);
    expect(await stored()).toMatchObject([{ value: "2" }]);
  });

  it("takes the same record twice in one batch as if it came one after the other", async () => {
    expect(
      await write(
        { ...order, value: 3, sourceVersion: "3" },
        { source: "shop", sourceId: "1", value: 99, currency: "EUR", sourceVersion: "2" },
        { ...order, sourceId: "2", value: 1 },
        { source: "shop", sourceId: "2", currency: "EUR" },
        { source: "shop", sourceId: "2", value: 7 },
      ),
    ).toEqual(["accepted", "duplicate", "accepted", "updated", "updated"]);
    expect(await stored()).toMatchObject([
      { value: "3", currency: null },
      { value: "7", currency: "EUR" },
    ]);
  });

  it.each<[string, string, object]>([
    ["unknown_currency", "/currency", { currency: "dollars" }],
    ["unknown_currency", "/currency", { currency: "XXY" }],
    ["not_a_number", "/value", { value: "NaN" }],
    ["not_a_number", "/value", { value: "1e3" }],
    ["not_a_number", "/value", { value: `1${"0".repeat(30)}` }],
    ["not_a_number", "/value", { value: true }],
    ["not_a_number", "/value", { value: "٣" }],
    ["not_an_integer", "/sourceVersion", { sourceVersion: "٣" }],
    ["not_a_time", "/timestamp", { timestamp: "2026-03-05T10:00:0٣Z" }],
    ["not_a_time", "/timestamp", { timestamp: "2026-03-05T10:00:61Z" }],
    ["not_a_time", "/timestamp", { timestamp: "2026-02-30T10:00:60Z" }],
    ["not_a_time", "/timestamp", { timestamp: "tomorrow" }],
    ["not_a_time", "/timestamp", { timestamp: "infinity" }],
    ["not_a_time", "/timestamp", { timestamp: "2026-03-05T10:00:00" }],
    ["not_a_time", "/timestamp", { timestamp: "2026-02-30T00:00:00Z" }],
    ["in_the_future", "/timestamp", { timestamp: "2999-01-01T00:00:00Z" }],
    ["too_old", "/timestamp", { timestamp: "1999-01-01T00:00:00Z" }],
    ["wrong_text", "/eventType", { eventType: null }],
    ["wrong_text", "/eventType", { eventType: "" }],
    ["wrong_text", "/eventName", { eventName: "x".repeat(201) }],
    ["wrong_text", "/sourceId", { sourceId: 7 }],
    ["wrong_text", "/sourceId", { source: "\u{1f642}".repeat(200), sourceId: "\u{1f642}".repeat(500) }],
    ["two_ids", "/id", { id: "another" }],
    ["not_an_integer", "/sourceVersion", { sourceVersion: "new" }],
    ["not_an_integer", "/sourceVersion", { sourceVersion: 1.5 }],
    ["not_an_object", "/properties", { properties: [] }],
    ["too_large", "/properties", { properties: { text: "x".repeat(32_768) } }],
    ["unknown_field", "/a~1b~0", { "a/b~": 1 }],
  ])("rejects one event alone: %s at %s", async (reason, pointer, bad) => {
    const batch = [order, { ...order, sourceId: "2", ...bad }, { ...order, sourceId: "3" }];
    expect(await receipts(batch)).toEqual([
      expect.objectContaining({ outcome: "accepted" }),
      { outcome: "rejected", code: "INVALID_INPUT", reason, pointer, detail: expect.any(String) },
      expect.objectContaining({ outcome: "accepted" }),
    ]);
    expect(await stored()).toHaveLength(2);
    expect(await keys()).toBe(2);
  });

  it.each(["[1]", "[null]", "[[]]", '["x"]'])("rejects what is no object in %s", async (batch) => {
    expect(await receipts(JSON.parse(batch))).toMatchObject([{ reason: "not_an_object", pointer: "" }]);
  });

  it.each(["{}", "null", "7"])("refuses %s, which is no array", async (batch) => {
    await expect(
      database.owner.query("select * from app_hidden.write_events($1, $2)", [tenantId, batch]),
    ).rejects.toMatchObject({ code: "EA400" });
  });

  it("takes the longest texts and the largest numbers that it promises to", async () => {
    const properties = { text: "x".repeat(32_768 - '{"text": ""}'.length) };
    const most = {
      ...order,
      eventType: "t".repeat(100),
      eventName: "n".repeat(200),
      source: "s".repeat(200),
    };
    const value = `${"9".repeat(30)}.${"9".repeat(30)}`;
    expect(await write({ ...most, sourceId: "i".repeat(500), properties, value })).toEqual(["accepted"]);
    expect(await stored()).toMatchObject([{ value, found: true }]);
  });

  it("takes times up to the limits that a DBA sets", async () => {
    const soon = new Date(Date.now() + 3_600_000).toISOString();
    expect(await receipts([{ ...order, timestamp: soon }])).toMatchObject([{ reason: "in_the_future" }]);
    await database.owner.query("update app_private.event_limits set max_ahead = '2 hours'");
    expect(await write({ ...order, timestamp: soon })).toEqual(["accepted"]);
    await database.owner.query("update app_private.event_limits set max_ahead = '5 minutes'");
  });

  it("rejects what the tenant's retention would delete, by its setting or its plan", async () => {
    const old = new Date(Date.now() - 100 * 86_400_000).toISOString();
    expect(await write({ ...order, timestamp: old })).toEqual(["accepted"]);
    await database.owner.query(`update tenants set settings = '{"retentionDays": 90}' where id = $1`, [
      tenantId,
    ]);
    const again = { ...order, sourceId: "2", timestamp: old };
    expect(await receipts([again])).toMatchObject([{ reason: "past_retention", pointer: "/timestamp" }]);
    await database.owner.query("update tenants set settings = '{}' where id = $1", [tenantId]);
    await database.owner.query("update app_private.plans set retention_days = 90 where name = 'trial'");
    expect(await receipts([again])).toMatchObject([{ reason: "past_retention" }]);
    await database.owner.query("update app_private.plans set retention_days = null where name = 'trial'");
  });

  it("needs type and name of a new event, not of a restatement", async () => {
    const { eventName: _, ...nameless } = order;
    const { eventType: __, ...typeless } = order;
    expect(await receipts([nameless, typeless, { value: 1 }])).toMatchObject([
      { reason: "required", pointer: "/eventName" },
      { reason: "required", pointer: "/eventType" },
      { reason: "required", pointer: "/eventType" },
    ]);
    expect(await keys()).toBe(0);
    // As if one after another: the first has nothing to restate.
    expect(await receipts([{ ...nameless, value: 1 }, order, { ...nameless, value: 2 }])).toMatchObject([
      { reason: "required" },
      { outcome: "accepted" },
      { outcome: "updated" },
    ]);
    expect(await stored()).toMatchObject([{ value: "2" }]);
  });

  it("takes id as another name of sourceId", async () => {
    const { sourceId: _, ...rest } = order;
    expect(await write({ ...rest, id: "1" })).toEqual(["accepted"]);
    expect(await write(order)).toEqual(["duplicate"]);
  });

  it("rejects other content under a known id when asked to, and changes nothing", async () => {
    await write(order);
    const other = { ...order, value: 11 };
    expect(await receipts([other, order], "reject")).toMatchObject([
      { outcome: "rejected", code: "CONFLICT", reason: "differs", pointer: "" },
      { outcome: "duplicate" },
    ]);
    expect(await write(order)).toEqual(["duplicate"]);
    expect(await stored()).toMatchObject([{ value: "10.50" }]);
    await expect(receipts([order], "ignore")).rejects.toMatchObject({ code: "EA400" });
  });

  it("writes all or nothing of an atomic batch", async () => {
    await write(order);
    const batch = [
      { ...order, sourceId: "2" },
      { ...order, value: 11 },
      { ...order, sourceId: "3", value: "x" },
    ];
    expect(await receipts(batch, "update", true)).toMatchObject([
      { outcome: "withheld" },
      { outcome: "withheld" },
      { outcome: "rejected" },
    ]);
    expect(await stored()).toMatchObject([{ value: "10.50" }]);
    expect(await keys()).toBe(1);
    expect((await receipts(batch.slice(0, 2), "update", true)).map(({ outcome }) => outcome)).toEqual([
      "accepted",
      "updated",
    ]);
  });

  it("brings a deleted record back only with a newer version", async () => {
    await write({ ...order, sourceVersion: 5 });
    await database.owner.query("update app_private.event_keys set deleted_at = now() where tenant_id = $1", [
      tenantId,
    ]);
    await database.owner.query("delete from analytics_events where tenant_id = $1", [tenantId]);
    expect(await write({ ...order, value: 2, sourceVersion: 5 }, { ...order, value: 3 })).toEqual([
      "duplicate",
      "duplicate",
    ]);
    expect(await stored()).toEqual([]);
    expect(await write({ ...order, value: 4, sourceVersion: 6 })).toEqual(["updated"]);
    expect(await stored()).toMatchObject([{ value: "4", found: true }]);
  });

  it("records each batch that changed anything, by counts, sources and the time of its events", async () => {
    await write(order, { ...order, sourceId: "2" });
    await write(order);
    await write({ ...order, value: 1 }, { ...order, sourceId: "3", value: "x" });
    const { rows } = await database.owner.query(
      "select changes from audit_logs where tenant_id = $1 and action = 'events.written' order by id",
      [tenantId],
    );
    const batch = { sources: [order.source], from: expect.any(String), to: expect.any(String) };
    expect(rows.map(({ changes }) => changes)).toEqual([
      { accepted: 2, updated: 0, ...batch },
      { accepted: 0, updated: 1, ...batch },
    ]);
  });

  it("writes nothing for an empty batch", async () => {
    expect(await write()).toEqual([]);
  });

  it("takes each record once from eight writers at a time, whose batches overlap in every order", async () => {
    const records = Array.from({ length: 900 }, (_, index) => ({ ...order, sourceId: `r${index}` }));
    const batches = Array.from({ length: 8 }, (_, writer) =>
      records.map((_record, index) => records[(index * 7 + writer * 113) % records.length]),
    );
    // All eight start at once, from behind a lock.
    const opener = await database.owner.connect();
    await opener.query("begin");
    await opener.query("lock table app_private.event_keys in exclusive mode");
    const writing = Promise.all(batches.map((batch) => write(...batch)));
    const waiting = async () => {
      const { rows } = await database.owner.query(
        "select count(*)::integer from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
      );
      return rows[0].count;
    };
    await until(waiting, (writers) => writers === 8);
    await opener.query("commit");
    opener.release();
    const outcomes = (await writing).flat();
    expect(outcomes.filter((outcome) => outcome === "accepted")).toHaveLength(900);
    expect(outcomes.filter((outcome) => outcome === "duplicate")).toHaveLength(7 * 900);
    expect(await stored()).toHaveLength(900);
  });
});

describe("partitions", () => {
  it("refuse no event for want of a month: it waits in the default one, and moves beside writers", async () => {
    const months = ["2019-01", "2019-02", "2020-07"];
    await write(
      ...months.map((month) => ({ ...order, sourceId: month, timestamp: `${month}-15T00:00:00Z` })),
    );
    expect((await stored()).map((row) => row.partition)).toEqual(
      months.map(() => "partitions.analytics_events_default"),
    );
    let writing = true;
    const writer = async (name: string) => {
      let written = 0;
      while (writing) {
        const month = 1 + (written % 12);
        const timestamp = `2018-${String(month).padStart(2, "0")}-15T00:00:00Z`;
        await write({ ...order, sourceId: `${name}${written++}`, timestamp });
      }
      return written;
    };
    const writers = Promise.all(["a", "b", "c", "d"].map(writer));
    await makePartitions(database.worker);
    await makePartitions(database.worker);
    writing = false;
    const written = (await writers).reduce((sum, count) => sum + count, 0);
    await makePartitions(database.worker);
    const rows = await stored();
    expect(rows).toHaveLength(3 + written);
    expect(rows.every((row) => row.found && row.partition !== "partitions.analytics_events_default")).toBe(
      true,
    );
  });

  it("make a writer wait while its month is made, and take its event then", async () => {
    const maker = await database.owner.connect();
    await maker.query("begin");
    await maker.query("select app_private.make_partition('analytics_events', '2017-05-01')");
    const writing = write({ ...order, timestamp: "2017-05-15T00:00:00Z" });
    await until(
      () => database.owner.query("select from pg_locks where not granted"),
      ({ rowCount }) => (rowCount ?? 0) > 0,
    );
    await maker.query("commit");
    maker.release();
    expect(await writing).toEqual(["accepted"]);
    expect((await stored()).map((row) => row.partition)).toEqual(["partitions.analytics_events_201705"]);
  });

  it("are not made for months that are centuries away: such events stay where they are", async () => {
    await database.owner.query("update app_private.event_limits set max_ahead = '1000 years'");
    await write({ ...order, timestamp: "2999-01-15T00:00:00Z" });
    await database.owner.query("update app_private.event_limits set max_ahead = '5 minutes'");
    await makePartitions(database.worker);
    expect((await stored()).map((row) => row.partition)).toEqual(["partitions.analytics_events_default"]);
  });

  it("are made for this month and three to come, once", async () => {
    const { rows } = await database.owner.query(
      `select count(*)::integer from generate_series(0, 3) ahead
         cross join (values ('analytics_events'), ('audit_logs')) as tables (name)
        where to_regclass(format('partitions.%s_%s', name, to_char(now() + make_interval(months => ahead), 'YYYYMM'))) is not null`,
    );
    expect(rows).toEqual([{ count: 8 }]);
    const again = await database.worker.query("select app_hidden.make_next_partition() as made");
    expect(again.rows).toEqual([{ made: null }]);
  });
});
