import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type pg from "pg";
import { pino } from "pino";
import { createApp } from "../../src/app.ts";
import { generateTokenKey, tokenKeysOf } from "../../src/auth/tokenKeys.ts";
import { type Claims, makeTokenService } from "../../src/auth/tokens.ts";
import { makeKeyRing } from "../../src/crypto/keyRing.ts";

/** The server on a free port, and one who asks it. */
export async function serveApi(authenticatorPool: pg.Pool, listenUrl: string, claims: Claims) {
  const key = generateTokenKey();
  const tokens = makeTokenService(
    tokenKeysOf(() => [key]),
    { issuer: "erp-analytics", audience: "erp-analytics" },
  );
  const app = await createApp({
    config: { NODE_ENV: "production", CORS_ORIGINS: [], TRUST_PROXY: [], GRAPHQL_INTROSPECTION: undefined },
    authenticatorPool,
    tokens,
    keyRing: makeKeyRing([{ id: "bench", key: randomBytes(32).toString("base64") }]),
    simulatorUrl: undefined,
    fetch,
    listenUrl,
    log: pino({ level: "silent" }),
  });
  const server = createServer(app.express);
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/graphql`;
  const token = tokens.sign(claims).token;
  return {
    async post(query: string, variables: object = {}): Promise<void> {
      const response = await fetch(url, {
        method: "POST",
        headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
        body: JSON.stringify({ query, variables }),
      });
      const text = await response.text();
      if (!response.ok || text.includes('"errors"')) throw new Error(`${query}: ${text.slice(0, 500)}`);
    },
    async close(): Promise<void> {
      server.closeAllConnections();
      await new Promise((closed) => server.close(closed));
      await app.close();
    },
  };
}
