import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, request as httpRequest, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { environmentWith } from "../src/config.ts";
import { withClient } from "../src/db/pools.ts";
import type { ExportLimits } from "../src/exports/limits.ts";
import { paths } from "../src/paths.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { emptyAuditLog } from "./support/audit.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { askFor, readLines } from "./support/exports.ts";
import { createTenant, PASSWORD, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";

const EVENTS = process.env.ERP_TEST_LONG ? 200_000 : 120_000;
/** So that what is measured is what is held, and not what V8 has yet to collect. */
const SMALL_HEAP = ["--max-semi-space-size=2", "--max-old-space-size=128"];
const ALL = { from: "2025-01-01T00:00:00Z", to: "2027-01-01T00:00:00Z" };
const FEW = { from: "2026-01-01T00:00:00Z", to: "2026-02-01T00:00:00Z" };

let database: TestDatabase;
let acme: TestTenant;
const open: TestApi[] = [];
const begun: IncomingMessage[] = [];

beforeAll(async () => {
  database = await createTestDatabase();
  acme = await createTenant(database.owner, "acme");
  await createTenant(database.owner, "globex");
  await database.owner.query(
    `insert into analytics_events (tenant_id, event_type, event_name, "timestamp", value, properties)
     select $1, 'bulk', 'bulk_' || n % 7, timestamptz '2025-03-01' + n * interval '1 second', n,
            jsonb_build_object('text', repeat(md5(n::text), 10))
       from generate_series(1, $2::integer) n`,
    [acme.id, EVENTS],
  );
  await database.owner.query("vacuum analyze analytics_events");
}, 120_000);
afterEach(async () => {
  for (const response of begun.splice(0)) response.destroy();
  await untilQuiet();
});
afterAll(async () => {
  for (const api of open) await api.close();
  await database.drop();
});

async function start(exportLimits: Partial<ExportLimits> = {}) {
  const api = await startApi(database, { exportLimits });
  open.push(api);
  return { api, token: await api.signIn("acme", "admin") };
}

/** Begins an export, and reads its first bytes only. */
async function begin(api: TestApi, token: string, format = "csv"): Promise<IncomingMessage> {
  const request = httpRequest(`${api.url}/v1/exports/events?format=${format}`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
  });
  request.on("error", () => {});
  request.end(JSON.stringify(ALL));
  const [response] = (await once(request, "response")) as [IncomingMessage];
  expect(response.statusCode).toBe(200);
  response.on("error", () => {});
  await once(response, "readable");
  begun.push(response);
  return response;
}
/** What comes until the end, and whether that was the end. */
async function rest(response: IncomingMessage) {
  const chunks: Buffer[] = [];
  response.on("data", (chunk: Buffer) => chunks.push(chunk));
  await new Promise((closed) => response.on("close", closed));
  return { complete: response.complete, text: Buffer.concat(chunks).toString() };
}
/** As root: others do not see what a backend does. */
const backends = () =>
  withClient(database.urls.root, async (client) => {
    const { rows } = await client.query<{ pid: number; state: string; query: string }>(
      "select pid, state, query from pg_stat_activity where datname = current_database() and usename = 'erp_authenticator' and state <> 'idle'",
    );
    return rows;
  });
const untilQuiet = async (timeoutMs?: number) => {
  await until(backends, (found) => found.length === 0, timeoutMs);
  await until(
    async () => database.authenticator.totalCount - database.authenticator.idleCount,
    (busy) => busy === 0,
  );
};

it(`exports ${EVENTS.toLocaleString("en")} events in the memory that a few take`, async () => {
  const folder = await mkdtemp(join(tmpdir(), "erp-export-"));
  const listener = createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address() as AddressInfo;
  await new Promise((closed) => listener.close(closed));
  const server: ChildProcess = spawn(
    process.execPath,
    [...SMALL_HEAP, "--import", "./scripts/runtime.mjs", "src/main.ts", "api"],
    {
      cwd: paths.root,
      stdio: "ignore",
      env: environmentWith({
        DATABASE_URL: database.urls.owner,
        AUTHENTICATOR_DATABASE_URL: database.urls.authenticator,
        WORKER_DATABASE_URL: database.urls.worker,
        DATA_DIR: folder,
        PORT: String(port),
        NODE_OPTIONS: "",
        LOG_LEVEL: "silent",
      }),
    },
  );
  try {
    const url = `http://127.0.0.1:${port}`;
    await until(
      () =>
        fetch(`${url}/readyz`).then(
          ({ status }) => status,
          () => 0,
        ),
      (status) => status === 200,
      60_000,
    );
    const login = await fetch(`${url}/graphql`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        query: `mutation { login(input: {tenant: "acme", email: "admin@acme.test", password: "${PASSWORD}"}) { accessToken } }`,
      }),
    });
    // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of any shape
    const { data }: any = await login.json();
    const megabytes = () => Number(execFileSync("ps", ["-o", "rss=", "-p", String(server.pid)])) / 1024;
    const run = async (format: string, range: object) => {
      const response = await askFor({ url }, "events", range, {
        token: data.login.accessToken,
        query: `?format=${format}`,
      });
      let [bytes, lines, highest] = [0, 0, 0];
      for await (const chunk of response.body ?? []) {
        // Seldom enough to cost nothing.
        if (Math.floor(bytes / 5e6) < Math.floor((bytes + chunk.length) / 5e6))
          highest = Math.max(highest, megabytes());
        bytes += chunk.length;
        for (const byte of chunk) if (byte === 10) lines++;
      }
      return { lines, bytes, highest: Math.max(highest, megabytes()) };
    };
    for (const format of ["csv", "ndjson"]) await run(format, FEW);
    const before = megabytes();
    for (const format of ["csv", "ndjson"]) {
      const { lines, bytes, highest } = await run(format, ALL);
      expect(lines).toBe(EVENTS + 10 + (format === "csv" ? 1 : 0));
      expect(bytes).toBeGreaterThan(400 * EVENTS);
      expect(highest - before).toBeLessThan(64);
    }
  } finally {
    server.kill();
    await once(server, "exit");
    await rm(folder, { recursive: true });
  }
}, 180_000);

describe("whoever hangs up", () => {
  it("ends the export, and the connection is as good as before", async () => {
    const { api, token } = await start();
    const response = await begin(api, token);
    await until(backends, (found) => found.some(({ state }) => state === "idle in transaction"));
    response.destroy();
    await untilQuiet();
    expect((await askFor(api, "events", FEW, { token })).status).toBe(200);
  });

  it("ends the statement under way", async () => {
    const { api, token } = await start({ graceMs: 100 });
    await emptyAuditLog(database);
    const slow = (condition: string) =>
      database.owner.query(
        `alter policy select_member on analytics_events using (tenant_id = app_hidden.current_tenant_id() ${condition})`,
      );
    await slow("and (select pg_sleep(100)) is not null");
    try {
      const leaving = new AbortController();
      const answer = askFor(api, "events", FEW, { token, signal: leaving.signal });
      const running = ({ query }: { query: string }) => /^fetch/.test(query);
      await until(backends, (found) => found.some(running));
      leaving.abort();
      await expect(answer).rejects.toThrow();
      await until(backends, (found) => !found.some(running), 15_000);
    } finally {
      await slow("");
    }
    await untilQuiet();
    const { rows } = await database.owner.query("select from audit_logs where action = 'analytics.exported'");
    expect(rows).toEqual([]);
  });

  it("or only stops reading, is cut off", async () => {
    const { api, token } = await start({ stallMs: 500 });
    const response = await begin(api, token);
    await untilQuiet(10_000);
    expect((await rest(response)).complete).toBe(false);
  });
});

describe("a failure in the middle", () => {
  it.each(["csv", "ndjson"])("is seen by whoever reads %s", async (format) => {
    const { api, token } = await start();
    const response = await begin(api, token, format);
    const { pid } = (
      await until(backends, (found) => found.some(({ state }) => state === "idle in transaction"))
    )[0] ?? { pid: 0 };
    await withClient(database.urls.root, (client) => client.query("select pg_terminate_backend($1)", [pid]));
    const { complete, text } = await rest(response);
    expect(complete).toBe(false);
    if (format === "ndjson")
      expect(readLines(text).at(-1)).toEqual({
        error: { code: "UNAVAILABLE", message: expect.any(String), requestId: expect.any(String) },
      });
  });

  it("is also that the caller may no longer export", async () => {
    const { api, token } = await start({ recheckMs: 0 });
    const response = await begin(api, token, "ndjson");
    await database.owner.query("update sessions set revoked_at = now() where tenant_id = $1", [acme.id]);
    const { complete, text } = await rest(response);
    expect(complete).toBe(false);
    expect(readLines(text).at(-1)).toMatchObject({ error: { code: "UNAUTHENTICATED" } });
    await untilQuiet();
  });
});

it("runs so many at a time, for a tenant and for all, and tells the others when to come back", async () => {
  const { api, token } = await start({ perTenant: 2, perInstance: 3 });
  const others = await api.signIn("globex", "admin");
  const refused = async (of: string) => {
    const response = await askFor(api, "events", FEW, { token: of });
    const { code } = (await response.json()) as { code: string };
    return [response.status, code, response.headers.get("retry-after")];
  };
  const running = [await begin(api, token), await begin(api, token)];
  expect(await refused(token)).toEqual([429, "RATE_LIMITED", "10"]);
  expect((await askFor(api, "events", FEW, { token: others })).status).toBe(200);
  for (const one of running) one.destroy();
  await untilQuiet();
  expect((await askFor(api, "events", FEW, { token })).status).toBe(200);

  const narrow = await start({ perTenant: 2, perInstance: 1 });
  const [first] = [await begin(narrow.api, narrow.token)];
  const response = await askFor(narrow.api, "events", FEW, { token: others });
  expect([response.status, response.headers.get("retry-after")]).toEqual([429, "10"]);
  first.destroy();
  await untilQuiet();
});
