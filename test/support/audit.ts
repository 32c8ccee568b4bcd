import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { anchorSeals } from "../../src/audit/anchor.ts";
import { ensureAuditKey, loadAuditKeys } from "../../src/audit/keys.ts";
import { sealAudit } from "../../src/audit/sealer.ts";
import { indexAnchor, noAnchor } from "../../src/audit/verify/anchorIndex.ts";
import { describe as print } from "../../src/audit/verify/findings.ts";
import { type TenantReport, trustedKeys, verifyDatabase } from "../../src/audit/verify/verify.ts";
import { withClient } from "../../src/db/pools.ts";
import { testKeyRing } from "./api.ts";
import { silent, type TestDatabase } from "./database.ts";
import { until } from "./until.ts";

/** What a superuser can do who switches triggers off first. */
export const tamper = (database: Pick<TestDatabase, "urls">, sql: string, values: unknown[] = []) =>
  withClient(database.urls.root, async (client) => {
    await client.query("set session_replication_role = replica");
    return client.query(sql, values);
  });

/** A test looks at what follows alone. */
export const emptyAuditLog = (database: Pick<TestDatabase, "urls">) =>
  tamper(database, "truncate audit_logs");

export type TestSealer = {
  anchorDir: string;
  /**
   * Seals, and anchors unless told otherwise, once nobody in the cluster writes any more who began before, such as another
   * test file. Returns how many rows were sealed.
   */
  seal(options?: { anchor?: boolean; now?: Date; rowsAtOnce?: number; wait?: boolean }): Promise<number>;
  anchor(): Promise<void>;
  verify(options?: { slug?: string; anchor?: boolean }): Promise<TenantReport[]>;
  /** What verification says, in sentences. */
  complaints(options?: { slug?: string; anchor?: boolean }): Promise<string[]>;
  remove(): Promise<void>;
};

async function untilEnded({ owner, worker }: TestDatabase) {
  const { rows } = await owner.query("select pg_current_xact_id()::text as id");
  await until(
    async () => (await worker.query("select below from app_hidden.audit_horizon()")).rows[0].below,
    (below) => BigInt(below) > BigInt(rows[0].id),
  );
}

/** The sealer and an anchor of its own, without the worker around it. */
export async function makeSealer(database: TestDatabase): Promise<TestSealer> {
  const folder = await mkdtemp(join(tmpdir(), "erp-anchor-"));
  const anchorDir = join(folder, "anchor");
  await ensureAuditKey(database.owner, testKeyRing);
  const pool = database.worker;
  const anchor = () => anchorSeals({ pool, anchorDir, log: silent });
  const verify: TestSealer["verify"] = async ({ slug, anchor: withAnchor = true } = {}) => {
    const index = withAnchor ? await indexAnchor(anchorDir) : noAnchor;
    const keys = trustedKeys(index, await loadAuditKeys(database.owner));
    const reports: TenantReport[] = [];
    for await (const report of verifyDatabase(database.owner, { anchor: index, keys, slug }))
      reports.push(report);
    return reports;
  };
  return {
    anchorDir,
    anchor,
    async seal({ anchor: andAnchor = true, now, rowsAtOnce, wait = true } = {}) {
      if (wait) await untilEnded(database);
      const count = await sealAudit({
        pool,
        keyRing: testKeyRing,
        log: silent,
        ...(now ? { now: () => now } : {}),
        ...(rowsAtOnce ? { rowsAtOnce } : {}),
      });
      if (andAnchor) await anchor();
      return count;
    },
    verify,
    async complaints(options) {
      const reports = await verify(options);
      return reports.flatMap(({ findings }) => findings.map(print));
    },
    remove: () => rm(folder, { recursive: true, force: true }),
  };
}
