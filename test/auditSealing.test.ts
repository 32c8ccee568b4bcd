import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { withTransaction } from "../src/db/pools.ts";
import { testEncryptionKey } from "./support/api.ts";
import { makeSealer, type TestSealer } from "./support/audit.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

const KILLS = process.env.ERP_TEST_LONG ? 50 : 5;
let database: TestDatabase;
let acme: TestTenant;
let sealer: TestSealer;
let count = 0;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());
beforeEach(async () => {
  acme = await createTenant(database.owner, `acme-${++count}`);
  sealer = await makeSealer(database);
});
afterEach(() => sealer.remove());

const write = (name: string) =>
  database.owner.query("update tenants set name = $2 where id = $1", [acme.id, name]);
const verify = async () => (await sealer.verify({ slug: acme.slug }))[0];
const intact = expect.objectContaining({ findings: [], waiting: 0 });

it("seals every row, and what comes later behind it", async () => {
  const rows = async () =>
    (await database.owner.query("select from audit_logs where tenant_id = $1", [acme.id])).rowCount;
  const [unsealed] = await sealer.verify({ slug: acme.slug, anchor: false });
  expect(unsealed).toMatchObject({ seals: 0, verified: 0, waiting: await rows(), findings: [] });
  expect(await sealer.seal()).toBeGreaterThan(0);
  expect(await verify()).toEqual(
    expect.objectContaining({ seals: 1, verified: await rows(), waiting: 0, findings: [] }),
  );
  expect(await sealer.seal()).toBe(0);
  await write("Later");
  expect(await sealer.seal()).toBe(1);
  expect(await verify()).toEqual(
    expect.objectContaining({ seals: 2, verified: await rows(), waiting: 0, findings: [] }),
  );
});

it("passes over no row of a transaction that began before others and ended after them", async () => {
  await sealer.seal();
  const long = await database.owner.connect();
  await long.query("begin");
  await long.query("update tenants set name = 'Long' where id = $1", [acme.id]);
  const other = await createTenant(database.owner, `other-${count}`);
  // Nothing that came after the long one's first write is sealed yet.
  expect(await sealer.seal({ wait: false })).toBe(0);
  await long.query("commit");
  long.release();
  expect(await sealer.seal()).toBeGreaterThan(1);
  expect(await verify()).toEqual(intact);
  expect((await sealer.verify({ slug: other.slug }))[0]).toEqual(intact);
});

it("makes one chain of however many sealers", async () => {
  for (let round = 0; round < 5; round++) {
    for (let index = 0; index < 20; index++) await write(`${round} ${index}`);
    await Promise.all(Array.from({ length: 4 }, () => sealer.seal({ rowsAtOnce: 3 })));
  }
  await sealer.seal();
  const report = await verify();
  expect(report).toEqual(intact);
  expect(report?.seals).toBeGreaterThan(5);
});

it("loses nothing when it is killed, wherever it is, and goes on", async () => {
  const script = fileURLToPath(new URL("support/sealerChild.ts", import.meta.url));
  let rounds = 0;
  for (let round = 0; round < KILLS; round++) {
    for (let index = 0; index < 30; index++) await write(`${round} ${index}`);
    const child = spawn(
      process.execPath,
      [script, database.urls.worker, sealer.anchorDir, testEncryptionKey],
      {
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    const ended = once(child, "exit");
    await Promise.race([once(child.stdout, "data"), ended]);
    for (const deadline = Date.now() + Math.random() * 60; Date.now() < deadline; )
      await write(`while ${round}`);
    rounds += child.kill("SIGKILL") ? 1 : 0;
    await ended;
    expect((await sealer.verify({ slug: acme.slug }))[0]?.findings).toEqual([]);
  }
  expect(rounds).toBe(KILLS);
  await sealer.seal();
  expect(await verify()).toEqual(intact);
}, 300_000);

it("goes on while the anchor is out of reach, says since when, and catches up", async () => {
  const lag = async () =>
    (await database.authenticator.query("select * from app_hidden.audit_lag()")).rows[0];
  // A file where the folder should be.
  await writeFile(sealer.anchorDir, "");
  expect(await sealer.seal()).toBeGreaterThan(0);
  const since = (await lag()).unanchored_since;
  expect(since).toBeInstanceOf(Date);
  await write("More");
  expect(await sealer.seal()).toBe(1);
  expect((await lag()).unanchored_since).toEqual(since);
  await rm(sealer.anchorDir);
  await sealer.seal();
  expect((await lag()).unanchored_since).toBeNull();
  expect(await verify()).toEqual(intact);
});

it("says up to when the log is sealed", async () => {
  const { rows: began } = await database.owner.query("select now()");
  await sealer.seal();
  const { rows } = await database.authenticator.query("select * from app_hidden.audit_lag()");
  // Another test file may have begun to write since.
  expect(rows[0].sealed_as_of.getTime()).toBeGreaterThanOrEqual(began[0].now.getTime() - 10_000);
  await withTransaction(database.owner, async (client) => {
    await client.query("update tenants set name = 'Open' where id = $1", [acme.id]);
    const { rows: began } = await client.query("select now()");
    await sealer.seal({ wait: false });
    const after = await database.authenticator.query("select * from app_hidden.audit_lag()");
    expect(after.rows[0].sealed_as_of.getTime()).toBeLessThanOrEqual(began[0].now.getTime());
  });
});

it("mends what a crash left of a line, and writes a seal again rather than not at all", async () => {
  await sealer.seal();
  const file = join(sealer.anchorDir, `${new Date().toISOString().slice(0, 7)}.ndjson`);
  const text = await readFile(file, "utf8");
  const [, line = ""] = text.trimEnd().split("\n").toReversed();
  await writeFile(file, `${text}${line}\n${line.slice(0, 100)}`);
  await write("After");
  await sealer.seal();
  expect(await verify()).toEqual(intact);
  expect(
    (await readFile(file, "utf8"))
      .trimEnd()
      .split("\n")
      .filter((found) => found === line),
  ).toHaveLength(2);
});

it("seals rows of another cluster first: none of them is still being written", async () => {
  await sealer.seal();
  await database.owner.query(
    `insert into audit_logs (tenant_id, actor_kind, action, resource, cluster_id, transaction_id)
     select $1, 'database', 'tenant.updated', 'tenant', 7, 9000000000000 + n from generate_series(1, 5) n`,
    [acme.id],
  );
  await write("Here");
  await database.owner.query("update app_private.audit_sealing set cluster_id = 7");
  expect(await sealer.seal()).toBeGreaterThanOrEqual(6);
  expect(await verify()).toEqual(intact);
});

it("verifies what is left of a user who was deleted", async () => {
  await sealer.seal();
  await database.owner.query("delete from users where id = $1", [acme.users.viewer.id]);
  await sealer.seal();
  expect(await verify()).toEqual(intact);
});
