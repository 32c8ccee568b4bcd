import { afterAll, afterEach, beforeAll, expect, it } from "@jest/globals";
import { generateDataKey, seal } from "../src/crypto/keyRing.ts";
import type { Worker } from "../src/worker/runner.ts";
import { dateIn } from "../tasks/connectors/meta-ads/calendar.ts";
import { type MetaSimulator, startMetaSimulator } from "./simulators/meta.ts";
import type { TrueEvent } from "./simulators/metaRows.ts";
import { startApi, type TestApi, testKeyRing } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { accessToken, appSecret } from "./support/metaRun.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";
import { startTestWorker } from "./support/worker.ts";

const accounts = [
  {
    id: "4410882",
    name: "US",
    timeZone: "America/New_York",
    currency: "USD",
    campaigns: 2,
    adSets: 2,
    ads: 2,
  },
  { id: "5520993", name: "JP", timeZone: "Asia/Tokyo", currency: "JPY", campaigns: 1, adSets: 1, ads: 2 },
];
const backfillDays = 35;
const levels = ["account", "campaign", "adset", "ad"] as const;

let database: TestDatabase;
let api: TestApi;
let simulator: MetaSimulator | undefined;
let worker: Worker | undefined;
let tenant: TestTenant;
let admin: string;
let count = 0;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
});
afterAll(async () => {
  await api.close();
  await database.drop();
});
afterEach(async () => {
  await worker?.stop();
  await simulator?.close();
});

/** An integration with the simulator, and a worker. */
async function connect(options: { token?: string; levels?: string[] } = {}) {
  tenant = await createTenant(database.owner, `ads${++count}`, { events: [] });
  admin = await api.signIn(tenant.slug, "admin");
  simulator = await startMetaSimulator({ port: 0, accessToken, appSecret, accounts, latencyMs: 0 });
  const { id: tenantId, integrationId } = tenant;
  const dataKey = generateDataKey();
  const { kekId, wrapped } = testKeyRing.wrap(dataKey, { tenantId, version: 1 });
  await database.owner.query(
    "insert into app_private.tenant_keys (tenant_id, kek_id, wrapped_key) values ($1, $2, $3)",
    [tenantId, kekId, wrapped],
  );
  const place = { tenantId, table: "integration_credentials", rowId: integrationId, version: 1 };
  const credentials = { accessToken: options.token ?? accessToken, appId: simulator.appId, appSecret };
  await database.owner.query(
    "insert into app_private.integration_credentials (tenant_id, integration_id, key_version, ciphertext) values ($1, $2, 1, $3)",
    [tenantId, integrationId, seal(JSON.stringify(credentials), dataKey, place)],
  );
  const config = {
    environment: "simulator",
    accountIds: accounts.map(({ id }) => `act_${id}`),
    levels: options.levels ?? ["accounts", "campaigns", "ad_sets", "ads"],
    ...{ backfillDays, pageSize: 100, deletionDelayHours: 0 },
  };
  await database.owner.query("update integrations set provider = 'meta-ads', config = $2 where id = $1", [
    integrationId,
    JSON.stringify(config),
  ]);
  worker = await startTestWorker(database, { simulatorUrl: simulator.url });
  return simulator;
}

const SYNC = /* GraphQL */ `
  mutation ($id: UUID!) { syncIntegration(input: { integrationId: $id }) { integration { id syncStatus } } }
`;
const STATE = /* GraphQL */ `query ($id: UUID!) { integration(id: $id) { status syncStatus syncError lastSyncAt } }`;
const ask = (document: string) =>
  api.query(document, { token: admin, variables: { id: tenant.integrationId } });

/** Starts a sync as a person does, and waits for its end. */
async function sync() {
  const look = async () => (await ask(STATE)).data.integration;
  const before = await look();
  expect((await ask(SYNC)).errors).toBeUndefined();
  return until(
    look,
    ({ lastSyncAt, syncStatus }) =>
      (syncStatus === "succeeded" && lastSyncAt !== before.lastSyncAt) || syncStatus === "failed",
    60_000,
  );
}

/** The events of one level, in the truth's form. */
async function stored(eventName: string): Promise<TrueEvent[]> {
  const { rows } = await database.owner.query(
    `select source_id, event_type, event_name, "timestamp", value::text, currency, properties
       from analytics_events where tenant_id = $1 and source = $2 and event_name = $3 order by source_id collate "C"`,
    [tenant.id, `meta-ads:${tenant.integrationId}`, eventName],
  );
  return rows.map((row) => ({
    sourceId: row.source_id,
    eventType: row.event_type,
    eventName: row.event_name,
    timestamp: row.timestamp.toISOString(),
    value: row.value,
    currency: row.currency,
    properties: row.properties,
  }));
}
const names = ["ad_insight_account", "ad_insight_campaign", "ad_insight_ad_set", "ad_insight_ad"];
const everythingStored = async () => (await Promise.all(names.map(stored))).flat();
const everythingTrue = (of: MetaSimulator) =>
  levels.flatMap((level) =>
    accounts
      .flatMap((account) => {
        const today = dateIn(Date.now(), account.timeZone);
        const since = dateIn(Date.parse(today) - backfillDays * 86_400_000, "UTC");
        return of.truth(level, since, today, account);
      })
      .sort((a, b) => (a.sourceId < b.sourceId ? -1 : 1)),
  );

it("holds what Meta says, at every level, also when Meta takes it back", async () => {
  const meta = await connect();
  expect(await sync()).toMatchObject({ status: "ACTIVE", syncStatus: "succeeded", syncError: null });
  const first = await everythingStored();
  expect(first.length).toBeGreaterThan(300);
  expect(first).toEqual(everythingTrue(meta));

  const [ad = "", other = ""] = meta.ads();
  const days = first.flatMap(({ properties }) => (properties.adId === ad ? [String(properties.date)] : []));
  const [restated = "", vanished = ""] = days.slice(-10);
  meta.restate(ad, restated, { spend: 1_234_567, purchases: 99, purchaseValue: 100_01 });
  meta.restate(other, restated, { spend: 1 });
  meta.restate(ad, vanished, null);
  await sync();
  expect(await stored("ad_insight_campaign")).toEqual(
    everythingTrue(meta).filter(({ eventName }) => eventName === "ad_insight_campaign"),
  );
  // One sync has missed the row that is gone; with the next one, two have.
  expect((await everythingStored()).length).toBe(everythingTrue(meta).length + 1);
  await sync();
  expect(await everythingStored()).toEqual(everythingTrue(meta));
}, 120_000);

it("gets there through reports, and through failures that pass", async () => {
  const meta = await connect({ levels: ["campaigns"] });
  meta.setFault({ kind: "error", error: "syncTimeout", path: /insights$/ });
  expect(await sync()).toMatchObject({ syncStatus: "succeeded" });
  expect(meta.requests.map(({ method }) => method)).toContain("POST");
  expect(await stored("ad_insight_campaign")).toEqual(
    everythingTrue(meta).filter(({ eventName }) => eventName === "ad_insight_campaign"),
  );
}, 120_000);

it("says what a person must do when the token is not good", async () => {
  await connect({ token: "EAAG-of-somebody-else", levels: ["campaigns"] });
  const { status, syncError } = await sync();
  expect(status).not.toBe("ACTIVE");
  expect(syncError).toMatch(/access token \(190\)\. Make a new one/);
  expect(syncError).not.toMatch(/EAAG/);
});
