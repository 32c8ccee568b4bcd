import { lookup as resolve } from "node:dns/promises";
import { isIP, type LookupFunction } from "node:net";
import { Agent, buildConnector, fetch as undiciFetch } from "undici";
import { ProviderError } from "../../tasks/connectors/connector.ts";
import { hostAndPort, isPublicAddress } from "./publicAddress.ts";

export type Fetch = typeof globalThis.fetch;
type Address = { address: string; family: number };
export type PublicFetchOptions = {
  /** `host:port` of what may be called although it is private, or speaks no TLS: the operator's simulators. */
  privateAddresses?: readonly string[];
  /** Of the whole answer, unpacked. */
  maxBytes?: number;
  connectTimeoutMs?: number;
  /** Until the headers are there, and between two pieces of the body. */
  silenceMs?: number;
  /** Of the whole call. */
  deadlineMs?: number;
  /** DNS; replaced in tests. */
  resolve?: (hostname: string) => Promise<Address[]>;
};
export type PublicFetch = { fetch: Fetch; close(): Promise<void> };

const MIB = 2 ** 20;

/**
 * A `fetch` for calls to providers: https to public addresses only, no redirects, and an end to patience and to size. A name
 * is resolved when the connection is made, and the addresses that were checked are the ones connected to: an answer of
 * DNS that changes in between changes nothing.
 */
export function makePublicFetch(options: PublicFetchOptions = {}): PublicFetch {
  const {
    privateAddresses = [],
    maxBytes = 64 * MIB,
    connectTimeoutMs = 10_000,
    silenceMs = 30_000,
    deadlineMs = 120_000,
    resolve: resolveName = (hostname) => resolve(hostname, { all: true }),
  } = options;
  const trusted = new Set(privateAddresses.map((address) => address.toLowerCase()));

  const lookup: LookupFunction = (hostname, { all }, answer) => {
    resolveName(hostname).then(
      (addresses) => {
        const [first] = addresses;
        if (!first || !addresses.every(({ address }) => isPublicAddress(address)))
          answer(notPublic(hostname), "", 0);
        else if (all) answer(null, addresses);
        else answer(null, first.address, first.family);
      },
      (error: Error) => answer(error, "", 0),
    );
  };
  const connectPublicly = buildConnector({ timeout: connectTimeoutMs, lookup });
  const connectAnywhere = buildConnector({ timeout: connectTimeoutMs });
  const agent = new Agent({
    headersTimeout: silenceMs,
    bodyTimeout: silenceMs,
    connect(target, done) {
      const url = new URL(`${target.protocol}//${target.host ?? target.hostname}`);
      if (trusted.has(hostAndPort(url))) return connectAnywhere(target, done);
      // What is an address already is looked up nowhere.
      const address = url.hostname.replace(/^\[(.*)\]$/, "$1");
      if (target.protocol !== "https:" || (isIP(address) > 0 && !isPublicAddress(address)))
        return done(notPublic(target.hostname), null);
      return connectPublicly(target, done);
    },
  });

  return {
    async fetch(input, init) {
      const request = requestOf(input, init);
      const url = new URL(request.url);
      if (url.protocol !== "https:" && !trusted.has(hostAndPort(url)))
        throw new ProviderError("permanent", `Only https is called, not ${url.protocol}//${url.host}.`, {
          code: "not_https",
        });
      const signal = AbortSignal.any([request.signal, AbortSignal.timeout(deadlineMs)]);
      try {
        const response = await undiciFetch(url, {
          method: request.method,
          headers: [...request.headers],
          body: request.body === null ? null : await request.arrayBuffer(),
          // A redirect would carry us, and what we send, to a host that nobody chose.
          redirect: request.redirect === "manual" ? "manual" : "error",
          signal,
          dispatcher: agent,
        });
        return new Response(response.body === null ? null : limited(response.body, maxBytes), {
          status: response.status,
          statusText: response.statusText,
          headers: [...response.headers],
        });
      } catch (error) {
        throw reasonOf(error);
      }
    },
    close: () => agent.destroy(),
  };
}

/** The reason that `Request` gives quotes the header, which may hold a token. */
function requestOf(...request: ConstructorParameters<typeof Request>): Request {
  try {
    return new Request(...request);
  } catch {
    throw new ProviderError(
      "permanent",
      "The request cannot be sent: its address or one of its headers has characters that have no place there.",
      { code: "bad_request" },
    );
  }
}

const notPublic = (hostname: string) =>
  new ProviderError(
    "permanent",
    `${hostname} is not at a public address. The operator lists those that may be called in PRIVATE_PROVIDER_ADDRESSES.`,
    { code: "private_address" },
  );

/** undici says "fetch failed", and means its cause. */
function reasonOf(error: unknown): unknown {
  const cause = error instanceof TypeError && Error.isError(error.cause) ? error.cause : error;
  return Error.isError(cause) && "errors" in cause && Array.isArray(cause.errors) ? cause.errors[0] : cause;
}

/** Ends in an error beyond so many bytes. */
function limited(body: AsyncIterable<Uint8Array>, maxBytes: number): ReadableStream<Uint8Array> {
  let left = maxBytes;
  async function* counted() {
    for await (const chunk of body) {
      left -= chunk.byteLength;
      if (left < 0)
        throw new ProviderError("permanent", `The answer is larger than ${maxBytes} bytes.`, {
          code: "too_large",
        });
      yield chunk;
    }
  }
  return ReadableStream.from(counted());
}
