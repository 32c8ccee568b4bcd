import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import { afterEach, expect, it } from "@jest/globals";
import { loadConfig } from "../src/config.ts";
import { isPublicAddress } from "../src/http/publicAddress.ts";
import { makePublicFetch, type PublicFetch, type PublicFetchOptions } from "../src/http/publicFetch.ts";
import { ProviderError } from "../tasks/connectors/connector.ts";

const open: (Server | PublicFetch)[] = [];
afterEach(async () => {
  for (const one of open.splice(0)) {
    if ("closeAllConnections" in one) one.closeAllConnections();
    await one.close();
  }
});
const make = (options: PublicFetchOptions = {}) => {
  const made = makePublicFetch(options);
  open.push(made);
  return made.fetch;
};
/** A server on this machine; `requests` are those that arrived. */
async function serve(answer: RequestListener) {
  const requests: string[] = [];
  const server = createServer((request, response) => {
    requests.push(request.url ?? "");
    answer(request, response);
  });
  open.push(server);
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as AddressInfo;
  return { port, requests, place: `127.0.0.1:${port}` };
}
const refusal = async (call: Promise<unknown>): Promise<ProviderError> => {
  const error = await call.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (error instanceof ProviderError) return error;
  throw new Error(`not refused: ${error}`);
};
const says = (code: string) => expect.objectContaining({ kind: "permanent", code });

it.each([
  ["of a cloud's metadata", "169.254.169.254"],
  ["of this machine", "127.0.0.1"],
  ["of this machine, mapped", "[::ffff:127.0.0.1]"],
  ["of this machine, in hexadecimal groups", "[::ffff:7f00:1]"],
  ["of this machine, compatible", "[::127.0.0.1]"],
  ["of this machine, decimal", "2130706433"],
  ["of this machine, octal", "0177.0.0.1"],
  ["of this machine, hexadecimal", "0x7f.1"],
  ["of this machine, version 6", "[::1]"],
  ["unspecified", "0.0.0.0"],
  ["unspecified, version 6", "[::]"],
  ["private", "10.1.2.3"],
  ["private", "172.31.0.1"],
  ["private", "192.168.1.1"],
  ["of a carrier", "100.64.0.1"],
  ["of a link, version 6", "[fe80::1]"],
  ["of a site", "[fd00::1]"],
  ["of an older site", "[fec0::1]"],
  ["translated", "[64:ff9b::7f00:1]"],
  ["translated locally", "[64:ff9b:1::a00:1]"],
  ["of 6to4", "[2002:7f00:1::]"],
  ["of Teredo", "[2001:0:7f00:1::]"],
  ["of many", "224.0.0.1"],
  ["of many, version 6", "[ff02::1]"],
  ["of everybody", "255.255.255.255"],
  ["of documentation", "192.0.2.1"],
])("refuses an address %s: %s", async (_kind, host) =>
  expect(await refusal(make()(`https://${host}/`))).toEqual(says("private_address")),
);

it.each(["8.8.8.8", "169.253.255.255", "172.32.0.1", "2606:4700::1111"])("takes %s for public", (address) =>
  expect(isPublicAddress(address)).toBe(true),
);

it.each([["127.0.0.1"], ["fd00::1"], ["8.8.8.8", "10.0.0.1"]])(
  "refuses a name that resolves to %s, also among public ones",
  async (...addresses) => {
    const resolve = async () =>
      addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 }));
    const error = await refusal(make({ resolve })("https://rebound.example/"));
    expect(error).toEqual(says("private_address"));
    expect(error.message).toContain("rebound.example is not at a public address");
  },
);

it("connects to the address that it checked, whatever DNS says a moment later", async () => {
  const { port, requests } = await serve((_request, response) => response.end("inside"));
  // 2fff::/16 belongs to nobody.
  const answers = [{ address: "2fff:ffff::1", family: 6 }];
  let asked = 0;
  const resolve = async () => (asked++ === 0 ? answers : [{ address: "127.0.0.1", family: 4 }]);
  const call = make({ resolve, connectTimeoutMs: 300 })(`https://rebound.example:${port}/`);
  await expect(call).rejects.toMatchObject({ message: expect.stringMatching(/2fff:ffff::1|timeout/i) });
  expect([asked, requests]).toEqual([1, []]);
});

it("calls a private address that the operator listed, and no other port of it", async () => {
  const { place, port } = await serve((_request, response) => response.end("simulated"));
  const fetch = make({ privateAddresses: [place] });
  expect(await (await fetch(`http://${place}/v2`)).text()).toBe("simulated");
  expect(await refusal(fetch(`http://127.0.0.1:${port === 1 ? 2 : 1}/`))).toEqual(says("not_https"));
  expect(await refusal(fetch(`http://localhost:${port}/`))).toEqual(says("not_https"));
});

it("sends what it was given, and answers with what came back", async () => {
  const { place } = await serve((request, response) => {
    response.setHeader("x-usage", `${request.method} ${request.headers.authorization}`);
    response.statusCode = 429;
    request.pipe(response);
  });
  const response = await make({ privateAddresses: [place] })(new URL(`http://${place}/`), {
    method: "POST",
    headers: { Authorization: "Bearer t" },
    body: '{"a":1}',
  });
  expect([response.status, response.headers.get("x-usage"), await response.json()]).toEqual([
    429,
    "POST Bearer t",
    { a: 1 },
  ]);
});

it("follows no redirect", async () => {
  const inside = await serve((_request, response) => response.end("secret"));
  const { place } = await serve((_request, response) =>
    response.writeHead(302, { location: `http://${inside.place}/` }).end(),
  );
  const fetch = make({ privateAddresses: [place, inside.place] });
  await expect(fetch(`http://${place}/`, { redirect: "follow" })).rejects.toThrow(/redirect/);
  expect((await fetch(`http://${place}/`, { redirect: "manual" })).status).toBe(302);
  expect(inside.requests).toEqual([]);
});

it("calls only https where nothing is listed, and no other protocol", async () => {
  for (const url of ["http://example.com/", "ftp://example.com/"])
    expect(await refusal(make()(url))).toEqual(says("not_https"));
});

it("reads no more than a limit, unpacked", async () => {
  const { place } = await serve((_request, response) =>
    response.setHeader("content-encoding", "gzip").end(gzipSync(Buffer.alloc(1_000_000))),
  );
  const fetch = make({ privateAddresses: [place], maxBytes: 100_000 });
  const response = await fetch(`http://${place}/`);
  expect(await refusal(response.arrayBuffer())).toEqual(says("too_large"));
});

it("waits for silence, and for the whole, only so long", async () => {
  const { place, requests } = await serve((request, response) => {
    if (request.url === "/drip") {
      const drip = setInterval(() => response.write("."), 20);
      response.on("close", () => clearInterval(drip));
    }
  });
  const privateAddresses = [place];
  await expect(make({ privateAddresses, silenceMs: 50 })(`http://${place}/hang`)).rejects.toThrow(/timeout/i);
  const dripping = await make({ privateAddresses, deadlineMs: 200 })(`http://${place}/drip`);
  await expect(dripping.text()).rejects.toThrow(/timeout/i);
  expect(requests).toEqual(["/hang", "/drip"]);
});

it("is configured by a list of hosts with ports", () => {
  const read = (PRIVATE_PROVIDER_ADDRESSES: string) =>
    loadConfig({ PRIVATE_PROVIDER_ADDRESSES }).PRIVATE_PROVIDER_ADDRESSES;
  expect(read("127.0.0.1:4010, Simulator:80,[::1]:4011")).toEqual([
    "127.0.0.1:4010",
    "Simulator:80",
    "[::1]:4011",
  ]);
  for (const wrong of ["127.0.0.1", "http://a:1", "a:b", "a:99999", "u@a:1"])
    expect(() => read(wrong)).toThrow("PRIVATE_PROVIDER_ADDRESSES");
});
