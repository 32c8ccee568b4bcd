import { generateKeyPairSync } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { readSeal } from "../src/audit/anchor.ts";
import { ensureAuditKey, keyIdOf, rotateAuditKey } from "../src/audit/keys.ts";
import {
  extendChain,
  hashRow,
  packEntries,
  sealText,
  sha256,
  signText,
  unpackEntries,
  ZERO_HASH,
} from "../src/audit/seal.ts";
import { testKeyRing } from "./support/api.ts";
import { makeSealer, type TestSealer, tamper } from "./support/audit.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let acme: TestTenant;
let sealer: TestSealer;
/** Ten rows, in their order, in five seals behind the first. */
let rows: { id: string; sequence: number; created_at: Date }[];
let count = 0;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());
beforeEach(async () => {
  acme = await createTenant(database.owner, `acme-${++count}`);
  sealer = await makeSealer(database);
  await sealer.seal();
  const before = await countRows();
  for (let index = 0; index < 10; index++) {
    await database.owner.query(
      `update tenants set metadata = '{"n": 1.0000000000000000${index}}' where id = $1`,
      [acme.id],
    );
    if (index % 2 === 1) await sealer.seal();
  }
  const found = await database.owner.query(
    "select id, created_at from audit_logs where tenant_id = $1 and action = 'tenant.updated' order by transaction_id",
    [acme.id],
  );
  rows = found.rows.map((row, index) => ({ ...row, sequence: before + index + 1 }));
  expect(rows).toHaveLength(10);
  expect(await complaints()).toEqual([]);
});
afterEach(() => sealer.remove());

const countRows = async () =>
  (await database.owner.query("select from audit_logs where tenant_id = $1", [acme.id])).rowCount ?? 0;
const complaints = (options = {}) => sealer.complaints({ slug: acme.slug, ...options });
const row = (index: number) => {
  const found = rows[index];
  if (!found) throw new Error(`There is no row ${index}.`);
  return { ...found, at: `${found.created_at.toISOString().slice(0, -1)}` };
};
const change = (sql: string, ...values: unknown[]) => tamper(database, sql, values);
const named = (kind: string, index: number) => {
  const { sequence, id, at } = row(index);
  return expect.stringMatching(new RegExp(`^${kind}: row ${sequence} \\(${id}\\) of ${at}`));
};

it("names an edited row, down to the 18th digit of a number", async () => {
  await change(
    `update audit_logs set changes = replace(changes::text, '1.00000000000000003', '1.00000000000000004')::jsonb where id = $1`,
    row(3).id,
  );
  expect(await complaints()).toEqual([named("edited", 3)]);
});

it.each([
  ["action = 'user.deleted'"],
  ["actor_name = 'somebody else'"],
  ["resource_id = null"],
  ["ip_address = '203.0.113.9'"],
  ["created_at = created_at - interval '1 microsecond'"],
  ["transaction_id = transaction_id + 1000000"],
  ["session_id = uuidv7()"],
  [`changes = changes || '{"x": "1"}'`],
])("names a row whose %s", async (assignment) => {
  await change(`update audit_logs set ${assignment} where id = $1`, row(4).id);
  expect(await complaints()).toEqual([
    expect.stringMatching(`^edited: row ${row(4).sequence} \\(${row(4).id}\\)`),
  ]);
});

it("takes a number for another value than a text of the same digits", async () => {
  await change(`update audit_logs set changes = '{"n": 1}' where id = $1`, row(0).id);
  const [one] = await complaints();
  await change(`update audit_logs set changes = '{"n": "1"}' where id = $1`, row(0).id);
  expect([one, ...(await complaints())]).toEqual([named("edited", 0), named("edited", 0)]);
});

it("names deleted rows", async () => {
  await change("delete from audit_logs where id = any ($1)", [row(2).id, row(3).id, row(6).id]);
  expect(await complaints()).toEqual([
    expect.stringMatching(
      `^deleted: rows ${row(2).sequence} to ${row(3).sequence} \\(${row(2).id}, ${row(3).id}\\)`,
    ),
    expect.stringMatching(`^deleted: row ${row(6).sequence} \\(${row(6).id}\\)`),
  ]);
});

it("names a row that was put among sealed ones", async () => {
  const { rows: made } = await change(
    `insert into audit_logs (tenant_id, actor_kind, action, resource, cluster_id, transaction_id)
     select tenant_id, 'user', 'user.created', 'user', cluster_id, transaction_id from audit_logs where id = $1 returning id`,
    row(5).id,
  );
  expect(await complaints()).toEqual([
    expect.stringMatching(`^inserted: \\(${made[0].id}\\) of .*never sealed`),
  ]);
});

it.each([
  ["times", "created_at"],
  ["ids", "id"],
  ["transactions", "transaction_id"],
])("names rows that exchanged their %s", async (_name, column) => {
  await change(
    `update audit_logs l set ${column} = o.${column} from audit_logs o
      where (l.id = $1 and o.id = $2) or (l.id = $2 and o.id = $1)`,
    row(2).id,
    row(3).id,
  );
  expect(await complaints()).toEqual([
    expect.stringMatching(
      `^reordered: rows ${row(2).sequence} to ${row(3).sequence} \\(${row(2).id}, ${row(3).id}\\)`,
    ),
  ]);
});

it("names a seal whose rows are in another order", async () => {
  const swap = "substr(rows, 49, 48) || substr(rows, 1, 48)";
  await change(
    `update app_private.audit_seals set rows = ${swap} where tenant_id = $1 and number = 3`,
    acme.id,
  );
  expect(await complaints()).toEqual([
    expect.stringMatching(/^forged: .* seal 3 /),
    expect.stringMatching(/^reordered: .* seal 3 /),
  ]);
});

it("names the end that is missing, of rows alone and with their seals", async () => {
  const cut = expect.stringMatching(
    `^cut: rows ${row(6).sequence} to ${row(9).sequence} \\(${[6, 7, 8, 9].map((index) => row(index).id).join(", ")}\\)`,
  );
  await change(
    "delete from audit_logs where id = any ($1)",
    rows.slice(6).map(({ id }) => id),
  );
  expect(await complaints()).toEqual([cut]);
  await change("delete from app_private.audit_seals where tenant_id = $1 and number > 4", acme.id);
  expect(await complaints()).toEqual([
    expect.stringMatching(
      `^cut: rows ${row(6).sequence} to ${row(9).sequence} seals 5 to 6 .*in the anchor, and missing`,
    ),
    cut,
  ]);
});

it("names a seal that is missing in between, also without an anchor", async () => {
  await change("delete from app_private.audit_seals where tenant_id = $1 and number = 4", acme.id);
  expect(await complaints({ anchor: false })).toEqual([
    expect.stringMatching(/^cut: seal 4: the seal is missing everywhere/),
    expect.stringMatching(/^unchained: .* seal 5 .*does not name the one before it/),
    expect.stringMatching(/^inserted: /),
    expect.stringMatching(/^inserted: /),
  ]);
});

/** As somebody does who has all of the database and the source, but no key that is vouched for. */
async function recompute(keyId?: string, sign?: (text: string) => string) {
  const { rows: stored } = await database.owner.query(
    "select * from app_private.audit_seals where tenant_id = $1 order by number",
    [acme.id],
  );
  let chain = ZERO_HASH;
  let previous = ZERO_HASH;
  for (const found of stored) {
    const { entries, ...seal } = { ...readSeal(found), entries: unpackEntries(found.rows) };
    const contents = await database.owner.query(
      "select id, app_private.audit_content(l) as content from audit_logs l where id = any ($1)",
      [entries.map(({ id }) => id)],
    );
    const packed = packEntries(
      entries.map(({ id }) => ({
        id,
        hash: hashRow(contents.rows.find((content) => content.id === id).content),
      })),
    );
    chain = extendChain(chain, packed);
    const made = {
      ...seal,
      rows: packed.toString("base64"),
      chain: chain.toString("hex"),
      previousSeal: previous.toString("hex"),
      keyId: keyId ?? seal.keyId,
    };
    const text = sealText(made);
    await change(
      `update app_private.audit_seals
          set rows = $3, chain = $4, previous_seal = $5, hash = $6, key_id = $7, signature = coalesce(decode($8, 'base64'), signature)
        where tenant_id = $1 and number = $2`,
      acme.id,
      made.number,
      packed,
      chain,
      previous,
      sha256(text),
      made.keyId,
      sign?.(text) ?? null,
    );
    previous = sha256(text);
  }
}

it("names a chain that was recomputed, and the row that was to be hidden", async () => {
  await change("update audit_logs set actor_name = 'nobody' where id = $1", row(5).id);
  await recompute();
  const found = await complaints();
  expect(found).toContainEqual(named("edited", 5));
  // The seal of the row and the one behind it: from there on, signatures do not fit.
  expect(found.filter((complaint) => /^recomputed: .* seal/.test(complaint))).not.toEqual([]);
  expect(found.filter((complaint) => /^forged: .* seal/.test(complaint))).not.toEqual([]);
});

it("believes no seal of a key that nobody vouches for, though the database has it", async () => {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  const key = Buffer.from(publicKey.export({ format: "jwk" }).x ?? "", "base64url");
  const keyId = keyIdOf(key.toString("base64"));
  await change(
    "insert into app_private.audit_keys (key_id, public_key, created_at) values ($1, $2, now() + interval '1 minute')",
    keyId,
    key,
  );
  await change("update audit_logs set actor_name = 'nobody' where id = $1", row(5).id);
  await recompute(keyId, (text) => signText(text, privateKey));
  for (const anchor of [true, false]) {
    const found = await complaints({ anchor });
    expect(found).toContainEqual(
      expect.stringMatching(/^forged: .* seals 1 to 6 .*no signature of a key that is vouched for/),
    );
    if (anchor) expect(found).toContainEqual(named("edited", 5));
  }
});

it("notices a seal that was changed in the anchor", async () => {
  const file = join(sealer.anchorDir, `${new Date().toISOString().slice(0, 7)}.ndjson`);
  const text = await readFile(file, "utf8");
  await writeFile(file, text.replaceAll(/"rowCount":2,/g, '"rowCount":3,'));
  expect(await complaints()).toContainEqual(expect.stringMatching(/^forged: .*the anchor's seal/));
});

it("goes on with a new key, which the one before vouches for", async () => {
  await rotateAuditKey(database.owner, testKeyRing);
  await ensureAuditKey(database.owner, testKeyRing);
  await database.owner.query("update tenants set name = 'New key' where id = $1", [acme.id]);
  await sealer.seal();
  expect(await complaints()).toEqual([]);
  const { rows: keys } = await database.owner.query(
    "select count(distinct key_id)::integer as count from app_private.audit_seals where tenant_id = $1",
    [acme.id],
  );
  expect(keys).toEqual([{ count: 2 }]);
  const { rows: open } = await database.owner.query(
    "select from app_private.audit_keys where wrapped_private_key is not null",
  );
  expect(open).toHaveLength(1);
});

it("names a tenant whose log is gone, unless the operator's log has a record", async () => {
  const gone = await createTenant(database.owner, `gone-${count}`);
  await sealer.seal();
  await change("delete from audit_logs where tenant_id = $1", gone.id);
  await change("delete from tenants where id = $1", gone.id);
  const reports = await sealer.verify();
  expect(reports.find(({ tenantId }) => tenantId === gone.id)?.findings[0]?.kind).toBe("cut");

  const recorded = await createTenant(database.owner, `recorded-${count}`);
  await createTenant(database.owner, "platform");
  await sealer.seal();
  await database.owner.query("delete from tenants where id = $1", [recorded.id]);
  const ofRecorded = async () =>
    (await sealer.verify()).find(({ tenantId }) => tenantId === recorded.id)?.findings;
  expect(await ofRecorded()).toEqual([
    { kind: "cut", why: expect.stringContaining("operator's record of that is not sealed yet") },
  ]);
  await sealer.seal();
  expect(await ofRecorded()).toBeUndefined();
});

/** What the owner can write into the log by plain SQL. */
const forge = (more: { at?: string; transaction?: string; action?: string; changes?: object; id?: string }) =>
  change(
    `insert into audit_logs (tenant_id, actor_kind, action, resource, changes, created_at, transaction_id, id)
     values ($1, 'database', $2, 'audit_log', $3, coalesce($4::timestamptz, now()), coalesce($5::bigint, app_private.transaction_id()), coalesce($6::uuid, uuidv7()))`,
    acme.id,
    more.action ?? "audit_log.purged",
    JSON.stringify(more.changes ?? { throughSequence: "999999", keptSince: "2099-01-01T00:00:00Z" }),
    more.at ?? null,
    more.transaction ?? null,
    more.id ?? null,
  );

it("believes no record of retention that is sealed, but of a time to come", async () => {
  await forge({ at: "2200-01-01T00:00:00Z" });
  await sealer.seal();
  await change("delete from audit_logs where id = $1", row(3).id);
  expect(await complaints()).toEqual([expect.stringMatching(/^deleted: row \d+ .*the row is missing$/)]);
});

it("believes no record of retention of a transaction that has not begun, and names it", async () => {
  await forge({ at: "2200-01-01T00:00:00Z", transaction: "9000000000000000000" });
  await sealer.seal();
  await change("delete from audit_logs where id = $1", row(3).id);
  expect((await complaints()).map((one) => one.split(":")[0])).toEqual(["deleted", "inserted"]);
});

it("names a row that stands before all others, and the database takes none", async () => {
  await expect(forge({ transaction: "-5" })).rejects.toThrow("audit_logs_place_check");
  await expect(forge({ at: "infinity" })).rejects.toThrow("audit_logs_place_check");
  await change("alter table audit_logs drop constraint audit_logs_place_check");
  try {
    await forge({ transaction: "-5", action: "user.created", changes: {} });
    expect(await complaints()).toEqual([expect.stringMatching(/^inserted: .*the row was never sealed$/)]);
    await change("delete from audit_logs where transaction_id = -5");
  } finally {
    await change(
      "alter table audit_logs add constraint audit_logs_place_check check (transaction_id >= 0 and isfinite(created_at))",
    );
  }
});

it("names a second row with the id of a sealed one", async () => {
  await change(
    `insert into audit_logs select (l).* from (
       select jsonb_populate_record(l, jsonb_build_object('created_at', l.created_at - interval '1 second', 'actor_name', 'somebody else')) as l
         from audit_logs l where id = $1) c`,
    row(4).id,
  );
  expect(await complaints()).toEqual([expect.stringMatching(new RegExp(`^inserted: .*${row(4).id}`))]);
});
