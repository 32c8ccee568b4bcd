import { afterAll, beforeAll, beforeEach, describe, expect, it } from "@jest/globals";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";

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

type Event = Record<string, unknown>;
const order: Event = {
  eventType: "order",
  eventName: "order_completed",
  timestamp: "2026-03-05T10:00:00Z",
  source: "shop",
  sourceId: "1",
  value: 1,
};
const gone = { source: "shop", sourceId: "1", deleted: true };
const receipts = async (events: Event[], onConflict = "update", tenant: string | null = tenantId) => {
  const { rows } = await database.owner.query(
    "select outcome, id, reason, pointer from app_hidden.write_events($1, $2, $3) order by ordinal",
    [tenant, JSON.stringify(events), onConflict],
  );
  return rows;
};
const write = async (...events: Event[]) => (await receipts(events)).map(({ outcome }) => outcome);
const oneByOne = async (...events: Event[]) => {
  const outcomes: string[] = [];
  for (const event of events) outcomes.push(...(await write(event)));
  return outcomes;
};
const rejecting = async (...events: Event[]) =>
  (await receipts(events, "reject")).map(({ outcome }) => outcome);
const stored = async () => {
  const { rows } = await database.owner.query(
    `select e.value::text, e.currency, k.source_version as version, k.id = e.id and k.timestamp = e.timestamp as found
       from analytics_events e
       left join app_private.event_keys k
         on k.tenant_id = e.tenant_id and k.source = coalesce(e.source, '') and k.source_id = e.source_id
      where e.tenant_id = $1 order by e.source_id`,
    [tenantId],
  );
  return rows;
};
const keys = async () => {
  const { rows } = await database.owner.query(
    `select source_id as id, source_version as version, deleted_at is not null as deleted
       from app_private.event_keys where tenant_id = $1 order by source_id`,
    [tenantId],
  );
  return rows;
};
const many = (size: number, more: Event = {}) =>
  Array.from({ length: size }, (_, index) => ({
    ...order,
    sourceId: `r${index}`,
    timestamp: new Date(1_780_000_000_000 + index * 1_000).toISOString(),
    ...more,
  }));
const seconds = async (work: () => Promise<unknown>) => {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1_000;
};

describe("versions", () => {
  it("count of a repeat, too: nothing older than it wins", async () => {
    await write({ ...order, sourceVersion: 1 });
    expect(await write({ ...order, sourceVersion: 5 })).toEqual(["duplicate"]);
    expect(await write({ ...order, value: 3, sourceVersion: 3 })).toEqual(["duplicate"]);
    expect(await stored()).toEqual([{ value: "1", currency: null, version: "5", found: true }]);
  });

  it("count within one batch as if it were three", async () => {
    expect(
      await write(
        { ...order, sourceVersion: 1 },
        { ...order, sourceVersion: 5 },
        { ...order, value: 3, sourceVersion: 3 },
      ),
    ).toEqual(["accepted", "duplicate", "duplicate"]);
    expect(await stored()).toMatchObject([{ value: "1", version: "5" }]);
  });

  it("count of the first statement that has one", async () => {
    await write(order);
    expect(await write({ ...order, sourceVersion: 5 })).toEqual(["duplicate"]);
    expect(await write({ ...order, value: 2, sourceVersion: 4 })).toEqual(["duplicate"]);
    expect(await write({ ...order, value: 2 })).toEqual(["updated"]);
    expect(await stored()).toMatchObject([{ value: "2", version: "5" }]);
  });

  it("of what was rejected count for nothing", async () => {
    await write({ ...order, sourceVersion: 1 });
    expect(await rejecting({ ...order, value: 2, sourceVersion: 9 }, { ...order, sourceVersion: 2 })).toEqual(
      ["rejected", "duplicate"],
    );
    expect(await keys()).toMatchObject([{ version: "2" }]);
  });
});

describe("deletions", () => {
  it("remove the event and keep its key, once", async () => {
    const [{ id }] = await receipts([{ ...order, sourceVersion: 1 }]);
    expect(await receipts([{ ...gone, sourceVersion: 2 }])).toMatchObject([{ outcome: "deleted", id }]);
    expect(await stored()).toEqual([]);
    expect(await write({ ...gone, sourceVersion: 2 }, gone)).toEqual(["duplicate", "duplicate"]);
    expect(await keys()).toEqual([{ id: "1", version: "2", deleted: true }]);
  });

  it("of a record that nobody knows, or that is newer, change nothing", async () => {
    expect(await write({ ...gone, sourceId: "unknown" })).toEqual(["duplicate"]);
    await write({ ...order, sourceVersion: 3 });
    expect(await write({ ...gone, sourceVersion: 2 })).toEqual(["duplicate"]);
    expect(await stored()).toHaveLength(1);
    expect(await keys()).toHaveLength(1);
  });

  it.each<[string, (...events: Event[]) => Promise<string[]>]>([
    ["in a batch each", oneByOne],
    ["in one batch", write],
  ])("that come before their record keep out what is older: %s", async (_how, send) => {
    expect(
      await send({ ...gone, sourceVersion: 5 }, { ...order, sourceVersion: 4 }, order, {
        ...gone,
        sourceVersion: 5,
      }),
    ).toEqual(["deleted", "duplicate", "duplicate", "duplicate"]);
    expect(await stored()).toEqual([]);
    expect(await keys()).toEqual([{ id: "1", version: "5", deleted: true }]);
    expect(await write({ ...order, sourceVersion: 6 })).toEqual(["updated"]);
    expect(await stored()).toMatchObject([{ value: "1", version: "6", found: true }]);
  });

  it("that come before their record name no event, and leave nothing where deletions are rejected", async () => {
    expect(await rejecting({ ...gone, sourceVersion: 5 })).toEqual(["rejected"]);
    expect(await keys()).toEqual([]);
    expect(await rejecting({ ...gone, sourceVersion: 5 }, { ...order, sourceVersion: 4 })).toEqual([
      "rejected",
      "accepted",
    ]);
    const unknown = { ...gone, sourceId: "2", sourceVersion: 5 };
    expect(await receipts([unknown])).toEqual([
      { outcome: "deleted", id: null, reason: null, pointer: null },
    ]);
  });

  it("race with their record to one of two ends", async () => {
    for (let round = 0; round < 20; round++) {
      const sourceId = `race${round}`;
      await Promise.all([
        write({ ...gone, sourceId, sourceVersion: 5 }),
        write({ ...order, sourceId, sourceVersion: 4 }),
      ]);
    }
    expect(await stored()).toEqual([]);
    expect(await keys()).toEqual(
      Array.from({ length: 20 }, () => ({
        id: expect.stringContaining("race"),
        version: "5",
        deleted: true,
      })),
    );
  });

  it("end with a newer version, as another event", async () => {
    const [{ id }] = await receipts([{ ...order, currency: "EUR", sourceVersion: 1 }]);
    await write({ ...gone, sourceVersion: 2 });
    expect(
      await write(
        order,
        { ...order, sourceVersion: 2 },
        { source: "shop", sourceId: "1", value: 7, sourceVersion: 3 },
      ),
    ).toEqual(["duplicate", "duplicate", "duplicate"]);
    const [back] = await receipts([{ ...order, value: 4, sourceVersion: 3 }]);
    expect([back.outcome, back.id === id]).toEqual(["updated", false]);
    expect(await stored()).toEqual([{ value: "4", currency: null, version: "3", found: true }]);
  });

  it("without a version end with any version", async () => {
    await write(order);
    expect(await write(gone, order, { ...order, sourceVersion: 1 })).toEqual([
      "deleted",
      "duplicate",
      "updated",
    ]);
    expect(await stored()).toMatchObject([{ value: "1", version: "1", found: true }]);
  });

  it("take turns with other statements of a batch", async () => {
    expect(
      await write(
        gone,
        { ...order, sourceVersion: 1 },
        { ...gone, sourceVersion: 2 },
        { ...order, value: 3, sourceVersion: 3 },
        { source: "shop", sourceId: "1", currency: "EUR" },
        { ...order, sourceId: "2" },
        { ...gone, sourceId: "2" },
      ),
    ).toEqual(["duplicate", "accepted", "deleted", "updated", "updated", "accepted", "deleted"]);
    expect(await stored()).toEqual([{ value: "3", currency: "EUR", version: "3", found: true }]);
    expect(await keys()).toMatchObject([{ deleted: false }, { id: "2", deleted: true }]);
  });

  it("are conflicts where changes are, and need a sourceId", async () => {
    await write({ ...order, sourceVersion: 1 });
    expect(await rejecting({ ...gone, sourceVersion: 2 })).toEqual(["rejected"]);
    await write({ ...gone, sourceVersion: 2 });
    expect(await rejecting({ ...order, sourceVersion: 3 })).toEqual(["rejected"]);
    expect(await receipts([{ source: "shop", deleted: true }])).toMatchObject([
      { reason: "required", pointer: "/sourceId" },
    ]);
    expect(await receipts([{ ...gone, deleted: 1 }])).toMatchObject([
      { reason: "not_a_boolean", pointer: "/deleted" },
    ]);
  });

  it("are in the log, by count", async () => {
    await write(order);
    await write(gone);
    const { rows } = await database.owner.query(
      "select changes from audit_logs where tenant_id = $1 and action = 'events.written' order by id",
      [tenantId],
    );
    expect(rows.map(({ changes }) => changes)).toEqual([
      expect.objectContaining({ accepted: 1, updated: 0 }),
      expect.objectContaining({ accepted: 0, updated: 0, deleted: 1 }),
    ]);
  });
});

describe("a full batch", () => {
  it("that restates everything takes no longer than others do, for a tenant of which no statistics know", async () => {
    await write(...many(5_000));
    const again = await seconds(async () => {
      expect(new Set(await write(...many(5_000)))).toEqual(new Set(["duplicate"]));
    });
    const restated = await seconds(async () => {
      expect(new Set(await write(...many(5_000, { value: 2 })))).toEqual(new Set(["updated"]));
    });
    const moved = await seconds(async () => {
      expect(new Set(await write(...many(5_000, { timestamp: "2026-04-01T00:00:00Z" })))).toEqual(
        new Set(["updated"]),
      );
    });
    // A quarter of a second here when nothing else runs; 15 to 60 s when each event was compared with each.
    expect(Math.max(again, restated, moved)).toBeLessThan(4);
    expect(new Set((await stored()).map(({ found, value }) => `${found} ${value}`))).toEqual(
      new Set(["true 1"]),
    );
  });

  it("of one record is its last statement", async () => {
    const statements = Array.from({ length: 5_000 }, (_, index) => ({ ...order, value: index }));
    const took = await seconds(async () => {
      const outcomes = await write(...statements);
      expect([outcomes[0], new Set(outcomes.slice(1))]).toEqual(["accepted", new Set(["updated"])]);
    });
    expect(took).toBeLessThan(4);
    expect(await stored()).toMatchObject([{ value: "4999", found: true }]);
  });
});

describe("whoever writes by hand", () => {
  it("learns that the tenant is unknown, or null", async () => {
    const unknown = "00000000-0000-4000-8000-000000000000";
    expect(await refusal(receipts([order], "update", unknown))).toBe("EA404");
    expect(await refusal(receipts([order], "update", null))).toBe("EA400");
  });

  it.each<[string, string, string, string]>([
    ["deep nesting", `{"d":${"[".repeat(33)}${"]".repeat(33)}}`, "too_deep", "/properties"],
    ["a number that is long to print", '{"n":1e1000}', "number_too_long", "/properties"],
    ["a small number that is long to print", '{"n":1e-1000}', "number_too_long", "/properties"],
    ["a number that is too long to print", '{"n":1e131000}', "too_large", "/properties"],
    ["many small things", `{"a":[${"{},".repeat(100_000)}{}]}`, "too_large", "/properties"],
  ])("is held to the limits of HTTP: %s", async (_case, properties, reason, pointer) => {
    const text = JSON.stringify([order, { ...order, sourceId: "2", properties: "?" }]).replace(
      '"?"',
      properties,
    );
    const { rows } = await database.owner.query(
      "select outcome, reason, pointer from app_hidden.write_events($1, $2) order by ordinal",
      [tenantId, text],
    );
    expect(rows).toMatchObject([{ outcome: "accepted" }, { reason, pointer }]);
  });

  it("takes the deepest and longest that HTTP takes", async () => {
    const properties = `{"d":${"[".repeat(30)}${"]".repeat(30)},"n":${"9".repeat(60)}e100,"m":1e-100}`;
    const text = JSON.stringify([{ ...order, properties: "?" }]).replace('"?"', properties);
    const { rows } = await database.owner.query("select outcome from app_hidden.write_events($1, $2)", [
      tenantId,
      text,
    ]);
    expect(rows).toEqual([{ outcome: "accepted" }]);
  });

  it.each<[string, Event]>([
    ["source", { source: { a: Array(10).fill(1e100) } }],
    ["sourceId", { sourceId: [1e100] }],
    ["timestamp", { timestamp: [1e100] }],
    ["currency", { currency: ["EUR"] }],
    ["sourceVersion", { sourceVersion: { a: 1 } }],
    ["value", { value: ["1"] }],
  ])("is told of a %s of another type", async (field, bad) => {
    expect(await receipts([{ ...order, ...bad }])).toMatchObject([{ pointer: `/${field}` }]);
  });
});
