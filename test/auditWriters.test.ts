import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { withTransaction } from "../src/db/pools.ts";
import { makeSealer, type TestSealer } from "./support/audit.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

const [WRITERS, SECONDS] = process.env.ERP_TEST_LONG ? [64, 60] : [8, 4];
let database: TestDatabase;
let tenants: TestTenant[];
let sealer: TestSealer;

beforeAll(async () => {
  database = await createTestDatabase();
  tenants = await Promise.all(["one", "two", "three"].map((slug) => createTenant(database.owner, slug)));
  await database.owner.query("update tenants set max_integrations = 1000");
  sealer = await makeSealer(database);
});
afterAll(async () => {
  await sealer.remove();
  await database.drop();
});

it(`seals what ${WRITERS} writers write meanwhile, in transactions short and long, without a gap or a fork`, async () => {
  const until = Date.now() + SECONDS * 1_000;
  let written = 0;
  const { rows: made } = await database.owner.query(
    `insert into integrations (tenant_id, name, provider) select t.id, n::text, 'square' from tenants t cross join generate_series(0, $1 - 1) n
     returning tenant_id, name, id`,
    [WRITERS],
  );
  const integrations = Array.from({ length: WRITERS }, (_, writer) =>
    Object.fromEntries(
      made.filter(({ name }) => name === String(writer)).map((row) => [row.tenant_id, row.id]),
    ),
  );
  const write = async (writer: number) => {
    for (let round = 0; Date.now() < until; round++) {
      const tenant = tenants[(writer + round) % tenants.length];
      const work = withTransaction(database.owner, async (client) => {
        const rows = 1 + ((writer + round) % 4);
        for (let index = 0; index < rows; index++)
          // Each has rows of its own, so that who began first may end last.
          await client.query(
            "update integrations set description = $2 where id = $1 and pg_sleep(random() / 50) is not null",
            [integrations[writer]?.[tenant?.id ?? ""], `${writer} ${round} ${index}`],
          );
        if (round % 5 === 4) throw new Error("taken back");
        written += rows;
      });
      await work.catch((error: Error) => {
        if (error.message !== "taken back") throw error;
      });
    }
  };
  const seal = async () => {
    let sealed = 0;
    while (Date.now() < until) sealed += await sealer.seal({ wait: false, rowsAtOnce: 50 });
    return sealed;
  };
  const [, , sealedByOne, sealedByOther] = await Promise.all([
    Promise.all(Array.from({ length: WRITERS }, (_, writer) => write(writer))),
    undefined,
    seal(),
    seal(),
  ]);
  expect(sealedByOne + sealedByOther).toBeGreaterThan(0);
  await sealer.seal();

  const reports = await sealer.verify();
  expect(reports.map(({ findings }) => findings)).toEqual([[], [], []]);
  expect(reports.map(({ waiting }) => waiting)).toEqual([0, 0, 0]);
  const { rows } = await database.owner.query(
    "select count(*)::integer as count from audit_logs where action = 'integration.updated'",
  );
  expect(rows[0].count).toBe(written);
  const verified = reports.reduce((sum, report) => sum + report.verified, 0);
  const { rows: all } = await database.owner.query("select count(*)::integer as count from audit_logs");
  expect(verified).toBe(all[0].count);
}, 300_000);
