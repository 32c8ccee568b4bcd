import { afterAll, beforeAll, beforeEach, describe, expect, it } from "@jest/globals";
import { rollUpTenant, tenantsToRollUp } from "../src/rollups/rollUp.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";
import { until } from "./support/until.ts";
import { startTestWorker } from "./support/worker.ts";

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

const order = { eventType: "order", eventName: "order_completed", source: "shop", currency: "USD" };
const write = (...events: object[]) =>
  database.owner.query("select app_hidden.write_events($1, $2)", [tenantId, JSON.stringify(events)]);
const at = (timestamp: string, value: number, sourceId?: string) => ({
  ...order,
  timestamp,
  value,
  sourceId: sourceId ?? timestamp,
});
const marks = async () => {
  const { rows } = await database.owner.query(
    "select distinct to_char(bucket at time zone 'UTC', 'MM-DD HH24:MI') as at from app_hidden.event_marks where tenant_id = $1 order by 1",
    [tenantId],
  );
  return rows.map((row) => row.at);
};
const quarters = async () => {
  const { rows } = await database.owner.query(
    "select to_char(bucket at time zone 'UTC', 'MM-DD HH24:MI') as at, events::integer, total::text from app_hidden.event_rollups where tenant_id = $1 order by bucket",
    [tenantId],
  );
  return rows.map((row) => [row.at, row.events, row.total]);
};
const days = async () => {
  const { rows } = await database.owner.query(
    "select day::text, total::text from app_hidden.event_rollups_by_day where tenant_id = $1 order by day",
    [tenantId],
  );
  return rows.map((row) => [row.day, row.total]);
};
const rollUp = () => rollUpTenant(database.worker, tenantId);

describe("marks", () => {
  it("of a burst are settled, whatever statistics say of them", async () => {
    await write(at("2026-01-05T10:07:00Z", 1));
    await rollUp();
    await write(at("2026-01-05T10:08:00Z", 1));
    await database.owner.query("vacuum analyze app_hidden.event_marks");
    await rollUp();
    await database.owner.query(
      `insert into app_hidden.event_marks (tenant_id, bucket)
       select $1, timestamptz '2026-01-05' + n % 500 * interval '15 minutes' from generate_series(1, 150000) n`,
      [tenantId],
    );
    const client = await database.worker.connect();
    await client.query("begin isolation level repeatable read; set local statement_timeout = '15s'");
    const { rows } = await client.query("select app_hidden.refresh_rollups($1) as settled", [tenantId]);
    await client.query("commit");
    client.release();
    expect(rows).toEqual([{ settled: 20_000 }]);
    const left = await database.owner.query("select from app_hidden.event_marks where tenant_id = $1", [
      tenantId,
    ]);
    expect(left.rowCount).toBe(130_000);
  });
  it("are left by every statement for the quarters that it touched, the old and the new", async () => {
    await write(at("2026-01-05T10:07:00Z", 1, "1"), at("2026-01-05T10:14:59Z", 2, "2"));
    expect(await marks()).toEqual(["01-05 10:00"]);
    await rollUp();
    expect(await marks()).toEqual([]);
    await write({ source: "shop", sourceId: "1", timestamp: "2026-02-05T12:30:00Z" });
    expect(await marks()).toEqual(["01-05 10:00", "02-05 12:30"]);
    await rollUp();
    await database.owner.query(
      "update analytics_events set value = 5 where tenant_id = $1 and source_id = '2'",
      [tenantId],
    );
    await database.owner.query("delete from analytics_events where tenant_id = $1 and source_id = '1'", [
      tenantId,
    ]);
    expect(await marks()).toEqual(["01-05 10:00", "02-05 12:30"]);
    await rollUp();
    expect(await quarters()).toEqual([["01-05 10:00", 1, "5"]]);
  });

  it("that come while rollups are computed stay, and so do the changes that they are about", async () => {
    await write(at("2026-01-05T10:00:00Z", 1));
    await rollUp();
    await write(at("2026-01-05T10:01:00Z", 2));
    const client = await database.worker.connect();
    try {
      await client.query("begin isolation level repeatable read");
      await client.query("select app_hidden.refresh_rollups($1)", [tenantId]);
      await write(at("2026-01-05T10:02:00Z", 4));
      await client.query("commit");
    } finally {
      client.release();
    }
    expect(await quarters()).toEqual([["01-05 10:00", 2, "3"]]);
    expect(await marks()).toEqual(["01-05 10:00"]);
    await rollUp();
    expect(await quarters()).toEqual([["01-05 10:00", 3, "7"]]);
  });

  it("are left for what moves to a partition of its own, and no older snapshot settles them", async () => {
    await write(at("2019-05-05T10:00:00Z", 7));
    await rollUp();
    await write(at("2019-05-05T10:01:00Z", 8));
    const client = await database.worker.connect();
    try {
      await client.query("begin isolation level repeatable read");
      await client.query("select 1");
      await database.worker.query("select app_hidden.make_next_partition()");
      expect(await refusal(client.query("select app_hidden.refresh_rollups($1)", [tenantId]))).toBe("40001");
    } finally {
      await client.query("rollback");
      client.release();
    }
    expect(await marks()).toEqual(["05-05 10:00"]);
    await rollUp();
    expect(await quarters()).toEqual([["05-05 10:00", 2, "15"]]);
  });

  it("do not outlive their tenant for long", async () => {
    await write(at("2026-01-05T10:00:00Z", 1));
    await database.owner.query("delete from tenants where id = $1", [tenantId]);
    expect(await marks()).not.toEqual([]);
    await database.worker.query("select app_hidden.purge_expired()");
    expect(await marks()).toEqual([]);
  });

  it("are left for a month that retention drops as a whole", async () => {
    await database.owner.query("select app_hidden.make_partition_for('2024-05-15')");
    await write(at("2024-05-05T10:00:00Z", 1), at("2026-01-05T10:00:00Z", 2));
    await rollUp();
    await database.owner.query("update tenants set settings = '{\"retentionDays\": 400}' where id = $1", [
      tenantId,
    ]);
    const worker = await startTestWorker(database);
    try {
      await database.worker.query("select graphile_worker.add_job('purge_events', '{}')");
      await until(
        async () =>
          (await database.owner.query("select to_regclass('partitions.analytics_events_202405') as found"))
            .rows[0].found,
        (found) => found === null,
      );
    } finally {
      await worker.stop();
    }
    await rollUp();
    expect(await quarters()).toEqual([["01-05 10:00", 1, "2"]]);
  });
});

describe("rollups", () => {
  it("are computed in a snapshot alone", async () => {
    expect(await refusal(database.owner.query("select app_hidden.refresh_rollups($1)", [tenantId]))).toBe(
      "25001",
    );
    expect(await refusal(database.owner.query("select app_hidden.extend_rollups($1)", [tenantId]))).toBe(
      "25001",
    );
  });

  it("cover older events step by step, and go on where they were", async () => {
    await write(
      ...Array.from({ length: 20 }, (_, index) =>
        at(`2026-01-${String(index + 1).padStart(2, "0")}T10:00:00Z`, 1),
      ),
    );
    const step = async () => {
      const client = await database.worker.connect();
      try {
        await client.query("begin isolation level repeatable read");
        const { rows } = await client.query("select app_hidden.extend_rollups($1, 8) as share", [tenantId]);
        await client.query("commit");
        return rows[0].share;
      } finally {
        client.release();
      }
    };
    const shares = [await step(), await step()];
    expect(shares[0]).toBeGreaterThan(0.3);
    expect(shares[1]).toBeGreaterThan(shares[0]);
    expect(shares[1]).toBeLessThan(1);
    expect(await tenantsToRollUp(database.worker)).toContain(tenantId);
    expect(await rollUp()).toBe(true);
    expect((await quarters()).length).toBe(20);
    expect((await days()).length).toBe(20);
    expect(await tenantsToRollUp(database.worker)).not.toContain(tenantId);
  });

  it("are by day of the tenant's own zone, also after that has changed", async () => {
    await write(at("2026-01-05T23:30:00Z", 1), at("2026-01-06T00:30:00Z", 2));
    await rollUp();
    expect(await days()).toEqual([
      ["2026-01-05", "1"],
      ["2026-01-06", "2"],
    ]);
    await database.owner.query(
      'update tenants set settings = \'{"timeZone": "America/New_York"}\' where id = $1',
      [tenantId],
    );
    expect(await tenantsToRollUp(database.worker)).toContain(tenantId);
    await rollUp();
    expect(await days()).toEqual([["2026-01-05", "3"]]);
  });

  it("are one worker's business at a time", async () => {
    await write(
      ...Array.from({ length: 50 }, (_, index) =>
        at(`2026-01-01T${String(index % 24).padStart(2, "0")}:00:00Z`, 1, String(index)),
      ),
    );
    const holder = await database.worker.connect();
    const lock = "(hashtextextended('rollups ' || $1, 0))";
    try {
      await holder.query(`select pg_advisory_lock${lock}`, [tenantId]);
      expect(await rollUp()).toBe(false);
      expect(await quarters()).toEqual([]);
    } finally {
      await holder.query(`select pg_advisory_unlock${lock}`, [tenantId]);
      holder.release();
    }
    expect(await rollUp()).toBe(true);
    expect((await quarters()).length).toBe(24);
  });

  it("stop when they are told to, and leave nothing half done", async () => {
    await write(at("2026-01-05T10:00:00Z", 1));
    const ended = new AbortController();
    ended.abort();
    expect(await rollUpTenant(database.worker, tenantId, { signal: ended.signal })).toBe(false);
    expect(await quarters()).toEqual([]);
    expect(await rollUp()).toBe(true);
  });

  it("are brought up by the worker by itself", async () => {
    await write(at("2026-01-05T10:00:00Z", 1));
    const worker = await startTestWorker(database);
    try {
      await database.worker.query("select graphile_worker.add_job('refresh_rollups', '{}')");
      await until(quarters, (found) => found.length === 1);
      expect(await until(days, (found) => found.length === 1)).toEqual([["2026-01-05", "1"]]);
    } finally {
      await worker.stop();
    }
  });
});
