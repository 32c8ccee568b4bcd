import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { makePartitions } from "../src/db/migrate.ts";
import { withClient } from "../src/db/pools.ts";
import { makeSealer, type TestSealer, tamper } from "./support/audit.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { refusal } from "./support/refusal.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let acme: TestTenant;
let sealer: TestSealer;
const partition = `partitions.audit_logs_${new Date().toISOString().slice(0, 7).replace("-", "")}`;

beforeAll(async () => {
  database = await createTestDatabase();
  acme = await createTenant(database.owner, "acme");
  sealer = await makeSealer(database);
  await sealer.seal();
});
afterAll(async () => {
  await sealer.remove();
  await database.drop();
});

const count = async (tenantId = acme.id) =>
  (await database.owner.query("select from audit_logs where tenant_id = $1", [tenantId])).rowCount ?? 0;

describe.each(["erp_user", "postgres", "erp_worker", "erp_authenticator", "api_super_admin", "api_job"])(
  "%s",
  (role) => {
    it.each([
      "update audit_logs set action = 'x'",
      "update audit_logs set user_id = null where user_id is not null",
      "update audit_logs set created_at = created_at",
      "delete from audit_logs",
      "truncate audit_logs",
      `update ${partition} set action = 'x'`,
      `delete from ${partition}`,
      `truncate ${partition}`,
      "truncate partitions.audit_logs_default",
      "truncate tenants cascade",
      "merge into audit_logs using (values (1)) as v on true when matched then delete",
      "update app_private.audit_seals set row_count = 1",
      "delete from app_private.audit_seals",
      "truncate app_private.audit_seals",
      "delete from app_private.audit_purges",
      "delete from app_private.audit_keys",
    ])("may not %s", async (statement) => {
      const before = await count();
      await tamper(
        database,
        "update audit_logs set user_id = $1 where id = (select min(id::text)::uuid from audit_logs)",
        [acme.users.user.id],
      );
      // A row, so that there is something to refuse.
      await tamper(
        database,
        "insert into app_private.audit_purges (tenant_id, through_seal, through_sequence, row_count, kept_since, transaction_id) values ($1, 1, 1, 1, now(), 1) on conflict do nothing",
        [acme.id],
      );
      expect(
        await withClient(database.urls.root, async (client) => {
          await client.query(`set role ${role}`);
          return refusal(client.query(statement));
        }),
      ).toBe("42501");
      expect(await count()).toBe(before);
      await tamper(database, "delete from app_private.audit_purges");
    });
  },
);

it("lets the foreign key empty user_id when a user goes, and changes nothing else", async () => {
  const { id } = acme.users.viewer;
  await tamper(database, "update audit_logs set user_id = $1 where tenant_id = $2", [id, acme.id]);
  const content = async () => {
    const { rows } = await database.owner.query(
      "select app_private.audit_content(l) as content, user_id from audit_logs l where tenant_id = $1 and action <> 'user.deleted' and action <> 'user.password_removed' order by id",
      [acme.id],
    );
    return rows;
  };
  const before = await content();
  expect(before.every(({ user_id }) => user_id === id)).toBe(true);
  await database.owner.query("delete from users where id = $1", [id]);
  expect(await content()).toEqual(before.map(({ content }) => ({ content, user_id: null })));
});

it("lets rows move from the default partition to their month's, whole", async () => {
  await database.owner.query(
    `insert into audit_logs (tenant_id, actor_kind, action, resource, created_at)
     select $1, 'database', 'x', 'x', '2023-05-01T00:00:00Z'::timestamptz + n * interval '1 day' from generate_series(0, 9) n`,
    [acme.id],
  );
  const where = async () =>
    (
      await database.owner.query(
        "select tableoid::regclass::text as place, count(*)::integer from audit_logs where created_at < '2024-01-01' group by 1",
      )
    ).rows;
  expect(await where()).toEqual([{ place: "partitions.audit_logs_default", count: 10 }]);
  await makePartitions(database.worker);
  expect(await where()).toEqual([{ place: "partitions.audit_logs_202305", count: 10 }]);
  expect(await refusal(database.owner.query("truncate partitions.audit_logs_202305"))).toBe("42501");
  expect(await refusal(database.owner.query("delete from partitions.audit_logs_202305"))).toBe("42501");
});

describe("retention", () => {
  const old = new Date("2024-06-01T00:00:00Z");
  const purge = async (tenant: TestTenant, keptSince: string, limit = 5000) => {
    const { rows } = await database.worker.query("select app_hidden.purge_audit_log($1, $2, $3) as count", [
      tenant.id,
      keptSince,
      limit,
    ]);
    return rows[0].count;
  };
  /** A tenant whose log began long ago, in seals of three rows. */
  async function oldTenant(slug: string, rows = 9) {
    const tenant = await createTenant(database.owner, slug);
    await tamper(database, "delete from audit_logs where tenant_id = $1", [tenant.id]);
    for (let index = 0; index < rows; index++)
      await database.owner.query(
        `insert into audit_logs (tenant_id, actor_kind, action, resource, created_at) values ($1, 'database', 'x', 'x', '2024-01-01T00:00:00Z'::timestamptz + $2 * interval '1 day')`,
        [tenant.id, index],
      );
    await sealer.seal({ now: old, rowsAtOnce: 3 });
    return tenant;
  }
  const report = async (tenant: TestTenant) => (await sealer.verify({ slug: tenant.slug }))[0];

  it("deletes the oldest sealed rows, and says so in the log; what is left verifies once the record is sealed", async () => {
    const tenant = await oldTenant("old");
    const before = await count(tenant.id);
    expect(await purge(tenant, "2024-07-01", 4)).toBe(3);
    expect(await count(tenant.id)).toBe(before - 3 + 1);
    expect(await report(tenant)).toMatchObject({
      findings: [{ kind: "deleted", rows: [1, 3], why: expect.stringContaining("is not sealed yet") }],
      waiting: 1,
    });
    await sealer.seal();
    expect(await report(tenant)).toMatchObject({ findings: [], purged: 3, waiting: 0 });
    // More later, and the record of before stays.
    expect(await purge(tenant, "2024-07-01")).toBeGreaterThan(0);
    await sealer.seal();
    expect(await report(tenant)).toMatchObject({ findings: [] });
    const { rows } = await database.owner.query(
      "select changes from audit_logs where tenant_id = $1 and action = 'audit_log.purged' order by id",
      [tenant.id],
    );
    expect(rows[0].changes).toMatchObject({ throughSequence: "3", count: 3 });
  });

  it("spares what is younger, what was sealed later, and what is not sealed", async () => {
    const tenant = await oldTenant("sparing");
    const before = await count(tenant.id);
    expect(await purge(tenant, "2024-05-01")).toBe(0);
    expect(await purge(tenant, "2023-01-01")).toBe(0);
    expect(await count(tenant.id)).toBe(before);
    await database.owner.query(
      `insert into audit_logs (tenant_id, actor_kind, action, resource, created_at) values ($1, 'database', 'x', 'x', '2024-02-01')`,
      [tenant.id],
    );
    expect(await purge(tenant, "2024-07-01")).toBe(9);
    expect(await purge(tenant, "2024-07-01")).toBe(0);
    expect(await count(tenant.id)).toBe(2);
  });

  it("never deletes what is younger than the floor, not even for the owner", async () => {
    expect(
      await refusal(
        database.owner.query("select app_hidden.purge_audit_log($1, now() - interval '89 days')", [acme.id]),
      ),
    ).toBe("EA400");
  });

  it("opens the guard for what it recorded alone, and for its own transaction", async () => {
    const tenant = await oldTenant("narrow");
    const outcome = await withClient(database.urls.owner, async (client) => {
      await client.query("begin");
      await client.query("select app_hidden.purge_audit_log($1, '2024-07-01', 1)", [tenant.id]);
      return refusal(client.query("delete from audit_logs where tenant_id = $1", [tenant.id]));
    });
    expect(outcome).toBe("42501");
    await purge(tenant, "2024-07-01", 1);
    expect(
      await refusal(database.owner.query("delete from audit_logs where tenant_id = $1", [tenant.id])),
    ).toBe("42501");
  });

  it("is no excuse for other rows that are missing", async () => {
    const tenant = await oldTenant("excuse");
    await purge(tenant, "2024-07-01", 1);
    await sealer.seal();
    await tamper(
      database,
      "delete from audit_logs where id = (select id from audit_logs where tenant_id = $1 and action = 'x' order by transaction_id limit 1)",
      [tenant.id],
    );
    expect((await report(tenant))?.findings).toEqual([
      expect.objectContaining({ kind: "deleted", rows: [4, 4] }),
    ]);
  });

  it("is believed only with a genuine record, within the floor", async () => {
    const tenant = await oldTenant("forged");
    const young = await createTenant(database.owner, "young");
    await sealer.seal();
    for (const { id } of [tenant, young]) {
      await tamper(database, "delete from audit_logs where tenant_id = $1", [id]);
      await database.owner.query(
        `insert into audit_logs (tenant_id, actor_kind, action, resource, changes)
         values ($1, 'job', 'audit_log.purged', 'audit_log', '{"throughSequence": "1000", "count": 1000, "keptSince": "2100-01-01T00:00:00Z"}')`,
        [id],
      );
    }
    await sealer.seal();
    for (const one of [tenant, young]) {
      const found = (await report(one))?.findings.map(({ kind }) => kind);
      expect(found).toEqual(["deleted"]);
    }
  });
});

it("records the tenant's end in the operator's log, where there is one", async () => {
  await createTenant(database.owner, "platform");
  const gone = await createTenant(database.owner, "gone");
  await database.owner.query("delete from tenants where id = $1", [gone.id]);
  expect(await count(gone.id)).toBe(0);
  const { rowCount } = await database.owner.query(
    "select from audit_logs where action = 'tenant.deleted' and resource_id = $1",
    [gone.id],
  );
  expect(rowCount).toBe(1);
});
