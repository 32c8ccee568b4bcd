import { randomBytes } from "node:crypto";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { makeKeyRing } from "../src/crypto/keyRing.ts";
import { loadKeyRing } from "../src/crypto/loadKeyRing.ts";
import { runScript } from "./support/command.ts";
import { setCredentials } from "./support/credentials.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

const SECRET = "command-canary";
const [one, two] = ["one", "two"].map((id) => ({ id, key: randomBytes(32).toString("base64") }));
const pair = (key = one) => `${key?.id}:${key?.key}`;
const secrets = async () => ({ encryptionKeys: [] });

let database: TestDatabase;
let acme: TestTenant;
let folder: string;
beforeAll(async () => {
  database = await createTestDatabase();
  acme = await createTenant(database.owner, "acme", { events: [] });
  folder = await mkdtemp(join(tmpdir(), "erp-keys-"));
  const place = { tenantId: acme.id, integrationId: acme.integrationId };
  const ring = makeKeyRing(one ? [one] : []);
  await setCredentials(database.owner, ring, place, { secret: SECRET });
});
afterAll(async () => {
  await database.drop();
  await rm(folder, { recursive: true });
});

const keys = (args: string[], env: Record<string, string> = {}) =>
  runScript(database, ["keys.ts", ...args], { env: { DATA_DIR: folder, ENCRYPTION_KEYS: pair(), ...env } });

it("checks, rotates and rewraps, and says what it did", async () => {
  expect(await keys(["check"])).toMatchObject({
    code: 0,
    out: expect.stringMatching(/data keys 1, credentials 1,.*\nAll of them open\./),
  });
  expect(await keys(["rotate", "--tenant", "acme"])).toMatchObject({
    code: 0,
    err: expect.not.stringContaining("Error"),
    out: expect.stringContaining("New data keys: 1; credentials sealed anew: 1."),
  });
  expect(await keys(["rewrap"], { ENCRYPTION_KEYS: `${pair(two)},${pair()}` })).toMatchObject({
    code: 0,
    out: expect.stringContaining('Key "two" wraps everything; rewrapped: data keys 2,'),
  });
  const lost = await keys(["check"]);
  expect(lost.code).toBe(1);
  expect(lost.err).toContain(
    'data key 2 of "acme": The key ring has no key "two": add it to ENCRYPTION_KEYS.',
  );
  expect(lost.err).toContain(`credentials of integration ${acme.integrationId} of "acme"`);
  const file = join(folder, "keys");
  await writeFile(file, `${pair(two)}\n`, { mode: 0o600 });
  const found = await keys(["check"], { ENCRYPTION_KEYS: "", ENCRYPTION_KEYS_FILE: file });
  expect(found.code).toBe(0);
  for (const said of [lost, found])
    for (const secret of [SECRET, one?.key ?? "", two?.key ?? ""])
      expect(said.out + said.err).not.toContain(secret);
}, 120_000);

it.each<[sentence: string, args: string[]]>([
  ["keys:check takes no --tenant", ["check", "--tenant", "acme"]],
  ['There is no tenant "nobody"', ["rotate", "--tenant", "nobody"]],
  ["npm run keys:rotate", ["destroy"]],
])("says %j", async (sentence, args) => {
  const { code, err } = await keys(args);
  expect({ code, err }).toEqual({ code: 1, err: expect.stringContaining(sentence) });
});

it("reads the keys of a file that is its owner's alone, and says what is wrong with others", async () => {
  const file = join(folder, "ring");
  await writeFile(file, `${pair(two)}\r\n${pair()}\n`);
  for (const [mode, shown] of [
    [0o640, "0640"],
    [0o604, "0604"],
    [0o644, "0644"],
  ] as const) {
    await chmod(file, mode);
    await expect(loadKeyRing({ ENCRYPTION_KEYS_FILE: file }, secrets)).rejects.toThrow(
      `has the mode ${shown}: others may read it. Run: chmod 600`,
    );
  }
  for (const mode of [0o600, 0o400]) {
    await chmod(file, mode);
    expect((await loadKeyRing({ ENCRYPTION_KEYS_FILE: file }, secrets)).current).toBe("two");
  }
  await expect(loadKeyRing({ ENCRYPTION_KEYS_FILE: join(folder, "none") }, secrets)).rejects.toThrow(
    "Cannot read ENCRYPTION_KEYS_FILE",
  );
  const both = { ENCRYPTION_KEYS: pair(), ENCRYPTION_KEYS_FILE: file };
  await expect(loadKeyRing(both, secrets)).rejects.toThrow("are both set");
});
