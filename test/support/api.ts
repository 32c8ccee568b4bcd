import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { z } from "zod";
import { type AppOptions, createApp } from "../../src/app.ts";
import { generateTokenKey, tokenKeysOf } from "../../src/auth/tokenKeys.ts";
import { makeTokenService, type TokenService } from "../../src/auth/tokens.ts";
import { makeKeyRing } from "../../src/crypto/keyRing.ts";
import { hostAndPort } from "../../src/http/publicAddress.ts";
import { makePublicFetch, type PublicFetch } from "../../src/http/publicFetch.ts";
import { silent, type TestDatabase } from "./database.ts";
import { secretKey } from "./secrets.ts";
import { PASSWORD } from "./tenants.ts";

// biome-ignore lint/suspicious/noExplicitAny: tests look into answers of any shape
export type Answer = { status: number; data: any; errors: any[] | undefined; headers: Headers };
const answer = z.object({ data: z.any().optional(), errors: z.array(z.any()).optional() });
export type TestApi = {
  url: string;
  tokens: TokenService;
  /** Runs a GraphQL operation over HTTP. */
  query(
    document: string,
    options?: { token?: string | undefined; variables?: Record<string, unknown> },
  ): Promise<Answer>;
  /** Signs in as <role>@<tenant>.test; returns the access token. */
  signIn(tenant: string, role: string, password?: string): Promise<string>;
  close(): Promise<void>;
};

/** Calls providers as the product does: nobody but a simulator on this machine. */
export const simulatorFetch = (simulatorUrl: string | undefined): PublicFetch =>
  makePublicFetch({ privateAddresses: simulatorUrl ? [hostAndPort(new URL(simulatorUrl))] : [] });

export const testKey = generateTokenKey();
export const testTokens = () =>
  makeTokenService(
    tokenKeysOf(() => [testKey]),
    { issuer: "erp-analytics", audience: "erp-analytics" },
  );
export const testEncryptionKey = secretKey("a key-encryption key");
export const testKeyRing = makeKeyRing([{ id: "test", key: testEncryptionKey }]);

/** The real server on a free port, with the authenticator's pool. */
export async function startApi(
  database: Pick<TestDatabase, "authenticator">,
  options: Partial<
    Pick<
      AppOptions,
      | "tenantPredicate"
      | "log"
      | "clock"
      | "exportLimits"
      | "keyRing"
      | "simulatorUrl"
      | "socketLimits"
      | "connectors"
      | "publicUrl"
      | "uploadLimits"
    >
  > & {
    config?: Partial<AppOptions["config"]>;
  } = {},
): Promise<TestApi> {
  const tokens = testTokens();
  const publicFetch = simulatorFetch(options.simulatorUrl);
  const app = await createApp({
    config: {
      NODE_ENV: "test",
      CORS_ORIGINS: [],
      TRUST_PROXY: [],
      GRAPHQL_INTROSPECTION: undefined,
      ...options.config,
    },
    authenticatorPool: database.authenticator,
    tokens,
    keyRing: options.keyRing ?? testKeyRing,
    simulatorUrl: options.simulatorUrl,
    fetch: publicFetch.fetch,
    listenUrl: database.authenticator.options.connectionString ?? "",
    ...(options.socketLimits ? { socketLimits: options.socketLimits } : {}),
    log: options.log ?? silent,
    publicUrl: options.publicUrl,
    ...(options.connectors ? { connectors: options.connectors } : {}),
    ...(options.clock ? { clock: options.clock } : {}),
    ...(options.tenantPredicate === undefined ? {} : { tenantPredicate: options.tenantPredicate }),
    ...(options.exportLimits ? { exportLimits: options.exportLimits } : {}),
    ...(options.uploadLimits ? { uploadLimits: options.uploadLimits } : {}),
  });
  const server = createServer(app.express).on("upgrade", app.sockets.upgrade);
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const query: TestApi["query"] = async (document, { token, variables } = {}) => {
    const response = await fetch(`${url}/graphql`, {
      method: "POST",
      headers: { "content-type": "application/json", ...(token ? { authorization: `Bearer ${token}` } : {}) },
      body: JSON.stringify({ query: document, variables }),
    });
    const body = answer.parse(await response.json());
    return { status: response.status, headers: response.headers, data: body.data, errors: body.errors };
  };
  return {
    url,
    tokens,
    query,
    async signIn(tenant, role, password = PASSWORD) {
      const input = { tenant, email: `${role}@${tenant}.test`, password };
      const { data, errors } = await query(
        "mutation ($input: LoginInput!) { login(input: $input) { accessToken } }",
        {
          variables: { input },
        },
      );
      if (errors) throw new Error(`Cannot sign in: ${JSON.stringify(errors)}`);
      return data.login.accessToken;
    },
    async close() {
      app.sockets.close();
      server.closeAllConnections();
      await new Promise((closed) => server.close(closed));
      await app.close();
      await publicFetch.close();
    },
  };
}
