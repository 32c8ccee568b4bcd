import { connect, type Socket } from "node:net";
import { setTimeout as wait } from "node:timers/promises";
import { brotliCompressSync, deflateSync, gzipSync, zstdCompressSync } from "node:zlib";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "@jest/globals";
import { generateApiKey } from "../src/auth/apiKeys.ts";
import { makeBytesInFlight } from "../src/http/body.ts";
import { startApi, type TestApi } from "./support/api.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";

let database: TestDatabase;
let api: TestApi;
let acme: TestTenant;
let key: string;
const sockets: Socket[] = [];

beforeAll(async () => {
  database = await createTestDatabase();
  api = await startApi(database);
  acme = await createTenant(database.owner, "acme");
  await database.owner.query("update tenants set features = '{api_keys}'");
  const { data } = await api.query(
    "mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret } }",
    {
      token: await api.signIn("acme", "admin"),
      variables: { input: { name: "Till", scopes: ["events:write"] } },
    },
  );
  key = data.createApiKey.secret;
});
beforeEach(async () => {
  await database.owner.query("truncate analytics_events, app_private.event_keys");
});
afterAll(async () => {
  for (const socket of sockets) socket.destroy();
  await api.close();
  await database.drop();
});

const event = (id: string, properties = "{}") =>
  `{"eventType":"order","eventName":"order_completed","source":"till","sourceId":"${id}","properties":${properties}}`;
async function post(body: string | Uint8Array, headers: Record<string, string> = {}) {
  const response = await fetch(`${api.url}/v1/events`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${key}`, ...headers },
    body: body as RequestInit["body"] & {},
  });
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of any shape
  const answer: any = await response.json();
  return { status: response.status, answer };
}
const stored = async () => {
  const { rows } = await database.owner.query(
    "select source_id as id, properties::text from analytics_events order by source_id",
  );
  return rows;
};
/** Sends headers, and then what it is told to. */
function slowly(token: string, headers: string): { socket: Socket; answer: Promise<string> } {
  const socket = connect(Number(new URL(api.url).port), "127.0.0.1");
  sockets.push(socket);
  socket.write(
    `POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer ${token}\r\n${headers}\r\n\r\n`,
  );
  let text = "";
  const answer = new Promise<string>((resolve) => {
    socket.on("data", (chunk) => {
      text += chunk;
    });
    socket.on("error", () => {}).on("close", () => resolve(text));
  });
  return { socket, answer };
}

describe("whoever sends slowly", () => {
  it.each([
    ["with a key that nobody has", () => generateApiKey("test", acme.id).text, "content-length: 1000"],
    ["with a key of the same tenant", () => key, "content-length: 3000000"],
  ])("%s holds up nobody", async (_case, token, headers) => {
    const slow = Array.from({ length: 210 }, () => slowly(token(), headers));
    await wait(500);
    const start = performance.now();
    for (const id of ["1", "2"]) expect((await post(event(id))).status).toBe(202);
    expect((await post(`[${event("3")}]${" ".repeat(200_000)}`)).status).toBe(202);
    expect(performance.now() - start).toBeLessThan(3_000);
    for (const { socket } of slow) socket.destroy();
  });

  it("is told so, and cut off", async () => {
    const start = performance.now();
    const { socket, answer } = slowly(key, "content-length: 1000");
    socket.write("[");
    expect(await answer).toMatch(/^HTTP\/1.1 408 .*"reason":"too_slow"/s);
    expect(performance.now() - start).toBeLessThan(10_000);
  });

  it("is turned away before a large body is read, unless the key is good", async () => {
    const { answer, socket } = slowly(generateApiKey("test", acme.id).text, "content-length: 4000000");
    socket.write(" ".repeat(1000));
    socket.once("data", () => setImmediate(() => socket.destroy()));
    expect(await answer).toMatch(/^HTTP\/1.1 401 /);
  });
});

it("lets all bodies together, and those of one owner, take so much memory and no more", () => {
  const hold = makeBytesInFlight({ overall: 100, each: 60 });
  const [a, b, c] = [hold("acme"), hold("acme"), hold("globex")];
  a.add(50);
  expect(() => b.add(20)).toThrow("Too much is being sent");
  b.release();
  b.add(10);
  expect(() => c.add(50)).toThrow("Too much is being sent");
  c.release();
  a.release();
  b.add(50);
});

describe("an event that is too much", () => {
  it.each<[string, string, string]>([
    ["properties of small things", event("bad", `{"a":[${"{},".repeat(40_000)}{}]}`), "/1/properties"],
    ["an id of numbers", `{"sourceId":[${"1e100,".repeat(20_000)}1]}`, "/1/sourceId"],
    ["a timestamp of numbers", `{"timestamp":[${"1e100,".repeat(20_000)}1]}`, "/1/timestamp"],
    ["unknown fields", `{${Array.from({ length: 9_000 }, (_, index) => `"f${index}":1`).join()}}`, "/1/f"],
  ])("is rejected alone: %s", async (_case, bad, pointer) => {
    const { answer } = await post(`[${event("1")},${bad}]`);
    expect(answer.events).toMatchObject([
      { status: "accepted" },
      { status: "rejected", reason: "too_large", pointer: expect.stringContaining(pointer) },
    ]);
  });

  it("is so as GraphQL, too", async () => {
    const { data } = await api.query(
      `mutation ($input: CreateAnalyticsEventsInput!) {
         createAnalyticsEvents(input: $input) { receipts { outcome reason pointer } }
       }`,
      {
        token: await api.signIn("acme", "user"),
        variables: {
          input: { events: [{ ...JSON.parse(event("1")), properties: { a: Array(17_000).fill(0) } }] },
        },
      },
    );
    expect(data.createAnalyticsEvents.receipts).toMatchObject([
      { outcome: "REJECTED", reason: "too_large", pointer: "/properties" },
    ]);
  });

  const deep = `{"d":${"[".repeat(50_000)}1.00000000000000000${"]".repeat(50_000)}}`;
  it("is rejected alone for its depth, and costs no other a digit", async () => {
    const others = [event("1", '{"n":12345678901234567890123}'), event("3", '{"t":"],{\\"[\\\\"}')];
    const array = await post(`[ ${others[0]} ,${event("2", deep)}, ${others[1]}]`);
    expect(array.answer.events).toMatchObject([
      { status: "accepted" },
      { reason: "too_deep", pointer: expect.stringMatching(/^\/1\/properties\/d/) },
      { status: "accepted" },
    ]);
    expect(await stored()).toEqual([
      { id: "1", properties: '{"n": 12345678901234567890123}' },
      { id: "3", properties: '{"t": "],{\\"[\\\\"}' },
    ]);
    const lines = await post(`${event("4", '{"n":12345678901234567890123}')}\n${event("5", deep)}`, {
      "content-type": "application/x-ndjson",
    });
    expect(lines.answer).toMatchObject({ accepted: 1, events: [{}, { reason: "too_deep" }] });
    expect((await post(event("6", deep))).answer.events).toMatchObject([{ reason: "too_deep" }]);
  });
});

it("points into the body as it was sent", async () => {
  const bad = event("1").replace('"till"', "7");
  expect((await post(bad)).answer.events).toMatchObject([{ pointer: "/source" }]);
  expect((await post(`[${bad}]`)).answer.events).toMatchObject([{ pointer: "/0/source" }]);
  const ndjson = await post(bad, { "content-type": "application/ndjson" });
  expect(ndjson.answer.events).toMatchObject([{ pointer: "/0/source" }]);
});

it("takes UTF-8 only, and the encodings that it names", async () => {
  for (const charset of ["utf-8", "UTF8", '"utf-8"'])
    expect((await post(event("1"), { "content-type": `application/json; charset=${charset}` })).status).toBe(
      202,
    );
  for (const charset of ["latin1", "utf-16"])
    expect((await post(event("1"), { "content-type": `application/json; charset=${charset}` })).status).toBe(
      415,
    );
  const packed = {
    zstd: zstdCompressSync(event("1")),
    "gzip, gzip": gzipSync(gzipSync(event("1"))),
    constructor: event("1"),
  };
  for (const [encoding, body] of Object.entries(packed))
    expect((await post(body, { "content-encoding": encoding })).status).toBe(415);
  const more = Buffer.from(event("2"));
  const padded = Buffer.concat([gzipSync(event("1")), Buffer.alloc(10), gzipSync(event("2"))]);
  expect((await post(padded, { "content-encoding": "gzip" })).answer.reason).toBe("not_packed");
  const lines = Buffer.concat(["3", "4"].map((id) => gzipSync(`${event(id)}\n`)));
  expect(
    (await post(lines, { "content-encoding": "gzip", "content-type": "application/x-ndjson" })).answer
      .accepted,
  ).toBe(2);
  for (const [encoding, pack] of Object.entries({
    gzip: gzipSync,
    deflate: deflateSync,
    br: brotliCompressSync,
  }))
    expect(
      (await post(Buffer.concat([pack(event("1")), more]), { "content-encoding": encoding })).answer.reason,
    ).toBe("not_packed");
  const cut = gzipSync(event("1").repeat(100)).subarray(0, -20);
  expect((await post(cut, { "content-encoding": "gzip" })).answer).toMatchObject({
    status: 400,
    reason: "not_packed",
  });
});

it("takes no number of GraphQL that JavaScript has changed", async () => {
  const token = await api.signIn("acme", "user");
  const create = async (body: string) => {
    const response = await fetch(`${api.url}/graphql`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
      body: `{"query":"mutation ($e: [NewEventInput!]!) { createAnalyticsEvents(input: {events: $e}) { receipts { outcome reason pointer } } }","variables":{"e":[${body}]}}`,
    });
    // biome-ignore lint/suspicious/noExplicitAny: an answer of any shape
    const { data }: any = await response.json();
    return data.createAnalyticsEvents.receipts;
  };
  for (const number of ["12345678901234567890123", "1e400", "9007199254740993"])
    expect(await create(event("1", `{"a":[${number}]}`))).toEqual([
      { outcome: "REJECTED", reason: "inexact_number", pointer: "/properties/a/0" },
    ]);
  expect(await create(event("1", '{"a":[9007199254740991,0.5,-1e-7]}'))).toMatchObject([
    { outcome: "ACCEPTED" },
  ]);
});

it("deletes what a source says is gone, by HTTP and by GraphQL", async () => {
  await post(`[${event("1")},${event("2")}]`);
  const gone = '{"source":"till","sourceId":"1","deleted":true}';
  expect((await post(gone)).answer).toMatchObject({ deleted: 1, events: [{ status: "deleted" }] });
  const { data } = await api.query(
    `mutation { createAnalyticsEvents(input: {events: [{source: "till", sourceId: "2", deleted: true}]}) {
       deleted duplicate receipts { outcome } } }`,
    { token: await api.signIn("acme", "user") },
  );
  expect(data.createAnalyticsEvents).toEqual({
    deleted: 1,
    duplicate: 0,
    receipts: [{ outcome: "DELETED" }],
  });
  expect(await stored()).toEqual([]);
});
