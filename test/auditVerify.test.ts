import { execFile } from "node:child_process";
import { copyFile, cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { rotateAuditKey } from "../src/audit/keys.ts";
import { environmentWith } from "../src/config.ts";
import { paths } from "../src/paths.ts";
import { startApi, testKeyRing } from "./support/api.ts";
import { makeSealer, type TestSealer, tamper } from "./support/audit.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { askFor } from "./support/exports.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let acme: TestTenant;
let sealer: TestSealer;
let folder: string;
const exported = () => join(folder, "acme.ndjson");

beforeAll(async () => {
  database = await createTestDatabase();
  folder = await mkdtemp(join(tmpdir(), "erp-verify-"));
  acme = await createTenant(database.owner, "acme");
  sealer = await makeSealer(database);
  await sealer.seal({ rowsAtOnce: 3 });
  await rotateAuditKey(database.owner, testKeyRing);
  const odd = { "\u20ac": 1.1, "\ud83d\ude00": "x", "\r": '\u0001"\\/', 1: [1e3, -0.0, "1"], a: { b: null } };
  await database.owner.query(
    "update tenants set metadata = $2::jsonb || '{\"big\": 123456789012345678.10}' where id = $1",
    [acme.id, JSON.stringify(odd)],
  );
  await database.owner.query("update users set last_name = $2 where tenant_id = $1", [
    acme.id,
    "Straße 東京\u2028x",
  ]);
  await sealer.seal({ rowsAtOnce: 3 });
  await writeExport(exported());
}, 60_000);
afterAll(async () => {
  await sealer.remove();
  await rm(folder, { recursive: true });
  await database.drop();
});

async function writeExport(path: string) {
  const api = await startApi(database);
  try {
    const token = await api.signIn("acme", "admin");
    const response = await askFor(api, "audit_log", {}, { token, accept: "application/x-ndjson" });
    expect(response.status).toBe(200);
    await writeFile(path, await response.text());
  } finally {
    await api.close();
  }
}

type Outcome = { code: number; said: string };
const run = (
  command: string,
  args: string[],
  environment: Record<string, string>,
  cwd: string,
): Promise<Outcome> =>
  promisify(execFile)(command, args, { cwd, env: environmentWith(environment) }).then(
    ({ stdout }) => ({ code: 0, said: stdout }),
    ({ code, stdout, stderr }) => ({ code, said: stdout + stderr }),
  );
const command = (...args: string[]) =>
  run(
    process.execPath,
    [join(paths.root, "scripts/auditVerify.ts"), ...args],
    { DATABASE_URL: database.urls.owner, AUDIT_ANCHOR_DIR: sealer.anchorDir, NODE_ENV: "test" },
    paths.root,
  );

/** The verifier that knows the document alone, in a folder with nothing but itself, the file and the anchor. */
async function strangersVerdict(file: string, ...more: string[]): Promise<Outcome> {
  const empty = await mkdtemp(join(tmpdir(), "erp-stranger-"));
  try {
    const script = fileURLToPath(new URL("support/independentVerifier.mjs", import.meta.url));
    await copyFile(script, join(empty, "verify.mjs"));
    await copyFile(file, join(empty, "export.ndjson"));
    await cp(sealer.anchorDir, join(empty, "anchor"), { recursive: true });
    return await run(
      process.execPath,
      ["verify.mjs", "export.ndjson", "anchor", ...more],
      { DATABASE_URL: "", AUDIT_ANCHOR_DIR: "" },
      empty,
    );
  } finally {
    await rm(empty, { recursive: true });
  }
}

describe("npm run audit:verify", () => {
  it("finds nothing wrong with a log that nobody changed", async () => {
    expect(await command()).toEqual({
      code: 0,
      said: expect.stringMatching(/^acme: intact; \d+ rows verified in \d+ seals, 2 not sealed yet\.\n$/),
    });
    expect(await command("--tenant", "acme")).toMatchObject({ code: 0 });
  });

  it("says what is wrong, which row and when, and exits with 1", async () => {
    const { rows } = await tamper(
      database,
      "select id, created_at from audit_logs where action = 'tenant.updated' and tenant_id = $1",
      [acme.id],
    );
    const set = (sql: string) =>
      tamper(database, `update audit_logs set changes = ${sql} where id = $1`, [rows[0].id]);
    await set("replace(changes::text, '123456789012345678.10', '123456789012345678.11')::jsonb");
    const { code, said } = await command("--tenant", "acme");
    await set("replace(changes::text, '123456789012345678.11', '123456789012345678.10')::jsonb");
    expect(code).toBe(1);
    expect(said).toMatch(/^acme: NOT INTACT; /);
    expect(said).toContain(`(${rows[0].id}) of ${rows[0].created_at.toISOString().slice(0, -1)}`);
  });

  it("says what to do where it cannot verify", async () => {
    for (const [args, sentence] of [
      [["--tenant", "nobody"], 'There is no tenant "nobody".'],
      [["--anchors", "/nowhere"], "Cannot read the anchor /nowhere"],
      [["--wrong"], "npm run audit:verify"],
      [["--export", exported(), "--anchors", "none"], "There is no key to verify with"],
    ] as const)
      expect(await command(...args)).toEqual({ code: 1, said: expect.stringContaining(sentence) });
  });

  it("takes the keys that are published, where there is no anchor", async () => {
    const api = await startApi(database);
    try {
      const response = await fetch(`${api.url}/.well-known/audit-keys.json`);
      expect(response.headers.get("cache-control")).toBe("public, max-age=300");
      const { keys } = JSON.parse(await response.clone().text());
      expect(keys).toEqual([
        expect.objectContaining({ endorsedBy: null }),
        expect.objectContaining({ endorsedBy: keys[0].keyId, endorsement: expect.any(String) }),
      ]);
      await writeFile(join(folder, "keys.json"), await response.text());
      const lag = await (await fetch(`${api.url}/readyz`)).json();
      expect(lag).toEqual({
        status: "ok",
        audit: { sealedSecondsAgo: expect.any(Number), unanchoredSeconds: 0 },
      });
    } finally {
      await api.close();
    }
    expect(await command("--anchors", "none", "--keys", join(folder, "keys.json"))).toMatchObject({
      code: 0,
    });
  });
});

describe("an export, without our database", () => {
  type Line = { sequence: number; id: string; [name: string]: unknown };
  const lines = async () => (await readFile(exported(), "utf8")).trimEnd().split("\n");
  const parsed = (line: string | undefined): Line => JSON.parse(line ?? "{}");
  async function verdicts(changed: string[], ...more: string[]) {
    const file = join(folder, "changed.ndjson");
    await writeFile(file, `${changed.join("\n")}\n`);
    return [await command("--export", file, ...more), await strangersVerdict(file, ...more)];
  }

  it("is intact to us and to a program that was written from the document alone", async () => {
    const all = await lines();
    expect(all.length).toBeGreaterThan(10);
    for (const { code, said } of await verdicts(all)) {
      expect([code, said]).toEqual([0, expect.stringContaining("intact")]);
      expect(said).toContain(`${all.length} rows`);
    }
  });

  const cases: [string, string, (all: string[]) => string[]][] = [
    [
      "an edit",
      "edited: ",
      (all) => all.with(4, (all[4] ?? "").replace(/"action":"[^"]*"/, '"action":"user.renamed"')),
    ],
    [
      "an edit in the 18th digit",
      "edited: ",
      (all) => all.map((line) => line.replace("123456789012345678.10", "123456789012345678.11")),
    ],
    [
      "a number that became a text",
      "edited: ",
      (all) => all.map((line) => line.replace("123456789012345678.10", '"123456789012345678.10"')),
    ],
    [
      "a key that comes twice",
      "edited: ",
      (all) => all.with(3, (all[3] ?? "").replace("{", '{"action":"x",')),
    ],
    ["a deletion", "deleted: row", (all) => all.toSpliced(3, 1)],
    [
      "an insertion",
      "inserted: ",
      (all) => all.toSpliced(3, 0, (all[3] ?? "").replace(/"id":"[0-9a-f-]{8}/, '"id":"01a00000')),
    ],
    ["another order", "reordered: ", (all) => all.with(3, all[4] ?? "").with(4, all[3] ?? "")],
    [
      "other numbers",
      "reordered: ",
      (all) => all.with(3, (all[3] ?? "").replace(/"sequence":\d+/, '"sequence":9999')),
    ],
    ["a cut", "cut: row", (all) => all.slice(0, -3)],
  ];
  it.each(cases)("shows %s", async (_name, kind, change) => {
    const all = await lines();
    const changed = change(all);
    expect(changed).not.toEqual(all);
    for (const { code, said } of await verdicts(changed))
      expect([code, said]).toEqual([1, expect.stringContaining(kind)]);
  });

  it("says which rows", async () => {
    const all = await lines();
    const gone = parsed(all[5]);
    for (const { said } of await verdicts(all.toSpliced(5, 1))) {
      expect(said).toContain(`row ${gone.sequence}`);
      expect(said).toContain(gone.id);
    }
  });

  it("may be a part, which is then not missed in", async () => {
    const some = (await lines()).filter((line) => parsed(line).resource === "user");
    for (const { code } of await verdicts(some)) expect(code).toBe(1);
    for (const { code } of await verdicts(some, "--partial")) expect(code).toBe(0);
  });

  it("does not care for spaces and the order of members", async () => {
    const shuffled = (await lines()).map((line) => {
      const { sequence, ...columns } = parsed(line);
      // Numbers would be rounded by this, but for those that are whole.
      return line.includes(".10")
        ? line
        : JSON.stringify(
            { ...Object.fromEntries(Object.entries(columns).reverse()), sequence, more: 1 },
            null,
            1,
          ).replaceAll("\n", "");
    });
    for (const { code, said } of await verdicts(shuffled))
      expect([code, said]).toEqual([0, expect.any(String)]);
  });

  it("is held against an anchor in which nobody forged a seal", async () => {
    const file = join(sealer.anchorDir, `${new Date().toISOString().slice(0, 7)}.ndjson`);
    const text = await readFile(file, "utf8");
    try {
      const forged = text
        .split("\n")
        .map((line) =>
          line.includes('"number":2,') ? line.replace(/"sealedAt":"\d{4}/, '"sealedAt":"2001') : line,
        );
      await writeFile(file, forged.join("\n"));
      for (const { code, said } of await verdicts(await lines()))
        expect([code, said]).toEqual([1, expect.stringContaining("forged: ")]);
      await mkdir(join(folder, "unused"), { recursive: true });
    } finally {
      await writeFile(file, text);
    }
  });
});
