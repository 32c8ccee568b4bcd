import { afterAll, beforeAll, beforeEach, describe, expect, it } from "@jest/globals";
import { CHUNK_BYTES } from "../src/uploads/limits.ts";
import { connectors } from "../tasks/connectors/index.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";
import { createCsvIntegration, csvOf, csvOfCount, line, type Sent, send } from "./support/uploads.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let admin: string;
let user: string;
let viewer: string;
let integration: string;

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database, { uploadLimits: { stallMs: 500, perTenant: 1 } });
  acme = await createTenant(database.owner, "acme", {
    settings: { timeZone: "Europe/Berlin", currency: "EUR" },
  });
  await createTenant(database.owner, "globex");
  await database.owner.query("update tenants set features = '{api_keys}'");
  [admin, user, viewer] = await Promise.all([
    api.signIn("acme", "admin"),
    api.signIn("acme", "user"),
    api.signIn("acme", "viewer"),
  ]);
});
beforeEach(async () => {
  await database.owner.query("delete from integrations where provider = 'csv'");
  integration = await createCsvIntegration(database, acme.id);
});
afterAll(async () => {
  await api.close();
  await database.drop();
});

const path = (id = integration) => `/integrations/${id}/files`;
const upload = (file: string | Buffer | ReadableStream, sent: Sent = {}) =>
  send(api, path(), file, { token: user, ...sent });
const rowsOf = async (text: string) => (await database.owner.query(text)).rows;
const uploads = () =>
  rowsOf("select id, file_name, byte_length::integer, state from app_private.uploads order by id");
const chunks = () =>
  rowsOf("select position, octet_length(bytes) as length from app_private.upload_chunks order by 1");
const queued = () => rowsOf(`select key from graphile_worker.jobs where key = 'sync:${integration}'`);
const nothingStays = async () => {
  expect(await until(uploads, (found) => found.length === 0)).toEqual([]);
  expect(await chunks()).toEqual([]);
};
const makeKey = async (scopes: string[]): Promise<string> => {
  const { data, errors } = await api.query(
    "mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret } }",
    { token: admin, variables: { input: { name: "Till", scopes } } },
  );
  expect(errors).toBeUndefined();
  return data.createApiKey.secret;
};

describe("an upload", () => {
  it("is stored in chunks, audited, and its integration synced soon", async () => {
    const file = csvOfCount(20_000);
    const answer = await upload(file, { query: "?name=M%C3%A4rz.csv" });
    expect(answer).toMatchObject({
      status: 202,
      body: { fileName: "März.csv", bytes: file.length, columns: ["Belegnr", "Datum", "Betrag", "Filiale"] },
    });
    expect(await uploads()).toEqual([
      { id: answer.body.id, file_name: "März.csv", byte_length: file.length, state: "ready" },
    ]);
    expect(await chunks()).toEqual([
      { position: 0, length: 524_288 },
      { position: 1, length: file.length - 524_288 },
    ]);
    expect(await queued()).toHaveLength(1);
    const [audit] = await rowsOf(
      "select actor_name, resource_id, changes from audit_logs where action = 'file.uploaded'",
    );
    expect(audit).toMatchObject({
      actor_name: "user@acme.test",
      resource_id: integration,
      changes: { file: "März.csv", bytes: file.length },
    });
  });

  it("may be packed, as its type or its encoding says", async () => {
    const packed = await upload(csvOf(line(1)), { isPacked: true });
    expect(packed).toMatchObject({ status: 202, body: { bytes: csvOf(line(1)).length } });
    const { gzipSync } = await import("node:zlib");
    const gzip = await upload(gzipSync(csvOf(line(1))), { type: "application/gzip" });
    expect(gzip).toMatchObject({ status: 202, body: { bytes: csvOf(line(1)).length } });
  });

  it("can be listed and deleted, by whoever may send files", async () => {
    const { body } = await upload(csvOf(line(1)));
    const call = async (method: string, token: string, more = "") => {
      const headers = { authorization: `Bearer ${token}` };
      const response = await fetch(`${api.url}/v1${path()}${more}`, { method, headers });
      return { status: response.status, text: await response.text() };
    };
    const list = await call("GET", user);
    expect(JSON.parse(list.text).files).toMatchObject([
      { id: body.id, fileName: "upload.csv", state: "ready" },
    ]);
    expect((await call("GET", viewer)).status).toBe(403);
    expect((await call("DELETE", viewer, `/${body.id}`)).status).toBe(403);
    expect((await call("DELETE", await api.signIn("globex", "admin"), `/${body.id}`)).status).toBe(404);
    expect((await call("DELETE", user, `/${body.id}`)).status).toBe(204);
    expect((await call("DELETE", user, `/${body.id}`)).status).toBe(404);
    await nothingStays();
  });

  it("that is cut off leaves nothing behind", async () => {
    const stop = new AbortController();
    const file = new ReadableStream({
      start: (controller) => controller.enqueue(Buffer.from(csvOfCount(30_000))),
    });
    const sending = fetch(`${api.url}/v1${path()}`, {
      method: "POST",
      headers: { "content-type": "text/csv", authorization: `Bearer ${user}` },
      body: file,
      duplex: "half",
      signal: stop.signal,
    });
    sending.catch(() => {});
    await until(chunks, (found) => found.length > 0);
    stop.abort();
    await expect(sending).rejects.toThrow();
    await nothingStays();
    expect(await queued()).toEqual([]);
  });

  it("that stalls is refused, and leaves nothing behind", async () => {
    const file = new ReadableStream({
      start: (controller) => controller.enqueue(Buffer.from(csvOf(line(1)))),
    });
    expect(await upload(file)).toMatchObject({
      status: 408,
      body: { code: "INVALID_INPUT", reason: "too_slow" },
    });
    await nothingStays();
  });

  it("whose instance died is given up, and one under way is not", async () => {
    await database.owner.query(
      `insert into app_private.uploads (tenant_id, integration_id, file_name, config, touched_at)
       values ($1, $2, 'dead', '{}', now() - interval '11 minutes'), ($1, $2, 'alive', '{}', now() - interval '9 minutes')`,
      [acme.id, integration],
    );
    const tended = await database.worker.query("select app_hidden.tend_uploads() as count");
    expect(tended.rows).toEqual([{ count: 1 }]);
    expect(await uploads()).toMatchObject([{ file_name: "alive" }]);
  });

  it("that came when a sync had just looked for the last time is read nevertheless", async () => {
    await upload(csvOf(line(1)));
    const forget = () =>
      database.worker.query(
        "select graphile_worker.complete_jobs(array(select id from graphile_worker.jobs)::bigint[])",
      );
    await forget();
    const state = (status: string) =>
      database.owner.query("update integrations set sync_status = $2 where id = $1", [integration, status]);
    await state("failed");
    await database.worker.query("select app_hidden.tend_uploads()");
    expect(await queued()).toEqual([]);
    await state("succeeded");
    await database.worker.query("select app_hidden.tend_uploads()");
    expect(await queued()).toHaveLength(1);
  });

  it("is one of a tenant's at a time here, and the next is told to wait", async () => {
    let end = () => {};
    const file = new ReadableStream({
      start(controller) {
        controller.enqueue(Buffer.from(csvOf(line(1)).padEnd(2 * CHUNK_BYTES, "\n")));
        end = () => controller.close();
      },
    });
    const first = upload(file);
    // Whose chunks are being kept has the turn.
    await until(uploads, (all) => all.length === 1);
    const second = await upload(csvOf(line(2)));
    expect(second).toMatchObject({ status: 429, body: { code: "RATE_LIMITED" } });
    expect(second.headers.get("retry-after")).toBe("10");
    end();
    expect((await first).status).toBe(202);
  });
});

describe("limits", () => {
  const limitTo = (bytes: number) =>
    database.owner.query("update app_private.plans set upload_bytes = $1 where name = 'trial'", [bytes]);
  beforeEach(() => limitTo(600_000));

  it("a file is as large as the plan permits, unpacked, and no larger", async () => {
    const exact = csvOf(line(1)).padEnd(600_000, "\n");
    expect((await upload(exact, { isPacked: true })).status).toBe(202);
    await database.owner.query("delete from app_private.uploads");
    const answer = await upload(`${exact}\n`, { isPacked: true });
    expect(answer).toMatchObject({ status: 403, body: { code: "LIMIT_EXCEEDED", reason: "upload_bytes" } });
    await nothingStays();
  });

  it("all files that wait have at most twice that", async () => {
    const file = csvOf(line(1)).padEnd(600_000, "\n");
    expect([(await upload(file)).status, (await upload(file)).status]).toEqual([202, 202]);
    expect(await upload(csvOf(line(1)))).toMatchObject({ status: 403, body: { reason: "waiting_bytes" } });
    expect(await uploads()).toHaveLength(2);
    const [{ id }] = await uploads();
    const client = await database.worker.connect();
    await client.query("begin");
    await client.query("select app_hidden.begin_job($1, 'test')", [acme.id]);
    await client.query("select app_hidden.release_upload($1, $2)", [acme.id, id]);
    await client.query("commit");
    client.release();
    expect((await upload(csvOf(line(1)))).status).toBe(202);
  });

  it("at most 20 files wait", async () => {
    await database.owner.query(
      `insert into app_private.uploads (tenant_id, integration_id, file_name, config, state)
       select $1, $2, 'f', '{}', 'ready' from generate_series(1, 20)`,
      [acme.id, integration],
    );
    expect(await upload(csvOf(line(1)))).toMatchObject({
      status: 403,
      body: { code: "LIMIT_EXCEEDED", reason: "waiting_uploads" },
    });
  });
});

describe("rights", () => {
  it.each([
    ["a viewer", async () => viewer, 403, "FORBIDDEN", "integrations:sync"],
    ["nobody", async () => undefined, 401, "UNAUTHENTICATED", undefined],
    ["a key that only reads", () => makeKey(["analytics:read"]), 403, "FORBIDDEN", "integrations:sync"],
    ["another tenant's admin", () => api.signIn("globex", "admin"), 404, "NOT_FOUND", undefined],
  ])("%s sends nothing", async (_who, token, status, code, reason) => {
    expect((await upload(csvOf(line(1)))).status).toBe(202);
    for (const query of ["", "?preview=true"]) {
      const answer = await upload(csvOf(line(2)), { token: await token(), query });
      expect(answer).toMatchObject({ status, body: { code } });
      if (reason) expect(answer.body.reason).toBe(reason);
    }
    expect(await uploads()).toHaveLength(1);
  });

  it("a key with integrations:sync sends files", async () => {
    const token = await makeKey(["analytics:read", "integrations:sync"]);
    expect((await upload(csvOf(line(1)), { token })).status).toBe(202);
  });

  it("whoever may only manage integrations looks, and sends nothing", async () => {
    await database.owner.query("update users set permissions = '{integrations:manage}' where id = $1", [
      acme.users.viewer.id,
    ]);
    try {
      const token = await api.signIn("acme", "viewer");
      expect((await upload(csvOf(line(1)), { token, query: "?preview=true" })).status).toBe(200);
      expect(await upload(csvOf(line(1)), { token })).toMatchObject({
        status: 403,
        body: { reason: "integrations:sync" },
      });
    } finally {
      await database.owner.query("update users set permissions = '{}' where id = $1", [acme.users.viewer.id]);
    }
  });

  it("whoever is suspended meanwhile is stopped at the next chunk", async () => {
    const file = Buffer.from(csvOfCount(40_000));
    let more = () => {};
    const slow = new ReadableStream({
      start(controller) {
        controller.enqueue(file.subarray(0, 600_000));
        more = () => {
          controller.enqueue(file.subarray(600_000));
          controller.close();
        };
      },
    });
    const answer = upload(slow);
    await until(chunks, (found) => found.length === 1);
    await database.owner.query("update users set status = 'SUSPENDED' where id = $1", [acme.users.user.id]);
    try {
      more();
      expect(await answer).toMatchObject({ status: 401, body: { reason: "revoked" } });
      expect(await uploads()).toMatchObject([{ state: "receiving" }]);
    } finally {
      await database.owner.query("update users set status = 'ACTIVE' where id = $1", [acme.users.user.id]);
      user = await api.signIn("acme", "user");
    }
  });
});

it("SQL knows which providers need no credentials", async () => {
  for (const { provider, needsCredentials = true } of connectors) {
    const { rows } = await database.owner.query("select app_private.needs_credentials($1) as needs", [
      provider,
    ]);
    expect([provider, rows[0].needs]).toEqual([provider, needsCredentials]);
  }
});
