import type { ChildProcess } from "node:child_process";
import { randomBytes, randomInt } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { expect, it } from "@jest/globals";
import { makeKeyRing } from "../src/crypto/keyRing.ts";
import { withClient } from "../src/db/pools.ts";
import { startSquareSimulator } from "./simulators/square.ts";
import { createTestDatabase } from "./support/database.ts";
import { passAMinute } from "./support/passAMinute.ts";
import { connect, watchSyncs } from "./support/syncs.ts";
import { createTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";
import { killProcess, spawnWorker } from "./support/workerProcess.ts";

const CRASHES = process.env.ERP_TEST_LONG ? 50 : 3;
const ORDERS = 250 * CRASHES;
const TOKEN = "simulator-token";

it(
  `has what the provider has, whenever its worker is killed or loses its connections: ${CRASHES} times`,
  async () => {
    const database = await createTestDatabase();
    const dataDir = await mkdtemp(join(tmpdir(), "erp-sync-crash-"));
    const encryptionKey = { id: "test", key: randomBytes(32).toString("base64") };
    const simulator = await startSquareSimulator({
      port: 0,
      accessToken: TOKEN,
      locations: ["L1"],
      orders: ORDERS,
      days: 5,
      latencyMs: 20,
    });
    let child: ChildProcess | undefined;
    const start = () => {
      child = spawnWorker(database, {
        dataDir,
        encryptionKeys: `${encryptionKey.id}:${encryptionKey.key}`,
        simulatorUrl: simulator.url,
      });
      return child;
    };
    try {
      const acme = await createTenant(database.owner, "acme");
      const sync = watchSyncs(database, acme.integrationId);
      await connect(database, acme, {
        keyRing: makeKeyRing([encryptionKey]),
        credentials: { accessToken: TOKEN },
        config: { environment: "simulator", locationIds: ["L1"], pageSize: 10, backfillDays: 60 },
      });
      const pages = async () => {
        const { rows } = await database.owner.query(
          "select coalesce(sum(pages), 0)::integer as pages, bool_and(ended_at is not null) as over from integration_runs",
        );
        return rows[0] as { pages: number; over: boolean | null };
      };
      /** As when PostgreSQL restarts: the worker goes on by itself. */
      const sever = () =>
        withClient(database.urls.root, (root) =>
          root.query(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'erp_worker' and datname = current_database()",
          ),
        );
      await sync.request();
      let crashes = 0;
      for (; crashes < CRASHES; crashes++) {
        const before = await pages();
        if (before.over) await sync.request();
        const worker = child ?? start();
        await until(pages, (seen) => seen.pages > before.pages, 60_000);
        // Anywhere between two steps: a call, a page, a lease.
        await wait(randomInt(150));
        if (crashes % 2 === 1) await sever();
        else {
          await killProcess(worker);
          child = undefined;
        }
        await passAMinute(database.owner);
      }
      if (!child) start();
      await until(pages, ({ over }) => over === true, 120_000);
      expect(await sync.integration()).toMatchObject({ sync_status: "succeeded" });
      const { rows } = await database.owner.query(
        `select event_type || ':' || split_part(source_id, ':', 2) as id, value::text, properties ->> 'status' as status
         from analytics_events where source = 'square:' || $1 order by 1`,
        [acme.integrationId],
      );
      const minor = (money: unknown) => (money as { amount: number }).amount / 100;
      const truth = [
        ...simulator
          .records("orders")
          .map((order) => [`order:${order.id}`, minor(order.total_money), order.state]),
        ...simulator
          .records("payments")
          .map((payment) => [`payment:${payment.id}`, minor(payment.total_money), payment.status]),
        ...simulator
          .records("refunds")
          .map((refund) => [`refund:${refund.id}`, -minor(refund.amount_money), refund.status]),
      ].map(([id, value, status]) => ({ id, value, status: String(status).toLowerCase() }));
      const byId = (one: { id: unknown }, other: { id: unknown }) =>
        String(one.id) < String(other.id) ? -1 : 1;
      expect(rows.map((row) => ({ ...row, value: Number(row.value) })).toSorted(byId)).toEqual(
        truth.toSorted(byId),
      );
      console.info(
        `${crashes} crashes, ${truth.length} records, ${simulator.requests.length} calls for ${(await pages()).pages} pages`,
      );
    } finally {
      if (child) await killProcess(child);
      await simulator.close();
      await database.drop();
      await rm(dataDir, { recursive: true, force: true });
    }
  },
  CRASHES * 30_000 + 240_000,
);
