import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { checkKeys } from "../src/crypto/check.ts";
import { rotateTenantKeys } from "../src/crypto/rotate.ts";
import type { Worker } from "../src/worker/runner.ts";
import { startSquareSimulator } from "./simulators/square.ts";
import { startApi, type TestApi, testKeyRing } from "./support/api.ts";
import { setCredentials } from "./support/credentials.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";
import { startTestWorker } from "./support/worker.ts";

const ROUNDS = process.env.ERP_TEST_LONG ? 40 : 6;
const ACCESS_TOKEN = "simulator-token";

let database: TestDatabase;
let api: TestApi;
let worker: Worker;
let simulator: Awaited<ReturnType<typeof startSquareSimulator>>;
let acme: TestTenant;
let admin: string;
beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  simulator = await startSquareSimulator({
    ...{ port: 0, accessToken: ACCESS_TOKEN, locations: ["L1"], orders: 120, days: 3, latencyMs: 5 },
  });
  acme = await createTenant(database.owner, "acme", { events: [] });
  const config = { environment: "simulator", locationIds: ["L1"], pageSize: 20, backfillDays: 30 };
  await database.owner.query("update integrations set config = $2 where id = $1", [
    acme.integrationId,
    JSON.stringify(config),
  ]);
  await set();
  admin = await api.signIn("acme", "admin");
  worker = await startTestWorker(database, { simulatorUrl: simulator.url });
});
afterAll(async () => {
  await worker.stop();
  await simulator.close();
  await api.close();
  await database.drop();
});

const set = () =>
  setCredentials(
    database.owner,
    testKeyRing,
    { tenantId: acme.id, integrationId: acme.integrationId },
    { accessToken: ACCESS_TOKEN },
  );
const status = async (): Promise<string> => {
  const { rows } = await database.owner.query("select sync_status from integrations where id = $1", [
    acme.integrationId,
  ]);
  return rows[0].sync_status;
};

it("rotates, and purges, through a loop of syncs in which credentials are set, and none fails", async () => {
  let syncing = true;
  let rotations = 0;
  const rotating = (async () => {
    while (syncing) {
      const { finished, problems } = await rotateTenantKeys(database.owner, testKeyRing, {
        tenantId: acme.id,
      });
      expect({ finished, problems }).toEqual({ finished: true, problems: [] });
      rotations++;
      // Shorter than what is waited in earnest, and longer than it takes to seal.
      await database.worker.query("select app_hidden.purge_tenant_keys('5 seconds')");
    }
  })();
  for (let round = 0; round < ROUNDS; round++) {
    if (round % 3 === 2) await set();
    const asked = await api.query(
      "mutation ($id: UUID!) { syncIntegration(input: { integrationId: $id }) { clientMutationId } }",
      { token: admin, variables: { id: acme.integrationId } },
    );
    expect(asked.errors).toBeUndefined();
    expect(await until(status, (now) => now === "succeeded" || now === "failed", 60_000)).toBe("succeeded");
  }
  syncing = false;
  await rotating;
  expect(rotations).toBeGreaterThan(ROUNDS);
  const { rows } = await database.owner.query(
    "select count(*)::integer from audit_logs where tenant_id = $1 and changes -> 'after' ->> 'sync_status' = 'succeeded'",
    [acme.id],
  );
  expect(rows).toEqual([{ count: ROUNDS }]);
  expect((await checkKeys(database.owner, testKeyRing)).problems).toEqual([]);
}, 300_000);
